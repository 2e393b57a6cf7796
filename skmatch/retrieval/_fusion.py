"""`FusionRetriever`: several retrievers whose lists are merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, Literal

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils import Bunch
from sklearn.utils.metaestimators import available_if

from skmatch._data import CatalogueRows, Samples
from skmatch._growth import GrowingMixin, replaced
from skmatch._ranking import RANK_OFFSET, fused_shares, list_values, merge_lists
from skmatch._sklearn import BaseComposition, Interval, StrOptions
from skmatch._validation import check_choice, check_k
from skmatch.metrics._hits import METRICS, find_hits
from skmatch.neighbors import ItemFilter
from skmatch.retrieval._base import BaseRetriever, count_items, popularity_of
from skmatch.retrieval._explain import Reasons, batches, ranks_of
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._queries import FEATURES, HISTORY, POPULARITY
from skmatch.retrieval._shared_docs import with_shared_docs
from skmatch.retrieval._training_rows import questions, rows_to_train, rows_to_validate
from skmatch.retrieval._verbs import BATCH_SIZE, SimilarItemsMixin

N_ADDITIONS = 10  # steps in which weights are learned
N_VALIDATED = 50  # items of each member that weights are learned from
TOLERANCE = 0.02  # smaller gains over weights that are closer to equal are noise


def _all_have(method: str) -> Callable[[Any], bool]:
    """Return a check that all members have a method."""
    return lambda fusion: all(hasattr(member, method) for _, member in fusion._members())


@with_shared_docs
class FusionRetriever(SimilarItemsMixin, GrowthMixin, BaseRetriever, BaseComposition):
    """Merge the recommendations of several retrievers into one list.

    All members are fitted on the same events and contribute their best candidates under the same
    rules. The score of an item is the weighted sum of the logarithms of its probabilities [1]_, or
    of its reciprocal ranks [2]_.

    Parameters
    ----------
    retrievers : list of (str, estimator) tuples or None, default=None
        The members by name; "drop" in place of an estimator leaves one out. None stands for a
        `DSSMRetriever` and an `ItemToItemRetriever`.
    weights : sequence of float, "auto" or None, default="auto"
        Weight of each member; None weighs all alike. "auto" holds out the last event of a tenth of
        the users, but of at least 2,000 (or half of them), fits the members without these targets,
        and learns weights that rank them well, by ensemble selection [3]_: it starts from equal
        weights, ten times adds the member that raises NDCG@10 most, and keeps the first sums that
        come within 2% of the best.
    rule : {"probabilities", "ranks"}, default="probabilities"
        What a member adds to the score of an item that it lists: its weight, times a value.
        "probabilities": the logarithm of the item's share of the list over the share of items that
        are not listed, which is half of the smallest share, at most 1 / (2 `n_candidates`). A share
        is the softmax of cosines over the temperature, or the score divided by the sum of scores.
        "ranks": 1 / (60 + rank).
    n_candidates : int, default=200
        Number of items that each member contributes per query, at least `k`.
    n_jobs : int or None, default=None
        Number of members that are fitted at a time; None means 1.
    {ranking}

    Attributes
    ----------
    retrievers_ : list of estimators
        The fitted members.
    weights_ : ndarray of shape (n_members,)
        Their weights.
    named_retrievers_ : Bunch
        The fitted members by name.
    {catalogue}

    See Also
    --------
    ItemToItemRetriever : Item transitions, which complement a network.

    Notes
    -----
    `recommend` adds a column ``retrievers``: the members that have the item among their candidates.

    References
    ----------
    .. [1] C. Genest and J. V. Zidek, "Combining probability distributions: a critique and an
       annotated bibliography", Statistical Science, 1986: the logarithmic opinion pool.
    .. [2] G. V. Cormack, C. L. A. Clarke and S. Buettcher, "Reciprocal rank fusion outperforms
       Condorcet and individual rank learning methods", SIGIR 2009.
    .. [3] R. Caruana, A. Niculescu-Mizil, G. Crew and A. Ksikes, "Ensemble selection from libraries
       of models", ICML 2004.

    Examples
    --------
    >>> from skmatch import FusionRetriever, ItemToItemRetriever, PopularityRetriever
    >>> from skmatch.datasets import make_events
    >>> events = make_events(n_users=50, n_items=40, n_events=1000, random_state=0)
    >>> fusion = FusionRetriever(
    ...     [("items", ItemToItemRetriever()), ("popular", PopularityRetriever())]
    ... ).fit(events)
    >>> fusion.recommend([events["user_id"][0]], k=2).columns.tolist()
    ['user_id', 'item_id', 'score', 'rank', 'source', 'retrievers']
    """

    _parameter_constraints: dict = {
        "retrievers": [list, tuple, None],
        "weights": ["array-like", StrOptions({"auto"}), None],
        "rule": [StrOptions({"probabilities", "ranks"})],
        "n_candidates": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "k": [Interval(Integral, 1, None, closed="left")],
        "exclude_seen": ["boolean"],
    }

    def __init__(
        self,
        retrievers: list[tuple[str, Any]] | None = None,
        weights: ArrayLike | Literal["auto"] | None = "auto",
        *,
        rule: Literal["probabilities", "ranks"] = "probabilities",
        n_candidates: int = 200,
        n_jobs: int | None = None,
        k: int = 10,
        exclude_seen: bool = True,
    ):
        self.retrievers = retrievers
        self.weights = weights
        self.rule = rule
        self.n_candidates = n_candidates
        self.n_jobs = n_jobs
        self.k = k
        self.exclude_seen = exclude_seen

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        if self.retrievers is None:
            return super(BaseComposition, self).get_params(deep=False)
        return self._get_params("retrievers", deep=deep)

    def set_params(self, **params: Any) -> FusionRetriever:
        if self.retrievers is None:
            return super(BaseComposition, self).set_params(**params)
        self._set_params("retrievers", **params)
        return self

    def _fit_samples(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        members = self._check_members()
        is_learned = isinstance(self.weights, str) and len(members) > 1
        held_out = np.empty(0, dtype=np.int64)
        if is_learned:
            rows, _ = rows_to_train(samples, weight, self.exclude_seen)
            held_out = rows_to_validate(samples, rows, "auto")
        trained_by = weight
        if len(held_out):
            trained_by = np.ones(len(samples)) if weight is None else weight.copy()
            trained_by[held_out] = 0
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(clone(member).fit)(samples, sample_weight=trained_by) for _, member in members
        )
        weights = self._member_weights()
        if len(held_out):
            weights = self._learn_weights(fitted, questions(samples.gather(held_out), "both"))
        return self._fitted([name for name, _ in members], fitted) | {"weights_": weights}

    def _learn_weights(self, members: list[Any], held_out: list[Samples]) -> np.ndarray:
        """Add to equal weights, step by step, the member that raises NDCG@10 of held-out events."""
        validation = []
        for rows in held_out:
            queries, _, query, item = rows.by_user()
            allowed = members[0]._read_filter(queries, self.exclude_seen, None, None)
            validation.append((self._lists(members, queries, N_VALIDATED, allowed), query, item))

        def ndcg(weights: np.ndarray) -> float:
            total = 0.0
            for lists, query, item in validation:
                positions = merge_lists(lists, 10, weights)[0]
                total += METRICS["ndcg"](*find_hits(query, item, positions, None), 10).sum()
            return total

        weights = np.ones(len(members))
        path = [(weights, ndcg(weights))]
        for _ in range(N_ADDITIONS):
            additions = [(sums, ndcg(sums)) for sums in path[-1][0] + np.eye(len(members))]
            path.append(max(additions, key=lambda addition: addition[1]))
        least = (1 - TOLERANCE) * max(score for _, score in path)
        weights = next(weights for weights, score in path if score >= least)
        return weights / weights.sum()

    def _fitted(self, names: list[str], members: list[Any]) -> dict[str, Any]:
        named = Bunch(**dict(zip(names, members, strict=True)))
        return {"retrievers_": members, "named_retrievers_": named}

    def _members(self) -> list[tuple[str, Any]]:
        retrievers = self.retrievers
        if retrievers is None:
            from skmatch.retrieval import DSSMRetriever, ItemToItemRetriever

            retrievers = [("dssm", DSSMRetriever()), ("items", ItemToItemRetriever())]
        return [(name, member) for name, member in retrievers if not isinstance(member, str)]

    def _check_members(self) -> list[tuple[str, Any]]:
        retrievers = self.retrievers
        if retrievers is not None:
            for entry in retrievers:
                if not isinstance(entry, (tuple, list)) or len(entry) != 2:
                    raise TypeError(
                        f"retrievers holds {entry!r}: pass tuples of a name and a retriever, such "
                        "as ('items', ItemToItemRetriever())."
                    )
            self._validate_names([name for name, _ in retrievers])
            for name, member in retrievers:
                if isinstance(member, str):
                    check_choice(f"The retriever {name!r}", member, ("drop",))
                elif not isinstance(member, BaseRetriever):
                    is_class = isinstance(member, type)
                    kind = (
                        f"the class {member.__name__}" if is_class else f"a {type(member).__name__}"
                    )
                    raise TypeError(
                        f"The member {name!r} is {kind}: pass a retriever, such as "
                        "ItemToItemRetriever(), or 'drop' to leave it out."
                    )
        members = self._members()
        if not members:
            raise ValueError("retrievers has no member: pass at least one that is not 'drop'.")
        self._member_weights()
        return members

    def _member_weights(self) -> np.ndarray:
        """Return the weights of the members that are not dropped."""
        retrievers = self.retrievers or self._members()
        is_equal = self.weights is None or isinstance(self.weights, str)
        weights = np.ones(len(retrievers)) if is_equal else np.asarray(self.weights)
        is_valid = weights.shape == (len(retrievers),) and weights.dtype.kind in "iuf"
        if not (is_valid and np.isfinite(weights).all() and weights.min() >= 0 and weights.any()):
            raise ValueError(
                f"weights={self.weights!r} does not weigh {len(retrievers)} retrievers: pass one "
                "number of at least 0 per retriever, not all of them 0."
            )
        is_used = [not isinstance(member, str) for _, member in retrievers]
        return weights[is_used].astype(float)

    def _search(
        self, samples: Samples, k: int | None, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        k = min(check_k(self.k if k is None else k), len(self.popularity_))
        positions = np.full((len(samples), k), -1, dtype=np.int64)
        scores = np.full((len(samples), k), -np.inf, dtype=np.float32)
        for start in range(0, len(samples), BATCH_SIZE):
            rows = np.arange(start, min(start + BATCH_SIZE, len(samples)))
            positions[rows], scores[rows], _ = self._fuse(
                samples.gather(rows), k, allowed.gather(rows)
            )
        return positions, scores, self._source_of(samples)

    def _source_of(self, samples: Samples) -> np.ndarray:
        sources = np.array([member._source_of(samples) for member in self.retrievers_])
        names = (HISTORY, FEATURES, POPULARITY)
        return np.select([(sources == name).any(0) for name in names], names, POPULARITY)

    def _top_k(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        positions, scores, _ = self._fuse(samples, k, allowed)
        return positions, scores

    def _recommend(
        self, samples: Samples, k: int | None, allowed: ItemFilter, batch_size: int
    ) -> Iterator[pd.DataFrame]:
        names = np.array(list(self.named_retrievers_), dtype=object)
        for start in range(0, max(len(samples), 1), batch_size):
            rows = np.arange(start, min(start + batch_size, len(samples)))
            batch = samples.gather(rows)
            positions, scores, is_named = self._fuse(batch, k, allowed.gather(rows))
            frame = self._as_frame(batch, positions, scores, self._source_of(batch))
            by_item = is_named[positions >= 0]
            named, index = np.unique(by_item, axis=0, return_inverse=True)
            texts = np.array([", ".join(names[is_naming]) for is_naming in named], dtype=str)
            frame["retrievers"] = texts[index.ravel()]
            yield frame

    def _fuse(
        self, samples: Samples, k: int | None, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions and scores, (n_queries, k), and which members named each, (..., M)."""
        k = min(check_k(self.k if k is None else k), len(self.popularity_))
        lists = self._lists(self.retrievers_, samples, max(k, self.n_candidates), allowed)
        return merge_lists(lists, k, self.weights_)

    def _lists(
        self, members: list[Any], samples: Samples, n_candidates: int, allowed: ItemFilter
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return positions and values of each member's candidates."""
        lists = []
        for member in members:
            positions, scores, source = member._search(samples, n_candidates, allowed)
            lists.append((positions, self._values(member, positions, scores, source)))
        return lists

    def _values(
        self, member: Any, positions: np.ndarray, scores: np.ndarray, source: np.ndarray
    ) -> np.ndarray:
        """Return the values of a member's lists, which the sums weigh."""
        return list_values(self.rule, positions, scores, source == POPULARITY, member._shares)

    def _shares(self, scores: np.ndarray) -> np.ndarray:
        return fused_shares(self.rule, scores)

    def _parts(self, samples: Samples, positions: np.ndarray, allowed: ItemFilter) -> np.ndarray:
        """Return each member's part of the scores of items, (n_queries, n_wanted, M).

        The value of an item that the filter removes is computed as if the filter allowed it, too.
        """
        n_candidates = max(positions.shape[1], self.n_candidates)
        parts = np.zeros((*positions.shape, len(self.retrievers_)))
        for number, (member, weight) in enumerate(
            zip(self.retrievers_, self.weights_, strict=True)
        ):
            list_positions, list_scores, source = member._search(samples, n_candidates, allowed)
            member_scores = member._score_items(samples, positions, allowed)
            rank = ranks_of(positions, member_scores, list_positions, list_scores)
            value = 1.0 / (RANK_OFFSET + rank)
            if self.rule == "probabilities":
                of_list = self._values(member, list_positions, list_scores, source)
                for column, score in enumerate(member_scores.T):
                    item = positions[:, column, None]
                    with_item = np.column_stack([list_positions, item])
                    scores = np.column_stack([list_scores, score])
                    values = self._values(member, with_item, scores, source)[:, -1]
                    is_item = list_positions == item
                    listed = np.where(is_item, of_list, 0).sum(1)
                    value[:, column] = np.where(is_item.any(1), listed, values)
            is_candidate = (rank <= n_candidates) & ~np.isnan(member_scores)
            parts[:, :, number] = np.where(is_candidate, weight * value, 0)
        return parts

    def _score_items(
        self, samples: Samples, positions: np.ndarray, allowed: ItemFilter
    ) -> np.ndarray:
        scores = np.full(positions.shape, np.nan, dtype=np.float32)
        for rows in batches(len(samples), positions.shape[1]):
            parts = self._parts(samples.gather(rows), positions[rows], allowed.gather(rows))
            scores[rows] = np.where(parts.any(2), parts.sum(2), np.nan)
        return scores

    def _contributions(
        self, samples: Samples, positions: np.ndarray, allowed: ItemFilter
    ) -> Reasons:
        parts = self._parts(samples, positions, allowed)
        query, column, member = np.nonzero(parts)
        labels: list[Any] = [("retriever", name) for name in self.named_retrievers_]
        return Reasons(query, column, -1 - member, parts[query, column, member], labels)

    def _rank_all(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        lists = self._lists(self.retrievers_, samples, max(k, self.n_candidates), allowed)
        return merge_lists(lists, len(self.popularity_), self.weights_)[:2]

    def _trace_columns(
        self, samples: Samples, positions: np.ndarray, allowed: ItemFilter
    ) -> dict[str, Any]:
        names = np.array(list(self.named_retrievers_), dtype=object)
        parts = self._parts(samples, positions, allowed).reshape(-1, len(names))
        return {"retrievers": [", ".join(names[is_naming]) for is_naming in parts > 0]}

    def _nearest_items(
        self, positions: np.ndarray, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        n_candidates = max(k, self.n_candidates)
        source = np.full(len(positions), HISTORY)
        lists = []
        for member in self.retrievers_:
            items, scores = member._nearest_items(positions, n_candidates, allowed)
            lists.append((items, self._values(member, items, scores, source)))
        return merge_lists(lists, k, self.weights_)[:2]

    def _partial_fit(
        self, X: Any, train: bool, sample_weight: Any = None
    ) -> tuple[FusionRetriever, Samples]:
        copy, samples = super()._partial_fit(X, train, sample_weight)
        return copy._with_members("_partial_fit", samples, train, sample_weight), samples

    def _add_items(self, X: Any) -> tuple[FusionRetriever, CatalogueRows]:
        copy, rows = super()._add_items(X)
        return copy._with_members("_add_items", rows), rows

    def _with_members(self, verb: str, *args: Any) -> FusionRetriever:
        members = [getattr(member, verb)(*args)[0] for member in self.retrievers_]
        return replaced(self, **self._fitted(list(self.named_retrievers_), members))

    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        counts = count_items(samples, weight)
        counts[: len(self.counts_)] += self.counts_
        return popularity_of(counts)

    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        return {}

    similar_items = available_if(_all_have("similar_items"))(SimilarItemsMixin.similar_items)
    observe = available_if(_all_have("observe"))(GrowingMixin.observe)
    partial_fit = available_if(_all_have("partial_fit"))(GrowingMixin.partial_fit)
    add_items = available_if(_all_have("add_items"))(GrowingMixin.add_items)
