"""One question: who finds the regime, how soon, with how many false changes, and at what cost per
bin?

    python3 -m venv venv && venv/bin/pip install -r benches/requirements.txt
    cargo build --release && venv/bin/python benches/compare.py OUT_FOLDER

Simulates animals that a model was trained on in tasks it never saw, a new regime every 3 s, and
gives the same counts to

* the engine (`regimed evaluate`: the code that serves, one thread), built-in model;
* the same model's embedding fitted by gradient descent over the last second of counts, in jax and
  in torch, jitted, as the papers fit it (a rollout of the network under Poisson counts; Adam; warm
  start from the window before), on the first 90 s of each animal;
* a Poisson hidden Markov model per regime (hmmlearn), joined into one and filtered causally;
* Bayesian online change-point detection on the raw counts (Adams & MacKay 2007, gamma-Poisson): it
  finds changes, no labels.

Writes compare.json, compare.md and accuracy.png, roc.png, reliability.png. A library that is absent
is said and left out.
"""

import json, subprocess, sys, time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BINARY = str(ROOT / "target/release/regimed")
out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
SECONDS, EVERY_S, FIRST_TASK, DWELL = 240, 3, 2000, 3
# Seconds of each animal that the windowed methods get: they take longer than the recording lasts.
WINDOWED_S = 90
STRIDE = 20  # bins between their fits
TORCH_FITS = 30  # torch's fits are timed and held against jax's: the same fit, slower
WINDOW = 100  # bins that they fit
STEPS = 100  # of Adam, per window
PROBABILITIES = [
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.85,
    0.9,
    0.93,
    0.95,
    0.97,
    0.98,
    0.99,
    0.995,
    0.998,
    0.999,
]


def run(*args):
    print("$ regimed", *args, file=sys.stderr, flush=True)
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


# What the methods say: posterior [animals, bins, regimes]; None for bins before anything is known.


def engine():
    run(
        "evaluate",
        out / "test.npz",
        "--model",
        "builtin",
        "--report",
        out / "report",
        "--decisions",
        out / "decisions.npz",
    )
    d = np.load(out / "decisions.npz")
    report = json.load(open(out / "report/report.json"))
    return d["posterior"].reshape(truth.shape + (-1,)).astype(float), report["compute_us"][0]


def load_model():
    """The built-in model's arrays by name, and its card."""
    folder = ROOT / "models/default"
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    arrays = {}
    for name, a in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + o for o in a["data_offsets"])
            arrays[name] = np.frombuffer(raw[begin:end], "<f4").reshape(a["shape"])
    return arrays, json.load(open(folder / "model.json"))


def component_posterior(session, embedding, n):
    """P(regime | embedding) under the session's regime prior."""
    log = np.full(n, -np.inf)
    for c in session["prior"]["components"]:
        if c["regime"] is None:
            continue
        mean = np.array(c["mean"])
        cov = np.array(c["covariance"]).reshape(len(mean), -1)
        delta = embedding - mean
        value = np.log(c["weight"]) - 0.5 * (
            delta @ np.linalg.solve(cov, delta) + np.linalg.slogdet(cov)[1]
        )
        log[c["regime"]] = np.logaddexp(log[c["regime"]], value)
    p = np.exp(log - log.max())
    return p / p.sum()


def windowed(fit):
    """`fit(animal, counts [WINDOW, channels], start) -> embedding, start` every STRIDE bins, the
    answer held between. Returns posteriors, microseconds per fit, and the fits made,
    `(animal, bin, embedding)`."""
    n, end = len(names), round(WINDOWED_S / width)
    posterior = np.full((len(counts), end, n), 1 / n)
    spent, fits = 0.0, []
    for a in range(len(counts)):
        start, now = None, np.full(n, 1 / n)
        for t in range(end):
            if t + 1 >= WINDOW and t % STRIDE == 0:
                began = time.perf_counter()
                e, start = fit(a, counts[a, t + 1 - WINDOW : t + 1], start)
                spent += (time.perf_counter() - began) * bool(fits)  # the first one is compiled
                fits.append((a, t, e))
                now = component_posterior(card["sessions"][a], e, n)
            posterior[a, t] = now
    return posterior, 1e6 * spent / (len(fits) - 1), fits


