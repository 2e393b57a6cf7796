"""Metrics of recommended lists beyond accuracy, by positions of items in the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.preprocessing import normalize

from skmatch._columns import FIRST_KNOWN, count_codes
from skmatch.metrics._content import read_content
from skmatch.metrics._hits import Hits

SMOOTHING = 0.01  # share of the history in the smoothed list (Steck, 2018)
BLOCK_SIZE = 2**22  # shares that are held at a time


class Lists(NamedTuple):
    """Recommended lists, and the items, hits and histories that their metrics compare them with."""

    ranking: np.ndarray  # (n_queries, n_ranked) positions in the catalogue, -1 where missing
    counts: np.ndarray  # (n_items,) events of each item
    hits: Hits | None = None
    content: Any = None  # (n_items, n_values), sparse or dense: features or vectors
    histories: csr_array | None = None  # (n_queries, n_items) events of each query

    def gather(self, rows: np.ndarray) -> Self:
        """Return the lists of some queries, for the metrics of the catalogue."""
        return self._replace(ranking=self.ranking[rows], hits=None, histories=None)

    def average(self, values: np.ndarray, k: int) -> np.ndarray:
        """Average values of items over the first k of each list; NaN for empty lists."""
        top = self.ranking[:, :k]
        is_listed = top >= 0
        with np.errstate(invalid="ignore"):
            return np.where(is_listed, values[top], 0).sum(1) / is_listed.sum(1)

    def exposure(self, k: int) -> np.ndarray:
        """Count the lists whose first k contain each item."""
        top = self.ranking[:, :k]
        return np.bincount(top[top >= 0], minlength=len(self.counts))

    def matrix(self, k: int) -> csr_array:
        """Return the first k of each list as a sparse matrix, (n_queries, n_items)."""
        row, rank = np.nonzero(self.ranking[:, :k] >= 0)
        index = row, self.ranking[row, rank]
        return csr_array((np.ones(len(row)), index), (len(self.ranking), len(self.counts)))


def _novelty(lists: Lists, k: int) -> np.ndarray:
    counts = np.maximum(lists.counts, 1)  # a new item is as novel as an item with a single event
    return lists.average(np.log2(max(lists.counts.sum(), 1) / counts), k)


def _popularity_lift(lists: Lists, k: int) -> np.ndarray:
    counts = lists.counts.astype(float)
    return lists.average(counts, k) * counts.sum() / (counts @ counts)


def _new_items(lists: Lists, k: int) -> np.ndarray:
    return lists.average((lists.counts == 0).astype(float), k)


def _serendipity(lists: Lists, k: int) -> np.ndarray:
    assert lists.hits is not None
    popularity_rank = np.empty(len(lists.counts), dtype=np.int64)
    popularity_rank[np.argsort(-lists.counts, kind="stable")] = np.arange(len(lists.counts))
    item = lists.ranking[lists.hits.query, lists.hits.rank]
    surprise = np.maximum(popularity_rank[item] - lists.hits.rank, 0) / len(lists.counts)
    return lists.hits.total(len(lists.ranking), k, surprise) / k


def _diversity(lists: Lists, k: int) -> np.ndarray:
    units = normalize(lists.content)
    top = lists.matrix(k)
    n_items = top @ _squares(units)  # without items that have no value
    similar = _squares(top @ units) - n_items  # the cosines of all ordered pairs, summed
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n_items > 1.5, 1 - similar / (n_items * (n_items - 1)), np.nan)


def _miscalibration(lists: Lists, k: int) -> np.ndarray:
    shares, top, histories = normalize(lists.content, "l1"), lists.matrix(k), lists.histories
    assert histories is not None
    if shares.min() < 0:
        raise ValueError(
            "feature holds vectors with negative numbers, which are no shares of a list: measure "
            "'miscalibration' by a feature of categories, or by vectors of at least 0."
        )
    divergence = np.empty(len(lists.ranking))
    size = max(1, BLOCK_SIZE // shares.shape[1])
    for start in range(0, len(divergence), size):
        rows = slice(start, start + size)
        history_shares, list_shares = (
            _shares(counts[rows] @ shares) for counts in (histories, top)
        )
        smoothed = (1 - SMOOTHING) * list_shares + SMOOTHING * history_shares
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(
                history_shares == 0, 0, history_shares * np.log(history_shares / smoothed)
            )
        divergence[rows] = terms.sum(1)  # NaN where the history or the list has no value
    return divergence


def _squares(rows: Any) -> np.ndarray:
    """Return the squared norm of each row."""
    if issparse(rows):
        return np.asarray(rows.multiply(rows).sum(1))
    return np.einsum("qd,qd->q", rows, rows)


def _shares(rows: Any) -> np.ndarray:
    rows = rows.toarray() if issparse(rows) else rows
    with np.errstate(invalid="ignore"):
        return rows / rows.sum(1, keepdims=True)


def _coverage(lists: Lists, k: int) -> float:
    return float((lists.exposure(k) > 0).mean())


def _gini(lists: Lists, k: int) -> float:
    exposure, n_items = np.sort(lists.exposure(k)), len(lists.counts)
    order = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(order @ exposure / (n_items * max(exposure.sum(), 1)))


LIST_METRICS: dict[str, Callable[[Lists, int], np.ndarray]] = {  # of each list
    "novelty": _novelty,
    "popularity_lift": _popularity_lift,
    "new_items": _new_items,
    "serendipity": _serendipity,
    "diversity": _diversity,
    "miscalibration": _miscalibration,
}
CATALOGUE_METRICS: dict[str, Callable[[Lists, int], float]] = {  # of all lists together
    "coverage": _coverage,
    "gini": _gini,
}
CONTENT_METRICS = ("diversity", "miscalibration")


def lists_of(samples: Any, ranking: np.ndarray, hits: Hits, feature: Any) -> Lists:
    """Return the lists of a retriever's queries, with the events that it has stored."""
    schema = samples.schema
    counts = count_codes(samples.log.items, len(schema.items))[FIRST_KNOWN:]
    seen = replace(samples, start=samples.seen).history_counts()
    content = None if feature is None else read_content(feature, schema)
    return Lists(ranking, counts, hits, content, seen)
