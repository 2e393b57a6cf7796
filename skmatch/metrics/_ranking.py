"""Metrics of rankings, as functions of arrays of item ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pandas as pd

from skmatch._docs import fill_docs
from skmatch._validation import check_k
from skmatch.metrics._hits import METRICS, find_hits

Rows = Sequence[Any] | np.ndarray | pd.Series | pd.DataFrame  # a row per query


def _read_rows(values: Any, name: str, shape: str) -> Any:
    """Return a frame as an array; raise if the values are not a row per query."""
    if hasattr(values, "columns"):
        is_one_column = name == "y_true" and len(values.columns) == 1
        is_wide = isinstance(values, pd.DataFrame) and list(values.columns) == [
            *range(values.shape[1])
        ]
        if not isinstance(values, pd.DataFrame) or not (is_one_column or is_wide):
            raise ValueError(
                f"{name} is a frame with the columns {list(values.columns)[:5]}: pass {shape}. "
                "Convert a long frame (one row per item) with frame.groupby(user)[item].agg(list), "
                "and a wide one (one row per query) with to_numpy()."
            )
        return values.iloc[:, 0] if is_one_column else values.to_numpy()
    is_unordered = isinstance(values, (Mapping, set, frozenset, str, bytes))
    if is_unordered or not (hasattr(values, "__iter__") or hasattr(values, "__array__")):
        raise ValueError(
            f"{name} is a {type(values).__name__}: pass {shape}, in the same order in y_true and "
            "y_pred."
        )
    if isinstance(values, np.ndarray) and values.ndim > 2:
        raise ValueError(f"{name} has shape {values.shape}: pass {shape}.")
    return values


RELEVANT = "a collection of the relevant item ids per query, or an array of one id per query"


def relevant_pairs(y_true: Any) -> tuple[pd.Series, int]:
    """Return the relevant items, with missing values, indexed by query; and n_queries."""
    y_true = _read_rows(y_true, "y_true", RELEVANT)
    if isinstance(y_true, np.ndarray) and y_true.ndim == 1 and y_true.dtype != object:
        column = pd.Series(y_true)
    else:
        rows = [list(row) if isinstance(row, frozenset) else row for row in y_true]
        if any(isinstance(row, Mapping) for row in rows):
            raise ValueError(
                f"y_true holds a mapping: pass {RELEVANT}, and the gains as relevance."
            )
        column = pd.Series(rows, dtype=object)
    if column.empty:
        raise ValueError("y_true is empty: pass the relevant items of at least one query.")
    return column.explode(), len(column)


def _read_gains(relevance: Any, y_true: Any, pairs: pd.Series) -> np.ndarray:
    gains, _ = relevant_pairs(_read_rows(relevance, "relevance", "one gain per item of y_true"))
    if any(isinstance(row, (set, frozenset)) for row in y_true):
        raise ValueError("y_true holds sets, whose order relevance cannot follow: pass lists.")
    if not np.array_equal(gains.index, pairs.index):
        n_wanted, n_given = (column.index.value_counts() for column in (pairs, gains))
        query = next(
            q
            for q in n_wanted.index.union(n_given.index).sort_values()
            if n_wanted.get(q, 0) != n_given.get(q, 0)
        )
        raise ValueError(
            f"relevance holds {n_given.get(query, 0)} gains for query {query}, and y_true "
            f"{n_wanted.get(query, 0)} items: pass one gain per relevant item, in the same order."
        )
    return check_gains(gains.to_numpy(), "relevance")


def check_gains(gains: Any, name: str) -> np.ndarray:
    """Return gains as floats; raise if a gain is negative or not a finite number."""
    remedy = "pass finite numbers of at least 0."
    try:
        values = pd.Series(gains).to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not numeric ({error}): {remedy}") from None
    wrong = ~((values >= 0) & np.isfinite(values))
    if wrong.any():
        raise ValueError(f"{name} holds the gain {values[wrong][0]}: {remedy}")
    return values


def read_ranking(y_pred: Any, n_queries: int | None, k: int) -> np.ndarray:
    """Return the ranked ids as an array of shape (n_queries, >=k), or raise."""
    shape = "one row of ranked item ids per query, shape (n_queries, >=k)"
    y_pred = _read_rows(y_pred, "y_pred", shape)
    if isinstance(y_pred, np.ndarray):
        ranking = y_pred
    else:
        rows = list(y_pred)
        unordered = next((row for row in rows if isinstance(row, (Mapping, set, frozenset))), None)
        if unordered is not None:
            raise ValueError(
                f"y_pred holds a {type(unordered).__name__}, not a list: pass {shape}."
            )
        if all(map(pd.api.types.is_list_like, rows)):
            # Lists may differ in length: shorter lists are padded with None.
            columns = list(zip_longest(*rows))
            flat = np.fromiter(chain.from_iterable(columns), dtype=object)
            ranking = flat.reshape(len(columns), len(rows)).T
        else:
            ranking = np.array(rows, dtype=object)
    if ranking.ndim != 2:
        raise ValueError(f"y_pred has shape {ranking.shape}: pass {shape}.")
    if n_queries is not None and len(ranking) != n_queries:
        raise ValueError(
            f"y_pred ranks for {len(ranking)} queries and y_true holds {n_queries}: "
            "pass one row per query in both, in the same order."
        )
    if ranking.shape[1] < k:
        raise ValueError(
            f"y_pred ranks {ranking.shape[1]} items per query and k={k}: rank k items, lower k, "
            "or pad y_pred with None."
        )
    return ranking


def score_rankings(
    name: str, y_true: Any, y_pred: Any, ks: Sequence[int], relevance: Any = None
) -> list[np.ndarray]:
    """Compute a metric per query at every k, all from one ranking."""
    pairs, n_queries = relevant_pairs(y_true)
    gain = None if relevance is None else _read_gains(relevance, y_true, pairs)
    is_relevant = pairs.notna().to_numpy()  # a missing id is padding
    if gain is not None:
        gain = gain[is_relevant]
    pairs = pairs[is_relevant].infer_objects()
    query = pairs.index.to_numpy()
    require_relevant(query, gain, n_queries)
    hits, n_relevant = find_hits(query, pairs, read_ranking(y_pred, n_queries, max(ks)), gain)
    return [METRICS[name](hits, n_relevant, k) for k in ks]


def require_relevant(query: np.ndarray, gain: np.ndarray | None, n_queries: int) -> None:
    """Raise if a query has no relevant item with a gain above 0."""
    without = np.setdiff1d(np.arange(n_queries), query if gain is None else query[gain > 0])
    if without.size:
        missing = "relevant item" if gain is None else "relevant item with a gain above 0"
        raise ValueError(
            f"y_true holds no {missing} for query {without[0]} ({without.size} such "
            "queries): their score is undefined, so drop them from y_true and y_pred."
        )


def _score(
    name: str, y_true: Any, y_pred: Any, k: Any, average: bool, relevance: Any = None
) -> float | np.ndarray:
    (values,) = score_rankings(name, y_true, y_pred, [check_k(k)], relevance)
    return float(values.mean()) if average else values


# Public functions: their docstrings differ in the metric only.

SHARED_DOCS = {
    "parameters": """\