def jax_fit():
    import jax, jax.numpy as jnp, optax

    w = {k: jnp.asarray(v) for k, v in arrays.items()}
    a, d, rank = (
        float(arrays["network.leak"][0]),
        card["dimensions"]["embedding"],
        card["dimensions"]["rank"],
    )
    prior_mean = [
        np.mean([c["mean"] for c in s["prior"]["components"]], 0) for s in card["sessions"]
    ]
    adam = optax.adam(0.05)

    def loss(p, x, s):
        h = jnp.tanh(
            jnp.tanh(p["e"] @ w["hypernetwork.w1"] + w["hypernetwork.b1"]) @ w["hypernetwork.w2"]
            + w["hypernetwork.b2"]
        )
        n = w["hypernetwork.n0"] + jnp.einsum("b,bru->ru", h, w["hypernetwork.wn"])
        c = h @ w["hypernetwork.wc"]

        def step(k, y):
            k = (1 - a) * k + a * (n @ jnp.tanh(w["network.m"] @ k + w["network.offset"]) + c)
            eta = jnp.clip(loading[s] @ k + baseline[s], -8, 4)
            return k, (y * eta - jnp.exp(eta)).sum()

        return (
            -jax.lax.scan(step, p["k"], x)[1].sum()
            + 0.5 * (p["e"] ** 2).sum()
            + 0.5 * (p["k"] ** 2).sum()
        )

    loading = jnp.stack([w[f"readout.{s}.loading"] for s in range(len(counts))])
    baseline = jnp.stack([w[f"readout.{s}.baseline"] for s in range(len(counts))])

    @jax.jit
    def solve(p, x, s):
        def one(state, _):
            p, o = state
            u, o = adam.update(jax.grad(loss)(p, x, s), o)
            return (optax.apply_updates(p, u), o), None

        return jax.lax.scan(one, (p, adam.init(p)), None, STEPS)[0][0]

    def fit(s, x, start):
        p = start or {"e": jnp.asarray(prior_mean[s], jnp.float32), "k": jnp.zeros(rank)}
        p = solve(p, jnp.asarray(x, jnp.float32), s)
        return np.asarray(p["e"], float), p

    return fit


def torch_fit():
    import torch

    torch.set_num_threads(1)
    w = {k: torch.tensor(v) for k, v in arrays.items()}
    a, rank = float(arrays["network.leak"][0]), card["dimensions"]["rank"]
    prior_mean = [
        np.mean([c["mean"] for c in s["prior"]["components"]], 0) for s in card["sessions"]
    ]

    @torch.jit.script
    def rollout(
        k: torch.Tensor,
        n: torch.Tensor,
        c: torch.Tensor,
        m: torch.Tensor,
        b: torch.Tensor,
        a: float,
        bins: int,
    ):
        states = []
        for _ in range(bins):
            k = (1 - a) * k + a * (torch.mv(n, torch.tanh(torch.mv(m, k) + b)) + c)
            states.append(k)
        return torch.stack(states)

    def fit(s, x, start):
        x = torch.tensor(x, dtype=torch.float32)
        e, k = start or (torch.tensor(prior_mean[s], dtype=torch.float32), torch.zeros(rank))
        e, k = e.clone().requires_grad_(), k.clone().requires_grad_()
        adam = torch.optim.Adam([e, k], lr=0.05)
        for _ in range(STEPS):
            h = torch.tanh(
                torch.tanh(e @ w["hypernetwork.w1"] + w["hypernetwork.b1"]) @ w["hypernetwork.w2"]
                + w["hypernetwork.b2"]
            )
            n = w["hypernetwork.n0"] + torch.einsum("b,bru->ru", h, w["hypernetwork.wn"])
            states = rollout(
                k, n, h @ w["hypernetwork.wc"], w["network.m"], w["network.offset"], a, len(x)
            )
            eta = (states @ w[f"readout.{s}.loading"].T + w[f"readout.{s}.baseline"]).clamp(-8, 4)
            loss = -(x * eta - eta.exp()).sum() + 0.5 * (e**2).sum() + 0.5 * (k**2).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return e.detach().numpy().astype(float), (e.detach(), k.detach())

    return fit


