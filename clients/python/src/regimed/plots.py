"""Figures of what was decided. Needs matplotlib and xarray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from .arrays import Decisions, to_xarray

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray

#: What can be drawn.
KINDS = ("posterior", "events", "embedding", "eigenvalues", "exponent")
#: Paul Tol's bright scheme, which the page has as well; `unknown` is grey.
COLOURS = (
    "#0077bb", "#ee7733", "#009988", "#cc3311", "#33bbee", "#ee3377", "#999933", "#882255",
)  # fmt: skip
UNKNOWN = "#888888"


def plot(
    decisions: Decisions | xarray.Dataset, kinds: Sequence[str] = KINDS
) -> matplotlib.figure.Figure:
    """Draws decisions.

    Parameters
    ----------
    decisions : iterable of Decision, mapping, or xarray.Dataset
        As :func:`regimed.to_xarray` takes them, or what it made of them.
    kinds : sequence of str
        Of ``posterior`` (stacked, with the label in force above), ``events`` (each change, with its
        onset), ``embedding`` (the first two dimensions, coloured by the label), ``eigenvalues`` (of
        the newest bin-to-bin map, with the unit circle), ``exponent`` (the driven exponent by the
        counts, with its 90 % interval).

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each, those over time on one axis.

    Raises
    ------
    ValueError
        A kind that is none, or one of which nothing was recorded.
    """
    import matplotlib.pyplot as plt
    import xarray

    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, found '{kind}'")
    data = decisions if isinstance(decisions, xarray.Dataset) else to_xarray(decisions)
    if data.sizes["time"] == 0:
        raise ValueError("expected decisions, found none")
    timed = [k for k in kinds if k in ("posterior", "events", "exponent")]
    planes = [k for k in kinds if k not in timed]
    height = 2.2 * len(timed) + (4.2 if planes else 0)
    figure = plt.figure(figsize=(10, height), layout="constrained")
    rows = len(timed) + (1 if planes else 0)
    heights = [1.0] * len(timed) + ([1.9] if planes else [])
    grid = figure.add_gridspec(rows, max(len(planes), 1), height_ratios=heights)
    shared: Optional[matplotlib.axes.Axes] = None
    for i, kind in enumerate(timed):
        axes = figure.add_subplot(grid[i, :], sharex=shared)
        shared = shared or axes
        axes.tick_params(labelbottom=i == len(timed) - 1)
        _DRAW[kind](axes, data)
        if i == len(timed) - 1:
            axes.set_xlabel("time (s)")
    for i, kind in enumerate(planes):
        _DRAW[kind](figure.add_subplot(grid[rows - 1, i]), data)
    return figure


def _colour(data: xarray.Dataset, regime: str) -> str:
    names = list(data["regime_name"].values)
    return COLOURS[names.index(regime) % len(COLOURS)] if regime in names else UNKNOWN


def _runs(labels: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of equal labels."""
    edges = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    return list(zip([0, *edges], [*edges, len(labels)]))


def _posterior(axes: Any, data: xarray.Dataset) -> None:
    names = list(data["regime_name"].values)
    colours = [_colour(data, name) for name in names]
    time = data["time"].values
    axes.stackplot(time, data["posterior"].values.T, colors=colours, labels=names, alpha=0.6)
    labels = data["regime"].values
    for a, b in _runs(labels):
        end = time[min(b, len(time) - 1)]
        axes.axvspan(time[a], end, 1.0, 1.06, color=_colour(data, labels[a]), clip_on=False, lw=0)
    axes.set(ylim=(0, 1), xlim=(time[0], time[-1]), ylabel="posterior")
    axes.legend(loc="upper left", fontsize="x-small", ncols=min(len(names), 5))


def _events(axes: Any, data: xarray.Dataset) -> None:
    time, labels = data["time"].values, data["regime"].values
    names = [*data["regime_name"].values, "unknown"]
    shown = [n for n in names if n in set(labels)]
    for a, b in _runs(labels):
        if labels[a] not in shown:
            continue
        y, end = shown.index(labels[a]), time[min(b, len(time) - 1)]
        colour = _colour(data, labels[a])
        axes.plot([time[a], end], [y, y], lw=6, solid_capstyle="butt", color=colour)
        if a:
            axes.axvline(time[a], color="0.6", lw=0.6, ls=":")
    axes.set(yticks=range(len(shown)), yticklabels=shown, ylim=(-0.6, len(shown) - 0.4))
    if "annotation_time_s" in data:
        for at, text in zip(data["annotation_time_s"].values, data["annotation_text"].values):
            axes.axvline(at, color="black", lw=0.8)
            axes.annotate(str(text), (at, len(shown) - 0.5), rotation=90, va="top", size="x-small")


def _exponent(axes: Any, data: xarray.Dataset) -> None:
    name, time = "edge_exponent_driven_per_s", data["time"].values
    if name not in data or not np.isfinite(data[name].values).any():
        axes.text(0.5, 0.5, "not resolved", transform=axes.transAxes, ha="center")
    else:
        low, high = data[f"{name}_low"].values, data[f"{name}_high"].values
        axes.fill_between(time, low, high, color=COLOURS[0], alpha=0.25, lw=0)
        axes.plot(time, data[name].values, color=COLOURS[0])
    axes.axhline(0, color="#cc3311", ls="--", lw=1)
    axes.set(ylabel="exponent (1/s)", xlim=(time[0], time[-1]))


def _embedding(axes: Any, data: xarray.Dataset) -> None:
    at, labels = data["embedding_mean"].values, data["regime"].values
    second = at[:, 1] if at.shape[1] > 1 else np.zeros(len(at))
    for name in [*data["regime_name"].values, "unknown"]:
        of = labels == name
        if of.any():
            axes.plot(at[of, 0], second[of], ".", ms=2, color=_colour(data, name), label=name)
    axes.set(xlabel="embedding 1", ylabel="embedding 2", title="task embedding")
    axes.legend(fontsize="x-small", markerscale=4)


def _eigenvalues(axes: Any, data: xarray.Dataset) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), "--", color="#cc3311", lw=1)
    if "map_eigenvalues" in data and data["map_eigenvalues"].size:
        known = data["map_eigenvalues"].dropna("time", how="all").values
        if len(known):
            newest = known[-1]
            axes.plot(newest.real, newest.imag, "o", ms=5, color=COLOURS[0])
    axes.set(aspect="equal", xlabel="real", ylabel="imaginary", title="eigenvalues of the map")


_DRAW = {
    "posterior": _posterior,
    "events": _events,
    "embedding": _embedding,
    "eigenvalues": _eigenvalues,
    "exponent": _exponent,
}
