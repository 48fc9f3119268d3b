"""What `regimed evaluate` and `regimed export` leave behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class Report(Mapping[str, Any]):
    """A report's numbers: a mapping of ``report.json``, and labelled arrays of it."""

    numbers: dict[str, Any]
    #: Where it was kept, with its page ``report.html``; None where it was not.
    folder: Optional[Path] = None

    @classmethod
    def load(cls, folder: Union[str, os.PathLike[str]]) -> Report:
        """Reads ``regimed evaluate --report FOLDER``.

        Raises
        ------
        FileNotFoundError
            No report there.
        """
        file = Path(folder) / "report.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"expected report.json in {folder} (regimed evaluate --report), found none"
            )
        return cls(json.loads(file.read_text()), Path(folder))

    def __getitem__(self, key: str) -> Any:
        return self.numbers[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def models(self) -> list[Report]:
        """A report for each of the models that were compared; this one, where there was one."""
        if "models" not in self.numbers:
            return [self]
        return [Report(numbers, self.folder) for numbers in self.numbers["models"]]

    @property
    def accuracy(self) -> float:
        """Share of the labelled bins whose most probable regime is the right one."""
        return float(self.numbers["overall"]["accuracy"])

    def to_xarray(self) -> xarray.Dataset:
        """The report as a labelled dataset. Needs xarray.

        Returns
        -------
        xarray.Dataset
            ``confusion`` (truth, label: shares of each truth's bins); ``accuracy_after`` over
            ``after_s`` (seconds after a start or change); ``reliability`` over ``claimed`` (mean
            largest probability) with ``reliability_bins``; every verdict over ``session``, and of
            those that have one the 90 % interval as ``*_interval`` over ``end`` (``low``, ``high``;
            NaN where there is too little to tell by); and the dynamics under each label over
            ``regime`` and ``bound`` (``mean``, ``low``, ``high``: a 90 % interval over streams).
        """
        import xarray

        of = self.numbers
        names = of["regime_names"]
        after = np.array(of["accuracy_after_s"], float).reshape(-1, 2)
        reliability = np.array(of["reliability"], float).reshape(-1, 3)
        variables: dict[str, Any] = {
            "confusion": (("truth", "label"), np.array(of["confusion"], float)),
            "accuracy_after": ("after_s", after[:, 1]),
            "reliability": ("claimed", reliability[:, 1]),
            "reliability_bins": ("claimed", reliability[:, 2].astype(int)),
        }
        coordinates: dict[str, Any] = {
            "truth": names,
            "label": names,
            "after_s": ("after_s", after[:, 0], {"units": "s"}),
            "claimed": reliability[:, 0],
        }
        sessions = of["by_session"]
        coordinates["session"] = [name for name, _ in sessions]
        for key in sessions[0][1] if sessions else []:
            values = [np.nan if v[key] is None else v[key] for _, v in sessions]
            variables[key] = ("session", np.array(values, float))
        coordinates["end"] = ["low", "high"]
        ends = [[np.nan] * 2 if e is None else e for e in of["accuracy_after_interval"]]
        variables["accuracy_after_interval"] = (
            ("after_s", "end"),
            np.array(ends, float).reshape(-1, 2),
        )
        intervals = of["intervals_by_session"]
        for key in intervals[0][1] if intervals else []:
            ends = [[np.nan] * 2 if e[key] is None else e[key] for _, e in intervals]
            variables[f"{key}_interval"] = (("session", "end"), np.array(ends, float))
        rows = of["dynamics_by_label"]
        coordinates["regime"] = [row["regime"] for row in rows]
        coordinates["bound"] = ["mean", "low", "high"]
        for key in rows[0] if rows else []:
            if isinstance(rows[0][key], list):
                variables[key] = (
                    ("regime", "bound"),
                    np.array([row[key] for row in rows], float),
                )
        return xarray.Dataset(variables, coords=coordinates)


def load_report(folder: Union[str, os.PathLike[str]]) -> Report:
    """The numbers of ``regimed evaluate --report FOLDER``: :meth:`Report.load`."""
    return Report.load(folder)


def load_decisions(file: Union[str, os.PathLike[str]]) -> dict[str, np.ndarray]:
    """The arrays of ``regimed evaluate --decisions FILE`` or ``regimed export --out FILE``."""
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