def hmm():
    """Eight states per regime learned from labelled recordings of other tasks, joined by the
    regimes' hazard rate."""
    from hmmlearn.hmm import PoissonHMM

    train = np.load(out / "train.npz")
    x, y = train["counts"], train["regime"].reshape(train["counts"].shape[:2])[:, 0]
    session = np.array([int(s) for s in train["session"]])
    n, k = len(names), 8
    posterior, spent = np.zeros(truth.shape + (n,)), 0.0
    for a in range(len(counts)):
        rates, steps = [], np.zeros((n * k, n * k))
        for r in range(n):
            of = x[(session == a) & (y == r)]
            model = PoissonHMM(k, n_iter=20, random_state=0, params="stl", init_params="stl")
            model.fit(of.reshape(-1, of.shape[-1]).astype(int), lengths=[of.shape[1]] * len(of))
            rates.append(model.lambdas_)
            stay = 1 - 0.01 / EVERY_S
            steps[r * k : (r + 1) * k] = np.tile((1 - stay) / ((n - 1) * k), (k, n * k))
            steps[r * k : (r + 1) * k, r * k : (r + 1) * k] = stay * model.transmat_
        rates = np.maximum(np.concatenate(rates), 1e-4)
        log_rates, total, alpha = np.log(rates).T.copy(), rates.sum(1), np.full(n * k, 1 / (n * k))
        began = time.perf_counter()
        for t, row in enumerate(counts[a]):
            log = np.log(np.maximum(alpha @ steps, 1e-300)) + row @ log_rates - total
            alpha = np.exp(log - log.max())
            alpha /= alpha.sum()
            posterior[a, t] = alpha.reshape(n, k).sum(1)
        spent += time.perf_counter() - began
    return posterior, 1e6 * spent / truth.size


def bocpd():
    """P(the last change was within 0.3 s), [animals, bins]; run lengths beyond 6 s are dropped."""
    from scipy.special import gammaln

    longest, hazard, shape, recent = 600, 0.01 / EVERY_S, 0.5, 30
    changed, spent = np.zeros(truth.shape), 0.0
    for a in range(len(counts)):
        x = counts[a]
        rate0 = shape / np.maximum(x[:300].mean(0), 1e-3)
        run, alpha, beta = np.ones(1), np.full((1, x.shape[1]), shape), rate0[None]
        began = time.perf_counter()
        for t, row in enumerate(x):
            log = (
                gammaln(alpha + row)
                - gammaln(alpha)
                + alpha * np.log(beta / (beta + 1))
                - row * np.log(beta + 1)
            ).sum(1)
            joint = np.log(run) + log
            weight = np.exp(joint - joint.max())
            grown, born = weight * (1 - hazard), weight.sum() * hazard
            run = np.concatenate([[born], grown])[:longest]
            run /= run.sum()
            run = np.maximum(run, 1e-300)
            alpha = np.concatenate([np.full((1, x.shape[1]), shape), alpha + row])[:longest]
            beta = np.concatenate([rate0[None], beta + 1])[:longest]
            changed[a, t] = run[:recent].sum()
        spent += time.perf_counter() - began
    return changed, 1e6 * spent / truth.size


# Scores.


def after_change():
    """Bins since the truth last changed, [animals, bins]; -1 before the first change."""
    lag = np.full(truth.shape, -1)
    for a in range(len(truth)):
        for t in range(1, truth.shape[1]):
            lag[a, t] = (
                0 if truth[a, t] != truth[a, t - 1] else lag[a, t - 1] + (lag[a, t - 1] >= 0)
            )
    return lag


