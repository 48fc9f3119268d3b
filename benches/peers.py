"""What a lab would take instead, on the same bins: how right, how soon, how long a bin takes, how
much memory.

    python3 -m venv venv && venv/bin/pip install -r benches/requirements.txt
    cargo build --release && venv/bin/python benches/peers.py OUT_FOLDER [--seeds 3] [--minutes 5]

For each seed an animal is simulated: labelled trials of single regimes to learn from, and minutes
of tasks that nobody saw, a new regime every 3 s, to be judged on. Every method is trained on the
same trials, then gets one bin after the other, each in a process of its own:

* `regimed`: `pretrain` on those trials, then the engine that serves (`evaluate`);
* `hmm`: a Poisson hidden Markov model per regime (hmmlearn, 4 states each), joined by the hazard
  rate and filtered;
* `river`: softmax regression, learning online, on counts smoothed over 50 and 300 ms;
* `slds`: a switching Poisson LDS: eight latents, linear dynamics for each regime, a Poisson filter
  (Eden et al. 2004) for each, mixed as IMM does (Blom & Bar-Shalom 1988), as ldsCtrlEst filters;
* `gru`: a recurrent network of 64 units in jax, trained on trials spliced at random, one jitted
  step a bin.

Choices (units, states, steps) are those named here and were not tuned. Memory is the daemon's whole
resident size, and what a method adds to Python with numpy and the recordings. Prints a table of
medians over the seeds with their least and largest, and writes peers.json. A library that is absent
is said and its method left out."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BINARY = ROOT / "target/release/regimed"
WIDTH_S, EVERY_S = 0.01, 3.0
METHODS = ["regimed", "hmm", "river", "slds", "gru"]
NEEDS = dict(hmm="hmmlearn", river="river", slds="numpy", gru="jax", regimed="numpy")


def run(*args, quiet=True):
    done = subprocess.run([BINARY, *map(str, args)], capture_output=quiet, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def simulate(folder, seed, minutes):
    folder.mkdir(parents=True, exist_ok=True)
    same = ["--animals", 1, "--first-animal", 40 + seed, "--no-truth", "--seed", 9]
    run("simulate", *same, "--tasks", 12, "--trials", 2, "--out", folder / "train.npz")
    fresh = ["--first-task", 4000, "--switch-every", EVERY_S, "--seconds", 60 * minutes]
    run("simulate", *same, *fresh, "--out", folder / "test.npz")


def trials(folder):
    """Counts `[trials, bins, channels]` and the regime of each trial."""
    d = np.load(folder / "train.npz")
    counts = d["counts"]
    bins = counts.reshape(-1, counts.shape[-1])
    starts = [*d["trial_start"], len(bins)] if "trial_start" in d else None
    if counts.ndim == 2:
        length = starts[1] - starts[0]
        counts = counts.reshape(-1, length, counts.shape[-1])
    regime = d["regime"].reshape(counts.shape[:2])
    return counts.astype(float), regime[:, 0], len(d["regime_names"])


def stream(folder):
    d = np.load(folder / "test.npz")
    return d["counts"].reshape(-1, d["counts"].shape[-1]).astype(float), d["regime"].ravel()


# ---- Methods: each returns a function from a bin's counts to the posterior.


def hmm(x, y, n):
    from hmmlearn.hmm import PoissonHMM

    k = 4
    rates, steps = [], np.zeros((n * k, n * k))
    leave = WIDTH_S / EVERY_S
    for r in range(n):
        of = x[y == r]
        model = PoissonHMM(k, n_iter=20, random_state=0)
        model.fit(of.reshape(-1, of.shape[-1]).astype(int), lengths=[of.shape[1]] * len(of))
        rates.append(model.lambdas_ + 1e-3)
        rows = slice(r * k, (r + 1) * k)
        steps[rows] = leave / ((n - 1) * k)
        steps[rows, rows] = (1 - leave) * model.transmat_
    rates = np.concatenate(rates)
    log_rates, total = np.log(rates).T.copy(), rates.sum(1)
    state = [np.full(n * k, 1 / (n * k))]

    def step(counts):
        log = counts @ log_rates - total
        p = (state[0] @ steps) * np.exp(log - log.max())
        state[0] = p / p.sum()
        return state[0].reshape(n, k).sum(1)

    return step


class Smoothed:
    """Counts smoothed over 50 and 300 ms."""

    def __init__(self, channels):
        self.keep = np.exp(-WIDTH_S / np.array([0.05, 0.3]))[:, None]
        self.value = np.zeros((2, channels))

    def push(self, counts):
        self.value = self.keep * self.value + (1 - self.keep) * counts
        return self.value.ravel()


def river(x, y, n):
    from river import linear_model, optim, preprocessing

    model = preprocessing.StandardScaler() | linear_model.SoftmaxRegression(optim.SGD(0.02))
    names = list(range(2 * x.shape[-1]))
    rng = np.random.default_rng(0)
    for i in rng.permutation(len(x)):
        features = Smoothed(x.shape[-1])
        for t, counts in enumerate(x[i]):
            row = features.push(counts)
            # Every tenth bin: those beside it say the same.
            if t % 10 == 9:
                model.learn_one(dict(zip(names, row.tolist())), int(y[i]))
    features = Smoothed(x.shape[-1])

    def step(counts):
        p = model.predict_proba_one(dict(zip(names, features.push(counts).tolist())))
        return np.array([p.get(r, 0.0) for r in range(n)])

    return step


def slds(x, y, n):
    d = 8
    keep = np.exp(-WIDTH_S / 0.05)
    smooth = np.zeros_like(x)
    value = x.mean((0, 1))
    for t in range(x.shape[1]):
        value = keep * value + (1 - keep) * x[:, t]
        smooth[:, t] = value
    log = np.log(smooth + 0.02)
    mean = log.mean((0, 1))
    _, _, v = np.linalg.svd((log - mean)[:, ::5].reshape(-1, x.shape[-1]), full_matrices=False)
    loading = v[:d].T
    latent = (log - mean) @ loading
    a, b, q = [], [], []
    for r in range(n):
        of = latent[y == r]
        before, after = of[:, :-1].reshape(-1, d), of[:, 1:].reshape(-1, d)
        design = np.hstack([before, np.ones((len(before), 1))])
        fit = np.linalg.solve(design.T @ design + 1e-3 * np.eye(d + 1), design.T @ after)
        a.append(fit[:d].T)
        b.append(fit[d])
        q.append(np.cov((after - design @ fit).T) + 1e-5 * np.eye(d))
    a, b, q = np.stack(a), np.stack(b), np.stack(q)
    # Of the smoothed counts' means at a latent of 0: the rates that the filter expects.
    offset = mean + np.log(x.mean((0, 1)) / np.exp(mean + 0.5 * log.var((0, 1))) + 1e-9)
    leave = WIDTH_S / EVERY_S
    mix = np.full((n, n), leave / (n - 1))
    np.fill_diagonal(mix, 1 - leave)
    state = [np.full(n, 1 / n), np.zeros((n, d)), np.tile(np.eye(d), (n, 1, 1))]

    def step(counts):
        p, m, cov = state
        joint = mix * p[:, None]
        ahead = joint.sum(0)
        w = joint / ahead
        m0 = w.T @ m
        apart = m[:, None] - m0[None]
        spread = cov[:, None] + apart[..., :, None] * apart[..., None, :]
        cov0 = np.einsum("ij,ijkl->jkl", w, spread)
        m1 = np.einsum("rij,rj->ri", a, m0) + b
        p1 = a @ cov0 @ a.transpose(0, 2, 1) + q
        eta = np.clip(m1 @ loading.T + offset, -12, 4)
        rate = np.exp(eta)
        information = np.einsum("ck,rc,cl->rkl", loading, rate, loading)
        cov1 = np.linalg.inv(np.linalg.inv(p1) + information)
        score = (counts - rate) @ loading
        m2 = m1 + np.einsum("rij,rj->ri", cov1, score)
        eta2 = np.clip(m2 @ loading.T + offset, -12, 4)
        # Laplace: the likelihood at the mode, its distance from the forecast, the volumes.
        gone = m2 - m1
        log = (counts * eta2 - np.exp(eta2)).sum(1)
        log -= 0.5 * np.einsum("ri,rij,rj->r", gone, np.linalg.inv(p1), gone)
        log += 0.5 * (np.linalg.slogdet(cov1)[1] - np.linalg.slogdet(p1)[1])
        p2 = ahead * np.exp(log - log.max())
        state[:] = p2 / p2.sum(), m2, cov1
        return state[0]

    return step


def gru(x, y, n):
    import jax
    import jax.numpy as jnp
    import optax

    units, channels = 64, x.shape[-1]
    rng = np.random.default_rng(0)
    scale = lambda *shape: jnp.asarray(rng.normal(0, shape[0] ** -0.5, shape), jnp.float32)
    params = dict(
        w=scale(channels, 3 * units), u=scale(units, 3 * units), b=jnp.zeros(3 * units),
        o=scale(units, n), c=jnp.zeros(n),
    )

    def cell(params, h, counts):
        w = jnp.sqrt(counts) @ params["w"] + params["b"]
        u = h @ params["u"]
        z = jax.nn.sigmoid(w[:units] + u[:units])
        r = jax.nn.sigmoid(w[units : 2 * units] + u[units : 2 * units])
        new = jnp.tanh(w[2 * units :] + r * u[2 * units :])
        h = (1 - z) * h + z * new
        return h, jax.nn.log_softmax(h @ params["o"] + params["c"])

    def loss(params, counts, regime):
        def one(counts, regime):
            step = lambda h, of: cell(params, h, of)
            _, log = jax.lax.scan(step, jnp.zeros(units), counts)
            return -jnp.take_along_axis(log, regime[:, None], 1).mean()

        return jax.vmap(one)(counts, regime).mean()

    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))

    @jax.jit
    def train(params, state, counts, regime):
        gradient = jax.grad(loss)(params, counts, regime)
        change, state = adam.update(gradient, state)
        return optax.apply_updates(params, change), state

    state = adam.init(params)
    bins = x.shape[1]
    for _ in range(400):
        # Two trials, spliced at a bin drawn at random.
        i, j = rng.integers(len(x), size=(2, 32))
        at = rng.integers(bins // 4, 3 * bins // 4, size=32)
        late = np.arange(bins)[None] >= at[:, None]
        counts = np.where(late[..., None], x[j], x[i]).astype(np.float32)
        regime = np.where(late, y[j][:, None], y[i][:, None])
        params, state = train(params, state, counts, regime)
    step_of = jax.jit(lambda h, counts: cell(params, h, counts))
    hidden = [jnp.zeros(units)]

    def step(counts):
        hidden[0], log = step_of(hidden[0], counts.astype(np.float32))
        return np.exp(np.asarray(log, float))

    return step


def resident_mib():
    """The most that this process ever held: of the program alone, not of what started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peer(name, folder):
    """Trains and streams one method; its posteriors, and what they cost."""
    x, y, n = trials(folder)
    counts, _ = stream(folder)
    before = resident_mib()
    began = time.perf_counter()
    step = globals()[name](x, y, n)
    trained = time.perf_counter() - began
    step(counts[0])  # what is compiled, is now
    posterior, spent = np.zeros((len(counts), n)), np.zeros(len(counts))
    for t, bin_ in enumerate(counts):
        began = time.perf_counter()
        posterior[t] = step(bin_)
        spent[t] = time.perf_counter() - began
    np.save(folder / f"{name}.npy", posterior)
    p50, p99 = np.percentile(1e6 * spent, [50, 99])
    return dict(trained_s=trained, p50=p50, p99=p99, mib=resident_mib() - before)


