"""Recordings: binned counts with labels, as `regimed pretrain`, `calibrate` and `evaluate` read
them, from what spike sorting and analysis leave behind."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np

from ._access import COUNT_MAX

if TYPE_CHECKING:
    import neo
    import pynapple
    import spikeinterface

Path_ = Union[str, "os.PathLike[str]"]
Interval = tuple[float, float, str]

#: Label of a bin without one.
UNLABELLED = ""


@dataclass(frozen=True, eq=False)
class Recording:
    """Spike counts of one session.

    Parameters
    ----------
    counts : array, [bins, channels]
        Whole numbers from 0 to 4096.
    bin_width_s : float
        Width of a bin, seconds.
    channels : sequence of str, optional
        Names of the channels, each once.
    regime : array of str, [bins], optional
        Label of each bin; an empty one is none.
    task : array of str, [bins], optional
        Task or condition of each bin.
    trial_start : array, [trials], optional
        First bin of each trial where trials are not one stream; rises from 0.
    session : str, optional
        Name of the session.
    start_s : float
        When the first bin begins, on the clock of the spikes, seconds.
    """

    counts: np.ndarray
    bin_width_s: float
    channels: Optional[Sequence[str]] = None
    regime: Optional[np.ndarray] = None
    task: Optional[np.ndarray] = None
    trial_start: Optional[np.ndarray] = None
    session: Optional[str] = None
    start_s: float = 0.0

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts)
        if counts.ndim != 2 or counts.size == 0:
            raise ValueError(f"expected counts [bins, channels], found shape {counts.shape}")
        if not (np.issubdtype(counts.dtype, np.number) or counts.dtype == bool):
            raise ValueError(f"expected counts that are numbers, found {counts.dtype}")
        whole = np.nan_to_num(counts, nan=-1)
        if whole.min() < 0 or whole.max() > COUNT_MAX or not np.all(whole == np.floor(whole)):
            raise ValueError(
                f"expected whole counts from 0 to {COUNT_MAX}, found {whole.min()} to {whole.max()}"
            )
        if not (np.isfinite(self.bin_width_s) and 0 < self.bin_width_s <= 10):
            raise ValueError(f"expected bin_width_s in (0, 10] s, found {self.bin_width_s}")
        bins, channels = counts.shape
        for name, expected in [("regime", bins), ("task", bins), ("channels", channels)]:
            value = getattr(self, name)
            if value is not None and len(value) != expected:
                raise ValueError(f"{name}: expected {expected} values, found {len(value)}")
        if self.channels is not None and len(set(self.channels)) != channels:
            raise ValueError("channels: expected names that occur once each")
        starts = self.trial_start
        if starts is not None:
            starts = np.asarray(starts)
            if len(starts) == 0 or starts[0] != 0 or np.any(np.diff(starts) <= 0):
                raise ValueError("trial_start: expected bins that rise from 0")
            if starts[-1] >= bins:
                raise ValueError(f"trial_start: expected bins below {bins}, found {starts[-1]}")
        object.__setattr__(self, "counts", counts.astype(np.uint16))

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return int(self.counts.shape[1])

    @property
    def seconds(self) -> float:
        """Time recorded, seconds."""
        return float(len(self.counts) * self.bin_width_s)

    @property
    def times_s(self) -> np.ndarray:
        """Middle of each bin on the clock of the spikes, seconds, [bins]."""
        return self.start_s + (np.arange(len(self.counts)) + 0.5) * self.bin_width_s

    def named(self, session: str) -> Recording:
        """The same under the name of a session."""
        return replace(self, session=session)

    def labelled(self, intervals: Iterable[Interval], *, as_tasks: bool = False) -> Recording:
        """The same with labels.

        Parameters
        ----------
        intervals : iterable of (start, stop, name)
            Seconds on the clock of the spikes. A bin belongs to the interval that its middle lies
            in, the later one where there are several; other bins keep what they have.
        as_tasks : bool
            Name tasks rather than regimes.
        """
        key = "task" if as_tasks else "regime"
        before = getattr(self, key)
        names = np.full(len(self.counts), UNLABELLED, dtype=object)
        if before is not None:
            names[:] = before
        times = self.times_s
        for start, stop, name in intervals:
            if not start <= stop:
                raise ValueError(
                    f"expected intervals that end after they begin, found {start}, {stop}"
                )
            names[(times >= start) & (times < stop)] = str(name)
        named = names.astype(str)
        return replace(self, task=named) if as_tasks else replace(self, regime=named)

    def between(self, start_s: float, stop_s: float) -> Recording:
        """The bins whose middles lie in an interval, seconds on the clock of the spikes. Needs a
        recording that is one stream."""
        if self.trial_start is not None and len(self.trial_start) > 1:
            raise ValueError("expected a recording that is one stream, found trials")
        kept = np.flatnonzero((self.times_s >= start_s) & (self.times_s < stop_s))
        if len(kept) == 0:
            raise ValueError(f"expected bins between {start_s} and {stop_s} s, found none")
        cut = slice(kept[0], kept[-1] + 1)
        of = {k: v[cut] for k in ("regime", "task") if (v := getattr(self, k)) is not None}
        start = self.start_s + kept[0] * self.bin_width_s
        return replace(self, counts=self.counts[cut], start_s=float(start), **of)

    def save(self, file: Path_) -> Path:
        """Writes an ``.npz`` that every command reads; returns its path."""
        path = Path(file)
        if path.suffix != ".npz":
            raise ValueError(f"expected a file that ends in .npz, found {path.name}")
        arrays: dict[str, Any] = {"counts": self.counts, "bin_width_s": self.bin_width_s}
        starts = self.trial_start
        arrays["trial_start"] = np.array([0]) if starts is None else np.asarray(starts)
        arrays["continuous"] = starts is None
        arrays["start_s"] = self.start_s
        for key in ("channels", "regime", "task"):
            value = getattr(self, key)
            if value is not None:
                arrays[key] = np.asarray(value, dtype=str)
        if self.session is not None:
            arrays["session"] = self.session
        np.savez_compressed(path, **arrays)
        return path

    @classmethod
    def load(cls, file: Path_) -> Recording:
        """Reads what :meth:`save` wrote."""
        with np.load(file, allow_pickle=False) as archive:
            of = {name: archive[name] for name in archive.files}
        missing = {"counts", "bin_width_s", "trial_start"} - set(of)
        if missing:
            raise ValueError(f"{file}: expected what Recording.save writes, found no {missing}")
        starts = None if bool(of.get("continuous", True)) else of["trial_start"]
        return cls(
            counts=of["counts"],
            bin_width_s=float(of["bin_width_s"]),
            channels=list(of["channels"]) if "channels" in of else None,
            regime=of.get("regime"),
            task=of.get("task"),
            trial_start=starts,
            session=str(of["session"]) if "session" in of else None,
            start_s=float(of.get("start_s", 0.0)),
        )


def from_spike_times(
    trains: Union[Mapping[Any, Any], Sequence[Any]],
    *,
    bin_width_s: float = 0.01,
    start_s: Optional[float] = None,
    stop_s: Optional[float] = None,
    session: Optional[str] = None,
) -> Recording:
    """Bins spike times.

    Parameters
    ----------
    trains : mapping of names to arrays, or sequence of arrays
        Spike times of each channel, seconds.
    bin_width_s : float
        Width of a bin, seconds. Bins lie on whole multiples of it; a spike at a bin's edge is in
        the bin that it begins.
    start_s, stop_s : float, optional
        What was recorded, seconds; from the first to the last spike where it is not said.
    session : str, optional
        Name of the session.

    Raises
    ------
    ValueError
        No channel, times that are not finite, more spikes in a bin than a count may be.
    """
    named = trains if isinstance(trains, Mapping) else dict(enumerate(trains))
    if len(named) == 0:
        raise ValueError("expected spike times of one channel or more, found none")
    times = {str(name): np.asarray(of, dtype=float).ravel() for name, of in named.items()}
    for name, of in times.items():
        if not np.all(np.isfinite(of)):
            raise ValueError(f"channel {name}: expected finite spike times, found others")
    present = [of for of in times.values() if len(of)]
    if not present and (start_s is None or stop_s is None):
        raise ValueError("expected spikes, or start_s and stop_s, found neither")
    start = min(of.min() for of in present) if start_s is None else start_s
    # The bin of the last spike is whole.
    stop = max(of.max() for of in present) + bin_width_s if stop_s is None else stop_s
    # What is a whole multiple but for rounding is one.
    first = int(np.ceil(start / bin_width_s - 1e-6)) if start_s is not None else int(
        np.floor(start / bin_width_s + 1e-9)
    )
    last = int(np.floor(stop / bin_width_s + 1e-6))
    if last <= first:
        raise ValueError(f"expected a bin of {bin_width_s} s from {start} to {stop} s, found none")
    counts = np.zeros((last - first, len(times)), dtype=np.int64)
    for channel, of in enumerate(times.values()):
        bins = np.floor(of / bin_width_s + 1e-9).astype(np.int64) - first
        inside = bins[(bins >= 0) & (bins < len(counts))]
        counts[:, channel] = np.bincount(inside, minlength=len(counts))
    return Recording(
        counts=counts,
        bin_width_s=bin_width_s,
        channels=list(times),
        session=session,
        start_s=first * bin_width_s,
    )


def from_phy(
    folder: Path_,
    *,
    bin_width_s: float = 0.01,
    groups: Optional[Sequence[str]] = ("good",),
    sample_rate_hz: Optional[float] = None,
    stop_s: Optional[float] = None,
    session: Optional[str] = None,
) -> Recording:
    """Reads a folder of Phy or Kilosort: ``spike_times.npy`` (samples), ``spike_clusters.npy``,
    ``cluster_info.tsv`` or ``cluster_group.tsv`` (or ``cluster_KSLabel.tsv``) and ``params.py``.

    Parameters
    ----------
    folder : path
        The folder.
    bin_width_s : float
        Width of a bin, seconds.
    groups : sequence of str, optional
        Groups of clusters that are taken; ``None`` takes all. Clusters are channels, named by their
        numbers, the smallest first.
    sample_rate_hz : float, optional
        Samples per second, where ``params.py`` does not say it.
    stop_s : float, optional
        End of the recording, seconds; that of the last spike where it is not said.
    session : str, optional
        Name of the session; the folder's where it is not said.

    Raises
    ------
    FileNotFoundError, ValueError
        Names the file with what was expected and what was found.
    """
    path = Path(folder)
    samples = _array(path / "spike_times.npy")
    clusters_file = path / "spike_clusters.npy"
    if not clusters_file.is_file():
        clusters_file = path / "spike_templates.npy"
    clusters = _array(clusters_file)
    if len(samples) != len(clusters):
        raise ValueError(
            f"{clusters_file}: expected {len(samples)} clusters as there are spikes, found "
            f"{len(clusters)}"
        )
    rate = sample_rate_hz if sample_rate_hz is not None else _sample_rate(path / "params.py")
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"sample_rate_hz: expected a rate above 0, found {rate}")
    groups_of = _groups(path)
    numbers = np.unique(clusters)
    if groups is not None:
        if not groups_of:
            raise FileNotFoundError(
                f"{path}: expected cluster_info.tsv, cluster_group.tsv or cluster_KSLabel.tsv, "
                "found none (groups=None takes all clusters)"
            )
        numbers = np.array([n for n in numbers if groups_of.get(int(n)) in set(groups)])
    if len(numbers) == 0:
        found = sorted({str(g) for g in groups_of.values()})
        raise ValueError(f"{path}: expected clusters of {groups}, found only of {found}")
    order = np.argsort(clusters, kind="stable")
    begins = np.searchsorted(clusters[order], numbers, side="left")
    ends = np.searchsorted(clusters[order], numbers, side="right")
    trains = {
        str(int(n)): samples[order[a:b]] / rate for n, a, b in zip(numbers, begins, ends)
    }
    return from_spike_times(
        trains,
        bin_width_s=bin_width_s,
        start_s=0.0,
        stop_s=stop_s if stop_s is not None else float(samples.max()) / rate + bin_width_s,
        session=session or path.resolve().name,
    )


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a folder of Phy or Kilosort, found no such file")
    found = np.load(path, allow_pickle=False).ravel()
    if len(found) == 0 or not np.issubdtype(found.dtype, np.number):
        raise ValueError(f"{path}: expected a number for each spike, found {len(found)}")
    return found


def _sample_rate(path: Path) -> float:
    """Reads it as text: ``params.py`` is not run."""
    text = path.read_text() if path.is_file() else ""
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "sample_rate":
            try:
                rate = float(value.split("#")[0].strip().strip("'\""))
            except ValueError:
                break
            if np.isfinite(rate) and rate > 0:
                return rate
    raise ValueError(f"{path}: expected a line 'sample_rate = ...', found none (sample_rate_hz)")


def _groups(path: Path) -> dict[int, str]:
    """Group of each cluster: what a person said before what the sorter did."""
    found: dict[int, str] = {}
    for name, columns in [
        ("cluster_KSLabel.tsv", ("KSLabel", "ks_label")),
        ("cluster_group.tsv", ("group",)),
        ("cluster_info.tsv", ("group", "KSLabel")),
    ]:
        file = path / name
        if not file.is_file():
            continue
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                key = row.get("cluster_id") or row.get("id")
                value = next((row[c] for c in columns if row.get(c)), None)
                if key is not None and value:
                    found[int(key)] = value
    return found


def from_spikeinterface(
    sorting: spikeinterface.BaseSorting,
    *,
    bin_width_s: float = 0.01,
    segment: int = 0,
    session: Optional[str] = None,
) -> Recording:
    """Bins one segment of a SpikeInterface sorting; units are channels, named by their ids."""
    rate = sorting.get_sampling_frequency()
    trains = {
        str(unit): np.asarray(sorting.get_unit_spike_train(unit, segment_index=segment)) / rate
        for unit in sorting.get_unit_ids()
    }
    stop = None
    if sorting.has_recording():
        stop = sorting.get_num_samples(segment_index=segment) / rate
    return from_spike_times(
        trains,
        bin_width_s=bin_width_s,
        start_s=0.0,
        stop_s=stop if stop is not None else _end(trains, bin_width_s),
        session=session,
    )


def _end(trains: Mapping[str, np.ndarray], bin_width_s: float) -> float:
    return max((float(of.max()) for of in trains.values() if len(of)), default=0.0) + bin_width_s


def from_neo(
    of: Union[neo.Segment, Sequence[neo.SpikeTrain]],
    *,
    bin_width_s: float = 0.01,
    epochs: Optional[str] = None,
    session: Optional[str] = None,
) -> Recording:
    """Bins a neo segment or its spike trains, each a channel, named by its name where all have
    one of their own. ``epochs`` names an epoch object of the segment whose labels are regimes."""
    trains = list(of.spiketrains) if hasattr(of, "spiketrains") else list(of)
    if not trains:
        raise ValueError("expected spike trains, found none")
    names = [str(t.name) if t.name else "" for t in trains]
    if "" in names or len(set(names)) < len(names):
        names = [str(i) for i in range(len(trains))]
    seconds = {n: np.asarray(t.times.rescale("s").magnitude) for n, t in zip(names, trains)}
    recording = from_spike_times(
        seconds,
        bin_width_s=bin_width_s,
        start_s=min(float(t.t_start.rescale("s")) for t in trains),
        stop_s=max(float(t.t_stop.rescale("s")) for t in trains),
        session=session,
    )
    if epochs is None:
        return recording
    named = [e for e in getattr(of, "epochs", []) if e.name == epochs]
    if not named:
        have = [e.name for e in getattr(of, "epochs", [])]
        raise ValueError(f"expected epochs '{epochs}', found {have}")
    epoch = named[0]
    starts = epoch.times.rescale("s").magnitude
    stops = starts + epoch.durations.rescale("s").magnitude
    return recording.labelled(zip(starts, stops, epoch.labels))


def from_pynapple(
    units: pynapple.TsGroup,
    *,
    bin_width_s: float = 0.01,
    epochs: Optional[Mapping[str, pynapple.IntervalSet]] = None,
    session: Optional[str] = None,
) -> Recording:
    """Bins a pynapple group of units, named by their indices, over its time support. ``epochs``
    are regimes by name. Where the support has gaps, each piece is a trial."""
    trains = {str(key): np.asarray(units[key].times()) for key in units.keys()}
    support = units.time_support
    pieces = []
    for start, stop in zip(np.asarray(support.start), np.asarray(support.end)):
        if stop - start >= bin_width_s:
            pieces.append(
                from_spike_times(
                    trains,
                    bin_width_s=bin_width_s,
                    start_s=float(start),
                    stop_s=float(stop),
                    session=session,
                )
            )
    if not pieces:
        raise ValueError(f"expected a time support of {bin_width_s} s or more, found less")
    intervals = [
        (float(a), float(b), name)
        for name, of in (epochs or {}).items()
        for a, b in zip(np.asarray(of.start), np.asarray(of.end))
    ]
    if intervals:
        pieces = [piece.labelled(intervals) for piece in pieces]
    if len(pieces) == 1:
        return pieces[0]
    lengths = [len(piece.counts) for piece in pieces]
    regime = np.concatenate([p.regime for p in pieces]) if intervals else None
    return replace(
        pieces[0],
        counts=np.concatenate([p.counts for p in pieces]),
        regime=regime,
        trial_start=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
    )


def from_mat(
    file: Path_,
    spikes: Optional[str] = None,
    *,
    counts: Optional[str] = None,
    channels: Union[str, Sequence[str], None] = None,
    bin_width_s: float = 0.01,
    start_s: Optional[float] = None,
    stop_s: Optional[float] = None,
    session: Optional[str] = None,
) -> Recording:
    """A MATLAB file, v4 to v7.2 (needs scipy) or v7.3 (needs h5py).

    Parameters
    ----------
    file : path
        The file.
    spikes : str, optional
        Variable with a cell of spike times (seconds) for each channel. Where neither this nor
        ``counts`` is said, the file's only cell of numbers.
    counts : str, optional
        Variable with binned counts, ``[bins, channels]``, instead.
    channels : str or sequence of str, optional
        Names of the channels, or the variable (a cell of texts) that has them.
    bin_width_s : float
        Width of a bin, seconds.
    start_s, stop_s : float, optional
        What was recorded, seconds: see :func:`from_spike_times`.
    session : str, optional
        Name of the session; the file's where it is not said.

    Raises
    ------
    ValueError
        No such variable; one that holds something else.
    """
    path = Path(file)
    found = _hdf5_mat(path) if _is_hdf5(path) else _old_mat(path)
    names = _names(found, channels)
    session = path.stem if session is None else session
    if counts is not None:
        binned = _variable(found, counts)
        if isinstance(binned, list) or binned.ndim != 2:
            raise ValueError(f"{counts}: expected counts [bins, channels], found {_kind(binned)}")
        if not np.array_equal(binned, np.rint(binned)):
            raise ValueError(f"{counts}: expected whole counts, found fractions")
        start = 0.0 if start_s is None else start_s
        whole = binned.astype(np.int64)
        return Recording(whole, bin_width_s, channels=names, session=session, start_s=start)
    if spikes is None:
        cells = [name for name, of in found.items() if _are_numbers(of)]
        if len(cells) != 1:
            listed = ", ".join(f"{name} ({_kind(of)})" for name, of in found.items())
            raise ValueError(f"{path}: expected spikes= or counts=, one of {listed or 'none'}")
        spikes = cells[0]
    trains = _variable(found, spikes)
    if not _are_numbers(trains):
        raise ValueError(f"{spikes}: expected a cell of spike times, found {_kind(trains)}")
    if names is not None and len(names) != len(trains):
        raise ValueError(f"expected {len(trains)} names of channels, found {len(names)}")
    named = trains if names is None else dict(zip(names, trains))
    return from_spike_times(
        named, bin_width_s=bin_width_s, start_s=start_s, stop_s=stop_s, session=session
    )


def _variable(found: dict[str, Any], name: str) -> Any:
    if name not in found:
        raise ValueError(f"expected one of {', '.join(found)}, found no variable '{name}'")
    return found[name]


def _names(
    found: dict[str, Any], channels: Union[str, Sequence[str], None]
) -> Optional[list[str]]:
    if channels is None:
        return None
    if not isinstance(channels, str):
        return list(channels)
    names = _variable(found, channels)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{channels}: expected a cell of texts, found {_kind(names)}")
    return names


def _are_numbers(of: Any) -> bool:
    return isinstance(of, list) and len(of) > 0 and all(isinstance(x, np.ndarray) for x in of)


def _kind(of: Any) -> str:
    if isinstance(of, list):
        return f"a cell of {len(of)}"
    return "text" if isinstance(of, str) else f"an array {list(np.shape(of))}"


def _is_hdf5(path: Path) -> bool:
    """MATLAB puts HDF5 behind a header of 512 bytes."""
    with open(path, "rb") as file:
        head = file.read(520)
    return head[512:520] == b"\x89HDF\r\n\x1a\n" or head[:8] == b"\x89HDF\r\n\x1a\n"


def _old_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    def plain(of: np.ndarray) -> Any:
        if of.dtype == object:
            return [plain(np.asarray(cell)) for cell in of.ravel()]
        if of.dtype.kind in "US":
            return str(of.ravel()[0]) if of.size else ""
        return of

    read = loadmat(path, struct_as_record=False)
    return {k: plain(v) for k, v in read.items() if not k.startswith("__")}


def _hdf5_mat(path: Path) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:

        def plain(of: Any) -> Any:
            kind = of.attrs.get("MATLAB_class", b"")
            kind = kind.decode() if isinstance(kind, bytes) else str(kind)
            if of.attrs.get("MATLAB_empty", 0):
                return "" if kind == "char" else ([] if kind == "cell" else np.zeros((0, 0)))
            if kind == "cell":
                return [plain(file[reference]) for reference in of[()].T.ravel()]
            if kind == "char":
                return "".join(chr(c) for c in of[()].T.ravel())
            # MATLAB's columns are HDF5's rows.
            return np.asarray(of[()]).T

        data = {k: v for k, v in file.items() if not k.startswith("#")}
        return {k: plain(v) for k, v in data.items() if isinstance(v, h5py.Dataset)}
