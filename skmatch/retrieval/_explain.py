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
BLOCK_QUERIES = 10_000  # queries, each with one reason left out, that are encoded at a time


class Reasons(NamedTuple):
    """What scores are made of: one entry per query, item and reason."""

    query: np.ndarray
    column: np.ndarray  # index of the item among those of the query
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
        for an item that is more popular at the time of the query than over all. Of the rest, a
        contribution is the score less what it is once all events of that item, or that feature,
        are left out; these need not add up. Where nothing else is known of the query, the score
        without the reason counts as 0. For an "item feature" a neural retriever encodes the
        explained item with the feature's value unknown; the items of the history keep theirs.
        Why a member of a fusion values an item is in units of the member's score:
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
        given = None
        if items is not None:
            if k is not None:
                raise ValueError(f"k={k!r} has no effect on given items: set k or items to None.")
            given = known_items(items, retriever.schema_)[1] - FIRST_KNOWN
        frames = []
        for a in range(0, max(len(samples), 1), BLOCK_QUERIES):
            rows = np.arange(a, min(a + BLOCK_QUERIES, len(samples)))
            part, own = samples.gather(rows), allowed.gather(rows)
            if given is None:
                positions = retriever._search(part, k, own)[0]
            else:
                positions = np.tile(given, (len(part), 1))
            reasons = retriever._contributions(part, positions, own)
            frames.append(_as_frame(retriever, part, positions, reasons, n_reasons))
        table = pd.concat(frames, ignore_index=True)
        if not isinstance(in_frame_of(table[:0], X), pd.DataFrame):
            # Only pandas has columns of ids beside labels.
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
        for a in range(0, max(len(samples), 1), size):
            rows = np.arange(a, min(a + size, len(samples)))
            part, own = samples.gather(rows), allowed.gather(rows)
            found = np.tile(np.where(positions < 0, -1, positions), (len(rows), 1))
            scores = retriever._score_items(part, found, own)
            ranking, ranked = retriever._rank_all(part, k, own)
            rank = ranks_of(found, scores, ranking, ranked)
            outcome = np.where(rank <= k, "recommended", "beyond k").astype(object)
            outcome[np.isnan(scores)] = "not retrieved"
            for name, rule in reversed(filters.items()):
                outcome[
                    ~rule.gather(rows)._permits(np.maximum(found, 0), len(retriever.popularity_))
                ] = name
            outcome[found < 0] = "unknown item"
            frame = pd.DataFrame(
                {
                    schema.user: np.repeat(part.original_users().array, len(ids)),
                    schema.item: pd.concat([ids] * len(rows), ignore_index=True),
                    "score": scores.ravel(),
                    "rank": pd.array(rank.ravel(), dtype="Int64"),
                    "outcome": outcome.ravel(),
                }
            )
            frame.loc[np.isnan(scores.ravel()), "rank"] = pd.NA
            frames.append(frame.assign(**retriever._trace_columns(part, found, own)))
        return in_frame_of(pd.concat(frames, ignore_index=True), X)


def ranks_of(
    items: np.ndarray, scores: np.ndarray, ranking: np.ndarray, ranked: np.ndarray
) -> np.ndarray:
    """Return the rank of items in rankings, or the rank that their scores would have."""
    ranks = np.empty(items.shape, dtype=np.int64)
    for row, wanted in enumerate(items):
        is_it = ranking[row] == wanted[:, None]
        better = np.searchsorted(-ranked[row], -scores[row])
        ranks[row] = 1 + np.where(is_it.any(1), is_it.argmax(1), better)
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
    kept = positions[query, column] >= 0
    if n_reasons is not None:
        kept &= contribution > 0
    index = np.flatnonzero(kept)
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
        named = [labels[-1 - number] for number in reason[~is_item]]
        kind[~is_item] = [name for name, _ in named]
        ids[~is_item] = [label for _, label in named]
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
    """Return the scores of items less those without each item of the history or feature."""
    every = ItemFilter()
    scores = retriever._score_items(samples, positions, every)
    longest = int((samples.stop - samples.start).max(initial=0))
    features = [feature.name for feature in samples.schema.user_features]
    size = max(1, BLOCK_QUERIES // (longest + len(features) + 1))
    parts = []
    for a in range(0, len(samples), size):
        rows = np.arange(a, min(a + size, len(samples)))
        query, reason, without = _without_each(samples.gather(rows))
        query = rows[query]
        left = retriever._score_items(without, positions[query], every)
        left[retriever._source_of(without) == POPULARITY] = 0
        parts.append((query, reason, scores[query] - left))
    query, reason, contribution = (np.concatenate(part) for part in zip(*parts, strict=True))
    row, column = np.indices(contribution.shape).reshape(2, -1)
    labels: list[tuple[str, Hashable]] = [("feature", name) for name in features]
    return Reasons(query[row], column, reason[row], contribution.ravel(), labels)


def _without_each(samples: Samples) -> tuple[np.ndarray, np.ndarray, Samples]:
    """Return the queries with one reason left out each, their indices, and the reasons."""
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
        known = np.flatnonzero(is_known(column))
        pairs.append(np.stack([known, np.full(len(known), -1 - number)], axis=1))
    query, reason = np.concatenate(pairs).T

    index, offsets = concatenate_ranges(samples.start[query], samples.stop[query])
    items = samples.log.items[index]
    kept = items != np.repeat(np.where(reason < 0, -1, reason + FIRST_KNOWN), np.diff(offsets))
    bounds = np.concatenate([[0], np.cumsum(kept)])[offsets]
    start, stop = bounds[:-1], bounds[1:]
    features = {}
    for number, (name, column) in enumerate(columns.items()):
        own = gather_rows(column, query)
        features[name] = where_rows(reason == -1 - number, _unknown_like(own), own)
    visit = None
    if samples.visit is not None:  # whether the query begins a visit stays as it is
        visit = stop - (samples.visit < samples.stop)[query]
    without = replace(
        samples.gather(query),
        log=samples.log.gather(index[kept]), seen=start, start=start, stop=stop, visit=visit,
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


def joined(first: Reasons, second: Reasons) -> Reasons:
    """Return the reasons of both."""
    reason = np.where(second.reason < 0, second.reason - len(first.labels), second.reason)
    return Reasons(
        np.concatenate([first.query, second.query]),
        np.concatenate([first.column, second.column]),
        np.concatenate([first.reason, reason]),
        np.concatenate([first.contribution, second.contribution]),
        first.labels + second.labels,
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
    for a in range(0, n_rows, size):
        yield np.arange(a, min(a + size, n_rows))