Parameters
----------
y_true : sequence of collections, or array of shape (n_queries,)
    Relevant item ids per query; an array of ids holds one relevant item per query. Order and
    repetition do not matter; None and NaN are padding.
y_pred : array-like of shape (n_queries, >=k)
    Recommended item ids per query, best first. Missing recommendations (None or NaN) and repeated
    ids are misses.
k : int
    Number of top-ranked items that count.
average : bool, default=True
    Whether to average over the queries.""",
    "returns": """\
Returns
-------
score : float, or ndarray of float of shape (n_queries,)""",
    "raises": """\
Raises
------
ValueError
    If a query has no relevant item, if `y_pred` ranks fewer than `k` items or other queries than
    `y_true`, if either is a mapping or a long frame (one row per item), or if `k` is not an
    integer of at least 1.""",
    "example": """\
Examples
--------
>>> from skmatch import metrics
>>> y_true = [["a", "b"], ["c"]]
>>> y_pred = [["x", "a", "y"], ["c", "x", "y"]]""",
}
_shared_docs = fill_docs(**SHARED_DOCS)


@_shared_docs
def recall_at_k(y_true: Rows, y_pred: Rows, k: int, *, average: bool = True) -> float | np.ndarray:
    """Compute the share of the relevant items that rank among the first k.

    {parameters}

    {returns}
        Hits among the first k, divided by the number of relevant items.

    {raises}

    {example}
    >>> metrics.recall_at_k(y_true, y_pred, k=3)
    0.75
    """
    return _score("recall", y_true, y_pred, k, average)


@_shared_docs
def hit_at_k(y_true: Rows, y_pred: Rows, k: int, *, average: bool = True) -> float | np.ndarray:
    """Compute whether any relevant item ranks among the first k (hit rate, success).

    {parameters}

    {returns}
        1 for a query with a hit among the first k, else 0.

    {raises}

    {example}
    >>> metrics.hit_at_k(y_true, y_pred, k=3)
    1.0
    """
    return _score("hit", y_true, y_pred, k, average)


@_shared_docs
def ndcg_at_k(
    y_true: Rows, y_pred: Rows, k: int, *, average: bool = True, relevance: Rows | None = None
) -> float | np.ndarray:
    """Compute the normalised discounted cumulative gain of the first k.

    {parameters}
    relevance : sequence of collections, array of shape (n_queries,) or None, default=None
        Gain of each item of `y_true`, such as its rating, in the layout of `y_true`: finite
        numbers of at least 0, with at least one above 0 per query. Of a repeated item the largest
        gain counts. None means a gain of 1 each.

    {returns}
        Sum of ``gain / log2(rank + 1)`` over the hits, divided by the sum of the ideal ranking.

    {raises}

    References
    ----------
    .. [1] K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
       ACM Transactions on Information Systems 20(4), 2002.

    {example}
    >>> metrics.ndcg_at_k(y_true, y_pred, k=3, average=False)
    array([0.38685281, 1.        ])
    >>> metrics.ndcg_at_k(y_true, y_pred, k=3, relevance=[[1, 3], [5]], average=False)
    array([0.17376534, 1.        ])
    """
    return _score("ndcg", y_true, y_pred, k, average, relevance)


@_shared_docs
def mrr_at_k(y_true: Rows, y_pred: Rows, k: int, *, average: bool = True) -> float | np.ndarray:
    """Compute the reciprocal rank of the first hit among the first k.

    {parameters}

    {returns}
        ``1 / rank`` of the first hit, 0 without a hit.

    {raises}

    References
    ----------
    .. [1] E. M. Voorhees, "The TREC-8 question answering track report", TREC,
       1999.

    {example}
    >>> metrics.mrr_at_k(y_true, y_pred, k=3)
    0.75
    """
    return _score("mrr", y_true, y_pred, k, average)


@_shared_docs
def precision_at_k(
    y_true: Rows, y_pred: Rows, k: int, *, average: bool = True
) -> float | np.ndarray:
    """Compute the share of the first k items that is relevant.

    {parameters}

    {returns}
        Hits among the first k, divided by k, however many items were ranked.

    {raises}

    {example}
    >>> metrics.precision_at_k(y_true, y_pred, k=3, average=False)
    array([0.33333333, 0.33333333])
    """
    return _score("precision", y_true, y_pred, k, average)


@_shared_docs
def map_at_k(y_true: Rows, y_pred: Rows, k: int, *, average: bool = True) -> float | np.ndarray:
    """Compute the average precision of the first k; its mean over queries is MAP.

    {parameters}

    {returns}
        Sum of the precision at each hit's rank, divided by ``min(k, number of relevant items)``.

    {raises}

    Notes
    -----
    With this denominator an ideal ranking scores 1 at every k. Some programs (``trec_eval``,
    ``ranx``) divide by the number of relevant items instead, which is a lower score where there are
    more than k relevant items.

    References
    ----------
    .. [1] C. D. Manning, P. Raghavan and H. Schütze, "Introduction to Information Retrieval",
       chapter 8, Cambridge University Press, 2008.

    {example}
    >>> metrics.map_at_k(y_true, y_pred, k=3, average=False)
    array([0.25, 1.  ])
    """
    return _score("map", y_true, y_pred, k, average)
