"""`ItemToItemRetriever`: which items follow which in the histories of users."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils._param_validation import Interval

from skmatch._data import FIRST_KNOWN, CatalogueRows, Samples
from skmatch.neighbors import ItemFilter, top_k
from skmatch.retrieval._base import BaseRetriever, count_items, popularity_of
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._verbs import SimilarItemsMixin

BLOCK_SCORES = 2**24  # of queries that are scored at a time: 64 MiB
PAIRS_BLOCK = 2**21  # rows whose pairs are counted at a time
MIN_WEIGHT = 1e-4  # of a history's events: weaker ones change no rank


class ItemToItemRetriever(SimilarItemsMixin, GrowthMixin, BaseRetriever):
    _parameter_constraints: dict = {}

    def __init__(
        self,
        window=10,
        *,
        decay=0.7,
        reverse=0.3,
        half_life=1.0,
        smoothing=1.0,
        damping=0.0,
        n_neighbors=None,
        k=10,
        exclude_seen=True,
    ):
        self.window = window
        self.decay = decay
        self.reverse = reverse
        self.half_life = half_life
        self.smoothing = smoothing
        self.damping = damping
        self.n_neighbors = n_neighbors
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples, weight):
        return self._learnt(self._count(samples, weight), count_items(samples, weight))

    def _count(self, samples, weight):
        n_items = len(samples.schema.items.values)
        total = csr_array((n_items, n_items), dtype=np.float32)
        log = samples.log.items
        for a in range(0, len(samples), PAIRS_BLOCK):
            rows = slice(a, a + PAIRS_BLOCK)
            start, stop, item = samples.start[rows], samples.stop[rows], samples.item[rows]
            own = (
                np.ones(len(item), np.float32)
                if weight is None
                else weight[rows].astype(np.float32)
            )
            parts = []
            for distance in range(1, self.window + 1):
                has = (stop - distance >= start) & (own > 0)
                parts.append(
                    (
                        log[stop[has] - distance],
                        item[has],
                        own[has] * np.float32(self.decay ** (distance - 1)),
                    )
                )
            source, target, value = (np.concatenate(c) for c in zip(*parts, strict=True))
            known = (source >= FIRST_KNOWN) & (target >= FIRST_KNOWN)
            pairs = csr_array(
                (value[known], (source[known] - FIRST_KNOWN, target[known] - FIRST_KNOWN)),
                shape=total.shape,
            )
            total = total + pairs
        return total

    def _learnt(self, transitions, counts):
        pop = popularity_of(counts)
        both = (
            transitions + self.reverse * transitions.T.tocsr()
            if self.reverse
            else transitions.copy()
        )
        if self.damping:
            both = both.multiply(
                (1 / np.maximum(counts, 1) ** self.damping)[None, :].astype(np.float32)
            ).tocsr()
        if self.n_neighbors:
            both = strongest(both, self.n_neighbors)
        norm = getattr(self, "_norm", "row")
        if norm == "row":
            total = both.sum(1) + self.smoothing
            both = csr_array(
                (both.data / np.repeat(total, np.diff(both.indptr)), both.indices, both.indptr),
                shape=both.shape,
            )
            prior = self.smoothing / np.maximum(total, 1e-12)
        else:
            prior = np.zeros(len(counts))
        return pop | {
            "transitions_": transitions,
            "neighbors_": both.astype(np.float32),
            "prior_": prior.astype(np.float32),
        }

    def _learn_more(self, samples, weight):
        counts = count_items(samples, weight)
        counts[: len(self.counts_)] += self.counts_
        tr = self._count(samples, weight)
        old = self.transitions_.copy()
        old.resize(tr.shape)
        return self._learnt(tr + old, counts)

    def _learn_items(self, rows):
        n = len(rows.schema.items.values)
        tr = self.transitions_.copy()
        tr.resize((n, n))
        return self._learnt(tr, np.pad(self.counts_, (0, n - len(self.counts_))))

    def _top_k(self, samples, k, allowed):
        n_items = len(self.popularity_)
        positions = np.empty((len(samples), k), np.int64)
        scores = np.empty((len(samples), k), np.float32)
        block = max(1, BLOCK_SCORES // n_items)
        for a in range(0, len(samples), block):
            rows = np.arange(a, min(a + block, len(samples)))
            found = self._scores(samples.gather(rows))
            allowed.apply(found, a)
            positions[rows], scores[rows] = top_k(found, k)
        return positions, scores

    def _scores(self, samples):
        n_recent = max(1, int(np.ceil(self.half_life * np.log2(1 / MIN_WEIGHT))))
        lag = np.arange(n_recent)
        index = samples.stop[:, None] - 1 - lag
        inside = index >= samples.start[:, None]
        items = np.where(inside, samples.log.items[np.where(inside, index, 0)], 0)
        w = np.where(items >= FIRST_KNOWN, 0.5 ** (lag / self.half_life), 0.0).astype(np.float32)
        w /= np.maximum(w.sum(1, keepdims=True), 1e-12)
        row = np.repeat(np.arange(len(items)), n_recent)
        keep = w.ravel() > 0
        q = csr_array(
            (w.ravel()[keep], (row[keep], items.ravel()[keep] - FIRST_KNOWN)),
            shape=(len(items), len(self.popularity_)),
        )
        dense = (q @ self.neighbors_).toarray()
        prior = q @ self.prior_ + 1e-9
        return dense + prior[:, None] * self.popularity_
