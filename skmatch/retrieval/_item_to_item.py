"""`ItemToItemRetriever`: which items follow which in the histories of users."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array

from skmatch._data import FIRST_KNOWN, CatalogueRows, Samples, index_dtype
from skmatch._ranking import LEAST_PRIOR, positive_shares, top_k, weighted_events
from skmatch._sklearn import Interval
from skmatch._typing import Duration
from skmatch.neighbors import ItemFilter
from skmatch.retrieval._base import BaseRetriever, count_items, popularity_of
from skmatch.retrieval._explain import Reasons, joined, reasons_without_label
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._queries import HISTORY, POPULARITY, source_of
from skmatch.retrieval._shared_docs import with_shared_docs
from skmatch.retrieval._trend import TrendMixin
from skmatch.retrieval._verbs import SimilarItemsMixin

BLOCK_SCORES = 2**24  # scores that are held at a time: 64 MiB
BLOCK_ROWS = 2**18  # events whose pairs are counted at a time
BLOCK_ITEMS = 2**14  # items whose shares are computed at a time
COUNT_UNIT = 2.0**-32  # counts are its multiples, whose sums are exact in any order


@with_shared_docs
class ItemToItemRetriever(TrendMixin, SimilarItemsMixin, GrowthMixin, BaseRetriever):
    """Recommend the items that most often follow those of the history.

    For each event, the items of the `window` events before it are counted, closer ones more. The
    literature knows such models as item-based nearest neighbours [1]_, Markov chains [2]_, session
    nearest neighbours [3]_ and covisitation counts. They need no training and no torch, and on
    sparse tables they rank above most networks; see `FusionRetriever` for both together.

    Within a visit the next item depends mostly on the last event, at the start of a visit on many
    events: if the `SequenceSampler` has found visits, queries within a visit use `half_life` and
    queries that begin one `visit_half_life`.

    `partial_fit` counts what a new event follows, but not the events that are stored already and
    follow it: it learns what a full fit does if events arrive in the order of time.

    Parameters
    ----------
    window : int, default=15
        Number of events before each event whose items are counted as followed by it.
    decay : float, default=0.85
        Factor by which a count falls with each event in between.
    reverse : float, default=0.3
        Weight of the opposite direction: how often the item came before.
    half_life : float, default=1.5
        Number of events after which an event of the history weighs half, within a visit and where
        there are no visits.
    visit_half_life : float, default=10.0
        The same for queries that begin a visit.
    smoothing : float, default=10.0
        Number of pseudo-events, distributed by popularity, that are added to the counts of each
        item, so that popular items follow those with few events. It is in the unit of the weights:
        if their mean is far from 1, divide them by it or change this value.
    n_neighbors : int or None, default=None
        Number of items that are kept per item, those counted most often; None keeps all.
    {trend}
    {ranking}

    Attributes
    ----------
    transitions_ : sparse array of shape (n_items, n_items)
        How often each item (row) is followed by each (column), over all events.
    shares_ : sparse array of shape (n_items, n_items), float32
        The share of each item in what follows and, weighted, precedes an item.
    prior_ : ndarray of shape (n_items,)
        The share of popularity in what follows an item, by `smoothing`.
    {trend_attributes}
    {catalogue}

    See Also
    --------
    FusionRetriever : Several retrievers, one list.

    References
    ----------
    .. [1] B. Sarwar, G. Karypis, J. Konstan and J. Riedl, "Item-based collaborative filtering
       recommendation algorithms", WWW 2001.
    .. [2] S. Rendle, C. Freudenthaler and L. Schmidt-Thieme, "Factorizing personalized Markov
       chains for next-basket recommendation", WWW 2010.
    .. [3] M. Ludewig and D. Jannach, "Evaluation of session-based recommendation algorithms",
       User Modeling and User-Adapted Interaction 28, 2018.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import ItemToItemRetriever
    >>> events = pd.DataFrame({
    ...     "user_id": ["ann", "ann", "bob", "bob", "cyd"],
    ...     "item_id": ["tea", "jam", "tea", "jam", "tea"],
    ... })
    >>> retriever = ItemToItemRetriever().fit(events)
    >>> retriever.recommend(["cyd"], k=1)["item_id"].tolist()
    ['jam']
    >>> retriever.similar_items(["tea"], k=1)["similar"].tolist()
    ['jam']
    """

    _parameter_constraints: dict = {
        "window": [Interval(Integral, 1, None, closed="left")],
        "decay": [Interval(Real, 0, 1, closed="right")],
        "reverse": [Interval(Real, 0, None, closed="left")],
        "half_life": [Interval(Real, 0, None, closed="neither")],
        "visit_half_life": [Interval(Real, 0, None, closed="neither")],
        "smoothing": [Interval(Real, 0, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left"), None],
        "trend": "no_validation",
        "k": [Interval(Integral, 1, None, closed="left")],
        "exclude_seen": ["boolean"],
    }

    def __init__(
        self,
        window: int = 15,
        decay: float = 0.85,
        *,
        reverse: float = 0.3,
        half_life: float = 1.5,
        visit_half_life: float = 10.0,
        smoothing: float = 10.0,
        n_neighbors: int | None = None,
        trend: Duration | Literal["auto"] | None = "auto",
        k: int = 10,
        exclude_seen: bool = True,
    ):
        self.window = window
        self.decay = decay
        self.reverse = reverse
        self.half_life = half_life
        self.visit_half_life = visit_half_life
        self.smoothing = smoothing
        self.n_neighbors = n_neighbors
        self.trend = trend
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        counts = count_items(samples, weight)
        trend = self._learn_trend(samples, weight, counts)
        return self._fitted_attributes(self._count(samples, weight), counts) | trend

    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        transitions, counts = self._count(samples, weight), count_items(samples, weight)
        counts[: len(self.counts_)] += self.counts_
        transitions += _resized(self.transitions_, len(counts))
        return self._fitted_attributes(transitions, counts) | self._update_trend(
            samples, weight, counts
        )

    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        n_items = len(rows.schema.items.values)
        counts = np.pad(self.counts_, (0, n_items - len(self.counts_)))
        transitions = _resized(self.transitions_, n_items)
        return self._fitted_attributes(transitions, counts) | self._resize_trend(counts)

    def _fitted_attributes(self, transitions: csr_array, counts: np.ndarray) -> dict[str, Any]:
        """Return the fitted attributes, given all counts."""
        n_items = len(counts)
        # Room for all pairs both ways; memory is used only as far as it is filled.
        data = np.empty(2 * transitions.nnz, dtype=np.float32)
        indices = np.empty(len(data), dtype=transitions.indices.dtype)
        indptr = np.zeros(n_items + 1, dtype=np.int64)
        prior = np.empty(n_items, dtype=np.float32)
        for start in range(0, n_items, BLOCK_ITEMS):
            stop = min(start + BLOCK_ITEMS, n_items)
            # The opposite direction of all items at once would raise a fit's peak of memory.
            backwards = transitions[:, start:stop].astype(np.float32)
            backwards.data *= np.float32(self.reverse)
            block = transitions[start:stop] + backwards.T.tocsr()
            if self.n_neighbors is not None:
                block = _strongest(block, self.n_neighbors)
            total = np.maximum(block.sum(1) + self.smoothing, np.finfo(float).tiny)
            indptr[start + 1 : stop + 1] = indptr[start] + block.indptr[1:]
            filled_block = slice(indptr[start], indptr[stop])
            block.data /= np.repeat(total, np.diff(block.indptr))
            data[filled_block] = block.data
            indices[filled_block] = block.indices
            prior[start:stop] = self.smoothing / total
        filled = slice(int(indptr[-1]))
        # An array of 64-bit offsets would store its indices in 64 bits, too.
        indptr = indptr.astype(index_dtype(filled.stop))
        shares = csr_array((data[filled], indices[filled], indptr), shape=transitions.shape)
        return popularity_of(counts) | {
            "transitions_": transitions,
            "shares_": shares,
            "prior_": prior,
        }

    def _count(self, samples: Samples, weight: np.ndarray | None) -> csr_array:
        """Count the pairs of items of histories and of the events that follow them."""
        n_items = len(samples.schema.items.values)
        parts = [csr_array((n_items, n_items), dtype=np.float64)]
        for start in range(0, len(samples), BLOCK_ROWS):
            parts.append(self._count_block(samples, weight, slice(start, start + BLOCK_ROWS)))
            # Sums of parts of like size: each pair is copied a logarithmic number of times.
            while len(parts) > 1 and parts[-2].nnz <= 2 * parts[-1].nnz:
                parts[-2:] = [parts[-2] + parts[-1]]
        while len(parts) > 1:
            parts[-2:] = [parts[-2] + parts[-1]]
        return parts[0]

    def _count_block(self, samples: Samples, weight: np.ndarray | None, rows: slice) -> csr_array:
        n_items, log = len(samples.schema.items.values), samples.log.items
        item, start, stop = samples.item[rows], samples.start[rows], samples.stop[rows]
        weights = np.ones(len(item)) if weight is None else weight[rows]
        is_counted = (item >= FIRST_KNOWN) & (weights > 0)
        pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for distance in range(1, self.window + 1):
            count = np.round(self.decay ** (distance - 1) / COUNT_UNIT) * COUNT_UNIT
            is_counted &= stop - distance >= start
            if not count or not is_counted.any():
                break
            before, after = log[stop[is_counted] - distance], item[is_counted]
            is_known = before >= FIRST_KNOWN
            pairs.append((before[is_known], after[is_known], weights[is_counted][is_known] * count))
        if not pairs:
            return csr_array((n_items, n_items), dtype=np.float64)
        before, after, value = (np.concatenate(column) for column in zip(*pairs, strict=True))
        index = before - FIRST_KNOWN, after - FIRST_KNOWN
        return csr_array((value, index), shape=(n_items, n_items))

    def _top_k(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._best(lambda rows: self._scores(samples.gather(rows)), len(samples), k, allowed)

    def _shares(self, scores: np.ndarray) -> np.ndarray:
        return positive_shares(scores)

    def _nearest_items(
        self, positions: np.ndarray, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of the items that most often follow each item."""

        def scores(rows: np.ndarray) -> np.ndarray:
            shares = self.shares_[positions[rows]].toarray()
            return np.where(shares == 0, np.float32(-np.inf), shares)

        return self._best(scores, len(positions), min(k, len(self.popularity_)), allowed)

    def _best(
        self, scores: Callable[[np.ndarray], np.ndarray], n_rows: int, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of the best items of each row, given the scores of rows."""
        positions = np.empty((n_rows, k), dtype=np.int64)
        best = np.empty((n_rows, k), dtype=np.float32)
        size = max(1, BLOCK_SCORES // len(self.popularity_))
        for start in range(0, n_rows, size):
            rows = np.arange(start, min(start + size, n_rows))
            block_scores = scores(rows)
            allowed.apply(block_scores, start)
            positions[rows], best[rows] = top_k(block_scores, k)
        return positions, best

    def _reasons(self, samples: Samples, positions: np.ndarray) -> Reasons:
        history = self._history(samples)
        query = np.repeat(np.arange(len(samples)), np.diff(history.indptr))
        items = np.repeat(history.indices, positions.shape[1])
        shares = self.shares_[items, positions[query].ravel()].reshape(len(query), -1)
        terms = history.data[:, None] * shares
        prior = self._prior(history)[:, None] * self.popularity_[positions]
        for trend, rows in self._trends(samples):
            if trend is not None:
                factor = np.exp(trend[positions[rows]])
                prior[rows] *= factor
                of_rows = np.isin(query, rows)
                terms[of_rows] *= factor[np.searchsorted(rows, query[of_rows])]
        row, column = np.nonzero(terms)
        of_history = Reasons(query[row], column, history.indices[row], terms[row, column], [])
        return joined(
            reasons_without_label("popularity", prior, np.arange(len(samples))), of_history
        )

    def _source_of(self, samples: Samples) -> np.ndarray:
        source = source_of(samples)
        return np.where(source == HISTORY, source, POPULARITY)  # features are not read

    def _scores(self, samples: Samples) -> np.ndarray:
        history = self._history(samples)
        scores = (history @ self.shares_).toarray()
        scores += self._prior(history)[:, None] * self.popularity_
        for trend, rows in self._trends(samples):
            if trend is not None:
                scores[rows] *= np.exp(trend)
        return scores

    def _prior(self, history: csr_array) -> np.ndarray:
        # Items that never followed an item of the history are ranked by their popularity.
        return np.maximum(history @ self.prior_, LEAST_PRIOR)

    def _history(self, samples: Samples) -> csr_array:
        """Return the weight of each item in the histories, (n_queries, n_items)."""
        half_life = np.full(len(samples), self.half_life)
        if samples.begins_visit is not None:
            half_life[samples.begins_visit] = self.visit_half_life
        row, item, values = weighted_events(
            samples.log.items, samples.start, samples.stop, half_life
        )
        # In the dtype of `shares_`, which a product would otherwise copy for each query.
        dtype = self.shares_.indices.dtype
        coordinates = row.astype(dtype), item.astype(dtype)
        return csr_array((values, coordinates), shape=(len(samples), len(self.prior_)))


def _resized(transitions: csr_array, n_items: int) -> csr_array:
    """Return counts with rows and columns for further items."""
    indptr = np.pad(transitions.indptr, (0, n_items - transitions.shape[0]), mode="edge")
    return csr_array((transitions.data, transitions.indices, indptr), shape=(n_items, n_items))


def _strongest(matrix: csr_array, n_kept: int) -> csr_array:
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))
    rank = np.arange(len(order)) - matrix.indptr[row]
    strongest = np.sort(order[rank < n_kept])
    return csr_array(
        (matrix.data[strongest], (row[strongest], matrix.indices[strongest])), shape=matrix.shape
    )
