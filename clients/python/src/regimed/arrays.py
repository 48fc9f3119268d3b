"""Decisions as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from regimed.v1 import decisions_pb2

if TYPE_CHECKING:
    import pandas
    import xarray

_PLAIN = {
    "bin": np.uint64,
    "sequence": np.uint64,
    "rig_time_ns": np.int64,
    "receive_time_ns": np.int64,
    "latency_ns": np.uint64,
    "unlabelled": np.float32,
    "novelty": np.float32,
    "log_likelihood": np.float32,
    "predicted": bool,
    "artefact": bool,
    "untrusted": bool,
    "event_sequence": np.uint64,
}
_METRICS = [
    "spectral_radius",
    "spectral_abscissa_per_s",
    "leading_frequency_hz",
    "participation_ratio",
]


def to_arrays(decisions: Iterable[decisions_pb2.Decision]) -> dict[str, np.ndarray]:
    """Decisions of one session and model, field by field.

    Returns
    -------
    dict
        ``regime`` [n], ``regime_names`` [n_regimes], ``posterior`` [n, n_regimes],
        ``expert_names`` [n_experts] and ``experts`` [n, n_experts, n_regimes] (the experts' own
        posteriors; without experts where the session has the dynamics alone),
        ``embedding_mean`` and ``embedding_sd`` [n, d], ``latent`` [n, R], plain fields [n], and
        metrics [n] (NaN before the first reading).

    Raises
    ------
    ValueError
        Decisions of several sessions, or of models with other regimes.
    """
    rows = list(decisions)
    of = {(d.session, tuple(d.regime_names)) for d in rows}
    if len(of) > 1:
        raise ValueError(f"expected decisions of one session and model, found {sorted(of)}")
    names = list(rows[0].regime_names) if rows else []
    found: dict[str, np.ndarray] = {
        name: np.array([getattr(d, name) for d in rows], kind) for name, kind in _PLAIN.items()
    }
    found["regime"] = np.array([d.regime for d in rows], dtype=str)
    found["regime_names"] = np.array(names, dtype=str)
    for name in ("posterior", "embedding_mean", "embedding_sd", "latent"):
        found[name] = np.array([list(getattr(d, name)) for d in rows], np.float32).reshape(
            len(rows), -1
        )
    experts = [e.name for e in rows[0].experts] if rows else []
    found["expert_names"] = np.array(experts, dtype=str)
    own = [[list(e.posterior) for e in d.experts] for d in rows]
    found["experts"] = np.array(own, np.float32).reshape(len(rows), len(experts), len(names))
    for name in _METRICS:
        found[name] = np.array(
            [getattr(d.metrics, name) if d.HasField("metrics") else np.nan for d in rows],
            np.float32,
        )
    return found


def to_dataframe(decisions: Iterable[decisions_pb2.Decision]) -> pandas.DataFrame:
    """The same as a table: a row per decision, ``p_NAME`` for each regime's posterior,
    ``p_NAME_by_EXPERT`` for an expert's own. Needs pandas."""
    import pandas

    found = to_arrays(decisions)
    names, posterior = found.pop("regime_names"), found.pop("posterior")
    experts, own = found.pop("expert_names"), found.pop("experts")
    table = {k: v for k, v in found.items() if v.ndim == 1}
    table |= {f"p_{name}": posterior[:, i] for i, name in enumerate(names)}
    for e, expert in enumerate(experts):
        table |= {f"p_{name}_by_{expert}": own[:, e, i] for i, name in enumerate(names)}
    return pandas.DataFrame(table).set_index("bin")


def to_xarray(decisions: Iterable[decisions_pb2.Decision]) -> xarray.Dataset:
    """The same as a labelled dataset over ``bin``, ``regime_name``, ``expert``, ``embedding`` and
    ``rank``. Needs xarray."""
    import xarray

    found = to_arrays(decisions)
    second = {
        "posterior": ("regime_name",),
        "experts": ("expert", "regime_name"),
        "embedding_mean": ("embedding",),
        "embedding_sd": ("embedding",),
        "latent": ("rank",),
    }
    coordinates = {
        "bin": found.pop("bin"),
        "regime_name": found.pop("regime_names"),
        "expert": found.pop("expert_names"),
    }
    variables = {k: (("bin", *second.get(k, ())), v) for k, v in found.items()}
    return xarray.Dataset(variables, coords=coordinates)
