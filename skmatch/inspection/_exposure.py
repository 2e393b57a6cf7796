"""`ExposureDisplay`: which items the recommendations show, by popularity."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from skmatch._typing import Ids, SampleTable
from skmatch._validation import check_k, fitted_retriever, unwrap_searches
from skmatch.inspection._drawing import (
    axes_for,
    curve_style_of,
    line_options,
    named,
    shared_docs,
)


class ExposureDisplay:
    """Curves of the share of recommendations that go to the most popular items.

    A curve above that of the events favours bestsellers. Use `from_estimator` to make one. All
    parameters are stored as attributes.

    Parameters
    ----------
    exposure : dict of str to array-like of shape (n_items,)
        Number of recommendations of each item, from the most popular on, by the name of the curve.
    events : array-like of shape (n_items,)
        Number of events of each item, in the same order.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        The curves, in the order of `exposure`.
    events_line_ : matplotlib Line2D
        The curve of the events.
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    skmatch.metrics.gini_at_k : How unequal the exposure is, as a number.

    Examples
    --------
    >>> from skmatch import ExposureDisplay
    >>> display = ExposureDisplay(exposure={"A": [6, 1, 0]}, events=[5, 3, 2]).plot()
    >>> display.events_line_.get_ydata().tolist()
    [0.0, 0.5, 0.8, 1.0]
    """

    def __init__(self, *, exposure: dict[str, Any], events: Any):
        self.exposure = exposure
        self.events = events

    @shared_docs
    def plot(self, ax: Any = None, *, curve_kwargs: dict[str, Any] | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        {curve}

        Returns
        -------
        display : ExposureDisplay
        """
        self.ax_ = axes_for(self, ax)
        self.figure_ = self.ax_.figure
        self.lines_ = []
        options = line_options(curve_kwargs)
        for number, (name, counts) in enumerate(self.exposure.items()):
            style = curve_style_of(number) | {"marker": ""}
            self.lines_ += self.ax_.plot(*_cumulated(counts), **{"label": name} | style | options)
        style = {"label": "events", "color": "0.5", "linestyle": "-", "linewidth": 3, "zorder": 1}
        (self.events_line_,) = self.ax_.plot(*_cumulated(self.events), **style | options)
        self.ax_.set(
            xlabel="Share of the catalogue, the most popular items first",
            ylabel="Share of recommendations",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        self.ax_.legend(loc="lower right")
        return self

    @classmethod
    @shared_docs
    def from_estimator(
        cls,
        estimator: Any,
        X: SampleTable | Ids | None = None,
        *,
        k: int = 10,
        ax: Any = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Recommend with fitted retrievers and draw which items they show.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            A fitted retriever, a pipeline that ends in one or a search over one, or several by the
            names that the legend shows, fitted on the same events.
        X : DataFrame, array-like of shape (n_queries, n_columns), list of user ids, or None
            The queries, as in `recommend`; None stands for all known users.
        k : int, default=10
            Number of items per query.
        {curve}

        Returns
        -------
        display : ExposureDisplay

        Examples
        --------
        >>> from skmatch import ExposureDisplay, PopularityRetriever
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=20, n_items=10, n_events=100, random_state=0)
        >>> display = ExposureDisplay.from_estimator(PopularityRetriever().fit(events), k=3)
        >>> display.ax_.get_ylabel()
        'Share of recommendations'
        """
        k = check_k(k)
        exposure: dict[str, Any] = {}
        events = None
        for name, fitted in named(estimator, "estimator").items():
            retriever = fitted_retriever(fitted, "counts_")
            order = np.argsort(-retriever.counts_, kind="stable")
            events = retriever.counts_[order] if events is None else events
            recommendations = unwrap_searches(fitted).recommend(X, k)
            counts = recommendations[retriever.schema_.item].value_counts()
            exposure[name] = counts.reindex(retriever.item_ids_[order], fill_value=0).to_numpy()
        return cls(exposure=exposure, events=events).plot(ax, curve_kwargs=curve_kwargs)


def _cumulated(counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of the items and their cumulated shares of recommendations, both from 0."""
    total = np.cumsum(np.asarray(counts, dtype=float))
    return np.linspace(0, 1, len(total) + 1), np.concatenate([[0.0], total / max(total[-1], 1)])
