"""`diversify`: recommendations in another order, for lists that are less of the same."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.preprocessing import normalize

from skmatch._columns import FIRST_KNOWN
from skmatch._typing import Label, Table
from skmatch._validation import check_k, fitted_retriever, in_frame_of, read_frame, require_column
from skmatch.metrics._content import read_content

BLOCK_SIZE = 2**21  # numbers of candidates that are held at a time
MAX_DENSE = 128  # values of a feature; with more values, codes are compared


def diversify(
    recommendations: Table,
    estimator: Any,
    k: int | None = None,
    *,
    weight: float = 0.3,
    feature: Label | pd.Series | pd.DataFrame | None = None,
    max_per_value: int | None = None,
    min_new: int = 0,
) -> Any:
    """Choose the best `k` of each list of recommendations so that they differ from one another.

    Each list is filled by maximal marginal relevance [1]_: next comes the item with the largest
    ``(1 - weight) * score - weight * similarity``, of the score scaled to 0 to 1 within the list,
    and the largest cosine to an item chosen before.

    Parameters
    ----------
    recommendations : DataFrame
        What `recommend` returned, with more items per query than `k`: five times as many leave a
        choice.
    estimator : estimator
        The fitted retriever that recommended them, or the pipeline or search.
    k : int or None, default=None
        Number of items per query; None takes the retriever's `k`.
    weight : float, default=0.3
        Weight of the similarity, from 0 (only the rules below reorder) to 1.
    feature : label, Series, DataFrame or None, default=None
        What makes items similar: an item feature of the `MatchEncoder`, or categories (Series) or
        vectors (DataFrame) indexed by item ids. None takes the retriever's item vectors.
    max_per_value : int or None, default=None
        Largest number of items of a query that share a value of `feature`, which holds categories.
        A list may end up shorter than `k`.
    min_new : int, default=0
        Number of items without events that each list holds at least, as far as there are any among
        its recommendations.

    Returns
    -------
    recommendations : DataFrame
        The rows that were chosen, in their new order, ranked from 1.

    Raises
    ------
    ValueError
        If a column or an item is missing, if a parameter is out of range, or if there is nothing to
        compare items by.

    References
    ----------
    .. [1] J. Carbonell and J. Goldstein, "The use of MMR, diversity-based reranking for reordering
       documents and producing summaries", SIGIR 1998.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import PopularityRetriever, diversify
    >>> events = pd.DataFrame({
    ...     "user_id": ["ann", "bob", "cyd", "ann", "bob", "ann"],
    ...     "item_id": ["tea", "tea", "tea", "juice", "juice", "rye"],
    ... })
    >>> kind = pd.Series({"tea": "drink", "juice": "drink", "rye": "bread"})
    >>> retriever = PopularityRetriever().fit(events)
    >>> found = retriever.recommend(["eve"])
    >>> diversify(found, retriever, 2, feature=kind, max_per_value=1)["item_id"].tolist()
    ['tea', 'rye']
    """
    retriever = fitted_retriever(estimator, "schema_")
    schema = retriever.schema_
    k = check_k(retriever.k if k is None else k)
    if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= weight <= 1:
        raise ValueError(f"weight={weight!r} must be a number from 0 to 1.")
    n_new = 0 if min_new == 0 else check_k(min_new, "min_new")
    if max_per_value is not None:
        max_per_value = check_k(max_per_value, "max_per_value")
        if feature is None or isinstance(feature, pd.DataFrame):
            raise ValueError(
                f"max_per_value={max_per_value} needs categories: pass feature, the label of an "
                "item feature or a Series indexed by item ids."
            )
    if feature is None and not hasattr(retriever, "item_vectors_"):
        raise ValueError(
            f"{type(retriever).__name__} has no item vectors to compare items by: pass feature, "
            "the label of an item feature, or a Series or DataFrame indexed by item ids."
        )
    table = read_frame(recommendations)
    needed = (schema.item, "score", schema.user, "rank")
    columns = [
        require_column(table, name, "recommendations'", "Pass what recommend returned.", "it")
        for name in needed
    ]
    items = schema.items.lookup(columns[0]) - FIRST_KNOWN
    if (items < 0).any():
        raise ValueError(
            f"The item {columns[0][items < 0].tolist()[0]!r} is not in the catalogue of estimator: "
            "pass the retriever that recommended it."
        )
    content = retriever.item_vectors_ if feature is None else read_content(feature, schema)
    codes = _codes(content) if issparse(content) else None
    if codes is not None and content.shape[1] > MAX_DENSE:
        content = codes
    else:
        units = normalize(content)
        content = (units.toarray() if issparse(units) else units).astype(np.float32)
    is_new = retriever.counts_ == 0
    score = columns[1].to_numpy(dtype=np.float32)
    starts = np.append(_starts_of_lists(columns[2], columns[3].to_numpy()), len(table))
    width = int(np.diff(starts).max(initial=0))
    size = max(1, BLOCK_SIZE // max(1, width * content.shape[1]))
    chosen = []
    for first in range(0, len(starts) - 1, size):
        bounds = starts[first : first + size + 1]
        list_start, list_stop = bounds[:-1], bounds[1:]
        rows = list_start[:, None] + np.arange(width)
        exists = rows < list_stop[:, None]
        rows = np.where(exists, rows, 0)
        list_scores = np.where(exists, score[rows], np.nan)
        candidates = items[rows]
        capped = None if codes is None or max_per_value is None else codes[candidates]
        rules = (k, weight, max_per_value, n_new)
        chosen.append(
            _choose(rows, list_scores, content[candidates], capped, is_new[candidates], *rules)
        )
    index = np.concatenate(chosen) if chosen else np.empty((0, k), dtype=np.int64)
    row, rank = np.nonzero(index >= 0)
    result = table.iloc[index[row, rank]].reset_index(drop=True)
    result["rank"] = rank + 1
    return in_frame_of(result, recommendations)


def _starts_of_lists(users: pd.Series, rank: np.ndarray) -> np.ndarray:
    """Return the row at which each list begins; its first ranks may have been dropped."""
    user = pd.factorize(users)[0]
    is_next = np.zeros(len(user), dtype=bool)
    is_next[1:] = (user[1:] == user[:-1]) & (rank[1:] > rank[:-1])
    starts = np.flatnonzero(~is_next)
    is_torn = pd.Series(user[starts]).duplicated().to_numpy() & (rank[starts] > 1)
    if is_torn.any():
        raise ValueError(
            f"recommendations holds a list of {users.iloc[starts[is_torn][0]]!r} that is not in "
            f"order: sort it by {users.name!r} and 'rank'."
        )
    return starts


def _codes(content: Any) -> np.ndarray:
    """Return the codes of each item's values as rows, padded with -1."""
    lengths = np.diff(content.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    codes = np.full((len(lengths), max(1, lengths.max(initial=0))), -1)
    codes[row, np.arange(len(row)) - content.indptr[row]] = content.indices
    return codes


def _similarity(content: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the cosines of candidates, (n_lists, width, d), to a chosen item of each list."""
    if content.dtype.kind == "f":
        return np.matmul(content, chosen[:, :, None])[:, :, 0]
    has_value, is_chosen_value = content >= 0, chosen >= 0
    shared = (content[:, :, :, None] == chosen[:, None, None, :]) & has_value[:, :, :, None]
    sizes = has_value.sum(2) * is_chosen_value.sum(1)[:, None]
    return shared.sum((2, 3)) / np.sqrt(np.maximum(sizes, 1))


def _choose(
    rows: np.ndarray,
    score: np.ndarray,
    content: np.ndarray,
    codes: np.ndarray | None,
    is_new: np.ndarray,
    k: int,
    weight: float,
    max_per_value: int | None,
    n_new: int,
) -> np.ndarray:
    """Return the rows that are chosen for each list, best first, (n_lists, k); -1 where none."""
    lists = np.arange(len(rows))
    low, high = np.nanmin(score, 1, keepdims=True), np.nanmax(score, 1, keepdims=True)
    relevance = (1 - weight) * (score - low) / np.where(high > low, high - low, 1)
    open_ = ~np.isnan(score)
    is_new &= open_
    n_wanted = np.minimum(is_new.sum(1), min(n_new, k))
    nearest = np.zeros(score.shape, dtype=np.float32)
    chosen = np.full((len(rows), k), -1)
    if codes is not None:
        counts = np.zeros((len(rows), codes.max(initial=0) + 1), dtype=np.int64)
    for step in range(k):
        value = np.where(open_, relevance - weight * nearest, -np.inf)
        must_be_new = k - step <= n_wanted
        value[must_be_new[:, None] & ~is_new] = -np.inf
        best = value.argmax(1)
        has_item = np.isfinite(value[lists, best])
        chosen[has_item, step] = rows[lists, best][has_item]
        open_[lists, best] &= ~has_item
        n_wanted -= has_item & is_new[lists, best]
        if weight:
            similar = _similarity(content, content[lists, best])
            nearest = np.where(has_item[:, None], np.maximum(nearest, similar), nearest)
        if codes is not None:
            best_codes = codes[lists, best]
            row, column = np.nonzero((best_codes >= 0) & has_item[:, None])
            np.add.at(counts, (row, best_codes[row, column]), 1)
            is_full = counts[row, best_codes[row, column]] == max_per_value
            row, code = row[is_full], best_codes[row, column][is_full]
            closed, item = np.nonzero((codes[row] == code[:, None, None]).any(2))
            open_[row[closed], item] = False
    return chosen
