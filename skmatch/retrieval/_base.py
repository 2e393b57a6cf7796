"""`BaseRetriever`: what every retriever does with its vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from pandas.api.types import is_hashable
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skmatch._data import (
    FIRST_KNOWN,
    CatalogueRows,
    Events,
    Samples,
    as_coded,
)
from skmatch._growth import GrowingMixin, changed
from skmatch._validation import as_series, check_k, check_weights, require_rows
from skmatch.metrics import make_topk_scorer
from skmatch.neighbors import ItemFilter, ItemLists
from skmatch.persistence import VersionedMixin
from skmatch.preprocessing import SequenceSampler
from skmatch.preprocessing._plain_events import PlainEventsMixin
from skmatch.retrieval._filters import read_filter
from skmatch.retrieval._search import BATCH_SIZE, POPULARITY, search, source_of


class BaseRetriever(
    GrowingMixin,
    PlainEventsMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    VersionedMixin,
    BaseEstimator,
    ABC,
):
    """Base class of retrievers.

    A subclass learns in `fit` and sets `schema_`, `item_vectors_`, `popularity_` and `index_`; it
    gives the vectors of users in `_encode`. Everything else is here.
    """

    # With metadata routing, what `predict` takes reaches it through a Pipeline, and the tables are
    # the encoder's; a retriever alone takes them from whoever calls its `fit`.
    __metadata_request__predict = {
        "k": True, "exclude_seen": True, "candidates": True, "exclude": True
    }  # fmt: skip
    # A Pipeline routes sample_weight=None whether or not it is given.
    __metadata_request__score = {
        "exclude_seen": True, "candidates": True, "gain": True, "sample_weight": True
    }  # fmt: skip
    __metadata_request__fit = {"users": False, "items": False}

    _CODED = Samples
    _STEPS = PlainEventsMixin._STEPS | {
        "sampler_": "Pass it through the same MatchEncoder and SequenceSampler, or use "
        "make_match_pipeline(...), which does that."
    }
    _OF_ENCODING = (*PlainEventsMixin._OF_ENCODING, "sampler_")

    k: int
    exclude_seen: bool

    @abstractmethod
    def _encode(self, samples: Samples) -> np.ndarray:
        """Give the users' vectors, one a row."""

    @abstractmethod
    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        """Return the fitted attributes after training on further rows."""

    @abstractmethod
    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        """Give the fitted attributes with new items in the catalogue."""

    def _read_training(self, X: Any, users: Any, items: Any) -> tuple[Samples, dict[str, Any]]:
        """Give training rows, and the attributes that a fit on plain events sets."""
        samples = as_coded(X, Samples)
        if samples is not None:
            self._reject_tables(users, items)
            require_rows(len(samples))
            return samples, {}
        events, learnt = self._encode_training(X, users, items)
        sampler = SequenceSampler().set_output(transform="default")
        samples = cast(Samples, sampler.fit_transform(events))
        return samples, learnt | {"sampler_": sampler}

    def _read_queries(self, X: Any) -> Samples:
        check_is_fitted(self)
        samples = as_coded(X, Samples)
        if samples is not None:
            self._check_codes(samples.schema)
            return samples
        if not hasattr(self, "sampler_"):
            self._check_steps(X)
        return cast(Samples, self.sampler_.transform(self._encode_queries(X)))

    def transform(self, X: Any) -> np.ndarray:
        """Give the vectors of users.

        Parameters
        ----------
        X : Samples, DataFrame or array-like of shape (n_queries, n_columns)
            What a `SequenceSampler` gave; plain queries where `fit` got plain events.

        Returns
        -------
        vectors : ndarray of shape (n_queries, n_dims), float32
        """
        return self._encode(self._read_queries(X))

    @property
    def _n_features_out(self) -> int:
        return self.item_vectors_.shape[1]

    @property
    def item_ids_(self) -> np.ndarray:
        """Ids of the catalogue, in the order of `item_vectors_`."""
        return self._decode_items(np.arange(len(self.item_vectors_)))

    def _decode_items(self, positions: np.ndarray) -> np.ndarray:
        codes = np.asarray(positions).ravel() + FIRST_KNOWN
        ids = self.schema_.items.decode(np.where(codes < FIRST_KNOWN, 0, codes))
        return ids.to_numpy().reshape(np.shape(positions))

    def predict(
        self,
        X: Any,
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        candidates: Any = None,
        exclude: Any = None,
    ) -> np.ndarray:
        """Return the ids of the best items of each query.

        Of items with equal scores, the first in the order of `item_ids_` comes first.

        Parameters
        ----------
        X : Samples, DataFrame or array-like of shape (n_queries, n_columns)
            What a `SequenceSampler` gave; plain queries where `fit` got plain events.
        k : int or None, default=None
            Number of items a query; None takes the parameter `k`.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the parameter
            `exclude_seen`.
        candidates : list of item ids, mapping, column of lists or None, default=None
            The only items that may be answered; None allows all. A list holds for every query; a
            mapping from user ids to lists, or a column of lists, one a query, for those that have
            one. Ids that are not in the catalogue are ignored, with a warning.
        exclude : list of item ids, mapping, column of lists or None, default=None
            Items that are never answered, given as `candidates` are.

        Returns
        -------
        items : ndarray of shape (n_queries, min(k, n_items))
            Item ids, best first; missing at the end where fewer remain.
        """
        samples = self._read_queries(X)
        return self._decode_items(self._rank(samples, k, exclude_seen, candidates, exclude))

    def _rank(
        self,
        samples: Samples,
        k: int | None = None,
        exclude_seen: bool | None = None,
        candidates: Any = None,
        exclude: Any = None,
    ) -> np.ndarray:
        """Return the positions of the best items of each query, -1 where fewer remain."""
        allowed = self._read_filter(samples, exclude_seen, candidates, exclude)
        return self._search(samples, k, allowed)[0]

    def recommend(
        self,
        X: Any = None,
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        candidates: Any = None,
        exclude: Any = None,
    ) -> pd.DataFrame:
        """Recommend items to users.

        Parameters
        ----------
        X : Samples, DataFrame, array-like or list of user ids, or None, default=None
            The queries, as for `predict`; a list holds user ids; None stands for all known users.
        k : int or None, default=None
            Number of items a query; None takes the parameter `k`.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the parameter
            `exclude_seen`.
        candidates : list of item ids, mapping, column of lists or None, default=None
            The only items that may be answered; None allows all. A list holds for every query; a
            mapping from user ids to lists, or a column of lists, one a query, for those that have
            one. Ids that are not in the catalogue are ignored, with a warning.
        exclude : list of item ids, mapping, column of lists or None, default=None
            Items that are never answered, given as `candidates` are.

        Returns
        -------
        recommendations : DataFrame
            One row a recommended item, in the order of the queries: the user's id, the item's id,
            its score, its rank from 1, and what answered in the column ``source``: "history" where
            the query has any known history, "features" where it has none but known features of the
            user, "popularity" where nothing is known. A query has `k` rows, or as many as items
            remain.
        """
        check_is_fitted(self)
        samples = self._read_queries(queries_of(X, self.schema_))
        allowed = self._read_filter(samples, exclude_seen, candidates, exclude)
        frames = [*self._answers(samples, k, allowed, BATCH_SIZE)]
        return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)

    def recommend_batches(
        self,
        X: Any = None,
        k: int | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        exclude_seen: bool | None = None,
        candidates: Any = None,
        exclude: Any = None,
    ) -> Iterator[pd.DataFrame]:
        """Recommend items to users batch by batch, so that no frame holds all answers.

        Parameters
        ----------
        X : Samples, DataFrame, array-like or list of user ids, or None, default=None
            The queries, as for `recommend`; None stands for all known users.
        k : int or None, default=None
            Number of items a query; None takes the parameter `k`.
        batch_size : int, default=10_000
            Number of queries that a frame answers.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the parameter
            `exclude_seen`.
        candidates, exclude : list of item ids, mapping, column of lists or None, default=None
            The only items that may be answered, and those that never are, as in `recommend`.

        Yields
        ------
        recommendations : DataFrame
            What `recommend` gives for the next queries; all frames, one after the other, are its
            answer to all.

        Examples
        --------
        >>> from skmatch import PopularityRetriever
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
        >>> retriever = PopularityRetriever().fit(events)
        >>> [len(frame) for frame in retriever.recommend_batches(k=3, batch_size=20)]
        [60, 60, 30]
        """
        check_is_fitted(self)
        batch_size = check_k(batch_size, "batch_size", "queries")
        samples = self._read_queries(queries_of(X, self.schema_))
        allowed = self._read_filter(samples, exclude_seen, candidates, exclude)
        return self._answers(samples, k, allowed, batch_size)

    def _answers(
        self, samples: Samples, k: int | None, allowed: ItemFilter, batch_size: int
    ) -> Iterator[pd.DataFrame]:
        """Give the answers to so many queries at a time; one without rows to none."""
        for a in range(0, max(len(samples), 1), batch_size):
            if len(samples) <= batch_size:
                part, own = samples, allowed
            else:
                rows = np.arange(a, min(a + batch_size, len(samples)))
                part, own = samples.take(rows), allowed.take(rows)
            positions, scores, source = self._search(part, k, own)
            found = positions >= 0
            row, place = np.nonzero(found)
            yield pd.DataFrame(
                {
                    self.schema_.user: part.original_users().iloc[row].reset_index(drop=True),
                    self.schema_.item: self.schema_.items.decode(positions[found] + FIRST_KNOWN),
                    "score": scores[found],
                    "rank": place + 1,
                    "source": source[row],
                }
            )

    def _grown(self, X: Any, train: bool, sample_weight: Any = None) -> tuple[Self, Samples]:
        """Return a copy that knows further events, and those events as samples."""
        rows, own = self._handed_on("_grown", X, train)
        samples = cast(Samples, as_coded(rows, Samples))
        self._check_codes(samples.schema, grown=True)
        weight = None
        if sample_weight is not None:
            weight = check_weights(sample_weight, len(samples), allow_zeros=True)
        learnt = self._learn_more(samples, weight) if train else {}
        return changed(self, **own, schema_=samples.schema, **learnt), samples

    def _with_items(self, X: Any) -> tuple[Self, CatalogueRows]:
        """Give a copy with new items in the catalogue."""
        rows, own = self._handed_on("_with_items", X)
        learnt = self._learn_items(rows)
        return changed(self, **own, schema_=rows.schema, **learnt), rows

    def similar_items(
        self, items: Any, k: int | None = None, *, candidates: Any = None, exclude: Any = None
    ) -> pd.DataFrame:
        """Give the items whose vectors are nearest to those of given items.

        Parameters
        ----------
        items : array-like of shape (n_items,)
            Ids of known items.
        k : int or None, default=None
            Number of neighbours an item; None takes the parameter `k`.
        candidates, exclude : list of item ids, mapping, column of lists or None, default=None
            The only items that may be neighbours, and those that never are, as in `recommend`. A
            mapping is from the ids in `items` to lists.

        Returns
        -------
        neighbours : DataFrame
            One row a neighbour: the item's id, the neighbour's id in the column ``similar``, the
            score and the rank from 1. No item is its own neighbour.
        """
        check_is_fitted(self)
        k = check_k(self.k if k is None else k)
        ids = read_ids(items, "items", self.schema_.item)
        own = self.schema_.items.lookup(ids)
        if (own < FIRST_KNOWN).any():
            unknown = ids[own < FIRST_KNOWN].tolist()[0]
            raise ValueError(
                f"The item {unknown!r} is not in the catalogue; item_ids_ lists what is."
            )
        rows = np.arange(len(own))
        itself, known = ItemLists(own, rows, rows + 1), self.schema_.items
        allowed = read_filter(candidates, exclude, (itself,), ids, known, known)
        vectors = self.item_vectors_[own - FIRST_KNOWN]
        positions, scores = self.index_.search(vectors, k, allowed)
        row, place = np.nonzero(positions >= 0)
        return pd.DataFrame(
            {
                self.schema_.item: ids.iloc[row].reset_index(drop=True),
                "similar": self.schema_.items.decode(positions[row, place] + FIRST_KNOWN),
                "score": scores[row, place],
                "rank": place + 1,
            }
        )

    def _read_filter(
        self,
        samples: Samples,
        exclude_seen: bool | None,
        candidates: Any = None,
        exclude: Any = None,
    ) -> ItemFilter:
        """Return what may be recommended to each query."""
        without_seen = ItemFilter.without_seen(
            samples, self.exclude_seen if exclude_seen is None else exclude_seen
        )
        if candidates is None and exclude is None:
            return without_seen
        users = samples.original_users()
        schema = self.schema_
        return read_filter(
            candidates, exclude, without_seen.never, users, schema.users, schema.items
        )

    def _search(
        self, samples: Samples, k: int | None, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions and scores of the best items of each query, and its source."""
        k = check_k(self.k if k is None else k)
        source = self._source_of(samples)
        found = search(
            samples, k, allowed, source == POPULARITY, self._encode, self.index_, self.popularity_
        )
        return *found, source

    def _source_of(self, samples: Samples) -> np.ndarray:
        """Tell what answers each query."""
        return source_of(samples)

    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        exclude_seen: bool | None = None,
        candidates: Any = None,
        gain: Hashable | None = None,
    ) -> float:
        """Return the mean NDCG@k of held-out events.

        It is what ``make_topk_scorer("ndcg", k)`` returns with the retriever's `k`.

        Parameters
        ----------
        X : Samples, DataFrame or array-like of shape (n_events, n_columns)
            Held-out events. `make_topk_scorer` says what is asked and what counts.
        y : None
            Ignored.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the parameter
            `exclude_seen`.
        candidates : list of item ids, mapping or None, default=None
            The only items that are ranked, as for `predict`.
        gain : label or None, default=None
            Column of `X` with the gains of the held-out events, such as ratings; None stands for
            1 each. Not with Samples, which have no such column.

        Returns
        -------
        ndcg : float
        """
        check_is_fitted(self)
        return score_held_out(
            self, X, self.k, exclude_seen=exclude_seen, candidates=candidates, gain=gain
        )


def score_held_out(estimator: Any, X: Any, k: int, **rules: Any) -> float:
    """Return the mean NDCG@k of a retriever, or of a pipeline that ends in one."""
    return cast(float, make_topk_scorer("ndcg", k, **rules)(estimator, X))


def queries_of(X: Any, schema: Any) -> Any:
    """Give a list of user ids, or None for all known users, as a frame of queries."""
    if X is None:
        return pd.DataFrame(
            {schema.user: schema.users.decode(np.arange(FIRST_KNOWN, len(schema.users)))}
        )
    is_array = hasattr(X, "ndim") and not isinstance(X, pd.Series)
    is_list_of_rows = isinstance(X, (list, tuple)) and len(X) > 0 and not is_hashable(X[0])
    if isinstance(X, (Samples, Events)) or is_list_of_rows or (is_array and X.ndim > 1):
        return X
    return read_ids(X, "X", schema.user).to_frame(schema.user)


def read_ids(values: Any, parameter: str, name: Hashable) -> pd.Series:
    """Give a list of ids as a column."""
    is_list = isinstance(values, (list, tuple)) or getattr(values, "ndim", 0) == 1
    if not is_list:
        raise ValueError(
            f"{parameter}={values!r} is no list of ids; give a list, also for a single one."
        )
    return as_series(values, name)
