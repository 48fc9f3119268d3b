"""The commands of ``regimed`` from Python: the binary does the work, shows its progress, and its
words are what an error says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from ._access import RegimedError
from .recordings import Recording
from .reports import Report

Data = Union[Recording, str, "os.PathLike[str]"]
Some = Union[Data, Iterable[Data]]
Folder = Union[str, "os.PathLike[str]"]

#: Names the binary where it is not on PATH.
BINARY = "REGIMED_BINARY"


@dataclass(frozen=True)
class Model:
    """A model directory."""

    path: Path
    #: Names of the regimes, in the order of posteriors.
    regime_names: tuple[str, ...]
    #: Width of its bins, seconds.
    bin_width_s: float
    #: Channels of each session that it knows.
    sessions: dict[str, int]
    #: Everything of it but its arrays: ``docs/model-format.md`` has the keys.
    card: dict[str, Any]

    @classmethod
    def load(cls, folder: Folder) -> Model:
        """Reads a model directory's card.

        Raises
        ------
        FileNotFoundError, ValueError
            No model there, or one that this is not the card of.
        """
        path = Path(folder)
        file = path / "model.json"
        if not file.is_file():
            raise FileNotFoundError(f"{path}: expected a model (regimed pretrain), found none")
        card = json.loads(file.read_text())
        if card.get("format") != "regimed-model":
            raise ValueError(f"{file}: expected a regimed-model, found {card.get('format')!r}")
        return cls(
            path=path,
            regime_names=tuple(card["regime_names"]),
            bin_width_s=float(card["bin_width_s"]),
            sessions={s["name"]: int(s["n_channels"]) for s in card["sessions"]},
            card=card,
        )

    def text(self) -> str:
        """The card in words, Markdown."""
        return (self.path / "model.md").read_text()


def pretrain(data: Some, out: Folder, *, progress: bool = True, **flags: Any) -> Model:
    """Learns a model from labelled recordings: ``regimed pretrain``.

    Parameters
    ----------
    data : recording or path, or several
        One or several sessions.
    out : path
        Directory of the model.
    progress : bool
        Show the command's progress on standard error.
    **flags
        The command's other flags, ``steps=300`` for ``--steps 300``, ``resume=True`` for
        ``--resume``.

    Raises
    ------
    RegimedError
        The command's own words.
    FileNotFoundError
        No binary: neither on PATH nor in ``REGIMED_BINARY``.
    """
    with _files(data) as files:
        run("pretrain", *files, out=out, progress=progress, **flags)
    return Model.load(out)


def calibrate(
    model: Folder | Model, data: Data, out: Folder, *, progress: bool = True, **flags: Any
) -> Model:
    """Learns the readout of a new session: ``regimed calibrate``. ``model`` may be ``"builtin"``;
    other parameters and errors as :func:`pretrain`."""
    with _files(data) as files:
        run("calibrate", *files, model=_place(model), out=out, progress=progress, **flags)
    return Model.load(out)


def evaluate(
    model: Folder | Model | Sequence[Folder | Model],
    data: Some,
    *,
    report: Optional[Folder] = None,
    progress: bool = True,
    **flags: Any,
) -> Report:
    """Streams recordings through a model and scores them: ``regimed evaluate``; its report.
    ``report`` keeps that, with its page and plots; several models are compared on the same data
    (:attr:`Report.models`); other parameters and errors as :func:`pretrain`."""
    single = isinstance(model, (Model, str, os.PathLike))
    every: Any = [model] if single else model
    models = [_place(m) for m in every]
    with _files(data) as files, tempfile.TemporaryDirectory() as folder:
        place = folder if report is None else report
        run("evaluate", *files, model=models, report=place, progress=progress, **flags)
        found = Report.load(place)
        return found if report is not None else Report(found.numbers)


def edge(data: Some, *, progress: bool = False, **flags: Any) -> list[dict[str, Any]]:
    """The edge of chaos by the counts alone: ``regimed edge``. For each session ``recording``,
    ``session``, ``seconds``, ``exponent_driven_per_s`` with ``low`` and ``high`` (1/s, clipped to
    +-2), ``p_chaos`` and ``resolved``; parameters and errors as :func:`pretrain`."""
    with _files(data) as files:
        said = run("edge", *files, json=True, progress=progress, **flags)
    return [json.loads(line) for line in said.splitlines()]


def export(
    journal: Folder,
    *,
    out: Optional[Folder] = None,
    nwb: Optional[Folder] = None,
    progress: bool = False,
    **flags: Any,
) -> None:
    """What a daemon's journal has of a session, for analysis: ``regimed export``.

    Parameters
    ----------
    journal : path
        The journal's folder.
    out : path, optional
        ``.npz`` of arrays; :func:`load_decisions` reads it, :func:`to_xarray` labels it.
    nwb : path, optional
        NWB file: regimes as a table of intervals, notes, triggers, posterior and readings.
    **flags
        ``session="rig"`` where the journal has several, and the command's others.

    Raises
    ------
    RegimedError
        The command's own words.
    """
    run("export", journal, out=out, nwb=nwb, progress=progress, **flags)


def run(command: str, *args: Any, progress: bool = False, **flags: Any) -> str:
    """Any command of the binary; what it prints.

    Raises
    ------
    RegimedError
        The command's own words.
    FileNotFoundError
        No binary: neither on PATH nor in ``REGIMED_BINARY``.
    """
    whole = [binary(), command, *map(os.fspath, args), *_flags(flags)]
    said: list[str] = []
    # Ctrl-C reaches the command as well, which leaves what can be gone on from.
    with subprocess.Popen(
        whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            with _reading(process.stdout, said):
                words = []
                for line in process.stderr:
                    words.append(line)
                    if progress:
                        sys.stderr.write(line)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode != 0:
        raise RegimedError(_fault(words) or f"regimed {command} ended by {process.returncode}")
    return "".join(said)


@contextlib.contextmanager
def _reading(stream: Any, into: list[str]) -> Iterator[None]:
    """Reads a stream beside what is done meanwhile: a pipe that nobody reads makes who writes
    wait."""
    thread = threading.Thread(target=lambda: into.extend(stream), daemon=True)
    thread.start()
    yield
    thread.join()


def _fault(words: list[str]) -> str:
    """What a command said last, from its name on."""
    for i in range(len(words) - 1, -1, -1):
        if words[i].startswith(("regimed: ", "error: ")):
            return "".join(words[i:]).split(": ", 1)[1].strip()
    return "".join(words).strip()


def binary() -> str:
    """The binary: what ``REGIMED_BINARY`` names, else the one that was installed with this package,
    else ``regimed`` on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "regimed"
    own = os.fspath(beside) if beside.is_file() else None
    found = os.environ.get(BINARY) or own or shutil.which("regimed")
    if found is None or not Path(found).is_file():
        raise FileNotFoundError(
            f"expected the binary regimed on PATH, or its path in {BINARY}, found "
            f"{found or 'neither'} (the wheel for Linux has it; else, in a checkout, cargo install "
            "--path .)"
        )
    return found


def _place(model: Folder | Model) -> str:
    return os.fspath(model.path if isinstance(model, Model) else model)


def _flags(flags: dict[str, Any]) -> Iterator[str]:
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            yield flag
        elif isinstance(value, (list, tuple)):
            for one in value:
                yield from (flag, str(one))
        elif value is not None and value is not False:
            yield from (flag, os.fspath(value) if isinstance(value, os.PathLike) else str(value))


@contextlib.contextmanager
def _files(data: Some) -> Iterator[list[str]]:
    """Files of the recordings; those that are none yet are written for as long as it takes."""
    single = isinstance(data, (Recording, str, os.PathLike))
    every = [data] if single else list(data)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, one in enumerate(every):
            if isinstance(one, Recording):
                name = one.session or f"session{i}"
                named = one if one.session else one.named(name)
                files.append(os.fspath(named.save(Path(folder) / f"{i}.npz")))
            else:
                files.append(os.fspath(one))  # type: ignore[arg-type]
        yield files
