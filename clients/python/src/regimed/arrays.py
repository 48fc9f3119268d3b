"""Decisions as arrays, tables and labelled datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from regimed.v1 import decisions_pb2

if TYPE_CHECKING:
    import pandas
    import xarray

Decisions = Union[Iterable[decisions_pb2.Decision], Mapping[str, np.ndarray]]

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
#: Readings of the dynamics: unit, and what each is.
METRICS = {
    "spectral_radius": ("1", "spectral radius of the bin-to-bin map at the state; 1 is marginal"),
    "spectral_abscissa_per_s": ("1/s", "spectral abscissa of the Jacobian; 0 is marginal"),
    "leading_frequency_hz": ("Hz", "frequency of the leading eigenvalue"),
    "leading_time_constant_s": ("s", "time constant of the leading eigenvalue"),
    "participation_ratio": ("1", "participation ratio of the log rates' covariance"),
    "bare_spectral_radius": ("1", "spectral radius of the bare connectivity"),
    "lyapunov_max_noise_free_per_s": ("1/s", "largest Lyapunov exponent of the fit, no noise"),
    "lyapunov_max_driven_per_s": ("1/s", "largest Lyapunov exponent of the fit, driven by noise"),
    "kaplan_yorke_dimension": ("1", "Kaplan-Yorke dimension of the noise-free spectrum"),
    "oscillation_hz": ("Hz", "frequency of the noise-free run"),
    "branching_ratio_per_bin": ("1", "branching ratio of the activity, per bin; 1 is critical"),
    "branching_timescale_s": ("s", "timescale of the activity"),
    "connectivity_radius": ("1", "effective connectivity radius by the covariances"),
    "edge_exponent_driven_per_s": ("1/s", "driven exponent by the counts alone, -2 to 2"),
    "edge_p_chaos": ("1", "probability that the exponent by the counts is above 0"),
    "stable_points": ("1", "stable fixed points of the fit"),
    "unstable_points": ("1", "unstable fixed points of the fit"),
}
#: Readings with the ends of a 90 % credible interval.
_WITH_ENDS = [
    "spectral_radius",
    "spectral_abscissa_per_s",
    "leading_frequency_hz",
    "lyapunov_max_noise_free_per_s",
    "lyapunov_max_driven_per_s",
    "kaplan_yorke_dimension",
    "oscillation_hz",
    "branching_ratio_per_bin",
    "branching_timescale_s",
    "connectivity_radius",
    "edge_exponent_driven_per_s",
]
_NAN = (np.nan, np.nan, np.nan)


def _ends(metrics: Any, name: str) -> tuple[float, float, float]:
    """Mean, low and high of a reading; NaN where it is not known."""
    if name == "edge_exponent_driven_per_s":
        if not metrics.HasField("edge"):
            return _NAN
        metrics, name = metrics.edge, "exponent_driven_per_s"
    value = getattr(metrics, name)
    if isinstance(value, float):
        if not metrics.HasField(f"{name}_interval"):
            return value, np.nan, np.nan
        ends = getattr(metrics, f"{name}_interval")
        return value, ends.low, ends.high
    return (value.mean, value.low, value.high) if metrics.HasField(name) else _NAN


def _value(metrics: Any, name: str) -> float:
    if name == "edge_p_chaos":
        return metrics.edge.p_chaos if metrics.HasField("edge") else np.nan
    if name in ("stable_points", "unstable_points"):
        of = metrics.fixed_points
        known = metrics.HasField("fixed_points")
        return float(getattr(of, name.removesuffix("_points"))) if known else np.nan
    return float(getattr(metrics, name))


def seconds(rig_time_ns: np.ndarray, receive_time_ns: np.ndarray) -> np.ndarray:
    """Seconds after the first bin's end: by the rig's clock where it tells the time of every bin,
    else by when the daemon received them."""
    rig = np.asarray(rig_time_ns, np.int64)
    known = len(rig) > 0 and bool((rig != 0).all()) and bool((np.diff(rig) > 0).all())
    of = rig if known else np.asarray(receive_time_ns, np.int64)
    return (of - of[0]) * 1e-9 if len(of) else of.astype(float)


def to_arrays(decisions: Iterable[decisions_pb2.Decision]) -> dict[str, np.ndarray]:
    """Decisions of one session and model, field by field.

    Parameters
    ----------
    decisions : iterable of Decision
        Of one session and model, in order.

    Returns
    -------
    dict
        ``time_s`` [n] (seconds after the first, by the rig's clock where it is known), ``regime``
        [n], ``regime_names`` [n_regimes], ``posterior`` [n, n_regimes], ``expert_names``
        [n_experts] and ``experts`` [n, n_experts, n_regimes] (the experts' own posteriors; without
        experts where the session has the dynamics alone), ``embedding_mean`` and ``embedding_sd``
        [n, d], ``latent`` [n, R], plain fields [n], every reading of the dynamics [n] with the ends
        of its 90 % interval as ``NAME_low`` and ``NAME_high`` (NaN where it is not known), and
        ``map_eigenvalues`` [n, R], complex.

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
    found["time_s"] = seconds(found["rig_time_ns"], found["receive_time_ns"])
    found["regime"] = np.array([d.regime for d in rows], dtype=str)
    found["regime_names"] = np.array(names, dtype=str)
    for name in ("posterior", "embedding_mean", "embedding_sd", "latent"):
        width = len(getattr(rows[0], name)) if rows else 0
        two = np.array([list(getattr(d, name)) for d in rows], np.float32)
        found[name] = two.reshape(len(rows), width)
    experts = [e.name for e in rows[0].experts] if rows else []
    found["expert_names"] = np.array(experts, dtype=str)
    own = [[list(e.posterior) for e in d.experts] for d in rows]
    found["experts"] = np.array(own, np.float32).reshape(len(rows), len(experts), len(names))
    metrics = [d.metrics if d.HasField("metrics") else None for d in rows]
    for name in METRICS:
        if name in _WITH_ENDS:
            ends = [_NAN if m is None else _ends(m, name) for m in metrics]
            three = np.array(ends, np.float32).reshape(-1, 3)
            for i, end in enumerate(("", "_low", "_high")):
                found[name + end] = three[:, i]
        else:
            values = [np.nan if m is None else _value(m, name) for m in metrics]
            found[name] = np.array(values, np.float32)
    found["map_eigenvalues"] = _eigenvalues(metrics, found["latent"].shape[1])
    return found


def _eigenvalues(metrics: list[Any], rank: int) -> np.ndarray:
    """[n, R], NaN where no reading came."""
    found = np.full((len(metrics), rank), complex(np.nan, np.nan))
    for row, m in zip(found, metrics):
        if m is not None:
            of = [complex(e.re, e.im) for e in m.map_eigenvalues]
            row[: len(of)] = of
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


_SECOND = {
    "posterior": ("regime_name",),
    "experts": ("expert", "regime_name"),
    "embedding_mean": ("embedding",),
    "embedding_sd": ("embedding",),
    "latent": ("rank",),
    "latent_sd": ("rank",),
    "map_eigenvalues": ("rank",),
}


def to_xarray(decisions: Decisions) -> xarray.Dataset:
    """The same as a labelled dataset over ``time`` in seconds, ``regime_name``, ``expert``,
    ``embedding`` and ``rank``, with units. Needs xarray.

    Parameters
    ----------
    decisions : iterable of Decision, or mapping
        Live decisions, or the arrays of ``regimed export`` (:func:`load_decisions`); those bring
        their events, notes and triggers along, over ``event``, ``annotation`` and ``trigger``, with
        times in seconds on the same clock.

    Returns
    -------
    xarray.Dataset
        ``bin`` is a coordinate beside ``time``.
    """
    import xarray

    exported = isinstance(decisions, Mapping)
    found = dict(decisions) if isinstance(decisions, Mapping) else to_arrays(decisions)
    aside = _aside(found) if exported else {}
    n = len(found["bin"])
    time = found.pop("time_s", None)
    coordinates: dict[str, Any] = {
        "time": ("time", time, {"units": "s", "long_name": "time after the first bin"}),
        "bin": ("time", found.pop("bin")),
        "regime_name": found.pop("regime_names"),
    }
    if "expert_names" in found:
        coordinates["expert"] = found.pop("expert_names")
    variables: dict[str, Any] = {}
    for name, values in found.items():
        dimensions = ("time", *_SECOND.get(name, ()))
        if values.ndim != len(dimensions) or len(values) != n:
            continue
        stem = name.removesuffix("_low").removesuffix("_high")
        unit, what = METRICS.get(stem, ("", ""))
        attributes = {"units": unit, "long_name": what} if unit else {}
        variables[name] = (dimensions, values, attributes)
    dataset = xarray.Dataset(variables, coords=coordinates)
    return dataset.assign(aside) if aside else dataset


def _aside(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """What an export has beside its decisions; `found` keeps what is of every decision."""
    times, rig = found["receive_time_ns"], found.get("rig_time_ns", np.zeros(0))
    found["time_s"] = seconds(rig, times)
    labels = np.append(found["regime_names"], "unknown")
    found["regime"] = labels[np.asarray(found["regime"], int)]
    # `event` is what events lie over.
    found["event_of_bin"] = found.pop("event", np.zeros(len(times), np.int64))
    _spread_metrics(found)
    width = found.pop("bin_width_s", np.array(np.nan))
    begin = times[0] if len(times) else 0
    # The clock of `time` at the daemon's wall time.
    shift = float(found["time_s"][-1] - (times[-1] - begin) * 1e-9) if len(times) else 0.0
    aside: dict[str, Any] = {}
    for kind, stamp in [
        ("event", "event_decision_time_ns"),
        ("annotation", "annotation_time_ns"),
        ("trigger", "trigger_decision_time_ns"),
    ]:
        for name in [k for k in found if k.startswith(f"{kind}_") and k != "event_of_bin"]:
            aside[name] = (kind, found.pop(name))
        if stamp in aside:
            wall = (aside[stamp][1] - begin) * 1e-9
            aside[f"{kind}_time_s"] = (kind, wall + np.where(wall > 0, shift, 0.0), {"units": "s"})
    if "event_onset_bin" in aside and np.isfinite(width):
        late = aside["event_bin"][1] - aside["event_onset_bin"][1]
        at = aside["event_time_s"][1] - late * float(width)
        aside["event_onset_time_s"] = ("event", at, {"units": "s"})
    return aside


def _spread_metrics(found: dict[str, np.ndarray]) -> None:
    """Readings, of which an export has each once, at every decision: the newest until then."""
    bins = found.pop("metrics_bin", None)
    keys = [k for k in found if k.startswith("metrics_") and "_map_" not in k]
    if bins is None:
        return
    parts = [found.pop(f"metrics_map_eigenvalues_{part}", None) for part in ("re", "im")]
    if parts[0] is not None and parts[1] is not None:
        found["metrics_map_eigenvalues"] = parts[0] + 1j * parts[1]
        keys.append("metrics_map_eigenvalues")
    at = np.searchsorted(bins, found["bin"], side="right") - 1
    for key in keys:
        values = np.asarray(found.pop(key))
        if len(values) == 0:
            continue
        newest = values[np.maximum(at, 0)]
        newest[at < 0] = np.nan
        found[key.removeprefix("metrics_")] = newest
