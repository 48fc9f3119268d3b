"""Live labels of real recordings: pretrain on the first 70 % of trials, serve, replay the rest over
ZeroMQ in real time, and score the daemon's own output against a per-bin linear discriminant and a
Poisson HMM on the same split.

    pip install numpy scikit-learn hmmlearn matplotlib
    python benches/real_recordings.py FOLDER_OF_RECORDINGS OUT_FOLDER [NAME ...]

Names: chewie, delayed, maze, maze-calibrated, rat (all by default). The mazes are one trial each:
the model learns, or is calibrated, on one and streams the other; maze-calibrated starts from
chewie's model, so it needs that case first. Prints one Markdown section per recording; writes
NAME.json, NAME.csv (every live decision) and NAME.png. The binary is target/release/regimed. A
recording that is absent is skipped, and said.
"""

import csv, json, re, shutil, subprocess, sys, time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from hmmlearn.hmm import PoissonHMM
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

BINARY = str(Path(__file__).resolve().parent.parent / "target/release/regimed")
GRPC, PULL = "127.0.0.1:17733", "127.0.0.1:17734"
data, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)

CASES = {
    "chewie": dict(file="chewie-reach.npz", steps=200, speed=1),
    "delayed": dict(file="delayed-reach.npz", steps=600, speed=1, bin_ms=10),
    "maze": dict(
        file="mc-maze-748.npz", learn_on="mc-maze-1356.npz", steps=200, speed=1, bin_ms=20
    ),
    "maze-calibrated": dict(
        file="mc-maze-748.npz", learn_on="mc-maze-1356.npz", base="chewie", speed=1, bin_ms=100
    ),
    "rat": dict(
        file="rat-linear-track.npz", steps=600, speed=10, first=0.35
    ),  # its second half is all rest
}


def run(*args):
    print("$ regimed", *args, file=sys.stderr, flush=True)
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def load(path, bin_ms):
    """Counts, labels and the first bin of each trial, rebinned as the binary does it."""
    d = np.load(path)
    counts, regime = d["counts"].astype(float), d["regime"].astype(int)
    start = d["trial_start"] if "trial_start" in d else np.array([0])
    ratio = round((bin_ms or 1e3 * float(d["bin_width_s"])) / 1e3 / float(d["bin_width_s"]))
    xs, ys, starts, at = [], [], [], 0
    for a, b in zip(start, [*start[1:], len(counts)]):
        n = (b - a) // ratio
        x = counts[a : a + n * ratio].reshape(n, ratio, -1).sum(1)
        y = np.array(
            [np.bincount(c + 1).argmax() - 1 for c in regime[a : a + n * ratio].reshape(n, ratio)]
        )
        xs.append(x)
        ys.append(y)
        starts.append(at)
        at += n
    width = float(d["bin_width_s"]) * ratio
    return (
        np.concatenate(xs),
        np.concatenate(ys),
        starts,
        [str(s) for s in d["regime_names"]],
        width,
    )


def split(x, y, starts, fraction):
    """The binary's --first/--last: trials, or bins of a single trial."""
    cut = starts[round(len(starts) * fraction)] if len(starts) > 1 else round(len(x) * fraction)
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def balanced(truth, said, n):
    return float(np.mean([(said[truth == k] == k).mean() for k in range(n) if (truth == k).any()]))


def delays(truth, said, width):
    """Time from each change between labels to the first bin labelled so, before the next change."""
    found, missed = [], 0
    at = [
        t
        for t in range(1, len(truth))
        if truth[t] != truth[t - 1] and truth[t] >= 0 and truth[t - 1] >= 0
    ]
    for t in at:
        end = t
        while end < len(truth) and truth[end] == truth[t]:
            end += 1
        hit = np.flatnonzero(said[t:end] == truth[t])
        if len(hit):
            found.append((hit[0] + 1) * width)
        else:
            missed += 1
    return found, len(at)


def trailing(x, window):
    """Counts summed over the last `window` bins, causally."""
    total = np.cumsum(np.vstack([np.zeros((window, x.shape[1])), x]), 0)
    return total[window:] - total[:-window]