def in_force(posterior, p_min):
    """The product's rule: a label that led with p_min for DWELL bins."""
    said = np.full(posterior.shape[:1], -1)
    current, leading, bins = -1, -1, 0
    for t, p in enumerate(posterior):
        best = p.argmax()
        if best != leading:
            leading, bins = best, 0
        bins = bins + 1 if p[best] >= p_min else 0
        if best != current and bins >= DWELL:
            current = best
        said[t] = current
    return said


def delays(said, truth):
    """Median delay (s, not found counts as the dwell), found, changes, false changes per minute."""
    late, false, found = [], 0, 0
    for a in range(len(truth)):
        at = np.flatnonzero(np.diff(truth[a])) + 1
        for begin, end in zip(at, [*at[1:], truth.shape[1]]):
            hit = np.flatnonzero(said[a, begin:end] == truth[a, begin])
            late.append((hit[0] + 1) * width if len(hit) else EVERY_S)
            found += len(hit) > 0
        new = np.flatnonzero(np.diff(said[a])) + 1
        false += int(((said[a, new] != truth[a, new]) & (said[a, new] >= 0)).sum())
    return float(np.median(late)), found, len(late), false / (truth.size * width / 60)


def detections(changed, threshold):
    """The same for a detector without labels: an upward crossing within the dwell of a change finds
    it, others are false."""
    late, false, found = [], 0, 0
    for a in range(len(truth)):
        up = np.flatnonzero((changed[a, 1:] >= threshold) & (changed[a, :-1] < threshold)) + 1
        at = np.flatnonzero(np.diff(truth[a])) + 1
        used = np.zeros(len(up), bool)
        for begin, end in zip(at, [*at[1:], truth.shape[1]]):
            hit = np.flatnonzero((up >= begin) & (up < end))
            late.append((up[hit[0]] - begin + 1) * width if len(hit) else EVERY_S)
            if len(hit):
                used[hit[0]] = True
                found += 1
        false += int((~used).sum())
    return float(np.median(late)), found, len(late), false / (truth.size * width / 60)


run(
    "simulate",
    "--first-task",
    FIRST_TASK,
    "--switch-every",
    EVERY_S,
    "--seconds",
    SECONDS,
    "--no-truth",
    "--out",
    out / "test.npz",
)
run("simulate", "--tasks", 40, "--no-truth", "--out", out / "train.npz")
data = np.load(out / "test.npz")
names, width = [str(s) for s in data["regime_names"]], float(data["bin_width_s"])
counts = data["counts"].astype(float)
truth = data["regime"].reshape(counts.shape[:2])
arrays, card = load_model()
lag = after_change()
fitted = []


def jax_windows():
    posterior, us, fits = windowed(jax_fit())
    fitted.extend(fits)
    return posterior, us


methods = {
    "regimed, filter bank": engine,
    "embedding by gradient over 1 s, jax": jax_windows,
    "Poisson HMM per regime, joined": hmm,
}
LAGS = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 2.5]
results = {}
for name, method in methods.items():
    try:
        posterior, us = method()
    except ImportError as e:
        print(f"SKIPPED {name}: {e}")
        continue
    end = posterior.shape[1]
    right = posterior.argmax(-1) == truth[:, :end]
    roc = []
    for p in PROBABILITIES:
        said = np.stack([in_force(posterior[a], p) for a in range(len(truth))])
        roc.append((p, *delays(said, truth[:, :end])))
    chance = posterior.max(-1)
    classes = np.minimum((chance * 20).astype(int), 19)
    shares = [
        (chance[classes == c].mean(), right[classes == c].mean(), int((classes == c).sum()))
        for c in np.unique(classes)
    ]
    results[name] = dict(
        accuracy={
            s: float(right[lag[:, :end] == max(round(s / width), 1) - 1].mean()) for s in LAGS
        },
        roc=roc,
        us_per_answer=us,
        reliability=shares,
        calibration_error=float(sum(abs(a - b) * n for a, b, n in shares) / chance.size),
    )
    print(name, json.dumps(results[name]["accuracy"]), f"{us:.0f} us", flush=True)
