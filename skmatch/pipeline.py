"""`MatchPipeline`: scikit-learn's Pipeline with the verbs of retrieval."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import pandas as pd
from sklearn import get_config
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.validation import check_is_fitted

from skmatch._data import Schema
from skmatch._growth import GrowingMixin
from skmatch._validation import in_frame_of
from skmatch.persistence import VersionedMixin
from skmatch.retrieval._base import BATCH_SIZE, queries_of, score_held_out


class MatchPipeline(GrowingMixin, VersionedMixin, Pipeline):
    """A Pipeline of encoder, sampler and retriever that recommends in the user's own ids.

    It is scikit-learn's `~sklearn.pipeline.Pipeline` and adds what that class has no name for;
    each verb is handed to the step whose business it is.

    Parameters
    ----------
    steps : list of (name, estimator) tuples
        As in `~sklearn.pipeline.Pipeline`; the last is a retriever.
    transform_input : list of str or None, default=None
        As in `~sklearn.pipeline.Pipeline`.
    memory : str, object with the joblib.Memory interface or None, default=None
        As in `~sklearn.pipeline.Pipeline`; with it a search encodes once a fold.
    verbose : bool, default=False
        As in `~sklearn.pipeline.Pipeline`.

    See Also
    --------
    make_match_pipeline : Names the steps by their classes.

    Examples
    --------
    >>> from skmatch import MatchEncoder, MatchPipeline, PopularityRetriever, SequenceSampler
    >>> from skmatch.datasets import make_events
    >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
    >>> pipe = MatchPipeline([
    ...     ("encode", MatchEncoder()),
    ...     ("sample", SequenceSampler()),
    ...     ("retrieve", PopularityRetriever()),
    ... ])
    >>> pipe.fit(events).recommend(k=2).shape
    (100, 5)
    """

    def fit(self, X: Any, y: Any = None, **params: Any) -> MatchPipeline:
        """Fit all steps, one after the other; where one fails, all stay as they were.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_events, n_columns), or Parquet
            The events; `MatchEncoder` says how Parquet is given.
        y : None
            Ignored.
        **params : dict of str -> object
            As in `~sklearn.pipeline.Pipeline`: parameters of the steps' fits.

        Returns
        -------
        self : MatchPipeline
        """
        # Nothing fitted is ever changed in place, so that shallow copies are enough.
        steps = [*self.named_steps.items()]
        estimators = [
            step for _, step in steps if hasattr(step, "__dict__") and not isinstance(step, type)
        ]
        states = [(step, vars(step).copy()) for step in estimators]
        try:
            return super().fit(X, y, **params)
        except BaseException:
            self.steps = steps
            for step, state in states:
                vars(step).clear()
                vars(step).update(state)
            raise

    @property
    def schema_(self) -> Schema:
        """Roles, ids and features of the events."""
        return self[-1].schema_

    def _growing_steps(self) -> list[Any]:
        return [step for _, _, step in self._iter()]

    def _weight_param(self, sample_weight: Any) -> dict[str, Any]:
        is_routed = get_config()["enable_metadata_routing"]
        name = "sample_weight" if is_routed else f"{self.steps[-1][0]}__sample_weight"
        return {name: sample_weight}

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
        X : DataFrame, array-like of shape (n_queries, n_columns) or of user ids, or None
            The queries. A frame needs the column of the user; a column ``history`` of lists of
            item ids stands for the user's history, a time for "as of then", and columns of user
            features for what is known of the user. None stands for all known users.
        k : int or None, default=None
            Number of items a query; None takes the retriever's `k`.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the retriever's
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
            remain. Queries of polars or pyarrow are answered in a frame of theirs, by
            `recommend_batches` and `similar_items` as well.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import (
        ...     MatchEncoder, PopularityRetriever, SequenceSampler, make_match_pipeline
        ... )
        >>> events = pd.DataFrame({
        ...     "user_id": ["ann", "ann", "bob", "bob", "cyd", "dan"],
        ...     "item_id": ["tea", "jam", "tea", "rye", "tea", "jam"],
        ... })
        >>> pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever())
        >>> pipe.fit(events).recommend(["cyd", "eve"], exclude={"eve": ["jam"]})
          user_id item_id     score  rank      source
        0     cyd     jam  0.333333     1  popularity
        1     cyd     rye  0.166667     2  popularity
        2     eve     tea  0.500000     1  popularity
        3     eve     rye  0.166667     2  popularity
        """
        answer = self[-1].recommend(
            self._samples_of(X),
            k,
            exclude_seen=exclude_seen,
            candidates=candidates,
            exclude=exclude,
        )
        return in_frame_of(answer, X)

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
        X : DataFrame, array-like of shape (n_queries, n_columns) or of user ids, or None
            The queries, as for `recommend`; None stands for all known users.
        k : int or None, default=None
            Number of items a query; None takes the retriever's `k`.
        batch_size : int, default=10_000
            Number of queries that a frame answers.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the retriever's
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
        >>> from skmatch import (
        ...     MatchEncoder, PopularityRetriever, SequenceSampler, make_match_pipeline
        ... )
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
        >>> pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever())
        >>> [len(frame) for frame in pipe.fit(events).recommend_batches(k=3, batch_size=20)]
        [60, 60, 30]
        """
        answers = self[-1].recommend_batches(
            self._samples_of(X),
            k,
            batch_size=batch_size,
            exclude_seen=exclude_seen,
            candidates=candidates,
            exclude=exclude,
        )
        return (in_frame_of(answer, X) for answer in answers)

    def _samples_of(self, X: Any) -> Any:
        """Return queries as the retriever takes them."""
        check_is_fitted(self)
        X = queries_of(X, self.schema_)
        for _, _, step in self._iter(with_final=False):
            X = step.transform(X)
        return X

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
        X : DataFrame or array-like of shape (n_events, n_columns)
            Held-out events.
        y : None
            Ignored.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the retriever's
            `exclude_seen`.
        candidates : list of item ids, mapping or None, default=None
            The only items that are ranked.
        gain : label or None, default=None
            Column of `X` with the gains of the held-out events; None stands for 1 each.

        Returns
        -------
        ndcg : float
        """
        check_is_fitted(self)
        return score_held_out(
            self, X, self[-1].k, exclude_seen=exclude_seen, candidates=candidates, gain=gain
        )

    def similar_items(
        self, items: Any, k: int | None = None, *, candidates: Any = None, exclude: Any = None
    ) -> pd.DataFrame:
        """Give the items whose vectors are nearest to those of given items.

        Parameters
        ----------
        items : array-like of shape (n_items,)
            Ids of known items.
        k : int or None, default=None
            Number of neighbours an item; None takes the retriever's `k`.
        candidates, exclude : list of item ids, mapping, column of lists or None, default=None
            The only items that may be neighbours, and those that never are, as in `recommend`. A
            mapping is from the ids in `items` to lists.

        Returns
        -------
        neighbours : DataFrame
            One row a neighbour: the item's id, the neighbour's id in the column ``similar``, the
            score and the rank from 1.
        """
        check_is_fitted(self)
        return self[-1].similar_items(items, k, candidates=candidates, exclude=exclude)


def make_match_pipeline(
    *steps: Any, memory: Any = None, transform_input: Any = None, verbose: bool = False
) -> MatchPipeline:
    """Make a `MatchPipeline`, its steps named by their classes in lower case.

    Parameters
    ----------
    *steps : estimators
        A `MatchEncoder`, a `SequenceSampler` and a retriever.
    memory : str, object with the joblib.Memory interface or None, default=None
        As in `~sklearn.pipeline.Pipeline`.
    transform_input : list of str or None, default=None
        As in `~sklearn.pipeline.Pipeline`.
    verbose : bool, default=False
        As in `~sklearn.pipeline.Pipeline`.

    Returns
    -------
    pipeline : MatchPipeline

    Examples
    --------
    >>> from skmatch import (
    ...     MatchEncoder, PopularityRetriever, SequenceSampler, make_match_pipeline
    ... )
    >>> pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever())
    >>> list(pipe.named_steps)
    ['matchencoder', 'sequencesampler', 'popularityretriever']
    """
    named = make_pipeline(*steps).steps
    return MatchPipeline(named, transform_input=transform_input, memory=memory, verbose=verbose)
