"""`BaseRetriever`: methods of every retriever, given how it fits and how it ranks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skmatch._columns import count_codes
from skmatch._data import FIRST_KNOWN, Samples, as_coded
from skmatch._growth import snapshot
from skmatch._over_time import shares_of
from skmatch._ranking import rank_shares
from skmatch._typing import ItemRule, SampleTable, Table
from skmatch._validation import check_k, check_weights, checked_fit, require_rows
from skmatch.neighbors import ItemFilter, ItemIndex
from skmatch.persistence import VersionedMixin
from skmatch.preprocessing import SequenceSampler
from skmatch.preprocessing._plain_events import PlainEventsMixin
from skmatch.retrieval._explain import (
    ExplainMixin,
    Reasons,
    batches,
    joined,
    leave_one_out,
    only,
    reasons_without_label,
)
from skmatch.retrieval._filters import read_filter
from skmatch.retrieval._queries import POPULARITY, queries_of, source_of
from skmatch.retrieval._scores import ScoreMixin
from skmatch.retrieval._shared_docs import with_shared_docs
from skmatch.retrieval._verbs import BATCH_SIZE, RecommendMixin


class BaseRetriever(
    RecommendMixin, ExplainMixin, ScoreMixin, PlainEventsMixin, VersionedMixin, BaseEstimator
):
    """Base class of retrievers.

    A subclass has the parameters `k` and `exclude_seen`, and defines `_fit_samples`, which returns
    what was learned from `Samples`, and `_top_k`, which ranks items for queries. All other methods
    follow from these.

    See Also
    --------
    VectorsMixin : Adds the methods that need vectors of users and items.
    GrowthMixin : Adds the methods that take new events and items.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skmatch.neighbors import ItemIndex
    >>> from skmatch.retrieval import BaseRetriever
    >>> class ShortTitles(BaseRetriever):
    ...     def __init__(self, k=10, exclude_seen=True):
    ...         self.k = k
    ...         self.exclude_seen = exclude_seen
    ...     def _fit_samples(self, samples, weight):
    ...         lengths = np.array([len(title) for title in samples.schema.items.values])
    ...         return {"index_": ItemIndex().fit(-lengths[:, None].astype(np.float32))}
    ...     def _top_k(self, samples, k, allowed):
    ...         return self.index_.search(np.ones((len(samples), 1), np.float32), k, allowed)
    >>> events = pd.DataFrame({"user_id": [1, 1, 2, 3], "item_id": ["Heat", "Alien", "Up", "It"]})
    >>> ShortTitles(k=2).fit(events).recommend([1])["item_id"].tolist()
    ['Up', 'It']
    """

    _parameter_constraints: dict = {}

    # With metadata routing, arguments of `predict` reach it through a Pipeline, and the tables
    # reach the encoder; a retriever alone takes them from the caller of its `fit`.
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

    def _fit_samples(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        """Learn from training rows and their weights; return the fitted attributes."""
        raise NotImplementedError(f"{type(self).__name__} defines no _fit_samples.")

    @abstractmethod
    def _top_k(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of the best items of each query, (n_queries, k).

        Positions index `item_ids_`, -1 where fewer items remain; scores are float32. Only
        queries with a known history or feature arrive here; all other queries get popular items.
        """

    @checked_fit
    @with_shared_docs
    def fit(
        self,
        X: SampleTable,
        y: None = None,
        *,
        sample_weight: ArrayLike | None = None,
        users: Table | None = None,
        items: Table | None = None,
    ) -> Self:
        """Learn from events.

        {fit}
        """
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X)
        samples, weight, encoding = self._read_training(X, users, items, sample_weight)
        fitted = self._fit_samples(samples, weight)
        counts = popularity_of(count_items(samples, weight))
        self._set_fitted(encoding | {"schema_": samples.schema} | counts | fitted)
        context.call_on_fit_task_end(estimator=self, X=X)
        return self

    @property
    def item_ids_(self) -> np.ndarray:
        """Ids of the catalogue; positions of items are those in this array."""
        return self._decode_items(np.arange(len(self.schema_.items.values)))

    def predict(
        self,
        X: SampleTable,
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        exclude: ItemRule | None = None,
    ) -> np.ndarray:
        """Return the ids of the best items of each query.

        Of items with equal scores, the first in the order of `item_ids_` comes first.

        Parameters
        ----------
        X : Samples, DataFrame or array-like of shape (n_queries, n_columns)
            What a `SequenceSampler` returned; plain queries where `fit` got plain events.
        k, exclude_seen, candidates, exclude
            As in `recommend`.

        Returns
        -------
        items : ndarray of shape (n_queries, min(k, n_items))
            Item ids, best first; missing at the end where fewer remain.
        """
        check_is_fitted(self)
        retriever: BaseRetriever = snapshot([self])[0]
        samples = retriever._read_queries(X)
        rules = {"exclude_seen": exclude_seen, "candidates": candidates, "exclude": exclude}
        return retriever._decode_items(retriever._rank(samples, k, **rules))

    def _rank(self, samples: Samples, k: int | None = None, **rules: Any) -> np.ndarray:
        """Return the positions of the best items of each query, -1 where fewer remain."""
        return self._search(samples, k, self._read_filter(samples, **rules))[0]

    def _search(
        self, samples: Samples, k: int | None, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions and scores of the best items of each query, and its source."""
        k = min(check_k(self.k if k is None else k), len(self.popularity_))
        source = self._source_of(samples)
        positions = np.full((len(samples), k), -1, dtype=np.int64)
        scores = np.full((len(samples), k), -np.inf, dtype=np.float32)
        for is_popular in (False, True):
            all_rows = np.flatnonzero((source == POPULARITY) == is_popular)
            for start in range(0, len(all_rows), BATCH_SIZE):
                rows = all_rows[start : start + BATCH_SIZE]
                rank = self._most_popular if is_popular else self._top_k
                positions[rows], scores[rows] = rank(samples.gather(rows), k, allowed.gather(rows))
        return positions, scores, source

    def _most_popular(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of the most popular items, (n_queries, k)."""
        positions = np.empty((len(samples), k), dtype=np.int64)
        scores = np.empty((len(samples), k), dtype=np.float32)
        for popularity, rows in self._popularity_over_time(samples):
            index = ItemIndex().fit(popularity[:, None])
            alike = np.ones((len(rows), 1), dtype=np.float32)
            positions[rows], scores[rows] = index.search(alike, k, allowed.gather(rows))
        return positions, scores

    def _popularity_of(self, samples: Samples, positions: np.ndarray) -> np.ndarray:
        """Return the popularity of items, (n_queries, n_wanted)."""
        scores = np.empty(positions.shape, dtype=np.float32)
        for popularity, rows in self._popularity_over_time(samples):
            scores[rows] = popularity[positions[rows]]
        return scores

    def _popularity_over_time(self, samples: Samples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the popularity of all items at each time of queries, and the queries of it."""
        yield self.popularity_, np.arange(len(samples))

    def _score_items(
        self, samples: Samples, positions: np.ndarray, allowed: ItemFilter
    ) -> np.ndarray:
        """Return the scores of items, (n_queries, n_wanted); NaN at position -1 and without score.

        Scores that depend on the other items, such as shares, are computed under the filter.
        """
        scores = np.full(positions.shape, np.nan, dtype=np.float32)
        is_popular = self._source_of(samples) == POPULARITY
        rows = np.flatnonzero(is_popular)
        scores[rows] = self._popularity_of(samples.gather(rows), positions[rows])
        known_rows = np.flatnonzero(~is_popular)
        for batch in batches(len(known_rows), positions.shape[1]):
            rows = known_rows[batch]
            scores[rows] = self._scores_of(samples.gather(rows), positions[rows])
        scores[positions < 0] = np.nan
        return scores

    def _scores_of(self, samples: Samples, positions: np.ndarray) -> np.ndarray:
        """Return the scores of items for queries with a known history or feature."""
        n_items, k = len(self.popularity_), min(positions.shape[1], len(self.popularity_))
        candidates, candidate_scores = self._top_k(samples, k, only(positions))
        row, rank = np.nonzero(candidates >= 0)
        key = row * n_items + candidates[row, rank]
        order = np.argsort(key)
        wanted_key = np.arange(len(positions))[:, None] * n_items + positions
        index = np.minimum(np.searchsorted(key[order], wanted_key), len(key) - 1)
        if not len(key):
            return np.full(positions.shape, np.nan, dtype=np.float32)
        scores = candidate_scores[row, rank][order][index]
        return np.where(key[order][index] == wanted_key, scores, np.nan)

    def _contributions(
        self, samples: Samples, positions: np.ndarray, allowed: ItemFilter
    ) -> Reasons:
        """Return the reasons of the scores of items, (n_queries, n_wanted)."""
        is_popular = self._source_of(samples) == POPULARITY
        rows = np.flatnonzero(is_popular)
        scores = self._score_items(samples.gather(rows), positions[rows], allowed.gather(rows))
        reasons = reasons_without_label("popularity", scores, rows)
        rows = np.flatnonzero(~is_popular)
        if not len(rows):
            return reasons
        reasons_of_known = self._reasons(samples.gather(rows), positions[rows])
        return joined(reasons, reasons_of_known._replace(query=rows[reasons_of_known.query]))

    def _reasons(self, samples: Samples, positions: np.ndarray) -> Reasons:
        """Return the reasons of scores for queries with a known history or feature."""
        return leave_one_out(self, samples, positions)

    def _rank_all(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of all items, as `k` of them are recommended."""
        return self._search(samples, len(self.popularity_), allowed)[:2]

    def _trace_columns(
        self, samples: Samples, positions: np.ndarray, allowed: ItemFilter
    ) -> dict[str, Any]:
        """Return further columns of `trace`, by name."""
        return {}

    def _recommend(
        self, samples: Samples, k: int | None, allowed: ItemFilter, batch_size: int
    ) -> Iterator[pd.DataFrame]:
        """Yield frames of recommendations, each for `batch_size` queries."""
        for start in range(0, max(len(samples), 1), batch_size):
            batch, batch_allowed = samples, allowed
            if len(samples) > batch_size:
                rows = np.arange(start, min(start + batch_size, len(samples)))
                batch, batch_allowed = samples.gather(rows), allowed.gather(rows)
            yield self._as_frame(batch, *self._search(batch, k, batch_allowed))

    def _as_frame(
        self, samples: Samples, positions: np.ndarray, scores: np.ndarray, source: np.ndarray
    ) -> pd.DataFrame:
        is_item = positions >= 0
        row, rank = np.nonzero(is_item)
        return pd.DataFrame(
            {
                self.schema_.user: samples.original_users().iloc[row].reset_index(drop=True),
                self.schema_.item: self.schema_.items.decode(positions[is_item] + FIRST_KNOWN),
                "score": scores[is_item],
                "rank": rank + 1,
                "source": source[row],
            }
        )

    def _source_of(self, samples: Samples) -> np.ndarray:
        """Return the source of each query's recommendations."""
        return source_of(samples)

    def _shares(self, scores: np.ndarray) -> np.ndarray:
        """Turn scores of any scale, (n_queries, k), into shares of each list that sum to 1."""
        return rank_shares(scores)

    def _decode_items(self, positions: np.ndarray) -> np.ndarray:
        codes = np.asarray(positions).ravel() + FIRST_KNOWN
        ids = self.schema_.items.decode(np.where(codes < FIRST_KNOWN, 0, codes))
        return ids.to_numpy().reshape(np.shape(positions))

    def _read(self, X: Any) -> tuple[BaseRetriever, Samples]:
        check_is_fitted(self)
        retriever: BaseRetriever = snapshot([self])[0]
        return retriever, retriever._read_queries(queries_of(X, retriever.schema_))

    def _read_training(
        self, X: Any, users: Any, items: Any, sample_weight: ArrayLike | None
    ) -> tuple[Samples, np.ndarray | None, dict[str, Any]]:
        """Return training rows, their weights, and attributes set by encoding plain events."""
        encoding: dict[str, Any] = {}
        samples = as_coded(X, Samples)
        if samples is None:
            events, encoding = self._encode_training(X, users, items)
            sampler = SequenceSampler().set_output(transform="default")
            samples = sampler.fit_transform(events)
            encoding = encoding | {"sampler_": sampler}
        else:
            self._reject_tables(users, items)
            require_rows(len(samples))
        weight = training_weight(samples, sample_weight)
        return replace(samples, weight=None), weight, encoding

    def _read_queries(self, X: Any) -> Samples:
        check_is_fitted(self)
        samples = as_coded(X, Samples)
        if samples is not None:
            self._check_codes(samples.schema)
            return samples
        if not hasattr(self, "sampler_"):
            self._check_steps(X)
        return cast(Samples, self.sampler_.transform(self._encode_queries(X)))

    def _read_filter(
        self,
        samples: Samples,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        exclude: ItemRule | None = None,
    ) -> ItemFilter:
        without_seen = ItemFilter.without_seen(
            samples, self.exclude_seen if exclude_seen is None else exclude_seen
        )
        if candidates is None and exclude is None:
            return without_seen
        users, schema = samples.original_users(), self.schema_
        return read_filter(
            candidates, exclude, without_seen.exclude, users, schema.users, schema.items
        )


def training_weight(
    samples: Samples, sample_weight: ArrayLike | None, allow_zeros: bool = False
) -> np.ndarray | None:
    """Return the encoder's weights times `sample_weight`; None without any."""
    if samples.weight is None:
        is_none = sample_weight is None
        return None if is_none else check_weights(sample_weight, len(samples), allow_zeros)
    weight = samples.weight * check_weights(sample_weight, len(samples), allow_zeros=True)
    name = f"The weight column {samples.schema.weight!r}"
    return check_weights(weight, len(samples), allow_zeros, name)


def count_items(samples: Samples, weight: np.ndarray | None) -> np.ndarray:
    """Return the number of events of each item, or the sum of their weights."""
    return count_codes(samples.item, len(samples.schema.items), weight)[FIRST_KNOWN:].astype(float)


def popularity_of(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the attributes that hold the counts of items and their shares."""
    return {"counts_": counts, "popularity_": shares_of(counts)}