def hmm(train, test, n):
    """Poisson HMM fitted to the counts alone, states named by the training labels, filtered
    causally."""
    (x, y), (z, _) = train, test
    best = max(
        (PoissonHMM(n, n_iter=60, random_state=s).fit(x.astype(int)) for s in range(3)),
        key=lambda m: m.score(x.astype(int)),
    )
    state = best.predict(x.astype(int))
    name = [
        np.bincount(y[(state == k) & (y >= 0)], minlength=n).argmax()
        if ((state == k) & (y >= 0)).any()
        else 0
        for k in range(n)
    ]
    return np.array(name)[filtered(z, best.startprob_, best.transmat_, best.lambdas_).argmax(1)]


def labelled_hmm(train, test, n):
    """The same with rates and transitions counted from the labels; unlabelled bins are a state of
    their own, never named."""
    (x, y), (z, _) = train, test
    state = np.where(y < 0, n, y)
    k = n + 1 if (y < 0).any() else n
    rate = np.array([(x[state == s].sum(0) + 0.5) / ((state == s).sum() + 1) for s in range(k)])
    step = np.full((k, k), 0.5)
    np.add.at(step, (state[:-1], state[1:]), 1)
    return filtered(z, np.full(k, 1 / k), step / step.sum(1, keepdims=True), rate)[:, :n].argmax(1)


def filtered(counts, alpha, step, rate):
    """P(state | counts so far), [bins, states]."""
    rate, out = np.maximum(rate, 1e-6), []
    for row in counts:
        log = np.log(np.maximum(alpha, 1e-300)) + row @ np.log(rate).T - rate.sum(1)
        alpha = np.exp(log - log.max())
        alpha /= alpha.sum()
        out.append(alpha)
        alpha = alpha @ step
    return np.array(out)


def serve(model, session, out):
    config = out / "regimed.toml"
    config.write_text(
        f'[grpc]\nlisten = "{GRPC}"\n[zeromq]\npull = "{PULL}"\npublish = ""\n[http]\nlisten = ""\n'
        f'[[session]]\nname = "{session}"\nmodel = "{model.resolve()}"\n'
    )
    daemon = subprocess.Popen(
        [BINARY, "serve", "--config", str(config)], stderr=subprocess.PIPE, text=True
    )
    for line in daemon.stderr:
        if " ready " in line:
            return daemon
    sys.exit("the daemon did not start")


def learn(name, model, file, learn_on, base, steps, first, bins):
    """Makes the model that will stream: pretrained, or a calibrated copy of another case's."""
    if base:
        shutil.copytree(out / base, model, dirs_exist_ok=True)
        run("calibrate", "--model", model, data / learn_on, *bins, "--session", name)
    else:
        part = [] if learn_on else ["--first", first]
        run(
            "pretrain",
            data / (learn_on or file),
            *bins,
            "--session",
            name,
            *part,
            "--steps",
            steps,
            "--out",
            model,
        )


