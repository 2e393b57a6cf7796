"""What recommends to each query, the search for the best items, and its score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skmatch._data import FIRST_KNOWN, Bag, Samples, concatenate_ranges
from skmatch.metrics._hits import METRICS, find_hits, mean
from skmatch.neighbors import ItemFilter, ItemIndex

BATCH_SIZE = 10_000  # queries that are searched at a time
HISTORY, FEATURES, POPULARITY = "history", "features", "popularity"  # what answers a query


def search(
    samples: Samples,
    k: int,
    allowed: ItemFilter,
    by_popularity: np.ndarray,
    encode: Callable[[Samples], np.ndarray],
    index: ItemIndex,
    popularity: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and scores of the best items of each query, by its vector or popularity."""
    positions = np.empty((len(samples), min(k, len(popularity))), dtype=np.int64)
    scores = np.empty(positions.shape, dtype=np.float32)
    by_count = ItemIndex().fit(popularity[:, None])
    for is_popular in (False, True):
        all_rows = np.flatnonzero(by_popularity == is_popular)
        for a in range(0, len(all_rows), BATCH_SIZE):
            rows = all_rows[a : a + BATCH_SIZE]
            if is_popular:
                nearest, vectors = by_count, np.ones((len(rows), 1), dtype=np.float32)
            else:
                nearest, vectors = index, encode(samples.take(rows))
            positions[rows], scores[rows] = nearest.search(vectors, k, allowed.take(rows))
    return positions, scores


def mean_ndcg(held_out: Samples, k: int, rank: Callable[[Samples], np.ndarray]) -> float:
    """Return the mean NDCG@k of held-out rows, as `score` does, of what `rank` finds for queries.

    `rank` returns the positions of the best items of each query, -1 for none.
    """
    queries, query, item = held_out.by_user()
    hits, n_relevant = find_hits(query, item, rank(queries))
    return mean(METRICS["ndcg"](hits, n_relevant, k))


def source_of(samples: Samples) -> np.ndarray:
    """Tell for each row what can answer it: the best of what is known of it."""
    has_history = _holds_known(samples.log.items, samples.start, samples.stop)
    has_feature = np.zeros(len(samples), dtype=bool)
    for column in samples.user_columns().values():
        if isinstance(column, Bag):
            has_feature |= _holds_known(column.values, column.offsets[:-1], column.offsets[1:])
        else:
            has_feature |= column >= FIRST_KNOWN if column.dtype.kind == "i" else ~np.isnan(column)
    features_or_not = np.where(has_feature, FEATURES, POPULARITY)
    return np.where(has_history, HISTORY, features_or_not)


def _holds_known(codes: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Tell for each range of codes whether any of them is known."""
    found = stop > start
    # Nearly always the last is known; where it is not, any other will do.
    found[found] = codes[stop[found] - 1] >= FIRST_KNOWN
    unsure = np.flatnonzero(~found & (stop > start))
    where, offsets = concatenate_ranges(start[unsure], stop[unsure])
    found[unsure] = np.logical_or.reduceat(codes[where] >= FIRST_KNOWN, offsets[:-1])
    return found
