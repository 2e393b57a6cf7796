"""`score_pairs`, `users_for` and `similar_users`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skmatch._data import FIRST_KNOWN, Samples
from skmatch._typing import Ids, SampleTable, Table
from skmatch._validation import check_k, in_frame_of, read_frame, require_column
from skmatch.neighbors import ItemFilter, ItemIndex, ItemLists
from skmatch.retrieval._explain import batches
from skmatch.retrieval._queries import POPULARITY, known_items, known_users
from skmatch.retrieval._verbs import neighbours

if TYPE_CHECKING:
    from skmatch.retrieval._base import BaseRetriever


class ScoreMixin(ABC):
    """`score_pairs` and `users_for`."""

    @abstractmethod
    def _read(self, X: Any) -> tuple[BaseRetriever, Samples]:
        """Return the fitted retriever, and queries as it reads them."""

    def score_pairs(self, pairs: Table) -> Any:
        """Compute the scores of given pairs of user and item.

        Parameters
        ----------
        pairs : DataFrame of shape (n_pairs, n_columns)
            Queries as in `recommend`, with the column of the item.

        Returns
        -------
        scores : DataFrame
            One row per pair, in order: the user's id, the item's id, the ``score`` that `recommend`
            would return if the item were not left out, missing for an unknown item, and the
            ``source`` of the score.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import PopularityRetriever
        >>> events = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "jam"]})
        >>> pairs = pd.DataFrame({"user_id": ["ann", "cyd"], "item_id": ["jam", "nut"]})
        >>> PopularityRetriever().fit(events).score_pairs(pairs)
          user_id item_id  score      source
        0     ann     jam    0.5  popularity
        1     cyd     nut    NaN  popularity
        """
        check_is_fitted(self)
        frame = read_frame(pairs)
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(
                f"pairs is a {type(pairs).__name__}: pass a frame with the columns of the user and "
                "the item."
            )
        name = self.schema_.item  # type: ignore[attr-defined]
        item = require_column(frame, name, "item", "Add it.", "pairs")
        retriever, samples = self._read(frame.drop(columns=name))
        schema = retriever.schema_
        positions = np.maximum(schema.items.lookup(item) - FIRST_KNOWN, -1)[:, None]
        allowed = retriever._read_filter(samples, None)
        table = pd.DataFrame(
            {
                schema.user: samples.original_users().reset_index(drop=True),
                schema.item: item.reset_index(drop=True),
                "score": retriever._score_items(samples, positions, allowed)[:, 0],
                "source": retriever._source_of(samples),
            }
        )
        return in_frame_of(table, pairs)

    def users_for(
        self,
        items: Ids,
        k: int | None = None,
        *,
        X: SampleTable | Ids | None = None,
        exclude_seen: bool | None = None,
    ) -> Any:
        """Return the users with the highest scores for given items.

        Parameters
        ----------
        items : list of item ids
            Known items.
        k : int or None, default=None
            Number of users per item; None takes the retriever's `k`.
        X : DataFrame, array-like of shape (n_queries, n_columns), list of user ids, or None
            The queries to choose from, as in `recommend`; None stands for all known users.
        exclude_seen : bool or None, default=None
            Whether to leave out users who have interacted with the item; None takes the
            retriever's `exclude_seen`.

        Returns
        -------
        users : DataFrame
            One row per item and user: the item's id, the user's id, the ``score`` and the ``rank``
            from 1. Users of whom nothing is known come last.

        Notes
        -----
        Scores are trained to rank the items of one user; they are not calibrated between users.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import ItemToItemRetriever
        >>> events = pd.DataFrame({
        ...     "user_id": ["ann", "ann", "bob", "cyd"], "item_id": ["tea", "jam", "tea", "rye"],
        ... })
        >>> ItemToItemRetriever().fit(events).users_for(["jam"], k=1)["user_id"].tolist()
        ['bob']
        """
        retriever, samples = self._read(X)
        schema = retriever.schema_
        item_positions = known_items(items, schema)[1] - FIRST_KNOWN
        k = check_k(retriever.k if k is None else k, of="users")
        allowed = retriever._read_filter(samples, exclude_seen)
        positions = np.broadcast_to(item_positions, (len(samples), len(item_positions)))
        scores = retriever._score_items(samples, positions, allowed)
        for rows in batches(len(samples), len(item_positions)):
            permitted = allowed.gather(rows)._permits(positions[rows], len(retriever.popularity_))
            scores[rows] = np.where(permitted, scores[rows], np.nan)
        is_popular = retriever._source_of(samples) == POPULARITY
        order = np.stack([np.lexsort((-item_scores, is_popular))[:k] for item_scores in scores.T])
        best = np.take_along_axis(scores.T, order, axis=1)
        row, rank = np.nonzero(~np.isnan(best))
        table = pd.DataFrame(
            {
                schema.item: schema.items.decode(item_positions[row] + FIRST_KNOWN),
                schema.user: samples.original_users().iloc[order[row, rank]].array,
                "score": best[row, rank],
            }
        )
        table["rank"] = table.groupby(row).cumcount() + 1
        return in_frame_of(table, X if X is not None else items)


class SimilarUsersMixin:
    """`similar_users` of a retriever with vectors, or of a pipeline that ends in one."""

    def similar_users(self, users: Ids, k: int | None = None) -> Any:
        """Find the known users whose vectors are nearest to those of given users.

        Parameters
        ----------
        users : array-like of shape (n_users,)
            Ids of known users.
        k : int or None, default=None
            Number of neighbours per user; None takes the retriever's `k`.

        Returns
        -------
        neighbours : DataFrame
            One row per neighbour: the user's id, the neighbour's id in the column ``similar``, the
            score and the rank from 1. No user is its own neighbour.

        Raises
        ------
        ValueError
            If a user is unknown.

        Examples
        --------
        >>> from skmatch import DSSMRetriever
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=20, n_items=10, n_events=100, random_state=0)
        >>> retriever = DSSMRetriever(max_epochs=1, random_state=0).fit(events)
        >>> retriever.similar_users(events["user_id"].head(2), k=3).columns.tolist()
        ['user_id', 'similar', 'score', 'rank']
        """
        retriever, samples = self._read(None)  # type: ignore[attr-defined]
        schema = retriever.schema_
        ids, codes = known_users(users, schema)
        k = min(check_k(retriever.k if k is None else k, of="users"), len(samples))
        vectors = retriever._encode(samples)
        rows = np.arange(len(codes))
        itself = ItemFilter(exclude=(ItemLists(codes, rows, rows + 1),))
        positions, scores = ItemIndex().fit(vectors).search(vectors[codes - FIRST_KNOWN], k, itself)
        return in_frame_of(
            neighbours(ids.rename(schema.user), schema.users, positions, scores), users
        )
