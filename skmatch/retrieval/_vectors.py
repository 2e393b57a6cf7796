"""`VectorsMixin`: retrievers that rank by the inner product of vectors of users and items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skmatch._data import Samples
from skmatch.neighbors import ItemFilter, ItemIndex
from skmatch.retrieval._verbs import SimilarItemsMixin


class VectorsMixin(SimilarItemsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ABC):
    """`transform`, `similar_items` and ranking by an index.

    A subclass defines `_encode`, and its fit sets `item_vectors_` and `index_`.
    """

    item_vectors_: np.ndarray
    index_: ItemIndex

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    @abstractmethod
    def _encode(self, samples: Samples) -> np.ndarray:
        """Return the vectors of users, (n_queries, n_dims), float32."""

    def transform(self, X: Any) -> np.ndarray:
        """Return the vectors of users.

        Parameters
        ----------
        X : Samples, DataFrame or array-like of shape (n_queries, n_columns)
            What a `SequenceSampler` returned; plain queries where `fit` got plain events.

        Returns
        -------
        vectors : ndarray of shape (n_queries, n_dims), float32
        """
        return self._encode(self._read_queries(X))

    @property
    def _n_features_out(self) -> int:
        return self.item_vectors_.shape[1]

    def _top_k(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.index_.search(self._encode(samples), k, allowed)

    def _nearest_items(
        self, positions: np.ndarray, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of the nearest items of each item."""
        return self.index_.search(self.item_vectors_[positions], k, allowed)
