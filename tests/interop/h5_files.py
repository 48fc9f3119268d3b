"""NWB-like HDF5 files as people have them, written by h5py. usage: h5_files.py FOLDER"""

import sys

import h5py
import numpy as np

folder = sys.argv[1]
text = h5py.string_dtype()


def strings(values):
    return np.array(values, dtype=object)


def file(name):
    """Four units of 300 spikes in 60 s, and six trials of 10 s with columns of every kind."""
    f = h5py.File(f"{folder}/{name}.nwb", "w")
    times = [np.sort(np.random.default_rng(u).uniform(0, 60, 300)) for u in range(4)]
    f["units/spike_times"] = np.concatenate(times)
    f["units/spike_times_index"] = np.cumsum([len(t) for t in times])
    g = f.create_group("intervals/trials")
    g["start_time"] = np.arange(0, 60, 10.0)
    g["stop_time"] = np.arange(10, 61, 10.0)
    g.create_dataset("condition", data=strings(["a", "b", "", "n/a", "a", "b"]), dtype=text)
    g["number"] = np.array([1, 2, np.nan, 1, 2, 1.0])
    g.create_dataset("tags", data=strings(["x", "y", "x", "z"]), dtype=text)
    g["tags_index"] = np.array([2, 2, 3, 3, 4, 4])
    of = g.create_dataset("side", data=np.array([0, 1, 1, 0, 1, 0], dtype="u1"))
    names = g.create_dataset("side_elements", data=strings(["left", "right"]), dtype=text)
    of.attrs["elements"] = names.ref
    kind = h5py.enum_dtype({"LOW": 1, "HIGH": 300}, basetype="i4")
    g.create_dataset("level", data=np.array([1, 300, 1, 1, 300, 300], dtype="i4"), dtype=kind)
    return f


def replaced(f, values):
    del f["units/spike_times"]
    f["units/spike_times"] = values


with file("plain") as f:
    f.create_dataset("units/unit_name", data=strings(["u1", "u2", "u3", "u4"]), dtype=text)
with file("observed") as f:
    f["units/obs_intervals"] = np.array([[0, 10], [20, 60], [0, 60], [5, 60], [0, 30], [40, 60.0]])
    f["units/obs_intervals_index"] = np.array([2, 3, 4, 6])
with file("samples") as f:
    replaced(f, np.arange(1200) * 1000)
with file("linked") as f:
    replaced(f, h5py.ExternalLink("other.nwb", "/units/spike_times"))
with file("virtual") as f:
    del f["units/spike_times"]
    layout = h5py.VirtualLayout(shape=(1200,), dtype="f8")
    layout[:] = h5py.VirtualSource("plain.nwb", "units/spike_times", shape=(1200,))
    f["units"].create_virtual_dataset("spike_times", layout)
with file("edges") as f:
    # One spike at each edge of 10 ms bins: unit by unit, 300 each.
    replaced(f, np.array([i / 100 for i in range(1200)]))
with file("texts") as f:
    # Labels of 96 MiB together.
    f.create_dataset("intervals/trials/huge", data=strings(["x" * (16 << 20)] * 6), dtype=text)