def ours(folder):
    began = time.perf_counter()
    run("pretrain", folder / "train.npz", "--out", folder / "model")
    trained = time.perf_counter() - began
    base = ["--model", folder / "model", "--report", folder / "report"]
    command = ["evaluate", folder / "test.npz", *base, "--decisions", folder / "ours.npz"]
    run(*command)
    d = np.load(folder / "ours.npz")
    np.save(folder / "regimed.npy", d["posterior"].astype(float))
    p50, p99, *_ = json.loads((folder / "report/report.json").read_text())["compute_us"]
    return dict(trained_s=trained, p50=p50, p99=p99, mib=session_mib(folder))


def session_mib(folder):
    """Resident memory of a daemon with one such session."""
    readout = json.loads((folder / "model/model.json").read_text())["sessions"][0]["name"]
    config = folder / "serve.toml"
    config.write_text(
        '[grpc]\nlisten = "127.0.0.1:0"\n[http]\nlisten = ""\n[zeromq]\npull = ""\npublish = ""\n'
        f'[[session]]\nname = "rig"\nmodel = "{folder.resolve() / "model"}"\n'
        f"readout = {json.dumps(readout)}\n"
    )
    daemon = subprocess.Popen(
        [BINARY, "serve", "--config", config], stderr=subprocess.PIPE, text=True
    )
    try:
        for line in daemon.stderr:
            if " ready " in line:
                break
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024
    finally:
        daemon.kill()
        daemon.wait()


