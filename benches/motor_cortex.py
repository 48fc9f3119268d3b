"""How near to the edge of chaos posture, planning and movement are by the counts alone (`regimed
edge`), and whether a difference survives controls.

    pip install numpy
    python benches/motor_cortex.py FOLDER_OF_RECORDINGS OUT_FOLDER [RESAMPLES]

A label's bins are read together, one epoch behind the other with a gap between: the estimator pairs
no bins across gaps. Intervals (90 %) are over epochs, drawn again with replacement, 40 times unless
told otherwise; two labels are drawn apart for their difference. A label of less than
20 s is too short for a reading. Controls:

shuffled: the bins of an epoch in random order (rates as they were, dynamics gone).
rate-matched: counts of every label but the slowest thinned until all have the same mean rate.
surrogate: a stable linear network (leaky units of 50 ms) that follows smoothed Gaussian inputs of
the measured covariance and timescale; Poisson counts with the measured mean rates. Its true
exponent is -20 /s: what is read of it is what covariance and timescale alone make one believe.

Prints a Markdown table. The binary is target/release/regimed; an absent recording is skipped, and
said.
"""

import itertools, json, subprocess, sys
from pathlib import Path

import numpy as np

BINARY = str(Path(__file__).resolve().parent.parent / "target/release/regimed")
data, out = Path(sys.argv[1]), Path(sys.argv[2])
resamples = int(sys.argv[3]) if len(sys.argv) > 3 else 40
out.mkdir(parents=True, exist_ok=True)
# Names, and the widths that bins are summed to, ms.
CASES = {"chewie-reach": 100, "mihi-directions": 100, "delayed-reach": 10, "mc-maze-748": 10}
LEAK_S = 0.05


def load(path, bin_ms):
    """Epochs of one label each, `{label: [counts]}`, and the width of a bin, seconds."""
    d = np.load(path)
    counts, regime = d["counts"].astype(int), d["regime"].astype(int)
    start = d["trial_start"] if "trial_start" in d else np.array([0])
    k = round(bin_ms / 1e3 / float(d["bin_width_s"]))
    names = [str(n) for n in d["regime_names"]]
    epochs = {}
    for a, b in zip(start, [*start[1:], len(counts)]):
        n = (b - a) // k
        x = counts[a : a + n * k].reshape(n, k, -1).sum(1)
        y = np.array([np.bincount(c + 1).argmax() - 1 for c in regime[a : a + n * k].reshape(n, k)])
        for piece in np.split(np.arange(n), np.flatnonzero(np.diff(y)) + 1):
            label = names[y[piece[0]]] if len(piece) and y[piece[0]] >= 0 else "(no label)"
            if len(piece) > 1:
                epochs.setdefault(label, []).append(x[piece])
    if path.stem == "mihi-directions":
        # Its labels are directions; all of it is movement.
        epochs = {"movement": [e for label in epochs.values() for e in label]}
    return epochs, k * float(d["bin_width_s"])


def shuffled(epochs, _, rng):
    return {l: [rng.permutation(e) for e in of] for l, of in epochs.items()}


def rate_matched(epochs, _, rng):
    rate = {l: np.concatenate(of).mean() for l, of in epochs.items()}
    least = min(rate.values())
    return {l: [rng.binomial(e, least / rate[l]) for e in of] for l, of in epochs.items()}


def surrogate(epochs, width, rng):
    return {l: of_covariance(of, width, rng) for l, of in epochs.items()}


