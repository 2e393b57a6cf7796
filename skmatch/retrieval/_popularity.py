"""`PopularityRetriever`: the most frequent items, the baseline of every table."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from skmatch._data import CatalogueRows, Samples
from skmatch.neighbors import ItemIndex
from skmatch.retrieval._base import BaseRetriever, count_items, popularity_of
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._queries import POPULARITY
from skmatch.retrieval._vectors import VectorsMixin


class PopularityRetriever(GrowthMixin, VectorsMixin, BaseRetriever):
    """Recommend to everyone the items with the most events.

    The baseline that every comparison needs; it has the interface of the other retrievers and
    does not need torch.

    Parameters
    ----------
    k : int, default=10
        Number of items that `predict` and `recommend` give for a query.
    exclude_seen : bool, default=True
        Whether recommendations leave out what the user has interacted with; the default of
        `predict`, `recommend` and `score`.

    Attributes
    ----------
    counts_ : ndarray of shape (n_items,)
        Number of events of each item, or their weight.
    popularity_ : ndarray of shape (n_items,)
        Each item's share of the (weighted) events.
    item_vectors_ : ndarray of shape (n_items, 1)
        The same as vectors of one dimension; every user's vector is 1.
    item_ids_ : ndarray of shape (n_items,)
        Ids of the catalogue, in the order of `item_vectors_`.
    schema_ : Schema
        Roles, ids and features of the events.
    n_features_in_ : int
        Number of columns seen during fit, where it got plain events.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during fit, where it got a frame of plain events.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import PopularityRetriever
    >>> events = pd.DataFrame({
    ...     "user_id": ["ann", "ann", "bob", "bob", "cyd", "dan"],
    ...     "item_id": ["tea", "jam", "tea", "rye", "tea", "jam"],
    ... })
    >>> PopularityRetriever(k=2).fit(events).recommend(["cyd", "dee"])
      user_id item_id     score  rank      source
    0     cyd     jam  0.333333     1  popularity
    1     cyd     rye  0.166667     2  popularity
    2     dee     tea  0.500000     1  popularity
    3     dee     jam  0.333333     2  popularity
    """

    _parameter_constraints: dict = {
        "k": [Interval(Integral, 1, None, closed="left")],
        "exclude_seen": ["boolean"],
    }

    def __init__(self, k: int = 10, exclude_seen: bool = True):
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        return self._index(count_items(samples, weight))

    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        counts = count_items(samples, weight)
        counts[: len(self.counts_)] += self.counts_
        return self._index(counts)

    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        n_new = len(rows.schema.items.values) - len(self.counts_)
        return self._index(np.pad(self.counts_, (0, n_new)))

    def _index(self, counts: np.ndarray) -> dict[str, Any]:
        learnt = popularity_of(counts)
        vectors = learnt["popularity_"][:, None]
        return learnt | {"item_vectors_": vectors, "index_": ItemIndex().fit(vectors)}

    def _encode(self, samples: Samples) -> np.ndarray:
        return np.ones((len(samples), 1), dtype=np.float32)

    def _source_of(self, samples: Samples) -> np.ndarray:
        return np.full(len(samples), POPULARITY)
