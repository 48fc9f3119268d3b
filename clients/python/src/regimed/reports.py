"""What `regimed evaluate` leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Union

import numpy as np


def load_report(folder: Union[str, os.PathLike[str]]) -> dict[str, Any]:
    """The numbers of ``regimed evaluate --report FOLDER``."""
    file = Path(folder) / "report.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"expected report.json in {folder} (regimed evaluate --report), found none"
        )
    return json.loads(file.read_text())


def load_decisions(file: Union[str, os.PathLike[str]]) -> dict[str, np.ndarray]:
    """The arrays of ``regimed evaluate --decisions FILE`` or ``regimed export``."""
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
