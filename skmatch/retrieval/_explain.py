"""`explain` and `trace`: why an item is recommended, and why another is not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from skmatch._arrays import UNKNOWN, gather_rows, is_known, where_rows
from skmatch._data import FIRST_KNOWN, RaggedArray, Samples, concatenate_ranges
from skmatch._typing import Ids, ItemRule, SampleTable
from skmatch._validation import check_k, in_frame_of
from skmatch.neighbors import ItemFilter, ItemLists
from skmatch.retrieval._queries import POPULARITY, known_items, read_ids

if TYPE_CHECKING:
    from skmatch.retrieval._base import BaseRetriever

BLOCK_SCORES = 2**22  # scores of the catalogue that `trace` holds at a time
BLOCK_QUERIES = 10_000  # queries, each without one of its reasons, that are encoded at a time


class Reasons(NamedTuple):
    """Parts of scores: one entry per query, item and reason."""

    query: np.ndarray
    column: np.ndarray  # index of the item in the row of its query
    reason: np.ndarray  # position of an item of the history, or -1 - i for labels[i]
    contribution: np.ndarray
    labels: list[tuple[str, Hashable]]  # kind and reason


class ExplainMixin(ABC):
    """`explain` and `trace`."""

    @abstractmethod
    def _read(self, X: Any) -> tuple[BaseRetriever, Samples]:
        """Return the fitted retriever, and queries as it reads them."""

    def explain(
        self,
        X: SampleTable | Ids | None = None,
        items: Ids | None = None,
        k: int | None = None,
        *,
        n_reasons: int | None = 3,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        exclude: ItemRule | None = None,
    ) -> Any:
        """Return what raised the scores of items: events of the history, and features.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_queries, n_columns), list of user ids, or None
            The queries, as in `recommend`.
        items : list of item ids or None, default=None
            The items whose scores are explained, for each query; None takes those that `recommend`
            returns.
        k : int or None, default=None
            Number of recommended items per query, where `items` is None; None takes the
            retriever's `k`.
        n_reasons : int or None, default=3
            Number of reasons per item: those that raised its score most. None returns all, also
            those that lowered it.
        exclude_seen, candidates, exclude
            As in `recommend`.

        Returns
        -------
        reasons : DataFrame
            One row per query, item and reason: the user's id, the item's id, ``reason`` (the id of
            an item of the history, the label of a feature, or the name of a retriever; text in a
            frame of another library than pandas), ``kind`` ("history", "feature" of the user,
            "item feature", "retriever", or "popularity" and "trend", which have no reason) and
            ``contribution``, in units of the score.

        Notes
        -----
        The contributions of an `ItemToItemRetriever` are the terms of its sum, and those of a
        `FusionRetriever` what each member adds. The kind "trend" is what a neural retriever adds
        for an item that is more popular at the time of the query than over all. Any
        other contribution is the score less the score without all events of that item, or without
        that feature; these need not add up. Where nothing else is known of the query, the score
        without the reason counts as 0. For an "item feature" a neural retriever encodes the
        explained item with the feature's value unknown and the same id embedding; the items of the
        history keep theirs.
        The reasons of a member of a fusion are in units of the member's score:
        ``fusion.named_retrievers_["items"].explain(samples, items)`` returns it, where a
        pipeline's ``pipe[:-1].transform(queries)`` makes the samples.
        A contribution says what the model used, not what made the user act.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import ItemToItemRetriever
        >>> events = pd.DataFrame({
        ...     "user_id": ["ann", "ann", "bob", "bob", "cyd", "cyd"],
        ...     "item_id": ["tea", "jam", "tea", "jam", "rye", "tea"],
        ... })
        >>> retriever = ItemToItemRetriever(smoothing=0).fit(events)
        >>> retriever.explain(["cyd"], k=1, n_reasons=1)[["item_id", "reason", "kind"]]
          item_id reason     kind
        0     jam    tea  history
        """
        retriever, samples = self._read(X)
        allowed = retriever._read_filter(samples, exclude_seen, candidates, exclude)
        n_reasons = None if n_reasons is None else check_k(n_reasons, "n_reasons", "reasons")
        given_positions = None
        if items is not None:
            if k is not None:
                raise ValueError(f"k={k!r} has no effect on given items: set k or items to None.")
            given_positions = known_items(items, retriever.schema_)[1] - FIRST_KNOWN
        frames = []
        for start in range(0, max(len(samples), 1), BLOCK_QUERIES):
            rows = np.arange(start, min(start + BLOCK_QUERIES, len(samples)))
            batch, batch_allowed = samples.gather(rows), allowed.gather(rows)
            if given_positions is None:
                positions = retriever._search(batch, k, batch_allowed)[0]
            else:
                positions = np.tile(given_positions, (len(batch), 1))
            reasons = retriever._contributions(batch, positions, batch_allowed)
            frames.append(_as_frame(retriever, batch, positions, reasons, n_reasons))
        table = pd.concat(frames, ignore_index=True)
        if not isinstance(in_frame_of(table[:0], X), pd.DataFrame):
            # Only pandas has columns that mix ids and labels.
            table["reason"] = table["reason"].map(str, na_action="ignore")
        return in_frame_of(table, X)

    def trace(
        self,
        X: SampleTable | Ids,
        items: Ids,
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        exclude: ItemRule | None = None,
    ) -> Any:
        """Return the rank and score of items for each query, and why they are not recommended.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_queries, n_columns) or list of user ids
            The queries, as in `recommend`.
        items : list of item ids
            The items to look for.
        k, exclude_seen, candidates, exclude
            As in `recommend`.

        Returns
        -------
        table : DataFrame
            One row per query and item: the user's id, the item's id, its ``score``, its ``rank``
            among all items that may be recommended (of an item that may not, the rank that its
            score would have) and its ``outcome``: "recommended", "beyond k", "seen", "excluded",
            "not a candidate", "unknown item", or "not retrieved" where no member of a
            `FusionRetriever` has the item among its candidates. With a `FusionRetriever` the column
            ``retrievers`` names the members that have it.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import PopularityRetriever
        >>> events = pd.DataFrame({
        ...     "user_id": ["ann", "ann", "bob", "bob"], "item_id": ["tea", "jam", "tea", "rye"],
        ... })
        >>> PopularityRetriever().fit(events).trace(["bob"], ["jam", "rye", "nut"])
          user_id item_id  score  rank       outcome
        0     bob     jam   0.25     1   recommended
        1     bob     rye   0.25     1          seen
        2     bob     nut    NaN  <NA>  unknown item
        """
        retriever, samples = self._read(X)
        schema = retriever.schema_
        ids = read_ids(items, "items", schema.item)
        k = check_k(retriever.k if k is None else k)
        positions = schema.items.lookup(ids) - FIRST_KNOWN
        rules = {
            "not a candidate": (False, candidates, None),
            "excluded": (False, None, exclude),
            "seen": (exclude_seen, None, None),
        }
        filters = {name: retriever._read_filter(samples, *rule) for name, rule in rules.items()}
        allowed = retriever._read_filter(samples, exclude_seen, candidates, exclude)
        frames = []
        size = max(1, BLOCK_SCORES // len(retriever.popularity_))
        for start in range(0, max(len(samples), 1), size):
            rows = np.arange(start, min(start + size, len(samples)))
            batch, batch_allowed = samples.gather(rows), allowed.gather(rows)
            batch_positions = np.tile(np.where(positions < 0, -1, positions), (len(rows), 1))
            scores = retriever._score_items(batch, batch_positions, batch_allowed)
            ranking, ranking_scores = retriever._rank_all(batch, k, batch_allowed)
            rank = ranks_of(batch_positions, scores, ranking, ranking_scores)
            outcome = np.where(rank <= k, "recommended", "beyond k").astype(object)
            outcome[np.isnan(scores)] = "not retrieved"
            for name, rule in reversed(filters.items()):
                outcome[
                    ~rule.gather(rows)._permits(
                        np.maximum(batch_positions, 0), len(retriever.popularity_)
                    )
                ] = name
            outcome[batch_positions < 0] = "unknown item"
            frame = pd.DataFrame(
                {
                    schema.user: np.repeat(batch.original_users().array, len(ids)),
                    schema.item: pd.concat([ids] * len(rows), ignore_index=True),
                    "score": scores.ravel(),
                    "rank": pd.array(rank.ravel(), dtype="Int64"),
                    "outcome": outcome.ravel(),
                }
            )
            frame.loc[np.isnan(scores.ravel()), "rank"] = pd.NA
            frames.append(
                frame.assign(**retriever._trace_columns(batch, batch_positions, batch_allowed))
            )
        return in_frame_of(pd.concat(frames, ignore_index=True), X)


def ranks_of(
    items: np.ndarray, scores: np.ndarray, ranking: np.ndarray, ranking_scores: np.ndarray
) -> np.ndarray:
    """Return the rank of items in rankings, or the rank that their scores would have."""
    ranks = np.empty(items.shape, dtype=np.int64)
    for row, positions in enumerate(items):
        is_item = ranking[row] == positions[:, None]
        better = np.searchsorted(-ranking_scores[row], -scores[row])
        ranks[row] = 1 + np.where(is_item.any(1), is_item.argmax(1), better)
    return ranks


def _as_frame(
    retriever: BaseRetriever,
    samples: Samples,
    positions: np.ndarray,
    reasons: Reasons,
    n_reasons: int | None,
) -> pd.DataFrame:
    schema = retriever.schema_
    query, column, reason, contribution, labels = reasons
    is_shown = positions[query, column] >= 0
    if n_reasons is not None:
        is_shown &= contribution > 0
    index = np.flatnonzero(is_shown)
    order = index[np.lexsort((-contribution[index], column[index], query[index]))]
    if n_reasons is not None:
        key = query[order] * positions.shape[1] + column[order]
        order = order[np.arange(len(order)) - np.searchsorted(key, key) < n_reasons]
    query, reason = query[order], reason[order]
    is_item = reason >= 0
    ids: Any = schema.items.decode(np.where(is_item, reason, -1) + FIRST_KNOWN)
    kind = np.full(len(order), "history", dtype=object)
    if not is_item.all():
        ids = ids.astype(object)
        kinds_and_names = [labels[-1 - number] for number in reason[~is_item]]
        kind[~is_item] = [name for name, _ in kinds_and_names]
        ids[~is_item] = [label for _, label in kinds_and_names]
    return pd.DataFrame(
        {
            schema.user: samples.original_users().iloc[query].reset_index(drop=True),
            schema.item: schema.items.decode(positions[query, column[order]] + FIRST_KNOWN),
            "reason": ids,
            "kind": kind.astype(str),
            "contribution": contribution[order],
        }
    )


def leave_one_out(retriever: BaseRetriever, samples: Samples, positions: np.ndarray) -> Reasons:
    """Return how much each item of the history and each feature adds to the scores of items."""
    no_filter = ItemFilter()
    scores = retriever._score_items(samples, positions, no_filter)
    longest = int((samples.stop - samples.start).max(initial=0))
    features = [feature.name for feature in samples.schema.user_features]
    size = max(1, BLOCK_QUERIES // (longest + len(features) + 1))
    parts = []
    for start in range(0, len(samples), size):
        rows = np.arange(start, min(start + size, len(samples)))
        query, reason, without = _without_each(samples.gather(rows))
        query = rows[query]
        score_without = retriever._score_items(without, positions[query], no_filter)
        score_without[retriever._source_of(without) == POPULARITY] = 0
        parts.append((query, reason, scores[query] - score_without))
    query, reason, contribution = (np.concatenate(part) for part in zip(*parts, strict=True))
    row, column = np.indices(contribution.shape).reshape(2, -1)
    labels: list[tuple[str, Hashable]] = [("feature", name) for name in features]
    return Reasons(query[row], column, reason[row], contribution.ravel(), labels)


def _without_each(samples: Samples) -> tuple[np.ndarray, np.ndarray, Samples]:
    """Return for each query and reason the query's index, the reason, and the query without it."""
    index, offsets = concatenate_ranges(samples.start, samples.stop)
    events = pd.DataFrame(
        {
            "query": np.repeat(np.arange(len(samples)), np.diff(offsets)),
            "reason": samples.log.items[index].astype(np.int64) - FIRST_KNOWN,
        }
    )
    pairs = [events[events["reason"] >= 0].drop_duplicates().to_numpy()]
    columns = samples.user_columns()
    for number, column in enumerate(columns.values()):
        rows_with_value = np.flatnonzero(is_known(column))
        pairs.append(
            np.stack([rows_with_value, np.full(len(rows_with_value), -1 - number)], axis=1)
        )
    query, reason = np.concatenate(pairs).T

    index, offsets = concatenate_ranges(samples.start[query], samples.stop[query])
    items = samples.log.items[index]
    is_kept = items != np.repeat(np.where(reason < 0, -1, reason + FIRST_KNOWN), np.diff(offsets))
    bounds = np.concatenate([[0], np.cumsum(is_kept)])[offsets]
    start, stop = bounds[:-1], bounds[1:]
    features = {}
    for number, (name, column) in enumerate(columns.items()):
        values = gather_rows(column, query)
        features[name] = where_rows(reason == -1 - number, _unknown_like(values), values)
    visit = None
    if samples.visit is not None:  # whether the query begins a visit stays as it is
        visit = stop - (samples.visit < samples.stop)[query]
    without = replace(
        samples.gather(query),
        log=samples.log.gather(index[is_kept]), seen=start, start=start, stop=stop, visit=visit,
        event_stop=None, features=features,
    )  # fmt: skip
    return query, reason, without


