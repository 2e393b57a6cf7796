"""What the pictures share: axes, styles, and names of what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skmatch._validation import last_step

# Each differs from the others in grey, too. The colours are those of Okabe and Ito for the
# colour-blind that are dark enough on white, and a purple of Tol's. The lengths have no common
# divisor, so that no pair of colour and marker comes back before the 35th.
COLORS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#AA3377")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", "-.", ":")


def style_of(number: int) -> dict[str, Any]:
    """Give colour and marker of what is drawn as the given one, from 0."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def axes_for(display: Any, ax: Any) -> Any:
    """Give axes to draw on: those of the caller or new ones."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{type(display).__name__}.plot needs matplotlib, which is not installed: run "
            "pip install 'skmatch[plot]'."
        ) from error
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def line_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """Give a caller's options of lines under their long names, so that they replace defaults."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    return normalize_kwargs(options or {}, Line2D)


def named(values: Any, parameter: str, default: str | None = None) -> dict[str, Any]:
    """Give what is compared by name; a single one has the default, or the name of its class."""
    if default is None and isinstance(values, (list, tuple)):
        raise TypeError(
            f"{parameter} is a {type(values).__name__} of {len(values)}; give a dict, with the "
            "name of each that the legend shows."
        )
    if not isinstance(values, Mapping):
        return {default or type(last_step(values)).__name__: values}
    if not values:
        raise ValueError(f"{parameter}={values!r} is empty: name at least one to draw.")
    return {str(name): value for name, value in values.items()}