def judged(posterior, truth):
    """Shares right: of all bins, and in the bin 0.5 s and 1 s after a change; log loss."""
    right = posterior.argmax(1) == truth
    change = np.flatnonzero(np.diff(truth)) + 1
    after = lambda s: right[[c + round(s / WIDTH_S) - 1 for c in change]].mean()
    loss = -np.log(np.maximum(posterior[np.arange(len(truth)), truth], 1e-12)).mean()
    return dict(right=right.mean(), after_500ms=after(0.5), after_1s=after(1.0), log_loss=loss)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--peer", choices=METHODS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(ours(args.out) if args.peer == "regimed" else peer(args.peer, args.out)))
        return
    # One thread each, as the engine has one.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    alone["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    found = {name: [] for name in METHODS}
    for seed in range(args.seeds):
        folder = args.out / str(seed)
        simulate(folder, seed, args.minutes)
        for name in METHODS:
            try:
                __import__(NEEDS[name])
            except ImportError as error:
                print(f"left out: {name} ({error})", file=sys.stderr)
                continue
            command = [sys.executable, __file__, str(folder), "--peer", name]
            environment = {**os.environ, **alone}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            cost = json.loads(done.stdout.splitlines()[-1])
            row = {**cost, **judged(np.load(folder / f"{name}.npy"), stream(folder)[1])}
            found[name].append(row)
            print(f"seed {seed} {name}: {row}", file=sys.stderr)
    (args.out / "peers.json").write_text(json.dumps(found, indent=1))
    columns = [
        ("right", "right", 3), ("after_500ms", "after 0.5 s", 3), ("after_1s", "after 1 s", 3),
        ("log_loss", "log loss", 2), ("p50", "us a bin, p50", 0), ("p99", "p99", 0),
        ("mib", "MiB", 0), ("trained_s", "trained, s", 0),
    ]
    print("| | " + " | ".join(words for _, words, _ in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, rows in found.items():
        if not rows:
            continue
        cells = []
        for key, _, digits in columns:
            of = np.array([row[key] for row in rows])
            low, middle, high = of.min(), np.median(of), of.max()
            cells.append(f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


main()
