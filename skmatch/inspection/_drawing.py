"""Axes, styles, names and docstrings that the displays share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skmatch._docs import fill_docs
from skmatch._validation import last_step

# Safe for the colour-blind (Okabe and Ito; Tol) and distinct in grey. The coprime lengths give 35
# different pairs of colour and marker.
COLORS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#AA3377")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", "-.", ":")

shared_docs = fill_docs(
    curve="""\
ax : matplotlib Axes or None, default=None
    Axes to draw on; None makes a new figure.
curve_kwargs : dict or None, default=None
    Options of `matplotlib.axes.Axes.plot` for all curves.""",
    scatter="""\
ax : matplotlib Axes or None, default=None
    Axes to draw on; None makes a new figure.
max_labels : int, default=50
    Number of items, from the first (the most popular), whose labels are drawn where they do not
    overlap others.
scatter_kwargs : dict or None, default=None
    Options of `matplotlib.axes.Axes.scatter` for all points.""",
    metric="""\
metric : {"recall", "hit", "ndcg", "mrr", "precision", "map"}, default="ndcg"
    Metric to draw; see the functions of `skmatch.metrics`.
k : int or sequence of int, default=(1, 2, 5, 10, 20, 50, 100)
    Numbers of top-ranked items that count.""",
)


def style_of(number: int) -> dict[str, Any]:
    """Return the colour and marker of a curve or group, by its number from 0."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def curve_style_of(number: int) -> dict[str, Any]:
    """Return the colour, marker and line style of a curve, by its number from 0."""
    return style_of(number) | {"linestyle": LINE_STYLES[number % len(LINE_STYLES)]}


def axes_for(display: Any, ax: Any) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{type(display).__name__}.plot needs matplotlib, which is not installed: run "
            "pip install matplotlib."
        ) from error
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def line_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """Return line options under their long names, so that they replace the defaults."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    return normalize_kwargs(options or {}, Line2D)


def named(values: Any, parameter: str, default: str | None = None) -> dict[str, Any]:
    """Return values by name; a single value is named `default` or after its class."""
    if default is None and isinstance(values, (list, tuple)):
        raise TypeError(
            f"{parameter} is a {type(values).__name__} of {len(values)}; pass a dict of the names "
            "that the legend shows."
        )
    if not isinstance(values, Mapping):
        return {default or type(last_step(values)).__name__: values}
    if not values:
        raise ValueError(f"{parameter}={values!r} is empty: name at least one to draw.")
    return {str(name): value for name, value in values.items()}