try:
    # The same windows with the same starts give the same embeddings, up to rounding that Adam
    # amplifies.
    fit, start, spent, apart = torch_fit(), None, 0.0, []
    for k, (a, t, e) in enumerate([f for f in fitted if f[0] == 0][:TORCH_FITS]):
        began = time.perf_counter()
        found, start = fit(a, counts[a, t + 1 - WINDOW : t + 1], start)
        spent += (time.perf_counter() - began) * (k > 2)
        apart.append(np.abs(found - e).max())
    torch_us = 1e6 * spent / (TORCH_FITS - 3)
    print(
        f"torch: {torch_us:.0f} us per fit; embeddings within {np.median(apart):.3f} of jax's "
        f"(median of {TORCH_FITS} fits)",
        flush=True,
    )
    results["embedding by gradient over 1 s, torch"] = dict(
        roc=[], us_per_answer=torch_us, apart=float(np.median(apart))
    )
except ImportError as e:
    print(f"SKIPPED torch: {e}")
try:
    changed, us = bocpd()
    results["Bayesian change-point detection"] = dict(
        roc=[(p, *detections(changed, p)) for p in PROBABILITIES], us_per_answer=us
    )
except ImportError as e:
    print(f"SKIPPED change-point detection: {e}")
json.dump(results, open(out / "compare.json", "w"), indent=1)


def best(roc, allowed):
    """Of the rules that find 90 % of the changes and err rarely enough, the fastest."""
    fit = [r for r in roc if r[4] <= allowed and r[2] >= 0.9 * r[3]]
    return min(fit, key=lambda r: r[1]) if fit else None


rows = [
    "| method | right 0.3 s, 0.5 s, 1 s, 2 s after a change "
    "| median delay at 1, 5 false changes a minute | calibration error | us per answer |",
    "|---|---|---|---|---|",
]
for name, r in results.items():
    told = (
        ", ".join(f"{r['accuracy'][s]:.3f}" for s in (0.3, 0.5, 1, 2))
        if "accuracy" in r
        else "as jax"
        if "apart" in r
        else "no labels"
    )
    late = (
        "as jax"
        if "apart" in r
        else ", ".join(
            f"{1e3 * b[1]:.0f} ms" if (b := best(r["roc"], f)) else "never" for f in (1, 5)
        )
    )
    ece = f"{r['calibration_error']:.3f}" if "calibration_error" in r else "-"
    rows.append(f"| {name} | {told} | {late} | {ece} | {r['us_per_answer']:.0f} |")
(out / "compare.md").write_text("\n".join(rows) + "\n")
print("\n".join(rows))

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, r in results.items():
    if "accuracy" in r:
        ax.plot(LAGS, [r["accuracy"][s] for s in LAGS], marker="o", ms=3, label=name)
ax.axhline(1 / len(names), color="gray", lw=0.8, ls="--")
ax.set(xlabel="time since the change (s)", ylabel="right label", ylim=(0, 1.02), xlim=(0, 2.6))
ax.legend(fontsize=8)
fig.savefig(out / "accuracy.png", dpi=110)
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, r in results.items():
    points = [(f, d) for _, d, found, changes, f in r["roc"] if found >= 0.9 * changes]
    if points:
        ax.plot(*zip(*points), marker="o", ms=3, label=name)
ax.plot(1, 0.25, "k*", ms=9, label="aim")
ax.set(
    xscale="symlog", xlabel="false changes per minute", ylabel="median delay (s)", ylim=(0, None)
)
ax.set_xscale("log")
ax.legend(fontsize=8)
fig.savefig(out / "roc.png", dpi=110)
fig, ax = plt.subplots(figsize=(4.4, 3.6), layout="constrained")
ax.plot([0, 1], [0, 1], color="gray", lw=0.8, ls="--")
for name, r in results.items():
    if "reliability" in r:
        said, right, _ = zip(*r["reliability"])
        ax.plot(said, right, marker="o", ms=3, label=name)
ax.set(xlabel="probability said", ylabel="fraction right", xlim=(0, 1.02), ylim=(0, 1.02))
ax.legend(fontsize=7)
fig.savefig(out / "reliability.png", dpi=110)
