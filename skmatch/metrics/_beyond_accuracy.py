"""Metrics of lists beyond accuracy, as functions of arrays of item ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from skmatch._docs import fill_docs
from skmatch._validation import as_series, check_k
from skmatch.metrics._content import by_id, content_of
from skmatch.metrics._hits import as_index, find_hits
from skmatch.metrics._lists import CATALOGUE_METRICS, LIST_METRICS, Lists
from skmatch.metrics._ranking import read_ranking, relevant_pairs, require_relevant

_shared_docs = fill_docs(
    lists="""\
y_pred : array-like of shape (n_queries, >=k)
    Recommended item ids per query, best first; None and NaN are padding.
k : int
    Number of top-ranked items that count.""",
    events="""\
events : array-like of shape (n_events,)
    Item id of each event that the retriever knew, such as ``train["item_id"]``.""",
    feature="""\
feature : Series or DataFrame
    Categories of each item (a value or a list of values), or vectors, indexed by item ids. Items
    that it lacks are left out.""",
    catalogue="""\
catalogue : array-like of shape (n_items,)
    Ids of all items that could be recommended.""",
    average="""\
average : bool, default=True
    Whether to average over the queries whose score is defined.""",
    score="""\
Returns
-------
score : float, or ndarray of float of shape (n_queries,)""",
)


def _positions(ids: np.ndarray, catalogue: pd.Index) -> np.ndarray:
    """Return positions in the catalogue: unknown ids are after its end, missing ids are -1."""
    flat = as_index(ids.ravel())
    positions = catalogue.get_indexer(flat)
    is_new = (positions < 0) & ~np.asarray(flat.isna())
    positions[is_new] = len(catalogue) + pd.factorize(flat[is_new])[0]
    return positions.reshape(ids.shape)


def _against_events(y_pred: Any, k: int, events: Any, n_queries: int | None = None) -> Lists:
    code, items = pd.factorize(as_index(as_series(events)))
    ranking = _positions(read_ranking(y_pred, n_queries, check_k(k)), items)
    n_items = max(len(items), ranking.max(initial=-1) + 1)
    if not (code >= 0).any():
        raise ValueError("events is empty: pass the item id of each event.")
    return Lists(ranking, np.bincount(code[code >= 0], minlength=n_items))


def _score(name: str, lists: Lists, k: int, average: bool) -> float | np.ndarray:
    values = LIST_METRICS[name](lists, k)
    return average_defined(values) if average else values


def average_defined(values: np.ndarray) -> float:
    """Average the values that are not NaN; NaN if all are."""
    scores = values[~np.isnan(values)]
    return float(scores.mean()) if len(scores) else float("nan")


@_shared_docs
def novelty_at_k(y_pred: Any, k: int, *, events: Any, average: bool = True) -> float | np.ndarray:
    """Compute the mean self-information of the first k: how rarely their items occur.

    Parameters
    ----------
    {lists}
    {events}
    {average}

    {score}
        Mean of ``-log2(share of the item in the events)``, in bits. An item without events counts
        as one with a single event.

    References
    ----------
    .. [1] T. Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems",
       PNAS 107(10), 2010.

    Examples
    --------
    >>> from skmatch.metrics import novelty_at_k
    >>> novelty_at_k([["tea", "rye"]], 2, events=["tea", "tea", "jam", "rye"])
    1.5
    """
    return _score("novelty", _against_events(y_pred, k, events), k, average)


@_shared_docs
def popularity_lift_at_k(
    y_pred: Any, k: int, *, events: Any, average: bool = True
) -> float | np.ndarray:
    """Compute how much more popular the first k are than the items of the events.

    Parameters
    ----------
    {lists}
    {events}
    {average}

    {score}
        Mean popularity of the listed items over the mean popularity of the items of the events;
        1 where the lists are as popular as the events, above 1 where they favour bestsellers.

    References
    ----------
    .. [1] H. Abdollahpouri, M. Mansoury, R. Burke and B. Mobasher, "The unfairness of popularity
       bias in recommendation", RMSE workshop at RecSys 2019.

    Examples
    --------
    >>> from skmatch.metrics import popularity_lift_at_k
    >>> popularity_lift_at_k([["tea"], ["jam"]], 1, events=["tea", "tea", "jam"], average=False)
    array([1.2, 0.6])
    """
    return _score("popularity_lift", _against_events(y_pred, k, events), k, average)


@_shared_docs
def new_items_at_k(y_pred: Any, k: int, *, events: Any, average: bool = True) -> float | np.ndarray:
    """Compute the share of items without events among the first k.

    Parameters
    ----------
    {lists}
    {events}
    {average}

    {score}

    Examples
    --------
    >>> from skmatch.metrics import new_items_at_k
    >>> new_items_at_k([["tea", "nut"]], 2, events=["tea", "jam"])
    0.5
    """
    return _score("new_items", _against_events(y_pred, k, events), k, average)


@_shared_docs
def serendipity_at_k(
    y_true: Sequence[Any] | np.ndarray,
    y_pred: Any,
    k: int,
    *,
    events: Any,
    average: bool = True,
) -> float | np.ndarray:
    """Compute how far the hits among the first k rank above their rank by popularity.

    Parameters
    ----------
    y_true : sequence of collections, or array of shape (n_queries,)
        Relevant item ids per query.
    {lists}
    {events}
    {average}

    {score}
        Sum over the hits of ``max(rank by popularity - rank, 0) / number of items``, over k. A list
        of the most popular items scores 0.

    References
    ----------
    .. [1] E. Zangerle and C. Bauer, "Evaluating recommender systems: survey and framework", ACM
       Computing Surveys 55(8), 2022.

    Examples
    --------
    >>> from skmatch.metrics import serendipity_at_k
    >>> events = ["tea", "tea", "tea", "jam", "jam", "rye"]
    >>> serendipity_at_k([["rye"], ["tea"]], [["rye"], ["tea"]], 1, events=events, average=False)
    array([0.66666667, 0.        ])
    """
    pairs, n_queries = relevant_pairs(y_true)
    pairs = pairs.dropna().infer_objects()
    query = pairs.index.to_numpy()
    require_relevant(query, None, n_queries)
    hits, _ = find_hits(query, pairs, read_ranking(y_pred, n_queries, check_k(k)))
    lists = _against_events(y_pred, k, events, n_queries)._replace(hits=hits)
    return _score("serendipity", lists, k, average)


@_shared_docs
def diversity_at_k(
    y_pred: Any, k: int, *, feature: pd.Series | pd.DataFrame, average: bool = True
) -> float | np.ndarray:
    """Compute the mean distance of two items among the first k (intra-list diversity).

    Parameters
    ----------
    {lists}
    {feature}
    {average}

    {score}
        Mean of one less the cosine over all pairs: 0 where all items are alike, 1 where no two have
        anything in common, NaN with fewer than two items.

    References
    ----------
    .. [1] B. Smyth and P. McClave, "Similarity vs. diversity",
       ICCBR 2001.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch.metrics import diversity_at_k
    >>> kind = pd.Series({"tea": "drink", "juice": "drink", "rye": "bread"})
    >>> diversity_at_k([["tea", "juice", "rye"]], 3, feature=kind).__round__(3)
    0.667
    """
    return _score("diversity", _with_content(y_pred, k, feature), k, average)


@_shared_docs
def miscalibration_at_k(
    y_pred: Any,
    k: int,
    *,
    histories: Any,
    feature: pd.Series | pd.DataFrame,
    average: bool = True,
) -> float | np.ndarray:
    """Compute how far the categories of the first k diverge from those of the history.

    Parameters
    ----------
    {lists}
    histories : sequence of collections of shape (n_queries,)
        Item ids of each user's past events.
    {feature}
    {average}

    {score}
        Kullback-Leibler divergence of the list's categories (smoothed with 1% of the history's)
        from the history's: 0 where the shares are equal; NaN without a known category.

    References
    ----------
    .. [1] H. Steck, "Calibrated recommendations",
       RecSys 2018.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch.metrics import miscalibration_at_k
    >>> kind = pd.Series({"tea": "drink", "juice": "drink", "rye": "bread", "bun": "bread"})
    >>> miscalibration_at_k([["juice", "bun"]], 2, histories=[["tea", "rye"]], feature=kind)
    0.0
    """
    lists = _with_content(y_pred, k, feature)
    pairs, n_queries = relevant_pairs(histories)
    if n_queries != len(lists.ranking):
        raise ValueError(
            f"histories holds {n_queries} rows for {len(lists.ranking)} queries: pass one each."
        )
    item = as_index(feature.index).get_indexer(as_index(pairs))
    query, item = pairs.index.to_numpy()[item >= 0], item[item >= 0]
    counts = csr_array((np.ones(len(item)), (query, item)), (n_queries, len(lists.counts)))
    return _score("miscalibration", lists._replace(histories=counts), k, average)


def _with_content(y_pred: Any, k: int, feature: Any) -> Lists:
    if not isinstance(feature, (pd.Series, pd.DataFrame)):
        raise TypeError(
            f"feature is a {type(feature).__name__}: pass a Series (categories) or a DataFrame "
            "(vectors) indexed by item ids."
        )
    ids = as_index(feature.index)
    ranking = _positions(read_ranking(y_pred, None, check_k(k)), ids)
    content = content_of(by_id(feature, "feature", pd.Series(ids)))
    ranking[ranking >= len(ids)] = -1
    return Lists(ranking, np.zeros(len(ids)), content=content)


@_shared_docs
def coverage_at_k(y_pred: Any, k: int, *, catalogue: Any) -> float:
    """Compute the share of the catalogue that is among the first k of any list.

    Parameters
    ----------
    {lists}
    {catalogue}

    Returns
    -------
    coverage : float

    Examples
    --------
    >>> from skmatch.metrics import coverage_at_k
    >>> coverage_at_k([["tea", "jam"], ["tea", "rye"]], 2, catalogue=["tea", "jam", "rye", "nut"])
    0.75
    """
    return CATALOGUE_METRICS["coverage"](_in_catalogue(y_pred, k, catalogue), k)


@_shared_docs
def gini_at_k(y_pred: Any, k: int, *, catalogue: Any) -> float:
    """Compute how unequally the items of the catalogue are listed (Gini index of exposure).

    Parameters
    ----------
    {lists}
    {catalogue}

    Returns
    -------
    gini : float
        0 where all items are listed equally often, near 1 where few have all of the exposure.

    Examples
    --------
    >>> from skmatch.metrics import gini_at_k
    >>> gini_at_k([["tea"], ["jam"]], 1, catalogue=["tea", "jam"])
    0.0
    >>> gini_at_k([["tea"], ["tea"]], 1, catalogue=["tea", "jam"])
    0.5
    """
    return CATALOGUE_METRICS["gini"](_in_catalogue(y_pred, k, catalogue), k)


def _in_catalogue(y_pred: Any, k: int, catalogue: Any) -> Lists:
    ids = as_index(as_series(catalogue)).dropna().unique()
    values = read_ranking(y_pred, None, check_k(k))
    ranking = _positions(values, ids)
    if (ranking >= len(ids)).any():
        raise ValueError(
            f"y_pred holds {values[ranking >= len(ids)][0]!r}, which is not in the catalogue: pass "
            "the ids of all items that could be recommended."
        )
    return Lists(ranking, np.zeros(len(ids)))


@_shared_docs
def overlap_at_k(y_pred: Any, other: Any, k: int, *, average: bool = True) -> float | np.ndarray:
    """Compute the share of the first k that two retrievers have in common.

    Parameters
    ----------
    {lists}
    other : array-like of shape (n_queries, >=k)
        The lists of another retriever for the same queries.
    {average}

    {score}
        Number of items that both list among their first k, over k.

    Examples
    --------
    >>> from skmatch.metrics import overlap_at_k
    >>> overlap_at_k([["tea", "jam"]], [["rye", "tea"]], k=2)
    0.5
    """
    ranking = read_ranking(y_pred, None, check_k(k))[:, :k]
    other_ranking = read_ranking(other, len(ranking), k)[:, :k]
    row, rank = np.nonzero(~pd.isna(other_ranking))
    hits, _ = find_hits(row, other_ranking[row, rank], ranking) if len(row) else (None, None)
    shares = np.zeros(len(ranking)) if hits is None else hits.total(len(ranking), k) / k
    return float(shares.mean()) if average else shares
