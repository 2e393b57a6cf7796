"""`GrowthMixin`: retrievers that take in new events and items after `fit`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self, cast

import numpy as np

from skmatch._data import CatalogueRows, Samples, as_coded
from skmatch._growth import GrowingMixin, replaced
from skmatch.retrieval._base import popularity_of, training_weight


class GrowthMixin(GrowingMixin):
    """Add `observe`, `partial_fit` and `add_items` to a retriever.

    A subclass defines `_learn_more`, which trains on further rows, and `_learn_items`, which takes
    new items into the catalogue; both return the new values of fitted attributes and change none.

    Examples
    --------
    >>> from skmatch import PopularityRetriever
    >>> from skmatch.retrieval import GrowthMixin
    >>> issubclass(PopularityRetriever, GrowthMixin)
    True
    """

    counts_: np.ndarray

    @abstractmethod
    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        """Return the fitted attributes after training on further rows."""

    @abstractmethod
    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        """Return the fitted attributes with new items in the catalogue."""

    def _partial_fit(self, X: Any, train: bool, sample_weight: Any = None) -> tuple[Self, Samples]:
        """Return a copy that knows further events, and the events as samples."""
        rows, fitted = self._propagated("_partial_fit", X, train)  # type: ignore[attr-defined]
        samples = cast(Samples, as_coded(rows, Samples))
        self._check_codes(samples.schema, is_extended=True)  # type: ignore[attr-defined]
        weight = training_weight(samples, sample_weight, allow_zeros=True)
        of_rows = self._learn_more(samples, weight) if train else {}
        return replaced(self, **fitted, schema_=samples.schema, **of_rows), samples

    def _add_items(self, X: Any) -> tuple[Self, CatalogueRows]:
        """Return a copy with new items in the catalogue."""
        rows, fitted = self._propagated("_add_items", X)  # type: ignore[attr-defined]
        n_new = len(rows.schema.items.values) - len(self.counts_)
        counts = popularity_of(np.pad(self.counts_, (0, n_new)))
        of_rows = counts | self._learn_items(rows)
        return replaced(self, **fitted, schema_=rows.schema, **of_rows), rows
