"""An NWB file as pynwb writes it, and beside it what is in it, binned by numpy."""

import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from pynwb import NWBHDF5IO, NWBFile

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
bin_s, conditions = 0.02, ["rest", "größer"]
nwb = NWBFile(
    session_description="simulated",
    identifier="one",
    session_start_time=datetime(2024, 1, 1, tzinfo=timezone.utc),
    session_id="day-1",
)
nwb.add_trial_column("condition", "what was asked for")
nwb.add_trial_column("target", "where to")
nwb.add_trial_column("rewarded", "whether")
trials = [(1.0 + 2 * i, 2.5 + 2 * i, conditions[i % 2], i % 3) for i in range(6)]
for start, stop, condition, target in trials:
    nwb.add_trial(
        start_time=start, stop_time=stop, condition=condition, target=target, rewarded=bool(target)
    )
units = [np.sort(rng.uniform(0.5, 14, 40 * (u + 1) if u != 2 else 0)) for u in range(5)]
for times in units:
    nwb.add_unit(spike_times=times)
with NWBHDF5IO(str(folder / "a.nwb"), "w") as io:
    io.write(nwb)
first = min([t.min() for t in units if len(t)] + [trials[0][0]])
last = max([t.max() for t in units if len(t)] + [trials[-1][1]])
origin = np.floor(first / bin_s)
bins = int(np.floor(last / bin_s) - origin) + 1
counts = np.zeros((bins, 5), "u1")
for u, times in enumerate(units):
    np.add.at(counts[:, u], (np.floor(times / bin_s) - origin).astype(int), 1)
middle = (np.arange(bins) + origin + 0.5) * bin_s
regime = np.full(bins, -1)
task = np.full(bins, -1)
for start, stop, condition, target in trials:
    inside = (middle >= start) & (middle < stop)
    regime[inside] = conditions.index(condition)
    task[inside] = target
np.savez(
    folder / "expected.npz",
    counts=counts,
    bin_width_s=bin_s,
    regime=regime,
    task=task,
    regime_names=np.array(conditions),
    session=np.array(["day-1"]),
)
print("ok")
