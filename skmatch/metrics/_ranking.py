"""Ranking metrics on arrays of item ids: binary relevance, one value a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skmatch._validation import check_k

# ---------------------------------------------------------------------------------------------
# The metrics proper: functions of the hits of all rankings and of the number of relevant items
# (n_queries,), at least one a query. Hits are few where rankings are long, so they come as pairs.
# ---------------------------------------------------------------------------------------------


class Hits(NamedTuple):
    """Where rankings hold relevant items, sorted by query and rank."""

    query: np.ndarray  # (n_hits,)
    rank: np.ndarray  # (n_hits,), from 0

    def total(self, n_queries: int, k: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Sum the hits among the first k of each query, each with a weight (1)."""
        top = self.rank < k
        weights = None if weight is None else weight[top]
        return np.bincount(self.query[top], weights, minlength=n_queries)

    def nth(self) -> np.ndarray:
        """Give how many hits of its query end with each one."""
        start = np.searchsorted(self.query, self.query)
        return np.arange(1, len(self.query) + 1) - start


def _recall(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    return hits.total(len(n_relevant), k) / n_relevant


def _hit(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    return np.minimum(hits.total(len(n_relevant), k), 1).astype(float)


def _ndcg(hits: Hits, n_relevant: np.ndarray, k: int) -> np.ndarray:
    # Summed rank by rank, as the ideal is: the best ranking scores 1 to the last bit.
    ideal = np.cumsum(_discount(np.arange(k)))[np.minimum(n_relevant, k) - 1]
    return hits.total(len(n_relevant), k, _discount(hits.rank)) / ideal


def _discount(rank: np.ndarray) -> np.ndarray:
    return 1.0 / np.log2(rank + 2)


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


# ---------------------------------------------------------------------------------------------
# From ids to hits
# ---------------------------------------------------------------------------------------------


def find_hits(query: np.ndarray, item: Any, ranking: np.ndarray) -> tuple[Hits, np.ndarray]:
    """Say which places of a ranking hold a relevant item.

    Parameters
    ----------
    query : ndarray of int, shape (n_pairs,)
        Row of `ranking` that each relevant item belongs to.
    item : array-like, shape (n_pairs,)
        The relevant items; pairs may repeat.
    ranking : ndarray, shape (n_queries, n_ranked)
        Item ids, best first; None and NaN are misses.

    Returns
    -------
    hits : Hits
        An item that stands in a ranking more than once counts where it stands first.
    n_relevant : ndarray of int, shape (n_queries,)
        Number of distinct relevant items.
    """
    n_queries, n_ranked = ranking.shape
    item = np.asarray(item)
    # One integer a query, as when each user's last event is held out, is only compared.
    if ranking.dtype.kind == item.dtype.kind == "i" and np.array_equal(query, np.arange(n_queries)):
        place = np.flatnonzero(ranking == item[:, None])
        key, n_relevant = place // n_ranked, np.ones(n_queries, dtype=np.int64)
    else:
        item_code, known = pd.factorize(_index(item))
        relevant = np.unique(query * len(known) + item_code)  # one sorted key per (query, item)
        n_relevant = np.bincount(relevant // len(known), minlength=n_queries)

        # An item that is relevant to nobody gets -1 and is looked up no further.
        ranked_code = known.get_indexer(_index(ranking.ravel()))
        place = np.flatnonzero(ranked_code >= 0)
        key = place // n_ranked * len(known) + ranked_code[place]
        nearest = np.minimum(np.searchsorted(relevant, key), len(relevant) - 1)
        is_hit = relevant[nearest] == key
        place, key = place[is_hit], key[is_hit]
    place = place[~pd.Series(key).duplicated().to_numpy()]
    return Hits(place // n_ranked, place % n_ranked), n_relevant


def _index(values: Any) -> pd.Index:
    """Give ids as an index; keeping the dtype spares a slow inference and keeps tuples whole."""
    values = np.asarray(values)
    dtype = object if values.dtype.kind in "US" else values.dtype
    return pd.Index(values, dtype=dtype, tupleize_cols=False)


def _relevant_pairs(y_true: Any) -> tuple[np.ndarray, pd.Series, int]:
    """Flatten the relevant items into (query, item) pairs, and count the queries."""
    if isinstance(y_true, pd.DataFrame):
        y_true = y_true.to_numpy()
    if isinstance(y_true, np.ndarray) and y_true.ndim == 1 and y_true.dtype != object:
        column = pd.Series(y_true)
    else:
        rows = [list(row) if isinstance(row, frozenset) else row for row in y_true]
        column = pd.Series(rows, dtype=object)
    pairs = column.explode().dropna().infer_objects()  # a missing id is padding
    query = pairs.index.to_numpy()
    if column.empty:
        raise ValueError("y_true holds no query: give the relevant items of at least one.")
    without = np.setdiff1d(np.arange(len(column)), query)
    if without.size:
        raise ValueError(
            f"y_true holds no relevant item for query {without[0]} ({without.size} such "
            "queries): a query without one has no score, so leave it out of y_true and y_pred."
        )
    return query, pairs, len(column)


def _ranking(y_pred: Any, n_queries: int, k: int) -> np.ndarray:
    """Give the ranked ids as an array of shape (n_queries, >=k), or say what is wrong."""
    if isinstance(y_pred, pd.DataFrame):
        y_pred = y_pred.to_numpy()
    if isinstance(y_pred, np.ndarray):
        ranking = y_pred
    else:
        rows = list(y_pred)
        if all(map(pd.api.types.is_list_like, rows)):
            # Lists may differ in length: the shorter ones are padded with None.
            columns = list(zip_longest(*rows))
            flat = np.fromiter(chain.from_iterable(columns), dtype=object)
            ranking = flat.reshape(len(columns), len(rows)).T
        else:
            ranking = np.array(rows, dtype=object)
    if ranking.ndim != 2:
        raise ValueError(
            f"y_pred has shape {ranking.shape}: give one row of ranked item ids per query, "
            "shape (n_queries, >=k)."
        )
    if len(ranking) != n_queries:
        raise ValueError(
            f"y_pred ranks for {len(ranking)} queries and y_true holds {n_queries}: "
            "give one row per query in both, in the same order."
        )
    if ranking.shape[1] < k:
        raise ValueError(
            f"y_pred ranks {ranking.shape[1]} items per query and k={k}: rank k items, lower k, "
            "or pad y_pred with None where there is nothing more to rank."
        )
    return ranking


def score_rankings(name: str, y_true: Any, y_pred: Any, ks: Sequence[int]) -> list[np.ndarray]:
    """Give a metric of each query at every k, all from one ranking."""
    query, item, n_queries = _relevant_pairs(y_true)
    hits, n_relevant = find_hits(query, item, _ranking(y_pred, n_queries, max(ks)))
    return [METRICS[name](hits, n_relevant, k) for k in ks]


def _score(name: str, y_true: Any, y_pred: Any, k: Any, average: bool) -> float | np.ndarray:
    (values,) = score_rankings(name, y_true, y_pred, [check_k(k)])
    return float(values.mean()) if average else values


# ---------------------------------------------------------------------------------------------
# Public functions
# ---------------------------------------------------------------------------------------------


def recall_at_k(
    y_true: Sequence[Any] | np.ndarray, y_pred: Any, k: int, *, average: bool = True
) -> float | np.ndarray:
    """Share of the relevant items that stand among the first k.

    Parameters
    ----------
    y_true : sequence of collections, or array, shape (n_queries,)
        The relevant item ids of each query; an array of ids stands for one relevant item a query.
        Order and repetition do not matter; None and NaN are padding.
    y_pred : array-like, shape (n_queries, >=k)
        The recommended item ids of each query, best first. Missing answers, None or NaN, are
        misses, and so is an id that already stood further up.
    k : int
        Number of items, from the top, that count.
    average : bool, default=True
        Whether to average over the queries.

    Returns
    -------
    score : float, or ndarray of float, shape (n_queries,)
        Hits among the first k, divided by the number of relevant items.

    Raises
    ------
    ValueError
        If a query has no relevant item, if `y_pred` ranks fewer than `k` items or other queries
        than `y_true`, or if `k` is no integer of at least 1.

    Examples
    --------
    >>> from skmatch.metrics import recall_at_k
    >>> y_true = [["a", "b"], ["c"]]
    >>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]
    >>> recall_at_k(y_true, y_pred, k=3)
    0.75
    """
    return _score("recall", y_true, y_pred, k, average)


def hit_at_k(
    y_true: Sequence[Any] | np.ndarray, y_pred: Any, k: int, *, average: bool = True
) -> float | np.ndarray:
    """Whether any relevant item stands among the first k (hit rate, success).

    Parameters
    ----------
    y_true : sequence of collections, or array, shape (n_queries,)
        The relevant item ids of each query; an array of ids stands for one relevant item a query.
        Order and repetition do not matter; None and NaN are padding.
    y_pred : array-like, shape (n_queries, >=k)
        The recommended item ids of each query, best first. Missing answers, None or NaN, are
        misses, and so is an id that already stood further up.
    k : int
        Number of items, from the top, that count.
    average : bool, default=True
        Whether to average over the queries.

    Returns
    -------
    score : float, or ndarray of float, shape (n_queries,)
        1 for a query with a hit among the first k, else 0.

    Raises
    ------
    ValueError
        If a query has no relevant item, if `y_pred` ranks fewer than `k` items or other queries
        than `y_true`, or if `k` is no integer of at least 1.

    Examples
    --------
    >>> from skmatch.metrics import hit_at_k
    >>> y_true = [["a", "b"], ["c"]]
    >>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]
    >>> hit_at_k(y_true, y_pred, k=3)
    1.0
    """
    return _score("hit", y_true, y_pred, k, average)


def ndcg_at_k(
    y_true: Sequence[Any] | np.ndarray, y_pred: Any, k: int, *, average: bool = True
) -> float | np.ndarray:
    """Normalised discounted cumulative gain of the first k, with binary relevance.

    Parameters
    ----------
    y_true : sequence of collections, or array, shape (n_queries,)
        The relevant item ids of each query; an array of ids stands for one relevant item a query.
        Order and repetition do not matter; None and NaN are padding.
    y_pred : array-like, shape (n_queries, >=k)
        The recommended item ids of each query, best first. Missing answers, None or NaN, are
        misses, and so is an id that already stood further up.
    k : int
        Number of items, from the top, that count.
    average : bool, default=True
        Whether to average over the queries.

    Returns
    -------
    score : float, or ndarray of float, shape (n_queries,)
        Sum of ``1 / log2(rank + 1)`` over the hits, divided by the sum that the best ranking
        reaches: that of the first ``min(k, number of relevant items)`` ranks.

    Raises
    ------
    ValueError
        If a query has no relevant item, if `y_pred` ranks fewer than `k` items or other queries
        than `y_true`, or if `k` is no integer of at least 1.

    References
    ----------
    .. [1] K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
       ACM Transactions on Information Systems 20(4), 2002.

    Examples
    --------
    >>> from skmatch.metrics import ndcg_at_k
    >>> y_true = [["a", "b"], ["c"]]
    >>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]
    >>> ndcg_at_k(y_true, y_pred, k=3, average=False)
    array([0.38685281, 1.        ])
    """
    return _score("ndcg", y_true, y_pred, k, average)


def mrr_at_k(
    y_true: Sequence[Any] | np.ndarray, y_pred: Any, k: int, *, average: bool = True
) -> float | np.ndarray:
    """Reciprocal rank of the first hit among the first k.

    Parameters
    ----------
    y_true : sequence of collections, or array, shape (n_queries,)
        The relevant item ids of each query; an array of ids stands for one relevant item a query.
        Order and repetition do not matter; None and NaN are padding.
    y_pred : array-like, shape (n_queries, >=k)
        The recommended item ids of each query, best first. Missing answers, None or NaN, are
        misses, and so is an id that already stood further up.
    k : int
        Number of items, from the top, that count.
    average : bool, default=True
        Whether to average over the queries.

    Returns
    -------
    score : float, or ndarray of float, shape (n_queries,)
        ``1 / rank`` of the first hit, 0 without one.

    Raises
    ------
    ValueError
        If a query has no relevant item, if `y_pred` ranks fewer than `k` items or other queries
        than `y_true`, or if `k` is no integer of at least 1.

    References
    ----------
    .. [1] E. M. Voorhees, "The TREC-8 question answering track report", TREC,
       1999.

    Examples
    --------
    >>> from skmatch.metrics import mrr_at_k
    >>> y_true = [["a", "b"], ["c"]]
    >>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]
    >>> mrr_at_k(y_true, y_pred, k=3)
    0.75
    """
    return _score("mrr", y_true, y_pred, k, average)


def precision_at_k(
    y_true: Sequence[Any] | np.ndarray, y_pred: Any, k: int, *, average: bool = True
) -> float | np.ndarray:
    """Share of the first k that is relevant.

    Parameters
    ----------
    y_true : sequence of collections, or array, shape (n_queries,)
        The relevant item ids of each query; an array of ids stands for one relevant item a query.
        Order and repetition do not matter; None and NaN are padding.
    y_pred : array-like, shape (n_queries, >=k)
        The recommended item ids of each query, best first. Missing answers, None or NaN, are
        misses, and so is an id that already stood further up.
    k : int
        Number of items, from the top, that count.
    average : bool, default=True
        Whether to average over the queries.

    Returns
    -------
    score : float, or ndarray of float, shape (n_queries,)
        Hits among the first k, divided by k, however many items were ranked.

    Raises
    ------
    ValueError
        If a query has no relevant item, if `y_pred` ranks fewer than `k` items or other queries
        than `y_true`, or if `k` is no integer of at least 1.

    Examples
    --------
    >>> from skmatch.metrics import precision_at_k
    >>> y_true = [["a", "b"], ["c"]]
    >>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]
    >>> precision_at_k(y_true, y_pred, k=3, average=False)
    array([0.33333333, 0.33333333])
    """
    return _score("precision", y_true, y_pred, k, average)


def map_at_k(
    y_true: Sequence[Any] | np.ndarray, y_pred: Any, k: int, *, average: bool = True
) -> float | np.ndarray:
    """Average precision of the first k, and over queries its mean (MAP).

    Parameters
    ----------
    y_true : sequence of collections, or array, shape (n_queries,)
        The relevant item ids of each query; an array of ids stands for one relevant item a query.
        Order and repetition do not matter; None and NaN are padding.
    y_pred : array-like, shape (n_queries, >=k)
        The recommended item ids of each query, best first. Missing answers, None or NaN, are
        misses, and so is an id that already stood further up.
    k : int
        Number of items, from the top, that count.
    average : bool, default=True
        Whether to average over the queries.

    Returns
    -------
    score : float, or ndarray of float, shape (n_queries,)
        Sum of the precision at each hit's rank, divided by ``min(k, number of relevant items)``.

    Raises
    ------
    ValueError
        If a query has no relevant item, if `y_pred` ranks fewer than `k` items or other queries
        than `y_true`, or if `k` is no integer of at least 1.

    Notes
    -----
    The denominator makes 1 the score of the best ranking at every k, as in `ndcg_at_k`. Some
    programs (``trec_eval``, ``ranx``) divide by the number of relevant items instead, which is
    the same up to k relevant items and lower beyond.

    References
    ----------
    .. [1] C. D. Manning, P. Raghavan and H. Schütze, "Introduction to Information Retrieval",
       chapter 8, Cambridge University Press, 2008.

    Examples
    --------
    >>> from skmatch.metrics import map_at_k
    >>> y_true = [["a", "b"], ["c"]]
    >>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]
    >>> map_at_k(y_true, y_pred, k=3, average=False)
    array([0.25, 1.  ])
    """
    return _score("map", y_true, y_pred, k, average)
