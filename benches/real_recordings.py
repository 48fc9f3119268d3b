"""Live labels of real recordings: pretrain on the first part of the trials with default flags,
serve, replay the rest over ZeroMQ, and score the daemon's own output against plain decoders of the
same split: linear discriminants (of a bin, of the last 0.5 s), Poisson HMMs (without labels, from
labels), logistic regression on three exponential averages, and a causal GRU of 32 units.

    pip install numpy scikit-learn hmmlearn matplotlib jax
    python benches/real_recordings.py FOLDER_OF_RECORDINGS OUT_FOLDER [--seeds N] [NAME ...]

Names: chewie, delayed, mihi, sleep, rat, maze, maze-calibrated (all by default). The mazes are one
trial each: the model learns, or is calibrated, on one and streams the other; maze-calibrated starts
from chewie's model, so it needs that case first. Seeds (default 1) are those of our training and of
the GRU; figures are means over them, with the spread (largest less smallest) behind. Prints one
Markdown section per recording, and wins and losses at the end; writes NAME.json, NAME.csv (every
live decision of the first seed) and NAME.png. The binary is target/release/regimed. A recording
that is absent is skipped, and said.
"""

import csv, json, re, shutil, subprocess, sys, time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from hmmlearn.hmm import PoissonHMM
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

BINARY = str(Path(__file__).resolve().parent.parent / "target/release/regimed")
GRPC, PULL = "127.0.0.1:17733", "127.0.0.1:17734"
arguments = sys.argv[1:]
SEEDS = 1
if "--seeds" in arguments:
    at = arguments.index("--seeds")
    SEEDS = int(arguments[at + 1])
    del arguments[at : at + 2]
data, out = Path(arguments[0]), Path(arguments[1])
out.mkdir(parents=True, exist_ok=True)

CASES = {
    "chewie": dict(file="chewie-reach.npz"),
    "delayed": dict(file="delayed-reach.npz", bin_ms=10),
    "mihi": dict(file="mihi-directions.npz"),
    "sleep": dict(file="mouse-sleep.npz", speed=2000),
    # Its second half is all rest.
    "rat": dict(file="rat-linear-track.npz", speed=20, first=0.35),
    "maze": dict(file="mc-maze-748.npz", learn_on="mc-maze-1356.npz", bin_ms=20),
    "maze-calibrated": dict(
        file="mc-maze-748.npz", learn_on="mc-maze-1356.npz", base="chewie", bin_ms=100
    ),
}
# Whose best the label in force is held against; the posterior is held against the GRU too.
PLAIN = [
    "linear discriminant per bin",
    "linear discriminant, last 0.5 s",
    "Poisson HMM, from labels",
    "logistic regression, 3 averages",
]
GRU = "GRU of 32 units"
LABEL, POSTERIOR = "regimed, label in force", "regimed, published posterior"
SLACK, CALIBRATION_MAX = 0.01, 0.05


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


def calibration_error(truth, posterior, classes=20):
    sure, right = posterior.max(1), posterior.argmax(1) == truth
    of = np.minimum((sure * classes).astype(int), classes - 1)
    return float(
        sum(
            abs(right[of == c].mean() - sure[of == c].mean()) * (of == c).mean()
            for c in range(classes)
            if (of == c).any()
        )
    )


def log_loss(truth, posterior):
    return float(-np.log(np.maximum(posterior[np.arange(len(truth)), truth], 1e-9)).mean())


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
    state = filtered(z, best.startprob_, best.transmat_, best.lambdas_)
    return np.stack([state[:, np.array(name) == r].sum(1) for r in range(n)], 1)


def labelled_hmm(train, test, n):
    """The same with rates and transitions counted from the labels; unlabelled bins are a state of
    their own, never named."""
    (x, y), (z, _) = train, test
    state = np.where(y < 0, n, y)
    k = n + 1 if (y < 0).any() else n
    rate = np.array([(x[state == s].sum(0) + 0.5) / ((state == s).sum() + 1) for s in range(k)])
    step = np.full((k, k), 0.5)
    np.add.at(step, (state[:-1], state[1:]), 1)
    named = filtered(z, np.full(k, 1 / k), step / step.sum(1, keepdims=True), rate)[:, :n]
    return named / np.maximum(named.sum(1, keepdims=True), 1e-300)


