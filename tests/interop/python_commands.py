"""The installed package `regimed` runs the real binary: learn, calibrate, evaluate, the edge of
chaos; and its errors are the binary's own words.

usage: python_commands.py FOLDER, with the binary in REGIMED_BINARY."""

import os
import sys
from pathlib import Path

import numpy as np
import regimed

folder = Path(sys.argv[1])
rng = np.random.default_rng(2)
BINS, CHANNELS, DWELL = 6000, 24, 200
turn = np.arange(BINS) // DWELL % 2
phases = rng.uniform(0, 2 * np.pi, CHANNELS)


def recording(session):
    """At rest rates are even, in a reach they turn twice a second."""
    angle = 2 * np.pi * 2 * np.arange(BINS)[:, None] * 0.01 + phases
    rates = 0.2 * np.where(turn[:, None] == 1, 1 + 0.9 * np.cos(angle), 1.0)
    regime = np.where(turn == 1, "reach", "rest")
    return regimed.Recording(
        counts=rng.poisson(rates), bin_width_s=0.01, regime=regime, session=session
    )


monday, tuesday = recording("monday"), recording("tuesday")
model = regimed.pretrain(
    [monday, tuesday.save(folder / "tuesday.npz")], folder / "model", steps=30, progress=False
)
assert set(model.regime_names) == {"rest", "reach"} and model.bin_width_s == 0.01
assert model.sessions == {"monday": CHANNELS, "tuesday": CHANNELS}
assert model.text().startswith("# Model") and model.card["format"] == "regimed-model"
assert regimed.Model.load(folder / "model") == model

wednesday = recording("wednesday")
calibrated = regimed.calibrate(model, wednesday, folder / "calibrated", steps=30, progress=False)
assert "wednesday" in calibrated.sessions

report = regimed.evaluate(calibrated, wednesday, progress=False)
assert report, report
regimed.evaluate(calibrated, wednesday, report=folder / "report", progress=False)
assert (folder / "report" / "report.html").is_file()

[found] = regimed.edge(wednesday)
assert found["session"] == "wednesday" and found["seconds"] == 60.0 and "p_chaos" in found

for wrong, why in [
    (lambda: regimed.pretrain(folder / "none.npz", folder / "x", progress=False), "none.npz"),
    (lambda: regimed.pretrain(monday, folder / "x", steps=0, progress=False), "at least 1"),
    (lambda: regimed.pretrain(monday, folder / "x", no_such_flag=1, progress=False), "no-such"),
]:
    try:
        wrong()
        raise AssertionError("taken")
    except regimed.RegimedError as error:
        assert why in str(error), error
for wrong in [folder, folder / "none"]:
    try:
        regimed.Model.load(wrong)
        raise AssertionError("taken")
    except FileNotFoundError as error:
        assert "expected a model" in str(error), error
os.environ["REGIMED_BINARY"] = str(folder / "none")
try:
    regimed.edge(wednesday)
    raise AssertionError("taken")
except FileNotFoundError as error:
    assert "REGIMED_BINARY" in str(error), error
