"""What Phy, SpikeInterface, neo, pynapple and MATLAB write, through the package `regimed` into
files that the commands read.

usage: sorted_spikes.py FOLDER: leaves an .npz of each there."""

import sys
import warnings
from pathlib import Path

import numpy as np
import regimed

folder = Path(sys.argv[1])
RATE = 30_000
SECONDS = 40
UNITS = (3, 7, 11, 20)
rng = np.random.default_rng(1)
samples = np.sort(rng.choice(RATE * SECONDS, 6000, replace=False))
clusters = rng.choice(UNITS, len(samples))
times = {unit: samples[clusters == unit] / RATE for unit in UNITS}


def counted(unit, bins):
    """By a histogram, in exact whole numbers."""
    found = np.bincount(samples[clusters == unit] * 100 // RATE, minlength=bins)
    return found[:bins]


def check(recording, units):
    bins = len(recording.counts)
    for channel, unit in enumerate(units):
        assert np.array_equal(recording.counts[:, channel], counted(unit, bins)), unit


def phy():
    path = folder / "sorted"
    path.mkdir()
    np.save(path / "spike_times.npy", samples.astype(np.uint64)[:, None])
    np.save(path / "spike_clusters.npy", clusters.astype(np.int32))
    (path / "params.py").write_text(
        f"dat_path = 'raw.dat'\nn_channels_dat = 384\nsample_rate = {RATE}.\nraise SystemExit\n"
    )
    rows = ["cluster_id\tamp\tKSLabel\tgroup", "3\t9\tmua\tgood", "7\t9\tgood\tnoise"]
    # Where nobody has looked, the sorter's own label counts.
    rows += ["11\t9\tgood\t", "20\t9\tmua\t"]
    (path / "cluster_info.tsv").write_text("\n".join(rows) + "\n")
    good = regimed.from_phy(path)
    assert good.channels == ["3", "11"] and good.session == "sorted"
    check(good, (3, 11))
    every = regimed.from_phy(path, groups=None)
    check(every, UNITS)
    for groups, sample_rate, why in [(("best",), None, "best"), (("good",), -1, "rate")]:
        try:
            regimed.from_phy(path, groups=groups, sample_rate_hz=sample_rate)
            raise AssertionError("taken")
        except ValueError as error:
            assert why in str(error), error
    parameters = (path / "params.py").read_text()
    (path / "params.py").unlink()
    try:
        regimed.from_phy(path)
        raise AssertionError("taken")
    except ValueError as error:
        assert "sample_rate" in str(error), error
    (path / "params.py").write_text(parameters)
    try:
        regimed.from_phy(folder)
        raise AssertionError("taken")
    except FileNotFoundError as error:
        assert "spike_times.npy" in str(error), error
    labelled = every.labelled([(0, 10, "rest"), (10, 20.01, "reach")])
    assert labelled.regime[[0, 999, 1000, 1999, 2000]].tolist() == [
        "rest", "rest", "reach", "reach", "reach",
    ]
    assert labelled.regime[2001] == ""
    cut = labelled.between(5, 15)
    assert len(cut.counts) == 1000 and abs(cut.start_s - 5) < 1e-9
    assert np.array_equal(cut.counts, labelled.counts[500:1500])
    file = labelled.save(folder / "phy.npz")
    again = regimed.Recording.load(file)
    assert np.array_equal(again.counts, labelled.counts)
    assert again.regime.tolist() == labelled.regime.tolist() and again.session == "sorted"


def spikeinterface():
    import spikeinterface

    sorting = spikeinterface.NumpySorting.from_samples_and_labels([samples], [clusters], RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sorting.save(folder=folder / "sorting")
    recording = regimed.from_spikeinterface(spikeinterface.load(folder / "sorting"))
    assert recording.channels == [str(u) for u in UNITS]
    check(recording, UNITS)
    recording.save(folder / "spikeinterface.npz")


def neo_():
    import neo
    import quantities as pq

    segment = neo.Segment()
    for unit in UNITS[:2]:
        train = neo.SpikeTrain(times[unit] * 1e3 * pq.ms, t_stop=SECONDS * pq.s, name=f"u{unit}")
        segment.spiketrains.append(train)
    epoch = neo.Epoch(
        times=[0, 10] * pq.s, durations=[10, 5] * pq.s, labels=["rest", "reach"], name="state"
    )
    segment.epochs.append(epoch)
    block = neo.Block()
    block.segments.append(segment)
    neo.io.PickleIO(str(folder / "block.pkl")).write(block)
    read = neo.io.PickleIO(str(folder / "block.pkl")).read()[0].segments[0]
    recording = regimed.from_neo(read, epochs="state", session="monday")
    assert recording.channels == ["u3", "u7"] and len(recording.counts) == SECONDS * 100
    check(recording, UNITS[:2])
    names, counts = np.unique(recording.regime, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist())) == {"": 2500, "reach": 500, "rest": 1000}
    recording.save(folder / "neo.npz")


def pynapple():
    import pynapple

    support = pynapple.IntervalSet([0, 30], [20, SECONDS])
    units = {unit: pynapple.Ts(times[unit]) for unit in UNITS}
    pynapple.TsGroup(units, time_support=support).save(str(folder / "group.npz"))
    group = pynapple.load_file(str(folder / "group.npz"))
    epochs = {"rest": pynapple.IntervalSet(0, 10), "reach": pynapple.IntervalSet(35, 40)}
    recording = regimed.from_pynapple(group, epochs=epochs)
    assert recording.trial_start.tolist() == [0, 2000] and len(recording.counts) == 3000
    for channel, unit in enumerate(UNITS):
        whole = counted(unit, SECONDS * 100)
        kept = np.concatenate([whole[:2000], whole[3000:]])
        assert np.array_equal(recording.counts[:, channel], kept)
    assert (recording.regime == "reach").sum() == 500
    recording.save(folder / "pynapple.npz")


def mat():
    import shutil
    import subprocess

    import h5py
    from scipy.io import savemat

    names = [f"u{unit}" for unit in UNITS]
    cells = np.empty((1, len(UNITS)), dtype=object)
    texts = np.empty((1, len(UNITS)), dtype=object)
    for i, unit in enumerate(UNITS):
        cells[0, i], texts[0, i] = times[unit][:, None], names[i]
    binned = np.stack([counted(unit, 100 * SECONDS) for unit in UNITS], axis=1)
    old = folder / "v5.mat"
    savemat(old, {"spikes": cells, "names": texts, "binned": binned.astype(np.uint16)})
    # As MATLAB lays out its files of version 7.3: cells are references, columns come first.
    new = folder / "v73.mat"
    with h5py.File(new, "w", userblock_size=512) as file:

        def put(name, values, kind):
            data = file.create_dataset(name, data=values)
            data.attrs["MATLAB_class"] = np.bytes_(kind)
            return data.ref

        of = {"spikes": [times[u][None, :] for u in UNITS], "names": []}
        of["names"] = [np.array([[ord(c)] for c in name], np.uint16) for name in names]
        for variable, kind in [("spikes", "double"), ("names", "char")]:
            refs = [put(f"#refs#/{variable}{i}", x, kind) for i, x in enumerate(of[variable])]
            references = np.array([[r] for r in refs], dtype=h5py.ref_dtype)
            put(variable, references, "cell")
        put("binned", binned.T, "uint16")
    with open(new, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    files = [old, new]
    if shutil.which("octave-cli"):
        octave = folder / "octave.mat"
        text = "; ".join(f"spikes{{{i + 1}}} = x.spikes{{{i + 1}}}" for i in range(len(UNITS)))
        script = f"x = load('{old}'); {text}; names = x.names; binned = x.binned; "
        script += f"save('-v7', '{octave}', 'spikes', 'names', 'binned')"
        subprocess.run(["octave-cli", "--eval", script], check=True, capture_output=True)
        files.append(octave)
    for file in files:
        recording = regimed.from_mat(file, channels="names", start_s=0, stop_s=SECONDS)
        assert list(recording.channels) == names and recording.session == file.stem
        check(recording, UNITS)
        assert np.array_equal(regimed.from_mat(file, counts="binned").counts, binned), file
        for asked, why in [
            (dict(spikes="nothing"), "no variable 'nothing'"),
            (dict(spikes="binned"), "a cell of spike times"),
            (dict(counts="spikes"), "[bins, channels]"),
            (dict(channels="binned"), "a cell of texts"),
            (dict(channels=["a"]), "names of channels, found 1"),
        ]:
            try:
                regimed.from_mat(file, **asked)
                raise AssertionError("taken")
            except ValueError as error:
                assert why in str(error), error
    recording.save(folder / "mat.npz")


def faults():
    counts = np.zeros((10, 2))
    for bad, why in [
        (dict(counts=counts[0]), "[bins, channels]"),
        (dict(counts=counts - 1), "0 to 4096"),
        (dict(counts=counts + 0.5), "whole counts"),
        (dict(counts=counts, bin_width_s=0), "bin_width_s"),
        (dict(counts=counts, regime=["a"]), "regime: expected 10"),
        (dict(counts=counts, channels=["a", "a"]), "once each"),
        (dict(counts=counts, trial_start=[1]), "rise from 0"),
    ]:
        try:
            regimed.Recording(**{"bin_width_s": 0.01, **bad})
            raise AssertionError("taken")
        except ValueError as error:
            assert why in str(error), error
    for bad in ([], [[np.nan]], [[]]):
        try:
            regimed.from_spike_times(bad)
            raise AssertionError("taken")
        except ValueError:
            pass
    # A spike at a bin's edge is in the bin that it begins.
    edges = regimed.from_spike_times([[0.0, 0.01, 0.02, 0.07]], start_s=0, stop_s=0.08)
    assert edges.counts[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 1]


phy()
spikeinterface()
neo_()
pynapple()
mat()
faults()
