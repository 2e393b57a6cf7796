"""`TopKCurveDisplay`: a metric against k."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from skmatch._typing import SampleTable
from skmatch._validation import check_choice
from skmatch.inspection._drawing import (
    axes_for,
    curve_style_of,
    line_options,
    named,
    shared_docs,
)
from skmatch.metrics import evaluate
from skmatch.metrics._ranking import METRICS, Rows, score_rankings
from skmatch.metrics._scorer import check_ks

KS = (1, 2, 5, 10, 20, 50, 100)
MAX_TICKS = 10  # up to this number, every k has a tick
TITLES = {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP"}


class TopKCurveDisplay:
    """Curves of a metric against the number k of recommended items.

    Use `from_estimator` or `from_predictions` to make one. All parameters are stored as attributes.

    Parameters
    ----------
    k : array-like of int, shape (n_k,)
        Numbers of items, in increasing order.
    values : dict of str to array-like of shape (n_k,)
        Values of the metric at each k, by the name of the curve.
    metric : str
        Name of the metric, such as "ndcg".

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        The curves, in the order of `values`.
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    skmatch.metrics.evaluate : The same numbers as a table.

    Examples
    --------
    >>> from skmatch import PopularityRetriever, TopKCurveDisplay
    >>> display = TopKCurveDisplay(
    ...     k=[1, 5, 10], values={"A": [0.1, 0.2, 0.3], "B": [0.2, 0.3, 0.35]}, metric="recall"
    ... )
    >>> display.plot().ax_.get_ylabel()
    'Recall@k'
    """

    def __init__(self, *, k: Any, values: dict[str, Any], metric: str):
        self.k = k
        self.values = values
        self.metric = metric

    @shared_docs
    def plot(self, ax: Any = None, *, curve_kwargs: dict[str, Any] | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        {curve}

        Returns
        -------
        display : TopKCurveDisplay
        """
        self.ax_ = axes_for(self, ax)
        self.figure_ = self.ax_.figure
        self.lines_ = []
        for name, values in self.values.items():
            style = curve_style_of(len(self.ax_.lines))
            options = {"label": name} | style | line_options(curve_kwargs)
            self.lines_ += self.ax_.plot(self.k, values, **options)
        gaps = np.diff(self.k)
        if len(gaps) and gaps.max() > 5 * gaps.min():  # as in scikit-learn's LearningCurveDisplay
            self.ax_.set_xscale("log")
        if len(self.k) <= MAX_TICKS:
            self.ax_.set_xticks(self.k, [str(k) for k in self.k])
            self.ax_.set_xticks([], minor=True)
        title = TITLES.get(self.metric, self.metric.capitalize())
        self.ax_.set(xlabel="k", ylabel=f"{title}@k")
        self.ax_.set_ylim(bottom=0)
        self.ax_.legend()
        return self

    @classmethod
    @shared_docs
    def from_estimator(
        cls,
        estimator: Any,
        X: SampleTable,
        *,
        metric: str = "ndcg",
        k: int | Iterable[int] = KS,
        ax: Any = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Score fitted retrievers on held-out events and draw a metric against k.

        The scores are those of `skmatch.metrics.evaluate`, from one ranking per user.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            A fitted retriever, a pipeline that ends in one or a search over one, or several by
            the names that the legend shows.
        X : DataFrame or array-like of shape (n_events, n_columns)
            Held-out events, with the columns that the estimators were fitted on.
        {metric}
        {curve}

        Returns
        -------
        display : TopKCurveDisplay

        Examples
        --------
        >>> from skmatch import LeaveLastOut, PopularityRetriever, TopKCurveDisplay
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=20, n_items=10, n_events=100, random_state=0)
        >>> train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
        >>> popular = PopularityRetriever().fit(train)
        >>> display = TopKCurveDisplay.from_estimator({"popular": popular}, test, k=[1, 5])
        >>> display.lines_[0].get_label()
        'popular'
        """
        ks = _check(metric, k)
        values = {
            name: evaluate(fitted, X, metric, ks)["value"].to_numpy()
            for name, fitted in named(estimator, "estimator").items()
        }
        display = cls(k=ks, values=values, metric=metric)
        return display.plot(ax, curve_kwargs=curve_kwargs)

    @classmethod
    @shared_docs
    def from_predictions(
        cls,
        y_true: Rows,
        y_pred: Rows | dict[str, Rows],
        *,
        metric: str = "ndcg",
        k: int | Iterable[int] = KS,
        ax: Any = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Score rankings and draw a metric against k.

        Parameters
        ----------
        y_true : sequence of collections, or array, shape (n_queries,)
            The relevant item ids of each query, as for the functions of `skmatch.metrics`.
        y_pred : array-like of shape (n_queries, >=max(k)), or dict of str to such
            The recommended item ids of each query, best first, or several by the names that the
            legend shows.
        {metric}
        {curve}

        Returns
        -------
        display : TopKCurveDisplay

        Examples
        --------
        >>> from skmatch import TopKCurveDisplay
        >>> y_true = [["a", "b"], ["c"]]
        >>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]
        >>> display = TopKCurveDisplay.from_predictions(y_true, y_pred, metric="hit", k=[1, 2, 3])
        >>> display.values
        {'Retriever': array([0.5, 1. , 1. ])}
        """
        ks = _check(metric, k)
        values = {
            name: np.mean(score_rankings(metric, y_true, ranking, ks), axis=1)
            for name, ranking in named(y_pred, "y_pred", "Retriever").items()
        }
        display = cls(k=ks, values=values, metric=metric)
        return display.plot(ax, curve_kwargs=curve_kwargs)


def _check(metric: Any, k: Any) -> list[int]:
    check_choice("metric", metric, tuple(METRICS))
    return sorted(check_ks(k))
