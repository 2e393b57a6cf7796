"""`Model`: a saved pipeline that answers batches of queries, each as if it were alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skmatch import persistence
from skmatch._columns import FIRST_KNOWN
from skmatch._data import HISTORY, history_name
from skmatch._validation import unwrap_searches
from skmatch.neighbors import ItemFilter, ItemLists
from skmatch.serve._requests import Event, Query, RequestError, invalid
from skmatch.serve._values import FeatureReader, TimeReader, ValueReader


class Model:
    """A fitted pipeline or retriever, and how it reads requests.

    The estimator may be changed by `observe` in another thread: a batch reads one state of it.
    """

    def __init__(self, estimator: Any, version: str):
        estimator = unwrap_searches(estimator)
        if not hasattr(estimator, "recommend"):
            raise ValueError(
                f"The model is a {type(estimator).__name__}, which has no recommend: save a fitted "
                "MatchPipeline or retriever."
            )
        check_is_fitted(estimator)
        self.estimator, self.version = estimator, version
        schema = estimator.schema_
        self.users, self.items = ValueReader(schema.users), ValueReader(schema.items)
        for role, reader in (("user", self.users), ("item", self.items)):
            if reader.kind in ("", "booleans"):
                raise ValueError(
                    f"The ids in the {role} column {getattr(schema, role)!r} are of a type that "
                    "JSON does not have: convert them to text or integers before fit."
                )
        self.time = TimeReader(schema)
        self.features = {str(one.name): FeatureReader(one) for one in schema.user_features}
        self.event_features = {str(one.name): FeatureReader(one) for one in schema.event_features}
        first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
        if not hasattr(first, "schema_"):
            raise ValueError(
                f"The pipeline begins with a {type(first).__name__}: only pipelines that begin "
                "with a MatchEncoder are served. Transform the events before fit, or pass a "
                "transformer of a feature to MatchEncoder."
            )
        known = schema.users.decode(np.array([FIRST_KNOWN])).tolist()[0]
        (answer,) = self.recommend([Query(user=known)])  # builds what is built lazily
        if isinstance(answer, Exception):
            raise ValueError(f"The model cannot recommend: {answer}") from answer

    @classmethod
    def load(cls, path: Path) -> Model:
        """Load a file of `persistence.save`."""
        with open(path, "rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        return cls(persistence.load(path), version)

    @property
    def can_observe(self) -> bool:
        return hasattr(self.estimator, "observe")

    def recommend(self, queries: Sequence[Query]) -> list[dict[str, Any] | Exception]:
        """Return the answer or the error of each query; those with the same `k` share a search."""
        answers: dict[int, dict[str, Any] | Exception] = {}
        groups = defaultdict(list)
        for number, query in enumerate(queries):
            try:
                self._check(query)
            except RequestError as error:
                answers[number] = error
            else:
                groups[query.k, query.exclude_seen, query.time is None].append(number)
        for numbers in groups.values():
            found = self._each([queries[number] for number in numbers], self._recommend)
            answers.update(zip(numbers, found, strict=True))
        return [answers[number] for number in range(len(queries))]

    def observe(self, requests: Sequence[list[Event]]) -> list[dict[str, Any] | Exception]:
        """Add the events of requests to the histories; return the answer or error of each."""
        answers: dict[int, dict[str, Any] | Exception] = {}
        valid = []
        for number, events in enumerate(requests):
            try:
                for row, event in enumerate(events):
                    self._check_event(f"events[{row}]", event)
            except RequestError as error:
                answers[number] = error
            else:
                valid.append(number)
        found = self._each([requests[number] for number in valid], self._observe)
        answers.update(zip(valid, found, strict=True))
        return [answers[number] for number in range(len(requests))]

    def _each(self, requests: list[Any], respond: Any) -> list[Any]:
        """Respond to all requests at once or, if that fails, to each alone."""
        if not requests:
            return []
        try:
            return cast(list, respond(requests))
        except Exception as error:
            if len(requests) > 1:
                return [answer for one in requests for answer in self._each([one], respond)]
            # The messages of ValueErrors name the remedy; other errors are faults of the service.
            return [invalid(None, str(error)) if isinstance(error, ValueError) else error]

    def _check(self, query: Query) -> None:
        """Raise if the model does not know a feature, or the type of a value."""
        if query.user is not None:
            self.users.check("user", query.user)
        for name in ("history", "candidates", "exclude"):
            for value in getattr(query, name) or ():
                self.items.check(name, value)
        if query.time is not None:
            self.time.read("time", query.time)
        _check_features("features", query.features, self.features)
        for name, values in query.history_features.items():
            _check_name("history_features", name, self.event_features)
            for value in values:
                if value is not None:
                    self.event_features[name].check(f"history_features.{name}", value)
            if len(values) != len(query.history or ()):
                raise invalid(
                    f"history_features.{name}",
                    f"history_features.{name} has {len(values)} values and history "
                    f"{len(query.history or ())} items: send one value per item.",
                )

    def _check_event(self, path: str, event: Event) -> None:
        self.users.check(f"{path}.user", event.user)
        self.items.check(f"{path}.item", event.item)
        for reader, value, role in (
            (self.users, event.user, "user"),
            (self.items, event.item, "item"),
        ):
            if reader.exact([value]) == [None]:
                raise invalid(f"{path}.{role}", f"{path}.{role} is beyond 64 bits.")
        if event.time is not None:
            self.time.read(f"{path}.time", event.time)
        elif self.time.kind is not None:
            raise invalid(f"{path}.time", f"{path}.time is missing; add the time of the event.")
        _check_features(f"{path}.features", event.features, self.features | self.event_features)

    def _recommend(self, queries: list[Query]) -> list[dict[str, Any]]:
        retriever, samples = self.estimator._read(self._frame(queries))
        schema, first = retriever.schema_, queries[0]
        allowed = retriever._read_filter(samples, first.exclude_seen)
        unknown: list[dict[str, int]] = [{} for _ in queries]
        lists = {}
        for name in (HISTORY, "candidates", "exclude"):
            rows = [getattr(query, name) or [] for query in queries]
            lengths = np.array([len(row) for row in rows])
            if lengths.any():
                codes = schema.items.lookup(self.items.column([*chain.from_iterable(rows)]))
                stop = np.cumsum(lengths)
                lists[name] = ItemLists(codes, stop - lengths, stop)
                for row in np.flatnonzero(lengths):
                    own = codes[stop[row] - lengths[row] : stop[row]]
                    if count := int((own < FIRST_KNOWN).sum()):
                        unknown[row][name] = count
        if "candidates" in lists:
            has_candidates = np.array([query.candidates is not None for query in queries])
            allowed = allowed._replace(
                candidates=lists["candidates"], has_candidates=has_candidates
            )
        if "exclude" in lists:
            allowed = allowed._replace(exclude=(*allowed.exclude, lists["exclude"]))
        return self._search(retriever, samples, first.k, allowed, unknown)

    def _search(
        self, retriever: Any, samples: Any, k: int, allowed: ItemFilter, unknown: list
    ) -> list[dict[str, Any]]:
        positions, scores, source = retriever._search(samples, k, allowed)
        found = positions >= 0
        items = retriever.schema_.items.decode(positions[found] + FIRST_KNOWN).tolist()
        values, stops = scores[found].tolist(), np.cumsum(found.sum(1)).tolist()
        answers, start = [], 0
        for own_source, stop, own_unknown in zip(source.tolist(), stops, unknown, strict=True):
            answer = {
                "items": items[start:stop],
                "scores": values[start:stop],
                "source": own_source if stop > start else None,
                "model": self.version,
            }
            if own_unknown:
                answer["unknown"] = own_unknown
            answers.append(answer)
            start = stop
        return answers

    def _frame(self, queries: list[Query]) -> pd.DataFrame:
        """Return the queries as a table; a missing cell stands for what is stored."""
        schema = self.estimator.schema_
        columns: dict[Any, pd.Series] = {
            schema.user: self.users.column([query.user for query in queries])
        }
        if queries[0].time is not None:
            columns[schema.time] = self._times([query.time for query in queries])
        columns |= _feature_columns([query.features for query in queries], self.features)
        if any(query.history is not None for query in queries):
            columns[HISTORY] = pd.Series(
                [None if q.history is None else self.items.exact(q.history) for q in queries],
                dtype=object,
            )
            names = set(chain.from_iterable(query.history_features for query in queries))
            for name in names:
                missing = [[None] * len(query.history or ()) for query in queries]
                cells = [
                    query.history_features.get(name, own)
                    for query, own in zip(queries, missing, strict=True)
                ]
                label = history_name(self.event_features[name].feature.name)
                columns[label] = pd.Series(cells, dtype=object)
        return pd.DataFrame(columns)

    def _observe(self, requests: list[list[Event]]) -> list[dict[str, Any]]:
        schema, events = self.estimator.schema_, [*chain.from_iterable(requests)]
        columns = {
            schema.user: self.users.column([event.user for event in events]),
            schema.item: self.items.column([event.item for event in events]),
        }
        if self.time.kind is not None:
            columns[schema.time] = self._times([event.time for event in events])
        readers = self.features | self.event_features
        columns |= _feature_columns([event.features for event in events], readers)
        self.estimator.observe(pd.DataFrame(columns))
        return [{"observed": len(events), "model": self.version} for events in requests]

    def _times(self, values: list[Any]) -> pd.Series:
        return self.time.column([self.time.read("time", value) for value in values])


def _check_name(path: str, name: str, readers: dict[str, FeatureReader]) -> None:
    if name not in readers:
        known = ", ".join(readers) or "none"
        raise invalid(f"{path}.{name}", f"{name!r} is no feature of the model, which has: {known}.")


def _check_features(path: str, features: dict[str, Any], readers: dict[str, FeatureReader]) -> None:
    for name, value in features.items():
        _check_name(path, name, readers)
        readers[name].check(f"{path}.{name}", value)


def _feature_columns(
    rows: list[dict[str, Any]], readers: dict[str, FeatureReader]
) -> dict[Any, pd.Series]:
    names = set(chain.from_iterable(rows))
    return {
        readers[name].feature.name: readers[name].column([row.get(name) for row in rows])
        for name in names
    }
