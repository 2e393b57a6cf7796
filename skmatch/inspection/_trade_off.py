"""`TradeOffDisplay`: a metric against another metric."""

from __future__ import annotations

from typing import Any, Self

from skmatch._typing import Label, SampleTable
from skmatch.inspection._drawing import axes_for, named, style_of
from skmatch.metrics import evaluate


class TradeOffDisplay:
    """Retrievers as points: accuracy against coverage, novelty or any other metric.

    Use `from_estimator` to make one. All parameters are stored as attributes.

    Parameters
    ----------
    values : dict of str to (float, float)
        The metrics of each retriever, horizontal and vertical, by its name.
    metrics : (str, str)
        Titles of the axes.

    Attributes
    ----------
    scatters_ : list of matplotlib PathCollection
        The points, in the order of `values`.
    ax_ : matplotlib Axes
        Axes with the points.
    figure_ : matplotlib Figure
        Figure with the axes.

    Examples
    --------
    >>> from skmatch import TradeOffDisplay
    >>> display = TradeOffDisplay(
    ...     values={"A": (0.1, 0.3), "B": (0.6, 0.2)}, metrics=("coverage@10", "ndcg@10")
    ... )
    >>> [points.get_label() for points in display.plot().scatters_]
    ['A', 'B']
    """

    def __init__(self, *, values: dict[str, tuple[float, float]], metrics: tuple[str, str]):
        self.values = values
        self.metrics = metrics

    def plot(self, ax: Any = None, *, scatter_kwargs: dict[str, Any] | None = None) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw on; None makes a new figure.
        scatter_kwargs : dict or None, default=None
            Options of `matplotlib.axes.Axes.scatter` for all points.

        Returns
        -------
        display : TradeOffDisplay
        """
        self.ax_ = axes_for(self, ax)
        self.figure_ = self.ax_.figure
        options = {"s": 50} | (scatter_kwargs or {})
        self.scatters_ = [
            self.ax_.scatter(*point, label=name, **style_of(number) | options)
            for number, (name, point) in enumerate(self.values.items())
        ]
        for name, point in self.values.items():
            self.ax_.annotate(name, point, (6, 4), textcoords="offset points")
        self.ax_.set(xlabel=self.metrics[0], ylabel=self.metrics[1])
        self.ax_.margins(0.15)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: SampleTable,
        *,
        metrics: tuple[str, str] = ("coverage", "ndcg"),
        k: int = 10,
        feature: Label | None = None,
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Score fitted retrievers on held-out events and draw one metric against another.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            A fitted retriever, a pipeline that ends in one or a search over one, or several by the
            names that are drawn.
        X : DataFrame or array-like of shape (n_events, n_columns)
            Held-out events, with the columns that the estimators were fitted on.
        metrics : (str, str), default=("coverage", "ndcg")
            The horizontal and the vertical metric, as for `skmatch.evaluate`.
        k : int, default=10
            Number of top-ranked items that count.
        feature : label, Series, DataFrame or None, default=None
            What "diversity" and "miscalibration" compare.
        ax : matplotlib Axes or None, default=None
            Axes to draw on; None makes a new figure.
        scatter_kwargs : dict or None, default=None
            Options of `matplotlib.axes.Axes.scatter` for all points.

        Returns
        -------
        display : TradeOffDisplay

        Examples
        --------
        >>> from skmatch import LeaveLastOut, PopularityRetriever, TradeOffDisplay
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=20, n_items=10, n_events=100, random_state=0)
        >>> train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
        >>> popular = PopularityRetriever().fit(train)
        >>> display = TradeOffDisplay.from_estimator({"popular": popular}, test, k=5)
        >>> display.metrics
        ('coverage@5', 'ndcg@5')
        """
        if isinstance(metrics, str) or len(set(metrics)) != 2:
            raise ValueError(f"metrics={metrics!r}: name two different metrics, one for each axis.")
        values = {
            name: tuple(evaluate(fitted, X, metrics, k, feature=feature)["value"])
            for name, fitted in named(estimator, "estimator").items()
        }
        display = cls(values=values, metrics=(f"{metrics[0]}@{k}", f"{metrics[1]}@{k}"))
        return display.plot(ax, scatter_kwargs=scatter_kwargs)
