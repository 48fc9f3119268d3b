"""Client of the regimed daemon: spike counts in, regimes out.

>>> from regimed import Client
>>> with Client() as daemon:
...     for event in daemon.events("rig"):
...         print(event.to, event.probability)

>>> from regimed import from_phy
>>> from_phy("sorted").labelled([(0, 600, "rest"), (600, 900, "run")]).save("monday.npz")

Decisions, events and sessions are the protocol's own messages (``regimed.v1``): their fields,
shapes and units are documented in ``proto/regimed/v1``.
"""

from typing import TYPE_CHECKING, Any

from ._access import RegimedError
from .aio import AsyncClient
from .arrays import to_arrays, to_dataframe, to_xarray
from .client import Client, Sender
from .commands import Model, calibrate, edge, evaluate, export, pretrain
from .plots import plot
from .recordings import (
    Recording,
    from_mat,
    from_neo,
    from_phy,
    from_pynapple,
    from_spike_times,
    from_spikeinterface,
)
from .reports import Report, load_decisions, load_report

__all__ = [
    "AsyncClient",
    "Client",
    "Model",
    "Recording",
    "RegimeClassifier",
    "RegimedError",
    "Report",
    "Sender",
    "calibrate",
    "edge",
    "evaluate",
    "export",
    "from_mat",
    "from_neo",
    "from_phy",
    "from_pynapple",
    "from_spike_times",
    "from_spikeinterface",
    "load_decisions",
    "load_report",
    "plot",
    "pretrain",
    "to_arrays",
    "to_dataframe",
    "to_xarray",
]

if TYPE_CHECKING:
    from .classifier import RegimeClassifier


def __getattr__(name: str) -> Any:
    # scikit-learn is needed for this alone, and slow to import.
    if name == "RegimeClassifier":
        from .classifier import RegimeClassifier

        return RegimeClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
