"""`ItemMapDisplay`: the vectors of items in two dimensions."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api.types import is_list_like
from sklearn.base import clone
from sklearn.decomposition import PCA

from skmatch._validation import fitted_retriever
from skmatch.inspection._drawing import MARKERS, axes_for, shared_docs, style_of
from skmatch.metrics._content import by_id

MAX_GROUPS = len(MARKERS)  # more values share the style REST
REST = {"label": "other", "color": "0.6", "marker": "."}
LABEL_GAP = (4, 3)  # from an item to its label, in points


class ItemMapDisplay:
    """Map of the items: their vectors in two dimensions, coloured by a feature.

    Use `from_estimator` to make one, or pass the coordinates of another projection, such as
    ``TSNE().fit_transform(retriever.item_vectors_)``. All parameters are stored as attributes.

    Parameters
    ----------
    coordinates : array-like of shape (n_items, 2)
        Coordinates of each item.
    values : Series, array-like of shape (n_items,) or None, default=None
        Values that colour the items: a colour scale for more than seven distinct numbers,
        otherwise a colour and a marker for each of the seven most frequent values. Of a list, the
        first value counts.
    labels : array-like of shape (n_items,) or None, default=None
        Label of each item; earlier items have precedence where labels overlap.
    value_name : str or None, default=None
        Title of the legend.
    explained_variance_ratio : array-like of shape (2,) or None, default=None
        Share of the variance along each axis.

    Attributes
    ----------
    scatters_ : list of matplotlib PathCollection
        The points, one collection per group.
    texts_ : list of matplotlib Annotation
        The labels that were drawn.
    ax_ : matplotlib Axes
        Axes with the map.
    figure_ : matplotlib Figure
        Figure with the axes.

    Examples
    --------
    >>> from skmatch import ItemMapDisplay
    >>> display = ItemMapDisplay(
    ...     coordinates=[[0, 0], [1, 1], [2, 0]], values=["tea", "tea", "jam"], value_name="kind"
    ... )
    >>> [points.get_label() for points in display.plot().scatters_]
    ['tea', 'jam']
    """

    def __init__(
        self,
        *,
        coordinates: Any,
        values: Any = None,
        labels: Any = None,
        value_name: str | None = None,
        explained_variance_ratio: Any = None,
    ):
        self.coordinates = coordinates
        self.values = values
        self.labels = labels
        self.value_name = value_name
        self.explained_variance_ratio = explained_variance_ratio

    @shared_docs
    def plot(
        self, ax: Any = None, *, max_labels: int = 50, scatter_kwargs: dict[str, Any] | None = None
    ) -> Self:
        """Draw the map.

        Parameters
        ----------
        {scatter}

        Returns
        -------
        display : ItemMapDisplay
        """
        self.ax_ = axes_for(self, ax)
        self.figure_ = self.ax_.figure
        options = {"s": 16, "linewidths": 0, "alpha": 0.8} | (scatter_kwargs or {})
        points = np.asarray(self.coordinates, dtype=float)
        if self.values is None:
            self.scatters_ = [self.ax_.scatter(*points.T, **style_of(0) | options)]
        else:
            values = _single_values(self.values)
            is_number = pd.api.types.is_numeric_dtype(values.dtype)
            is_scale = is_number and values.nunique() > MAX_GROUPS
            draw = self._draw_scale if is_scale else self._draw_groups
            self.scatters_ = draw(points, values, options)
        for i, axis in enumerate((self.ax_.xaxis, self.ax_.yaxis)):
            shares = self.explained_variance_ratio
            share = "" if shares is None else f" ({shares[i]:.0%} of the variance)"
            axis.set_label_text(f"Component {i + 1}{share}")
        self.texts_ = [] if self.labels is None else self._draw_labels(points[:max_labels])
        return self

    def _draw_scale(self, points: np.ndarray, values: pd.Series, options: dict) -> list:
        missing = values.isna().to_numpy()
        scatters = []
        if missing.any():
            missing_style = REST | {"label": "none"} | options
            scatters.append(self.ax_.scatter(*points[missing].T, **missing_style))
        # The scale runs from dark to light, so that it reads in grey, too.
        style = {
            "c": values[~missing].to_numpy(dtype=float),
            "cmap": "cividis",
            "marker": "o",
        } | options
        scatters.append(self.ax_.scatter(*points[~missing].T, **style))
        self.figure_.colorbar(scatters[-1], ax=self.ax_, label=self.value_name)
        return scatters

    def _draw_groups(self, points: np.ndarray, values: pd.Series, options: dict) -> list:
        groups = values.astype(object).value_counts().index[:MAX_GROUPS]
        number = groups.get_indexer_for(pd.Index(values))
        scatters = []
        if (number < 0).any():
            scatters.append(self.ax_.scatter(*points[number < 0].T, **REST | options))
        for i, group in enumerate(groups):
            style = {"label": str(group)} | style_of(i) | options
            scatters.append(self.ax_.scatter(*points[number == i].T, **style))
        # Outside the axes, where it covers no item.
        self.ax_.legend(
            handles=scatters[-len(groups) :] + scatters[: -len(groups)],
            title=self.value_name,
            loc="upper left",
            bbox_to_anchor=(1, 1),
        )
        return scatters

    def _draw_labels(self, points: np.ndarray) -> list:
        self.figure_.draw_without_rendering()  # computes the size of the axes
        frame = self.ax_.get_window_extent()
        texts: list = []
        boxes: list = []
        for point, label in zip(points, self.labels, strict=False):
            text = self.ax_.annotate(
                str(label), point, LABEL_GAP, textcoords="offset points", fontsize="x-small"
            )
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            if inside and not box.count_overlaps(boxes):
                texts.append(text)
                boxes.append(box)
            else:
                text.remove()
        return texts

    @classmethod
    @shared_docs
    def from_estimator(
        cls,
        estimator: Any,
        *,
        feature: Hashable | pd.Series | None = None,
        labels: pd.Series | None = None,
        projection: Any = None,
        ax: Any = None,
        max_labels: int = 50,
        scatter_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the item vectors of a fitted retriever in two dimensions.

        Parameters
        ----------
        estimator : estimator
            A fitted retriever, a pipeline that ends in one or a search over one.
        feature : label, Series or None, default=None
            Values that colour the items: the name of an item feature of the `MatchEncoder`, or a
            Series indexed by item ids.
        labels : Series or None, default=None
            Labels, indexed by item ids; the default label is the item's id. The most popular items
            have precedence.
        projection : estimator with fit_transform or None, default=None
            Where two principal components (None) show a blob, a projection that keeps neighbours
            together, such as ``sklearn.manifold.TSNE(metric="cosine")`` or ``umap.UMAP()``.
        {scatter}

        Returns
        -------
        display : ItemMapDisplay

        Examples
        --------
        >>> from skmatch import DSSMRetriever, ItemMapDisplay, MatchEncoder, SequenceSampler
        >>> from skmatch import make_match_pipeline
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=20, n_items=30, n_events=200, random_state=0)
        >>> pipe = make_match_pipeline(
        ...     MatchEncoder(item_features=["category"]), SequenceSampler(),
        ...     DSSMRetriever(max_epochs=1, random_state=0),
        ... ).fit(events)
        >>> display = ItemMapDisplay.from_estimator(pipe, feature="category")
        >>> display.coordinates.shape
        (30, 2)
        """
        retriever = fitted_retriever(estimator, "item_vectors_")
        vectors = retriever.item_vectors_
        if min(vectors.shape) < 2:
            raise ValueError(
                f"estimator={estimator!r} has {vectors.shape[0]:,} item vectors of "
                f"{vectors.shape[1]} dimension(s); a map needs at least two of each."
            )
        order = np.argsort(-retriever.popularity_, kind="stable")
        ids = pd.Series(retriever.item_ids_[order])
        pca = PCA(2, random_state=0) if projection is None else clone(projection)
        coordinates = np.asarray(pca.fit_transform(vectors[order]))
        if coordinates.shape != (len(order), 2):
            raise ValueError(
                f"projection={projection!r} returned shape {coordinates.shape}; a map needs two "
                "dimensions, as of n_components=2."
            )
        values = None
        if isinstance(feature, pd.Series):
            values = _by_item(feature, "feature", ids)
        elif feature is not None:
            values = retriever.schema_.item_values(feature).iloc[order]
        texts = ids
        if labels is not None:
            item_labels = _by_item(labels, "labels", ids)
            texts = item_labels.astype(object).where(item_labels.notna(), ids)
        display = cls(
            coordinates=coordinates,
            values=values,
            labels=texts.to_numpy(),
            value_name=None if values is None or values.name is None else str(values.name),
            explained_variance_ratio=getattr(pca, "explained_variance_ratio_", None),
        )
        return display.plot(ax, max_labels=max_labels, scatter_kwargs=scatter_kwargs)


def _by_item(values: Any, parameter: str, ids: pd.Series) -> pd.Series:
    if not isinstance(values, pd.Series):
        raise ValueError(
            f"{parameter} is a {type(values).__name__}; pass a Series indexed by item ids."
        )
    return by_id(values, parameter, ids)


def _single_values(values: Any) -> pd.Series:
    """Return values as a column, with the first value of each list."""
    column = pd.Series(values)
    if column.dtype == object:
        column = column.map(lambda value: next(iter(value), None) if is_list_like(value) else value)
    return column