def of_covariance(of, width, rng):
    mu = np.concatenate(of).mean(0)
    on = mu > 0.4 * width
    z = [(e[:, on] - mu[on]) / np.sqrt(mu[on]) for e in of]
    lags = range(1, max(1, round(0.1 / width)) + 1)

    def lagged(k):
        pairs = [(e[k:].T @ e[:-k], len(e) - k) for e in z if len(e) > k]
        none = np.zeros((on.sum(), on.sum()))
        return sum((p for p, _ in pairs), none) / max(sum(n for _, n in pairs), 1)

    c = sum(lagged(k) for k in lags) / len(lags)
    values, vectors = np.linalg.eigh((c + c.T) / 2)
    values, vectors = np.maximum(values[-8:], 0), vectors[:, -8:]
    # Where the autocovariance of what is shared has halved.
    longer = range(1, round(1 / width))
    whole = np.array([np.trace(vectors.T @ lagged(k) @ vectors) for k in longer])
    below = np.flatnonzero(whole < whole[: len(lags)].mean() / 2)
    half_s = (below[0] + 1 if len(below) else len(whole)) * width
    # A Gaussian of width s has an autocovariance exp(-t^2 / 4 s^2).
    step = min(width, 0.01)
    s = max(half_s / (2 * np.sqrt(np.log(2))), width) / step
    kernel = np.exp(-0.5 * (np.arange(-4 * s, 4 * s + 1) / s) ** 2)
    per_bin = round(width / step)
    loadings = vectors * np.sqrt(values) / np.sqrt(mu[on])[:, None]
    made = []
    for e in of:
        n = len(e) * per_bin + 100
        u = rng.normal(size=(n + len(kernel) - 1, 8))
        u = np.stack([np.convolve(u[:, d], kernel, "valid") for d in range(8)], 1)
        u /= np.sqrt((kernel**2).sum())
        x = np.zeros(8)
        path = np.empty((n, 8))
        for t in range(n):
            x = x + step / LEAK_S * (u[t] - x)
            path[t] = x
        x = path[100:].reshape(len(e), per_bin, 8).mean(1)
        log_rate = x @ loadings.T - 0.5 * (loadings**2).sum(1)
        counts = np.zeros(e.shape, int)
        counts[:, on] = rng.poisson(mu[on] * np.exp(np.clip(log_rate, -4, 4)))
        made.append(counts)
    return made


def write(epochs, width, path):
    counts = np.concatenate(epochs)
    np.savez(
        path,
        counts=counts.astype("u2"),
        regime=np.full(len(counts), -1),
        bin_width_s=width,
        regime_names=np.array(["a"]),
        continuous=0,
        trial_start=np.cumsum([0, *[len(e) for e in epochs[:-1]]]),
    )


def read(files):
    command = [BINARY, "edge", "--json", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return [json.loads(line) for line in done.stdout.splitlines()]


print(
    "| recording | control | label | seconds | driven exponent, 1/s (over epochs) "
    "| its own 90 % interval | P(chaos) | resolved |\n|---|---|---|---|---|---|---|---|"
)
for name, bin_ms in CASES.items():
    path = data / f"{name}.npz"
    if not path.exists():
        print(f"SKIPPED {path}: not here", file=sys.stderr)
        continue
    epochs, width = load(path, bin_ms)
    for control, change in [
        ("none", None),
        ("shuffled", shuffled),
        ("rate-matched", rate_matched),
        ("surrogate", surrogate),
    ]:
        rng = np.random.default_rng(0)
        changed = change(epochs, width, rng) if change else epochs
        drawn_of = {}
        for label, of in changed.items():
            seconds = sum(len(e) for e in of) * width
            files = []
            for i in range(resamples + 1):
                drawn = of if i == 0 else [of[j] for j in rng.integers(len(of), size=len(of))]
                files.append(out / f"{i}.npz")
                write(drawn, width, files[-1])
            whole, *again = read(files)
            found = [r["exponent_driven_per_s"] for r in again if r["resolved"]]
            if whole["resolved"] and found:
                drawn_of[label] = whole["exponent_driven_per_s"], np.array(found)
            share = len(found) / max(len(again), 1)
            exponent, interval, chaos = "not resolved", "-", "-"
            if seconds < 20:
                exponent = "too short"
            if whole["resolved"]:
                low, high = np.quantile(found, [0.05, 0.95]) if found else [np.nan] * 2
                exponent = f"{whole['exponent_driven_per_s']:+.2f} ({low:+.2f} to {high:+.2f})"
                interval = f"{whole['low']:+.2f} to {whole['high']:+.2f}"
                chaos = f"{whole['p_chaos']:.2f}"
            print(
                f"| {name} | {control} | {label} | {seconds:.0f} | {exponent} | {interval} "
                f"| {chaos} | {share:.2f} |",
                flush=True,
            )
        for a, b in itertools.combinations(sorted(drawn_of), 2):
            (of_a, drawn_a), (of_b, drawn_b) = drawn_of[a], drawn_of[b]
            apart = (drawn_a[:, None] - drawn_b).ravel()
            low, high = np.quantile(apart, [0.05, 0.95])
            print(
                f"| {name} | {control} | {a} less {b} | | {of_a - of_b:+.2f} "
                f"({low:+.2f} to {high:+.2f}) | - | - | - |",
                flush=True,
            )
