"""The installed package `regimed` as scientists use it: a classifier as scikit-learn has them, a
report as labelled arrays, the type checker.

usage: python_analysis.py FOLDER, with the binary in REGIMED_BINARY."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import regimed
from sklearn.base import clone
from sklearn.utils import estimator_checks as checks

folder = Path(sys.argv[1])
rng = np.random.default_rng(3)
TRIALS, BINS, CHANNELS = 40, 150, 16
phases = rng.uniform(0, 2 * np.pi, CHANNELS)
y = np.array(["rest", "reach"])[rng.permutation(TRIALS) % 2]
angle = 2 * np.pi * 2 * np.arange(BINS)[:, None] * 0.01 + phases
turning = 1 + 0.9 * np.cos(angle)
rates = {"reach": 0.3 * turning, "rest": np.full_like(turning, 0.3)}
X = np.stack([rng.poisson(rates[label]) for label in y])

# What of scikit-learn's own checks asks for no two-dimensional data.
name = "RegimeClassifier"
for check in [
    checks.check_no_attributes_set_in_init,
    checks.check_parameters_default_constructible,
    checks.check_estimator_cloneable,
    checks.check_estimator_repr,
    checks.check_estimator_tags_renamed,
    checks.check_valid_tag_types,
    checks.check_get_params_invariance,
    checks.check_set_params,
    checks.check_do_not_raise_errors_in_init_or_set_params,
]:
    check(name, regimed.RegimeClassifier())

classifier = clone(regimed.RegimeClassifier(steps=40, seed=2)).fit(X[:28], y[:28])
assert list(classifier.classes_) == ["reach", "rest"] and classifier.n_features_in_ == CHANNELS
p = classifier.predict_proba(X[28:])
assert p.shape == (12, 2) and np.allclose(p.sum(axis=1), 1) and (p >= 0).all()
assert classifier.score(X[28:], y[28:]) >= 0.8, p
again = pickle.loads(pickle.dumps(classifier))
assert np.array_equal(again.predict_proba(X[28:]), p)
for wrong, why in [
    (lambda: classifier.fit(X[0], y[:BINS]), "[trials, bins, channels]"),
    (lambda: classifier.fit(X, y[:3]), "40 labels"),
    (lambda: classifier.fit(X, np.full(TRIALS, "rest")), "at least 2 classes"),
    (lambda: classifier.predict(X[..., :3]), "16 channels"),
    (lambda: regimed.plot({"time_s": []}, kinds=["nothing"]), "'nothing'"),
]:
    try:
        wrong()
        raise AssertionError("taken")
    except ValueError as error:
        assert why in str(error), error

# A report in labelled arrays, with seconds and intervals.
for file, content in classifier.model_.items():
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / file).write_bytes(content)
trials = regimed.Recording(
    counts=X[28:].reshape(-1, CHANNELS),
    bin_width_s=0.01,
    regime=np.repeat(np.where(y[28:] == "reach", "c0", "c1"), BINS),
    trial_start=np.arange(12) * BINS,
    session="trials",
)
report = regimed.evaluate(folder / "model", trials, progress=False)
arrays = report.to_xarray()
assert report["regime_names"] and report.accuracy == float(report["overall"]["accuracy"])
assert arrays["confusion"].dims == ("truth", "label")
assert arrays["after_s"].attrs["units"] == "s" and float(arrays["after_s"].max()) <= 2.0
assert list(arrays["bound"].values) == ["mean", "low", "high"]
low, high = (arrays["spectral_radius"].sel(bound=b) for b in ("low", "high"))
assert bool((low <= high).all())
ends = arrays["accuracy_interval"]
assert ends.dims == ("session", "end")
low, high = (float(ends.sel(end=e)[0]) for e in ("low", "high"))
assert low <= report.accuracy <= high, (low, report.accuracy, high)
both = regimed.evaluate([folder / "model"] * 2, trials, progress=False)
assert [m.accuracy for m in both.models] == [report.accuracy] * 2 and report.models == [report]

# Its types hold.
settings = Path(__file__).resolve().parents[2] / "clients/python/pyproject.toml"
command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "-p", "regimed"]
checked = subprocess.run(command, capture_output=True, text=True, cwd=folder)
assert checked.returncode == 0, checked.stdout