def _unknown_like(column: Any) -> Any:
    if isinstance(column, RaggedArray):
        return RaggedArray(column.values[:0], np.zeros_like(column.offsets))
    return np.full_like(column, UNKNOWN if column.dtype.kind == "i" else np.nan)


def reasons_without_label(kind: str, scores: np.ndarray, rows: np.ndarray) -> Reasons:
    """Return scores of the given queries, (n_queries, n_wanted), as reasons of a kind."""
    query, column = np.indices(scores.shape).reshape(2, -1)
    reason = np.full(len(query), -1)
    return Reasons(rows[query], column, reason, scores.ravel(), [(kind, None)])


def joined(reasons: Reasons, further: Reasons) -> Reasons:
    """Return the reasons with further reasons after them."""
    reason = np.where(further.reason < 0, further.reason - len(reasons.labels), further.reason)
    return Reasons(
        np.concatenate([reasons.query, further.query]),
        np.concatenate([reasons.column, further.column]),
        np.concatenate([reasons.reason, reason]),
        np.concatenate([reasons.contribution, further.contribution]),
        reasons.labels + further.labels,
    )


def only(positions: np.ndarray) -> ItemFilter:
    """Return a filter that allows only the items at given positions of each query; -1 is none."""
    starts = np.arange(len(positions)) * positions.shape[1]
    codes = positions.ravel() + FIRST_KNOWN
    lists = ItemLists(codes, starts, starts + positions.shape[1])
    return ItemFilter(candidates=lists, has_candidates=np.ones(len(positions), dtype=bool))


def batches(n_rows: int, width: int) -> Iterator[np.ndarray]:
    """Return the indices of rows, in batches of so many that width times them stays small."""
    size = max(1, BLOCK_SCORES // 16 // max(width, 1))
    for start in range(0, n_rows, size):
        yield np.arange(start, min(start + size, n_rows))