def case(name, file, speed, steps=None, bin_ms=None, learn_on=None, base=None, first=0.7):
    absent = [f for f in (file, learn_on) if f and not (data / f).exists()]
    if absent:
        print(f"## {name}: SKIPPED, {', '.join(absent)} not here")
        return
    model, bins = out / name, ["--bin-ms", bin_ms] if bin_ms else []
    began = time.time()
    learn(name, model, file, learn_on, base, steps, first, bins)
    took = time.time() - began
    daemon = serve(model, name, out)
    csv_file = out / f"{name}.csv"
    said = run(
        "replay",
        data / file,
        *bins,
        "--session",
        name,
        *([] if learn_on else ["--last", round(1 - first, 3)]),
        "--speed",
        speed,
        "--to",
        f"tcp://{PULL}",
        "--score",
        f"http://{GRPC}",
        "--save",
        csv_file,
    )
    daemon.terminate()
    daemon.wait()
    x, y, starts, names, width = load(data / file, bin_ms)
    if learn_on:
        test, train = (x, y), load(data / learn_on, bin_ms)[:2]
    else:
        train, test = split(x, y, starts, first)
    n = len(names)
    rows = list(csv.DictReader(open(csv_file)))
    live = np.array([names.index(r["label"]) if r["label"] in names else -1 for r in rows])
    posterior = np.array([[float(r[k]) for k in names] for r in rows])
    truth = test[1][: len(rows)]
    lda = LinearDiscriminantAnalysis().fit(train[0][train[1] >= 0], train[1][train[1] >= 0])
    window = max(round(0.5 / width), 1)
    past_train, past_test = trailing(train[0], window), trailing(test[0], window)
    lda_past = LinearDiscriminantAnalysis().fit(past_train[train[1] >= 0], train[1][train[1] >= 0])
    methods = {
        "regimed, label in force": live,
        "regimed, most probable regime": posterior.argmax(1),
        "linear discriminant per bin": lda.predict(test[0])[: len(rows)],
        "linear discriminant, last 0.5 s": lda_past.predict(past_test)[: len(rows)],
        "Poisson HMM, unsupervised": hmm(train, test, n)[: len(rows)],
        "Poisson HMM, from labels": labelled_hmm(train, test, n)[: len(rows)],
    }
    latency = re.findall(
        r"(?:decision received|in the daemon): p50 (\d+), p99 (\d+), p99.9 (\d+)", said
    )
    result = dict(name=name, width_s=width, train_s=took, test_bins=len(rows), methods={})
    print(
        f"## {file}\n\n{len(rows)} bins of {1e3 * width:.0f} ms streamed at {speed} x real speed, "
        f"{len(train[0])} for {'calibration' if base else 'training'} before ({took:.0f} s). "
        f"Regimes: {', '.join(names)}.\n"
    )
    print("| method | balanced accuracy | changes found | median delay |\n|---|---|---|---|")
    known = truth >= 0
    for method, label in methods.items():
        score = balanced(truth[known], label[known], n)
        found, all_ = delays(truth, label, width)
        middle = f"{1e3 * np.median(found):.0f} ms" if found else "-"
        print(f"| {method} | {score:.3f} | {len(found)} of {all_} | {middle} |")
        result["methods"][method] = dict(
            balanced_accuracy=score,
            found=len(found),
            changes=all_,
            median_delay_s=float(np.median(found)) if found else None,
        )
    (a50, a99, a999), (b50, b99, b999) = latency[:2]
    print(
        f"\nLatency: sent to decision received p50 {a50}, p99 {a99}, p99.9 {a999} us; "
        f"in the daemon p50 {b50}, p99 {b99} us."
    )
    if (~known).any():
        share = {k: float((live[~known] == i).mean()) for i, k in enumerate(names)}
        share["unknown or none"] = float((live[~known] < 0).mean())
        result["unlabelled"] = share
        print("Unlabelled bins: " + ", ".join(f"{k} {v:.0%}" for k, v in share.items()) + ".")
    unknown = float(np.mean([r["label"] == "unknown" for r in rows]))
    print(f"`unknown`: {unknown:.1%} of all bins.\n")
    sys.stdout.flush()
    json.dump(result, open(out / f"{name}.json", "w"), indent=1)
    plot(name, names, width, truth, live, posterior)


def plot(name, names, width, truth, live, posterior):
    shown = slice(
        0, min(len(truth), round(30 / width) if len(truth) * width < 200 else round(300 / width))
    )
    t = np.arange(len(truth))[shown] * width
    fig, axes = plt.subplots(
        3, 1, figsize=(10, 3.6), sharex=True, height_ratios=[1, 1, 5], layout="constrained"
    )
    colours = plt.cm.tab10(np.arange(10))
    for ax, label, what in ((axes[0], truth, "truth"), (axes[1], live, "label")):
        cells = np.vstack([colours, np.ones(4)])[
            label[shown]
        ]  # none and unknown are the last: white
        ax.imshow(
            cells[None], extent=(0, len(t) * width, 0, 1), aspect="auto", interpolation="nearest"
        )
        ax.set_yticks([])
        ax.set_ylabel(what, rotation=0, ha="right", va="center")
    for k, regime in enumerate(names):
        axes[2].plot(t, posterior[shown, k], color=colours[k], lw=1, label=regime)
    axes[2].set(
        xlim=(0, len(t) * width),
        xlabel="time in the streamed part (s)",
        ylabel="posterior",
        ylim=(0, 1.02),
    )
    axes[2].legend(loc="upper right", ncols=len(names))
    fig.savefig(out / f"{name}.png", dpi=90)


for name in sys.argv[3:] or CASES:
    case(name, **CASES[name])
