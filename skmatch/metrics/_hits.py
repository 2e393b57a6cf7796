"""Top-k metrics, computed from the ranks of the relevant items."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Hits(NamedTuple):
    """(query, rank) pairs of the relevant items in rankings, sorted by query and rank."""

    query: np.ndarray  # (n_hits,)
    rank: np.ndarray  # (n_hits,), from 0
    gain: np.ndarray | None = None  # (n_hits,); None: 1 each
    best: Hits | None = None  # with gains: the hits of the ideal rankings

    def total(self, n_queries: int, k: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Sum the weights (default 1) of the hits among the first k of each query."""
        top = self.rank < k
        weights = None if weight is None else weight[top]
        return np.bincount(self.query[top], weights, minlength=n_queries)

    def nth(self) -> np.ndarray:
        """Return the number of each hit among the hits of its query, from 1."""
        start = np.searchsorted(self.query, self.query)
        return np.arange(1, len(self.query) + 1) - start

    def discounted(self, n_queries: int, k: int) -> np.ndarray:
        """Compute the discounted cumulative gain of each query."""
        discount = 1.0 / np.log2(self.rank + 2)
        weight = discount if self.gain is None else self.gain * discount
        return self.total(n_queries, k, weight)


def mean(values: np.ndarray) -> float:
    """Average over queries with a single rounding, so that their order does not matter."""
    return math.fsum(values) / len(values)


def _recall(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    return hits.total(len(n_relevant), k) / n_relevant


def _hit(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    return np.minimum(hits.total(len(n_relevant), k), 1).astype(float)


def _ndcg(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    # Both sums run rank by rank, so that an ideal ranking scores exactly 1.
    if hits.best is not None:
        ideal = hits.best.discounted(len(n_relevant), k)
    else:
        ideal = np.cumsum(1.0 / np.log2(np.arange(k) + 2))[np.minimum(n_relevant, k) - 1]
    return hits.discounted(len(n_relevant), k) / ideal


def _mrr(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    return hits.total(len(n_relevant), k, (hits.nth() == 1) / (hits.rank + 1.0))


def _precision(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    return hits.total(len(n_relevant), k) / k


def _map(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    precision = hits.nth() / (hits.rank + 1.0)
    return hits.total(len(n_relevant), k, precision) / np.minimum(n_relevant, k)


METRICS: dict[str, Callable[[Hits, np.ndarray, int], np.ndarray]] = {
    "recall": _recall,
    "hit": _hit,
    "ndcg": _ndcg,
    "mrr": _mrr,
    "precision": _precision,
    "map": _map,
}


def find_hits(
    query: np.ndarray, item: Any, ranking: np.ndarray, gain: np.ndarray | None = None
) -> tuple[Hits, np.ndarray]:
    """Return the relevant items in rankings, and the number of distinct relevant items per query.

    `item`, (n_pairs,), is relevant to row `query` of `ranking`, (n_queries, n_ranked), where None
    and NaN are misses; each row has a relevant item. Of a repeated pair the largest gain counts,
    of an item that a ranking repeats the first rank.
    """
    n_queries, n_ranked = ranking.shape
    item = np.asarray(item)
    # Fast path for one integer id per query, as when each user's last event is held out.
    if ranking.dtype.kind == item.dtype.kind == "i" and np.array_equal(query, np.arange(n_queries)):
        index = np.flatnonzero(ranking == item[:, None])
        key, n_relevant = index // n_ranked, np.ones(n_queries, dtype=np.int64)
        pair = relevant = key
        if gain is not None:
            relevant = np.arange(n_queries)
    else:
        item_code, items = pd.factorize(as_index(item))
        # One sorted key per (query, item).
        relevant, pair_of = np.unique(query * len(items) + item_code, return_inverse=True)
        n_relevant = np.bincount(relevant // len(items), minlength=n_queries)
        if gain is not None:
            largest = np.zeros(len(relevant))
            np.maximum.at(largest, pair_of, gain)
            gain = largest

        # -1: not relevant to any query
        ranked_code = items.get_indexer(as_index(ranking.ravel()))
        index = np.flatnonzero(ranked_code >= 0)
        key = index // n_ranked * len(items) + ranked_code[index]
        pair = np.minimum(np.searchsorted(relevant, key), len(relevant) - 1)
        is_hit = relevant[pair] == key
        index, key, pair = index[is_hit], key[is_hit], pair[is_hit]
        relevant = relevant // len(items)  # the query of each pair
    is_first = ~pd.Series(key).duplicated().to_numpy()
    index, pair = index[is_first], pair[is_first]
    hits = Hits(index // n_ranked, index % n_ranked)
    if gain is not None:
        hits = hits._replace(gain=gain[pair], best=_best(relevant, gain))
    return hits, n_relevant


def _best(query: np.ndarray, gain: np.ndarray) -> Hits:
    """Rank each query's relevant items by gain."""
    order = np.lexsort((-gain, query))
    query = query[order]
    return Hits(query, np.arange(len(query)) - np.searchsorted(query, query), gain[order])


def as_index(values: Any) -> pd.Index:
    """Return ids as an index of the same dtype, which skips slow inference; tuples stay ids."""
    values = np.asarray(values)
    dtype = object if values.dtype.kind in "US" else values.dtype
    return pd.Index(values, dtype=dtype, tupleize_cols=False)
