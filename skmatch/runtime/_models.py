"""The exported models: how each scores the items of the catalogue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from skmatch._arrays import PADDING, RaggedArray, concatenate_ranges
from skmatch._item_filter import ItemFilter
from skmatch._over_time import CountsOverTime, Moment, moments, shares_of
from skmatch._quantised import Int8Vectors, n_to_rescore, rescored
from skmatch._ranking import (
    LEAST_PRIOR,
    fused_shares,
    list_values,
    merge_lists,
    positive_shares,
    softmax_shares,
    top_k,
    weighted_events,
)
from skmatch.runtime._files import Files
from skmatch.runtime._queries import FEATURES, HISTORY, POPULARITY, Queries

Find = Callable[..., tuple[np.ndarray, np.ndarray]]
BATCH_SIZE = 10_000  # queries that are searched at a time
BLOCK_SCORES = 2**24  # scores that are held at a time: 64 MiB
BLOCK_TOKENS = 2**17  # events of histories that are encoded at a time


class Model(ABC):
    """A model that ranks the items for queries."""

    names: list[str] = []  # of the members of a fusion
    reads_visits = True  # whether scores differ within a visit and at its start

    def __init__(self, entry: dict[str, Any], files: Files):
        self.popularity = files.array(entry["popularity"])
        self.over_time: CountsOverTime | None = None
        self.trend_now: np.ndarray | None = None
        if entry["over_time"] is not None:
            counts = entry["over_time"]
            arrays = [files.array(counts[name]) for name in ("end", "offsets", "items", "counts")]
            latest, n_items = counts["latest"], len(self.popularity)
            self.over_time = CountsOverTime(counts["half_life"], latest, n_items, *arrays)
            if counts["trend"] is not None:
                self.trend_now = files.array(counts["trend"])

    def trend(self, moment: Moment) -> np.ndarray | None:
        """Return the logarithms of the items' trends, (n_items,)."""
        return moment.trend(self.over_time, self.trend_now, self.popularity)

    def popularity_at(self, moment: Moment) -> np.ndarray:
        """Return the popularity of items, (n_items,)."""
        trend = self.trend(moment)
        return self.popularity if trend is None else self.popularity * np.exp(trend)

    @abstractmethod
    def top_k(
        self, queries: Queries, k: int, allowed: ItemFilter, moment: Moment
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions, -1 for none, and scores of the best items of queries of a moment."""

    def at_each_moment(
        self, find: Find, queries: Queries, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions and scores that `find` returns for the queries of each moment."""
        positions = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        begins_visit = queries.begins_visit if self.reads_visits else None
        for moment, rows in moments(self.over_time, queries.time, begins_visit, len(queries)):
            positions[rows], scores[rows] = find(
                queries.gather(rows), k, allowed.gather(rows), moment
            )
        return positions, scores

    def source(self, queries: Queries) -> np.ndarray:
        """Return the source of each query's recommendations."""
        return queries.source()

    def shares(self, scores: np.ndarray) -> np.ndarray:
        """Turn scores, (n_queries, k), into shares of each list."""
        return positive_shares(scores)

    def search(
        self, queries: Queries, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Return positions, scores, source and, of a fusion, which members named each item."""
        k = min(k, len(self.popularity))
        source = self.source(queries)
        positions = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for is_popular in (False, True):
            all_rows = np.flatnonzero((source == POPULARITY) == is_popular)
            for batch_start in range(0, len(all_rows), BATCH_SIZE):
                rows = all_rows[batch_start : batch_start + BATCH_SIZE]
                find = self.most_popular if is_popular else self.top_k
                positions[rows], scores[rows] = self.at_each_moment(
                    find, queries.gather(rows), k, allowed.gather(rows)
                )
        return positions, scores, source, None

    def most_popular(
        self, queries: Queries, k: int, allowed: ItemFilter, moment: Moment
    ) -> tuple[np.ndarray, np.ndarray]:
        popularity = self.popularity_at(moment)

        def scores(start: int, stop: int) -> np.ndarray:
            return np.tile(popularity, (stop - start, 1))

        return best_of(scores, len(queries), len(self.popularity), k, allowed)


def best_of(
    scores: Any, n_queries: int, n_items: int, k: int, allowed: ItemFilter
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best allowed items, given ``scores(start, stop)`` of a range of queries."""
    positions = np.full((n_queries, k), -1, dtype=np.int64)
    best = np.full((n_queries, k), -np.inf, dtype=np.float32)
    size = max(1, BLOCK_SCORES // max(n_items, 1))
    for start in range(0, n_queries, size):
        stop = min(start + size, n_queries)
        block_scores = np.ascontiguousarray(scores(start, stop))
        allowed.apply(block_scores, start)
        positions[start:stop], best[start:stop] = top_k(block_scores, k)
    return positions, best


class PopularityModel(Model):
    """The most frequent items."""

    reads_visits = False
    top_k = Model.most_popular

    def popularity_at(self, moment: Moment) -> np.ndarray:
        return self.popularity if moment.counts is None else shares_of(moment.counts)

    def source(self, queries: Queries) -> np.ndarray:
        return np.full(len(queries), POPULARITY)


class TwoTowerModel(Model):
    """A user tower in ONNX, and the vectors of all items."""

    def __init__(self, entry: dict[str, Any], files: Files, n_threads: int):
        super().__init__(entry, files)
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"The user tower runs in onnxruntime, which is missing ({error}): run "
                "pip install onnxruntime."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self.session = onnxruntime.InferenceSession(
            str(files.path(entry["user_tower"])), options, providers=["CPUExecutionProvider"]
        )
        self.vectors = files.array(entry["item_vectors"])
        self.quantised = None
        if entry["item_codes"] is not None:
            arrays = (files.array(entry[name]) for name in ("item_codes", "item_scales"))
            self.quantised = Int8Vectors(*arrays)
        self.temperature, self.max_length = entry["temperature"], entry["max_length"]
        self.user_inputs, self.event_inputs = entry["user_inputs"], entry["event_inputs"]

    def top_k(
        self, queries: Queries, k: int, allowed: ItemFilter, moment: Moment
    ) -> tuple[np.ndarray, np.ndarray]:
        users, n_items = self.encode(queries), len(self.vectors)
        codes = self.quantised
        trend = self.trend(moment)
        bias = None if trend is None else np.float32(self.temperature) * trend

        def scores(start: int, stop: int) -> np.ndarray:
            out = np.empty((stop - start, n_items), dtype=np.float32)
            if codes is None:
                np.matmul(users[start:stop], self.vectors.T, out=out)
            else:
                codes.inner_products(users[start:stop], out)
            return out if bias is None else np.add(out, bias, out=out)

        if codes is None:
            return best_of(scores, len(users), n_items, k, allowed)

        n_candidates = n_to_rescore(k, n_items)
        candidates, _ = best_of(scores, len(users), n_items, n_candidates, allowed)
        size = max(1, BLOCK_SCORES // (n_candidates * users.shape[1]))
        parts = [
            rescored(
                candidates[start : start + size], users[start : start + size], self.vectors, k, bias
            )
            for start in range(0, len(users), size)
        ]
        positions, best = zip(*parts, strict=True)
        return np.concatenate(positions), np.concatenate(best)

    def shares(self, scores: np.ndarray) -> np.ndarray:
        return softmax_shares(scores / self.temperature)

    def encode(self, queries: Queries) -> np.ndarray:
        """Return the vectors of users, (n_queries, D)."""
        longest = int((queries.stop - queries.start).max(initial=1))
        length = max(1, min(longest, self.max_length))
        size = max(1, BLOCK_TOKENS // length)
        parts = [
            self.session.run(None, self.inputs(queries, slice(start, start + size), length))[0]
            for start in range(0, len(queries), size)
        ]
        return np.concatenate(parts)

    def inputs(self, queries: Queries, rows: slice, length: int) -> dict[str, np.ndarray]:
        """Return the inputs of the user tower for some queries, histories padded on the left."""
        start, stop = queries.start[rows, None], queries.stop[rows, None]
        index = stop - length + np.arange(length)
        inside = index >= start
        index = np.where(inside, index, 0)
        log = queries.log if len(queries.log) else np.zeros(1, dtype=np.int32)
        begins_visit = queries.begins_visit
        inputs = {
            "user": queries.user[rows].astype(np.int64),
            "history": np.where(inside, log[index], PADDING).astype(np.int64),
            "within_visit": np.ones(len(start), dtype=np.int64)
            if begins_visit is None
            else (~begins_visit[rows]).astype(np.int64),
        }
        columns = list(queries.features.values())
        for name, column in zip(self.user_inputs, columns, strict=True):
            inputs[name] = padded(column, rows)
        for name, values in zip(self.event_inputs, queries.log_features.values(), strict=True):
            of_events = values[index] if len(values) else np.zeros(index.shape, dtype=values.dtype)
            inputs[name] = as_input(of_events)
        return inputs


def padded(column: np.ndarray | RaggedArray, rows: slice) -> np.ndarray:
    """Return rows of a feature as an input; codes of several values as a padded matrix."""
    if not isinstance(column, RaggedArray):
        return as_input(column[rows])
    start, stop = column.offsets[:-1][rows, None], column.offsets[1:][rows, None]
    index = start + np.arange(max(1, int((stop - start).max(initial=0))))
    inside = index < stop
    values = column.values if len(column.values) else np.zeros(1, dtype=np.int32)
    return np.where(inside, values[np.where(inside, index, 0)], PADDING).astype(np.int64)


def as_input(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64 if values.dtype.kind == "i" else np.float32)


class ItemToItemModel(Model):
    """The items that most often follow the items of the history."""

    def __init__(self, entry: dict[str, Any], files: Files):
        super().__init__(entry, files)
        names = ("neighbors", "shares", "offsets", "prior")
        self.neighbors, self.values, self.offsets, self.prior = (
            files.array(entry[name]) for name in names
        )
        self.half_life, self.visit_half_life = entry["half_life"], entry["visit_half_life"]

    def top_k(
        self, queries: Queries, k: int, allowed: ItemFilter, moment: Moment
    ) -> tuple[np.ndarray, np.ndarray]:
        trend = self.trend(moment)

        def scores(start: int, stop: int) -> np.ndarray:
            scored = self._scores(queries.gather(np.arange(start, stop)))
            return scored if trend is None else scored * np.exp(trend)

        return best_of(scores, len(queries), len(self.popularity), k, allowed)

    def source(self, queries: Queries) -> np.ndarray:
        source = queries.source()
        return np.where(source == HISTORY, source, POPULARITY)  # features are not read

    def _scores(self, queries: Queries) -> np.ndarray:
        """Return the scores of all items, (n_queries, n_items)."""
        half_life = np.full(len(queries), self.half_life)
        if queries.begins_visit is not None:
            half_life[queries.begins_visit] = self.visit_half_life
        row, item, value = weighted_events(queries.log, queries.start, queries.stop, half_life)
        pairs, offsets = concatenate_ranges(self.offsets[item], self.offsets[item + 1])
        lengths, n_items = np.diff(offsets), len(self.popularity)
        flat = np.repeat(row * n_items, lengths) + self.neighbors[pairs]
        terms = np.repeat(value, lengths) * self.values[pairs]
        shape = len(queries), n_items
        scores = np.bincount(flat, terms, minlength=shape[0] * n_items).reshape(shape)
        prior = np.bincount(row, value * self.prior[item], minlength=len(queries))
        scores += np.maximum(prior, LEAST_PRIOR)[:, None] * self.popularity
        return scores.astype(np.float32)


class FusionModel(Model):
    """Several models whose lists are merged."""

    def __init__(self, entry: dict[str, Any], files: Files, n_threads: int):
        super().__init__(entry, files)
        self.members = [make_model(member, files, n_threads) for member in entry["members"]]
        self.names = [member["name"] for member in entry["members"]]
        self.weights, self.rule = np.array(entry["weights"]), entry["rule"]
        self.n_candidates = entry["n_candidates"]

    def source(self, queries: Queries) -> np.ndarray:
        sources = np.array([member.source(queries) for member in self.members])
        names = (HISTORY, FEATURES, POPULARITY)
        return np.select([(sources == name).any(0) for name in names], names, POPULARITY)

    def shares(self, scores: np.ndarray) -> np.ndarray:
        return fused_shares(self.rule, scores)

    def top_k(
        self, queries: Queries, k: int, allowed: ItemFilter, moment: Moment
    ) -> tuple[np.ndarray, np.ndarray]:
        positions, scores, _ = self._fuse(queries, k, allowed)
        return positions, scores

    def search(
        self, queries: Queries, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        k = min(k, len(self.popularity))
        parts = []
        for start in range(0, max(len(queries), 1), BATCH_SIZE):
            rows = np.arange(start, min(start + BATCH_SIZE, len(queries)))
            parts.append(self._fuse(queries.gather(rows), k, allowed.gather(rows)))
        positions, scores, named = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return positions, scores, self.source(queries), named

    def _fuse(
        self, queries: Queries, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lists = []
        for member in self.members:
            positions, scores, source, _ = member.search(
                queries, max(k, self.n_candidates), allowed
            )
            is_popular = source == POPULARITY
            values = list_values(self.rule, positions, scores, is_popular, member.shares)
            lists.append((positions, values))
        return merge_lists(lists, k, self.weights)


def make_model(entry: dict[str, Any], files: Files, n_threads: int) -> Model:
    """Return the model of an entry of the manifest."""
    if entry["kind"] == "two_tower":
        return TwoTowerModel(entry, files, n_threads)
    if entry["kind"] == "fusion":
        return FusionModel(entry, files, n_threads)
    kinds = {"popularity": PopularityModel, "item_to_item": ItemToItemModel}
    return kinds[entry["kind"]](entry, files)
