"""The state that the rows of `Samples` share: the log of all events, and the negative sampling."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from skmatch._columns import FIRST_KNOWN, UNKNOWN
from skmatch._schema import Schema, SharedValue


@dataclass(frozen=True, eq=False)
class NegativeSampling(SharedValue):
    """How negatives are drawn; the fields are named as the parameters of `SequenceSampler`."""

    negatives: str
    neg_ratio: int
    counts: np.ndarray  # (n_items,) events of each known item
    seed: int | None = None  # None: the retriever's generator draws
    exclude_history: bool = False


@dataclass(frozen=True, eq=False)
class EventLog(SharedValue):
    """The items of all events, ordered by user, then time.

    Observed items that are not in the catalogue yet are stored as unknown, and are pending.
    """

    items: np.ndarray  # (n_events,) int32
    # (2, n_pending): indices into `items`, and codes in the vocabulary `Schema.pending`
    pending: np.ndarray = field(default_factory=lambda: np.empty((2, 0), dtype=np.int64))
    features: dict[Hashable, np.ndarray] = field(default_factory=dict)  # of events, (n_events,)

    def gather(self, index: np.ndarray) -> EventLog:
        """Return a log of these events; pending items stay unknown."""
        features = {name: column[index] for name, column in self.features.items()}
        return EventLog(self.items[index], features=features)

    def inserted(
        self, index: np.ndarray, items: np.ndarray, features: dict[Hashable, np.ndarray]
    ) -> EventLog:
        """Return a log with events inserted before sorted indices; pending codes are negated."""
        is_new = np.flatnonzero(items < 0)
        pending, codes = self.pending
        pending = pending + np.searchsorted(index, pending, side="right")
        added = np.stack([index[is_new] + is_new, -items[is_new]])
        return EventLog(
            np.insert(self.items, index, np.maximum(items, UNKNOWN)),
            np.concatenate([np.stack([pending, codes]), added], axis=1),
            {name: np.insert(old, index, features[name]) for name, old in self.features.items()},
        )

    def resolve_pending(self, schema: Schema) -> EventLog:
        """Return a log in which pending items that are in the catalogue by now have its codes."""
        indices, codes = self.pending
        if schema.pending is None or not len(indices):
            return self
        items_now = schema.items.lookup(schema.pending.decode(codes))
        is_known = items_now >= FIRST_KNOWN
        items = self.items.copy()
        items[indices[is_known]] = items_now[is_known]
        return EventLog(items, self.pending[:, ~is_known], self.features)
