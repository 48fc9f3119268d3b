"""Pretraining throughput, windows x bins per second, beside the same model in torch and in jax, on
the same cores in one run. Question: is regimed ahead of torch? The filter's one-step likelihood
with its gradient; no forecasts, no validation.

    pip install numpy jax optax torch
    python benches/training_speed.py [SESSIONS' CHANNELS] [RANK] [FORMER BINARY]

Prints bins per second and the ratio to torch. The binary is target/release/regimed; a former one
takes turns with it.
"""

import subprocess, sys, tempfile, time
from pathlib import Path

import jax, jax.numpy as jnp, numpy as np, torch

BINARY = str(Path(__file__).resolve().parent.parent / "target/release/regimed")
CHANNELS = int(sys.argv[1]) if len(sys.argv) > 1 else 96
RANK = int(sys.argv[2]) if len(sys.argv) > 2 else 8
FORMER = sys.argv[3] if len(sys.argv) > 3 else None
TURNS = 3 if FORMER else 1
BATCH, BINS, UNITS, H1, H2, D, LABELS = 96, 100, 64, 64, 24, 8, 192
torch.set_num_threads(2)
rng = np.random.default_rng(0)
counts = rng.poisson(0.16, (BATCH, BINS, CHANNELS)).astype("f4")
label = rng.integers(0, LABELS, BATCH)
n = lambda *shape, s=1.0: (s * rng.standard_normal(shape)).astype("f4")
params = dict(
    e=n(LABELS, D, s=0.1),
    w1=n(D, H1, s=0.3),
    b1=n(H1, s=0.01),
    w2=n(H1, H2, s=0.1),
    b2=n(H2, s=0.01),
    wn=n(H2, RANK * UNITS, s=0.01),
    n0=n(RANK * UNITS, s=0.3),
    wc=n(H2, RANK, s=0.01),
    m=n(UNITS, RANK, s=0.3),
    off=n(UNITS, s=0.3),
    q=n(RANK, s=0.01) - 3,
    p0=n(RANK, s=0.01),
    c=n(CHANNELS, RANK, s=0.3),
    d=n(CHANNELS, s=0.1) - 2,
)


def loss(p, xp, label, counts, scan):
    """Mean negative one-step score of windows, each under one embedding."""
    t = lambda a: a.swapaxes(-1, -2)
    h = xp.tanh(xp.tanh(p["e"][label] @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])
    N = (h @ p["wn"] + p["n0"]).reshape(BATCH, RANK, UNITS)
    drive = h @ p["wc"]
    eye = xp.eye(RANK)
    a, Q = 0.12, xp.exp(p["q"]) * eye
    C = p["c"]

    def step(state, y):
        k, P = state
        phi = xp.tanh(k @ p["m"].T + p["off"])
        F = (1 - a) * eye + a * (N * (1 - phi**2)[:, None, :]) @ p["m"]
        k = (1 - a) * k + a * ((N @ phi[:, :, None])[..., 0] + drive)
        P = F @ P @ t(F) + Q
        eta = k @ C.T + p["d"]
        v = ((C @ P) * C).sum(-1)
        score = (y * (eta + v / 2) - xp.exp(eta + v / 2)).sum(-1)
        rate = xp.exp(eta)
        L = (C.T * rate[:, None, :]) @ C
        P = xp.linalg.solve(eye + P @ L, P)
        k = k + (P @ ((y - rate) @ C)[:, :, None])[..., 0]
        return (k, P), score

    state = (xp.zeros((BATCH, RANK)), xp.exp(p["p0"]) * eye + xp.zeros((BATCH, 1, 1)))
    return -scan(step, state, counts) / (BATCH * BINS * CHANNELS)


def torch_scan(step, state, counts):
    total = 0.0
    for b in range(BINS):
        state, score = step(state, counts[:, b])
        total = total + score.sum()
    return total


def timed(run, least_s=20.0):
    run()
    began, done = time.time(), 0
    while time.time() - began < least_s:
        run()
        done += 1
    return done * BATCH * BINS / (time.time() - began)


tp = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
adam = torch.optim.Adam(tp.values(), 1e-4)
tc, tl = torch.tensor(counts), torch.tensor(label)


def torch_step():
    adam.zero_grad()
    loss(tp, torch, tl, tc, torch_scan).backward()
    adam.step()


jax_scan = lambda step, state, counts: jax.lax.scan(step, state, counts.swapaxes(0, 1))[1].sum()
grad = jax.jit(jax.value_and_grad(lambda p: loss(p, jnp, label, counts, jax_scan)))
jp = {k: jnp.asarray(v) for k, v in params.items()}


def jax_step():
    global jp
    _, g = grad(jp)
    jp = jax.tree.map(lambda x, g: (x - 1e-4 * g).block_until_ready(), jp, g)


def regimed(binary):
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/d.npz"
        z = dict(
            counts=rng.poisson(0.16, (LABELS, BINS, CHANNELS)).astype("u1"),
            bin_width_s=0.01,
            task=np.arange(LABELS),
            # One regime, and tasks enough: one training, of the filter alone.
            regime=np.zeros(LABELS, int),
            regime_names=np.array(["one"]),
        )
        np.savez(data, **z)
        # Two lengths: their difference leaves out starting, validating and finishing.
        took = []
        for steps in (40, 240):
            began = time.time()
            subprocess.run(
                [
                    binary,
                    "pretrain",
                    data,
                    "--steps",
                    str(steps),
                    "--rank",
                    str(RANK),
                    "--batch",
                    str(BATCH),
                    "--window-bins",
                    str(BINS),
                    "--contrast-weight",
                    "0",
                    "--forecast-weight",
                    "0",
                    "--forecast-bins",
                    "0",
                    "--out",
                    f"{folder}/m{steps}",
                ],
                check=True,
                capture_output=True,
            )
            took.append(time.time() - began)
        return 200 * BATCH * BINS / (took[1] - took[0])


binaries = {"regimed, with validations": BINARY}
if FORMER:
    binaries["the former one"] = FORMER
turns = {name: [] for name in binaries}
for _ in range(TURNS):
    for name, binary in binaries.items():
        turns[name].append(regimed(binary))
found = {name: float(np.median(rates)) for name, rates in turns.items()}
found |= {"jax": timed(jax_step), "torch": timed(torch_step)}
for name, rate in found.items():
    print(f"{name:28} {rate:10.0f} bins/s   ratio to torch {rate / found['torch']:.2f}")
if FORMER:
    ratios = np.array(turns["regimed, with validations"]) / np.array(turns["the former one"])
    print("ratio to the former one, turn by turn", " ".join(f"{r:.2f}" for r in ratios))