def spread_over(model, posterior, n):
    """Columns for regimes that a decoder has not seen."""
    full = np.full((len(posterior), n), 1e-9)
    full[:, model.classes_] = posterior
    return full


def averages(x, width):
    """Exponential averages of the root counts over three times, causally."""
    times = np.maximum(np.array([0.05, 0.2, 0.8]) / width, [0.3, 2, 8])
    root, features = np.sqrt(x), []
    for time in times:
        share, at = 1 - np.exp(-1 / time), root[: max(1, round(3 * time))].mean(0)
        for row in root:
            at = at + share * (row - at)
            features.append(at)
    return np.hstack(np.array(features).reshape(3, len(x), -1))


def logistic(train, test, n, width):
    """Its penalty by four blocked folds."""
    (x, y), (z, _) = train, test
    scaler = StandardScaler()
    f, g = averages(x, width), averages(z, width)
    f = scaler.fit_transform(f)
    g = scaler.transform(g)
    known = np.flatnonzero(y >= 0)
    known = known[:: len(known) // 20000 + 1]

    def loss(c):
        total = 0
        for fold in np.array_split(np.arange(len(y)), 4):
            a, b = np.setdiff1d(known, fold), np.intersect1d(known, fold)
            if len(b) and len(np.unique(y[a])) == n:
                model = LogisticRegression(C=c, max_iter=200).fit(f[a], y[a])
                total += log_loss(y[b], model.predict_proba(f[b])) * len(b)
        return total

    c = min((1e-4, 1e-3, 1e-2, 1e-1), key=loss)
    model = LogisticRegression(C=c, max_iter=300).fit(f[known], y[known])
    return spread_over(model, model.predict_proba(g), n)


def gru(train, test, n, seed, hidden=32, window=100, batch=16, steps=600):
    """Causal GRU on standardised root counts with dropped channels; as many steps as the last fifth
    of the training part asks for, then again on all of it."""
    import jax
    import jax.numpy as jnp

    (x, y), (z, _) = train, test
    root = np.sqrt(x)
    mean, scale = root.mean(0), root.std(0) + 0.1

    def standard(counts):
        return ((np.sqrt(counts) - mean) / scale).astype(np.float32)

    def outputs(p, x):
        def step(h, drive):
            back = h @ p["u"]
            z, r = jax.nn.sigmoid(drive[: 2 * hidden] + back[: 2 * hidden]).reshape(2, hidden)
            new = jnp.tanh(drive[2 * hidden :] + r * back[2 * hidden :])
            h = z * h + (1 - z) * new
            return h, h

        return jax.lax.scan(step, jnp.zeros(hidden), x @ p["w"] + p["b"])[1] @ p["v"] + p["c"]

    def loss(p, x, y, key):
        kept = jax.random.bernoulli(key, 0.7, (batch, 1, x.shape[2])) / 0.7
        logs = jax.nn.log_softmax(jax.vmap(outputs, (None, 0))(p, x * kept))[:, 10:]
        y = y[:, 10:]
        own = jnp.take_along_axis(logs, jnp.maximum(y, 0)[..., None], -1)[..., 0]
        decay = sum((p[k] ** 2).sum() for k in "wuv")
        return -(own * (y >= 0)).sum() / jnp.maximum((y >= 0).sum(), 1) + 1e-4 * decay

    @jax.jit
    def update(p, m, v, i, x, y, key):
        g = jax.grad(loss)(p, x, y, key)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = 3e-3 * jnp.sqrt(1 - 0.999**i) / (1 - 0.9**i)
        return jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), p, m, v), m, v

    posterior = jax.jit(lambda p, x: jax.nn.softmax(outputs(p, x)))

    def fit(x, y, steps, judge=None):
        keys = jax.random.split(jax.random.PRNGKey(seed), 3)
        size = x.shape[1]
        p = dict(
            w=jax.random.normal(keys[0], (size, 3 * hidden)) / np.sqrt(size),
            u=jax.random.normal(keys[1], (hidden, 3 * hidden)) / np.sqrt(hidden),
            v=0.1 * jax.random.normal(keys[2], (hidden, n)) / np.sqrt(hidden),
            b=jnp.zeros(3 * hidden),
            c=jnp.zeros(n),
        )
        m = v = jax.tree.map(jnp.zeros_like, p)
        rng, bins, best = np.random.default_rng(seed), min(window, len(x) // 3), (np.inf, 25)
        for i in range(1, steps + 1):
            at = rng.integers(0, len(x) - bins, batch)
            xs, ys = (np.stack([of[a : a + bins] for a in at]) for of in (x, y))
            p, m, v = update(p, m, v, i, xs, ys, jax.random.PRNGKey(i))
            if judge and i % 25 == 0:
                known = judge[1] >= 0
                found = np.asarray(posterior(p, judge[0]))[known]
                best = min(best, (log_loss(judge[1][known], found), i))
        return p, best[1]

    cut = int(0.8 * len(x))
    x, z = standard(x), standard(z)
    _, best = fit(x[:cut], y[:cut], steps, (x[cut:], y[cut:]))
    p, _ = fit(x, y, best)
    past = x[-200:]
    return np.asarray(posterior(p, np.vstack([past, z])))[len(past) :]


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


def learn(name, model, file, learn_on, base, first, bins, seed):
    """Makes the model that will stream: pretrained, or a calibrated copy of another case's."""
    if base:
        shutil.copytree(out / f"{base}-0", model, dirs_exist_ok=True)
        run("calibrate", "--model", model, data / learn_on, *bins, "--session", name)
    else:
        part = [] if learn_on else ["--first", first]
        recording = data / (learn_on or file)
        named = ["--session", name, "--seed", seed, "--out", model]
        run("pretrain", recording, *bins, *part, *named)


def stream(name, model, file, learn_on, first, bins, speed, seed):
    """Replays the rest to the daemon; returns what it said and what `replay` printed."""
    daemon = serve(model, name, out)
    csv_file = out / (f"{name}.csv" if seed == 0 else f"{name}-{seed}.csv")
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
    return list(csv.DictReader(open(csv_file))), said


def case(name, file, speed=1, bin_ms=None, learn_on=None, base=None, first=0.7):
    absent = [f for f in (file, learn_on) if f and not (data / f).exists()]
    if absent:
        print(f"## {name}: SKIPPED, {', '.join(absent)} not here")
        return None
    bins = ["--bin-ms", bin_ms] if bin_ms else []
    x, y, starts, names, width = load(data / file, bin_ms)
    if learn_on:
        test, train = (x, y), load(data / learn_on, bin_ms)[:2]
    else:
        train, test = split(x, y, starts, first)
    n, known_train = len(names), train[1] >= 0
    lda = LinearDiscriminantAnalysis().fit(train[0][known_train], train[1][known_train])
    window = max(round(0.5 / width), 1)
    past_train, past_test = trailing(train[0], window), trailing(test[0], window)
    lda_past = LinearDiscriminantAnalysis().fit(past_train[known_train], train[1][known_train])
    plain = {
        PLAIN[0]: spread_over(lda, lda.predict_proba(test[0]), n),
        PLAIN[1]: spread_over(lda_past, lda_past.predict_proba(past_test), n),
        "Poisson HMM, unsupervised": hmm(train, test, n),
        PLAIN[2]: labelled_hmm(train, test, n),
        PLAIN[3]: logistic(train, test, n, width),
    }
    seeds, took, latency, first_seed = [], [], None, None
    for seed in range(1 if base else SEEDS):
        model = out / f"{name}-{seed}"
        began = time.time()
        learn(name, model, file, learn_on, base, first, bins, seed)
        took.append(time.time() - began)
        rows, said = stream(name, model, file, learn_on, first, bins, speed, seed)
        truth = test[1][: len(rows)]
        live = np.array([names.index(r["label"]) if r["label"] in names else -1 for r in rows])
        posterior = np.array([[float(r[k]) for k in names] for r in rows])
        methods = {LABEL: (live, None), POSTERIOR: (posterior.argmax(1), posterior)}
        own = {**plain, GRU: gru(train, test, n, seed)}
        methods |= {k: (p[: len(rows)].argmax(1), p[: len(rows)]) for k, p in own.items()}
        seeds.append({k: scores(truth, label, p, n, width) for k, (label, p) in methods.items()})
        if seed == 0:
            latency = re.findall(
                r"(?:decision received|in the daemon): p50 (\d+), p99 (\d+), p99.9 (\d+)", said
            )
            first_seed = (rows, truth, live, posterior)
    rows, truth, live, posterior = first_seed
    mean = {k: {m: middle([s[k][m] for s in seeds]) for m in seeds[0][k]} for k in seeds[0]}
    spread = {k: {m: width_of([s[k][m] for s in seeds]) for m in seeds[0][k]} for k in seeds[0]}
    print(
        f"## {file}\n\n{len(rows)} bins of {1e3 * width:.0f} ms streamed at {speed} x real "
        f"speed, {len(train[0])} for {'calibration' if base else 'training'} before "
        f"({np.mean(took):.0f} s). Regimes: {', '.join(names)}. Seeds: {len(seeds)}.\n"
    )
    print("| method | balanced accuracy | calibration error | log loss | changes found | delay |")
    print("|---|---|---|---|---|---|")
    for method, of in mean.items():
        cells = [shown(of[m], spread[method][m]) for m in ("balanced", "calibration", "log loss")]
        delay = "-" if of["delay"] is None else f"{1e3 * of['delay']:.0f} ms"
        found = f"{of['found']:.0f} of {of['changes']:.0f}"
        print(f"| {method} | {' | '.join(cells)} | {found} | {delay} |")
    if len(latency) >= 2:
        (a50, a99, a999), (b50, b99, _) = latency[:2]
        print(
            f"\nLatency: sent to decision received p50 {a50}, p99 {a99}, p99.9 {a999} us; "
            f"in the daemon p50 {b50}, p99 {b99} us."
        )
    known = truth >= 0
    if (~known).any():
        share = {k: float((live[~known] == i).mean()) for i, k in enumerate(names)}
        share["unknown or none"] = float((live[~known] < 0).mean())
        print("Unlabelled bins: " + ", ".join(f"{k} {v:.0%}" for k, v in share.items()) + ".")
    unknown = float(np.mean([r["label"] == "unknown" for r in rows]))
    print(f"`unknown`: {unknown:.1%} of all bins.\n")
    sys.stdout.flush()
    result = dict(name=name, width_s=width, train_s=took, test_bins=len(rows))
    json.dump(result | dict(mean=mean, seeds=seeds), open(out / f"{name}.json", "w"), indent=1)
    plot(name, names, width, truth, live, posterior)
    return mean


def scores(truth, label, posterior, n, width):
    known = truth >= 0
    found, changes = delays(truth, label, width)
    return {
        "balanced": balanced(truth[known], label[known], n),
        "calibration": None
        if posterior is None
        else calibration_error(truth[known], posterior[known]),
        "log loss": None if posterior is None else log_loss(truth[known], posterior[known]),
        "found": len(found),
        "changes": changes,
        "delay": float(np.median(found)) if found else None,
    }


def middle(values):
    return None if None in values else float(np.mean(values))


def width_of(values):
    return None if None in values else float(max(values) - min(values))


def shown(value, spread):
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({spread:.3f})" if spread else "")


def wins_and_losses(all_):
    """Each aim on each recording: held, or by how much not."""
    print("## Wins and losses\n\n| recording | aim | found | asked | |\n|---|---|---|---|---|")
    lost = 0
    for name, mean in all_.items():
        best = max(mean[k]["balanced"] for k in PLAIN)
        best_of_five = max(best, mean[GRU]["balanced"])
        least_loss = min(mean[k]["log loss"] for k in [*PLAIN, GRU])
        own = mean[POSTERIOR]
        aims = [
            ("label in force, balanced accuracy", mean[LABEL]["balanced"], best - SLACK, 1),
            ("published posterior, the same", own["balanced"], best_of_five - SLACK, 1),
            ("calibration error", own["calibration"], CALIBRATION_MAX, -1),
            ("log loss", own["log loss"], least_loss, -1),
        ]
        for aim, found, asked, sign in aims:
            held = sign * (found - asked) >= 0
            lost += not held
            word = "held" if held else f"missed by {abs(found - asked):.3f}"
            print(f"| {name} | {aim} | {found:.3f} | {asked:.3f} | {word} |")
    print(f"\n{lost} missed.")


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


found = {name: case(name, **CASES[name]) for name in arguments[2:] or CASES}
wins_and_losses({k: v for k, v in found.items() if v and not k.startswith("maze")})
