"""Where posture, planning and movement sit relative to the edge: spectral radius of the bin-to-bin
map and abscissa at the filtered state, by label, on trials that were not learned; and whether the
difference survives two controls.

    pip install numpy
    python benches/motor_cortex.py FOLDER_OF_RECORDINGS OUT_FOLDER [SEEDS]

shuffled: bins of one label of one trial in random order (rates as they were, dynamics gone).
rate-matched: counts of every label but the slowest thinned at random until all have the same mean
rate. Each is learned and streamed anew. Intervals are over trials (90 %). Prints a Markdown table.
The binary is target/release/regimed; an absent recording is skipped, and said.
"""

import json, subprocess, sys
from pathlib import Path

import numpy as np

BINARY = str(Path(__file__).resolve().parent.parent / "target/release/regimed")
data, out = Path(sys.argv[1]), Path(sys.argv[2])
seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 1
out.mkdir(parents=True, exist_ok=True)
CASES = {
    "chewie-reach": dict(steps=150, bin_ms=100),
    "delayed-reach": dict(steps=300, bin_ms=10),
    "mc-maze-748": dict(
        steps=150, bin_ms=20, learn_on="mc-maze-1356"
    ),  # one trial each: the other one is learned
    "mc-maze-1356": dict(steps=150, bin_ms=20, learn_on="mc-maze-748"),
}


def load(path, bin_ms):
    d = np.load(path)
    counts, regime = d["counts"].astype(int), d["regime"].astype(int)
    start = d["trial_start"] if "trial_start" in d else np.array([0])
    width = float(d["bin_width_s"])
    k = round(bin_ms / 1e3 / width)
    xs, ys, starts, at = [], [], [], 0
    for a, b in zip(start, [*start[1:], len(counts)]):
        n = (b - a) // k
        xs.append(counts[a : a + n * k].reshape(n, k, -1).sum(1))
        ys.append(
            np.array([np.bincount(c + 1).argmax() - 1 for c in regime[a : a + n * k].reshape(n, k)])
        )
        starts.append(at)
        at += n
    return dict(counts=xs, regime=ys, starts=starts, width=width * k, names=d["regime_names"])


def shuffled(r, rng):
    xs = []
    for x, y in zip(r["counts"], r["regime"]):
        x = x.copy()
        for label in np.unique(y):
            at = np.where(y == label)[0]
            x[at] = x[rng.permutation(at)]
        xs.append(x)
    return {**r, "counts": xs}


def rate_matched(r, rng):
    x, y = np.concatenate(r["counts"]), np.concatenate(r["regime"])
    rate = {label: x[y == label].mean() for label in np.unique(y)}
    least = min(rate.values())
    xs = []
    for x, y in zip(r["counts"], r["regime"]):
        keep = np.array([least / rate[label] for label in y])
        xs.append(rng.binomial(x, np.minimum(keep, 1.0)[:, None]))
    return {**r, "counts": xs}


def write(r, path):
    counts, regime = np.concatenate(r["counts"]), np.concatenate(r["regime"])
    flat = dict(
        counts=counts.astype("u2"),
        regime=regime,
        bin_width_s=r["width"],
        regime_names=r["names"],
        continuous=0,
    )
    if len(r["starts"]) > 1:
        flat["trial_start"] = np.array(r["starts"])
    np.savez_compressed(path, **flat)


def run(*args):
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])


def said(x):
    return f"{x[0]:.3f} ({x[1]:.3f} to {x[2]:.3f})"


print(
    "| recording | seed | control | label | spectral radius | abscissa, 1/s "
    "| leading frequency, Hz | accuracy |\n|---|---|---|---|---|---|---|---|"
)
for name, case in CASES.items():
    path = data / f"{name}.npz"
    if not path.exists():
        print(f"SKIPPED {path}: not here", file=sys.stderr)
        continue
    for seed in range(seeds):
        recording = load(path, case["bin_ms"])
        for control, change in [
            ("none", None),
            ("shuffled", shuffled),
            ("rate-matched", rate_matched),
        ]:
            rng = np.random.default_rng(seed)
            file, model, report = (
                out / f"{name}-{control}.npz",
                out / f"{name}-{control}",
                out / f"{name}-{control}-report",
            )
            write(change(recording, rng) if change else recording, file)
            learned, first, last = file, ["--first", 0.7], ["--last", 0.3]
            if "learn_on" in case:
                other = load(data / f"{case['learn_on']}.npz", case["bin_ms"])
                learned, first, last = out / f"{name}-{control}-learned.npz", [], []
                write(change(other, rng) if change else other, learned)
            session = ["--session", "one"]
            try:
                run(
                    "pretrain",
                    learned,
                    *first,
                    *session,
                    "--steps",
                    case["steps"],
                    "--seed",
                    seed,
                    "--out",
                    model,
                )
                run("evaluate", "--model", model, file, *last, *session, "--report", report)
            except RuntimeError as e:
                print(f"{name} {control}: {e}", file=sys.stderr)
                continue
            found = json.loads((report / "report.json").read_text())
            for row in found["dynamics_by_label"]:
                print(
                    f"| {name} | {seed} | {control} | {row['regime']} "
                    f"| {said(row['spectral_radius'])} | {said(row['spectral_abscissa_per_s'])} "
                    f"| {said(row['leading_frequency_hz'])} "
                    f"| {found['overall']['balanced_accuracy']:.2f} |",
                    flush=True,
                )
