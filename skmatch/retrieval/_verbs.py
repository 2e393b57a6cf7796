"""Methods that retrievers and pipelines ending in a retriever have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skmatch._columns import Vocabulary
from skmatch._data import FIRST_KNOWN, Samples
from skmatch._growth import snapshot
from skmatch._typing import Ids, ItemRule, SampleTable
from skmatch._validation import check_k, in_frame_of
from skmatch.metrics import make_topk_scorer
from skmatch.neighbors import ItemLists
from skmatch.retrieval._filters import read_filter
from skmatch.retrieval._queries import known_items

if TYPE_CHECKING:
    from skmatch.retrieval._base import BaseRetriever
    from skmatch.retrieval._vectors import VectorsMixin

BATCH_SIZE = 10_000  # queries that are searched at a time


class RecommendMixin(ABC):
    """`recommend`, in batches or as one frame, and `score`."""

    @abstractmethod
    def _read(self, X: Any) -> tuple[BaseRetriever, Samples]:
        """Return the fitted retriever, and queries as it reads them."""

    def recommend(
        self,
        X: SampleTable | Ids | None = None,
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        exclude: ItemRule | None = None,
    ) -> Any:
        """Recommend items to users.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_queries, n_columns), list of user ids, or None
            The queries. A frame needs the users' column; a column ``history`` of lists of item ids
            replaces the stored histories, a time limits the query to what was known at that time,
            and columns of user features replace stored values. None stands for all known users. If
            `fit` got Samples, Samples.
        k : int or None, default=None
            Number of items per query; None takes the retriever's `k`.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the retriever's
            `exclude_seen`.
        candidates : list of item ids, mapping, column of lists or None, default=None
            The only items that may be recommended; None allows all. A list is for all queries; a
            mapping from user ids to lists, or a column of lists, one per query, for those that have
            one. Ids that are not in the catalogue are ignored, with a warning.
        exclude : list of item ids, mapping, column of lists or None, default=None
            Items that are never recommended, in the same forms as `candidates`.

        Returns
        -------
        recommendations : DataFrame
            One row per recommended item, in the order of the queries: the user's id, the item's id,
            its score, its rank from 1, and in the column ``source`` what it is based on: "history"
            where the query has any known history, "features" where it has none but known features
            of the user, "popularity" where nothing is known. A query has `k` rows, or as many as
            items remain. A polars or Arrow frame where `X` is one, else a pandas DataFrame.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import PopularityRetriever
        >>> events = pd.DataFrame({
        ...     "user_id": ["ann", "ann", "bob", "bob", "cyd", "dan"],
        ...     "item_id": ["tea", "jam", "tea", "rye", "tea", "jam"],
        ... })
        >>> retriever = PopularityRetriever().fit(events)
        >>> retriever.recommend(["cyd", "eve"], exclude={"eve": ["jam"]})
          user_id item_id     score  rank      source
        0     cyd     jam  0.333333     1  popularity
        1     cyd     rye  0.166667     2  popularity
        2     eve     tea  0.500000     1  popularity
        3     eve     rye  0.166667     2  popularity
        """
        retriever, samples = self._read(X)
        allowed = retriever._read_filter(samples, exclude_seen, candidates, exclude)
        frames = [*retriever._recommend(samples, k, allowed, BATCH_SIZE)]
        table = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
        return in_frame_of(table, X)

    def recommend_batches(
        self,
        X: SampleTable | Ids | None = None,
        k: int | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        exclude: ItemRule | None = None,
    ) -> Iterator[Any]:
        """Recommend items to users batch by batch, so that no frame holds all recommendations.

        Parameters
        ----------
        X, k, exclude_seen, candidates, exclude
            As in `recommend`.
        batch_size : int, default=10_000
            Number of queries per frame.

        Yields
        ------
        recommendations : DataFrame
            What `recommend` returns for the next queries.

        Examples
        --------
        >>> from skmatch import PopularityRetriever
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
        >>> retriever = PopularityRetriever().fit(events)
        >>> [len(frame) for frame in retriever.recommend_batches(k=3, batch_size=20)]
        [60, 60, 30]
        """
        batch_size = check_k(batch_size, "batch_size", "queries")
        retriever, samples = self._read(X)
        allowed = retriever._read_filter(samples, exclude_seen, candidates, exclude)
        frames = retriever._recommend(samples, k, allowed, batch_size)
        return (in_frame_of(frame, X) for frame in frames)

    def score(
        self,
        X: SampleTable,
        y: None = None,
        *,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        gain: Hashable | None = None,
    ) -> float:
        """Compute the mean NDCG@k of held-out events.

        It is what ``make_topk_scorer("ndcg", k)`` returns with the retriever's `k`.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_events, n_columns), or Samples
            Held-out events.
        y : None
            Ignored.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the retriever's
            `exclude_seen`.
        candidates : list of item ids, mapping or None, default=None
            The only items that are ranked.
        gain : label or None, default=None
            Column of `X` with the gains of the held-out events, such as ratings; None stands for
            1 each. Not with Samples, which have no such column.

        Returns
        -------
        ndcg : float
        """
        check_is_fitted(self)
        scorer = make_topk_scorer(
            "ndcg",
            self._final_retriever().k,
            exclude_seen=exclude_seen,
            candidates=candidates,
            gain=gain,
        )
        score = scorer(self, X)
        assert isinstance(score, float)
        return score

    def _final_retriever(self) -> Any:
        return self


class SimilarItemsMixin:
    """`similar_items` of a retriever with item vectors, or of a pipeline that ends in one."""

    def similar_items(
        self,
        items: Ids,
        k: int | None = None,
        *,
        candidates: ItemRule | None = None,
        exclude: ItemRule | None = None,
    ) -> Any:
        """Find the items whose vectors are nearest to those of given items.

        Parameters
        ----------
        items : array-like of shape (n_items,)
            Ids of known items.
        k : int or None, default=None
            Number of neighbours per item; None takes the retriever's `k`.
        candidates, exclude : list of item ids, mapping, column of lists or None, default=None
            The only items that may be neighbours, and those that never are, as in `recommend`. A
            mapping is from the ids in `items` to lists.

        Returns
        -------
        neighbours : DataFrame
            One row per neighbour: the item's id, the neighbour's id in the column ``similar``, the
            score and the rank from 1. No item is its own neighbour.

        Raises
        ------
        ValueError
            If an item is not in the catalogue.
        """
        check_is_fitted(self)
        retriever: VectorsMixin
        retriever = snapshot([self._final_retriever()])[0]  # type: ignore[attr-defined]
        schema = retriever.schema_
        k = check_k(retriever.k if k is None else k)
        ids, codes = known_items(items, schema)
        rows = np.arange(len(codes))
        itself = ItemLists(codes, rows, rows + 1)
        allowed = read_filter(candidates, exclude, (itself,), ids, schema.items, schema.items)
        positions, scores = retriever._nearest_items(codes - FIRST_KNOWN, k, allowed)
        return in_frame_of(
            neighbours(ids.rename(schema.item), schema.items, positions, scores), items
        )


def neighbours(
    ids: pd.Series, vocabulary: Vocabulary, positions: np.ndarray, scores: np.ndarray
) -> pd.DataFrame:
    """Return a row per neighbour of each id, given positions, -1 for none, and their scores."""
    row, rank = np.nonzero(positions >= 0)
    return pd.DataFrame(
        {
            ids.name: ids.iloc[row].reset_index(drop=True),
            "similar": vocabulary.decode(positions[row, rank] + FIRST_KNOWN),
            "score": scores[row, rank],
            "rank": rank + 1,
        }
    )
