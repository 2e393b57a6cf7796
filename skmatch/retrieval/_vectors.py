"""`VectorsMixin`: retrievers that rank by the inner product of vectors of users and items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skmatch._data import Samples
from skmatch._growth import snapshot
from skmatch._typing import SampleTable
from skmatch.neighbors import ItemFilter, ItemIndex
from skmatch.retrieval._scores import SimilarUsersMixin
from skmatch.retrieval._verbs import SimilarItemsMixin


class VectorsMixin(
    SimilarUsersMixin, SimilarItemsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ABC
):
    """Add `transform`, `similar_items` and ranking by an index to a retriever.

    A subclass defines `_encode`, and its fit sets `item_vectors_` and `index_`.

    Examples
    --------
    >>> import numpy as np
    >>> from skmatch.datasets import make_events
    >>> from skmatch.neighbors import ItemIndex
    >>> from skmatch.retrieval import BaseRetriever, VectorsMixin
    >>> class RandomVectors(VectorsMixin, BaseRetriever):
    ...     def __init__(self, k=10, exclude_seen=True):
    ...         self.k = k
    ...         self.exclude_seen = exclude_seen
    ...     def _fit_samples(self, samples, weight):
    ...         shape = len(samples.schema.items.values), 8
    ...         vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ...         return {"item_vectors_": vectors, "index_": ItemIndex().fit(vectors)}
    ...     def _encode(self, samples):
    ...         return samples.history_counts() @ self.item_vectors_
    >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
    >>> RandomVectors().fit(events).transform(events[:2]).shape
    (2, 8)
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

    def transform(self, X: SampleTable) -> np.ndarray:
        """Return the vectors of users.

        Parameters
        ----------
        X : Samples, DataFrame or array-like of shape (n_queries, n_columns)
            What a `SequenceSampler` returned; plain queries where `fit` got plain events.

        Returns
        -------
        vectors : ndarray of shape (n_queries, n_dims), float32
        """
        check_is_fitted(self)
        retriever: VectorsMixin = snapshot([self])[0]
        return retriever._encode(retriever._read_queries(X))

    @property
    def _n_features_out(self) -> int:
        return self.item_vectors_.shape[1]

    def _top_k(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.index_.search(self._encode(samples), k, allowed)

    def _scores_of(self, samples: Samples, positions: np.ndarray) -> np.ndarray:
        return np.einsum("qd,qid->qi", self._encode(samples), self.item_vectors_[positions])

    def _nearest_items(
        self, positions: np.ndarray, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of the nearest items of each item."""
        return self.index_.search(self.item_vectors_[positions], k, allowed)
