"""`Model`: responds to batches of queries, each as if it were alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skmatch._arrays import FIRST_KNOWN
from skmatch._item_filter import ItemFilter, ItemLists
from skmatch.serve._requests import Event, Query, RequestError, invalid
from skmatch.serve._values import FeatureReader, TimeReader, ValueReader

# Positions, scores and sources of the best items, as of `BaseRetriever._search`.
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


class CodedQueries(NamedTuple):
    """Queries that a model has read, and the functions to search; all of the same state."""

    lookup: Callable[[list], np.ndarray]  # codes of item ids
    allowed: ItemFilter  # with `exclude_seen`, without seen items
    search: Callable[[int, ItemFilter], Found]
    decode: Callable[[np.ndarray], list]  # item ids of positions


class Model(ABC):
    """Base class of models: checks requests, and groups the queries that share a search."""

    version: str  # identifies the file
    can_observe = False
    k: int  # of queries without `k`
    exclude_seen: bool  # of queries without `exclude_seen`
    users: ValueReader
    items: ValueReader
    time: TimeReader
    features: dict[str, FeatureReader]
    event_features: dict[str, FeatureReader]

    @abstractmethod
    def _read(self, queries: list[Query], exclude_seen: bool) -> CodedQueries:
        """Read queries, all with a time or all without."""

    def _observe(self, events: list[Event]) -> None:
        raise NotImplementedError

    def _try_out(self, users: list[Any]) -> None:
        """Raise if the model cannot be served; recommend once, which builds lazy attributes."""
        for role, reader in (("users", self.users), ("items", self.items)):
            if not reader.has_ids:
                raise ValueError(
                    f"The ids of {role} are of a type that JSON does not have: convert them to "
                    "text or integers before fit."
                )
        (response,) = self.recommend([Query(user=users[0] if users else None)])
        if isinstance(response, Exception):
            raise ValueError(f"The model cannot recommend: {response}") from response

    def recommend(self, queries: Sequence[Query]) -> list[dict[str, Any] | Exception]:
        """Return the response or error of each query; queries with the same `k` share a search."""
        responses: dict[int, dict[str, Any] | Exception] = {}
        groups = defaultdict(list)
        for number, query in enumerate(queries):
            try:
                self._check(query)
            except RequestError as error:
                responses[number] = error
            else:
                k = self.k if query.k is None else query.k
                leave_out = self.exclude_seen if query.exclude_seen is None else query.exclude_seen
                groups[k, leave_out, query.time is None].append(number)
        for (k, exclude_seen, _), numbers in groups.items():
            respond = partial(self._recommend, k, exclude_seen)
            group_responses = _each([queries[number] for number in numbers], respond)
            responses.update(zip(numbers, group_responses, strict=True))
        return [responses[number] for number in range(len(queries))]

    def observe(self, requests: Sequence[list[Event]]) -> list[dict[str, Any] | Exception]:
        """Add the events of requests to the histories; return the response or error of each."""
        responses: dict[int, dict[str, Any] | Exception] = {}
        valid = []
        for number, events in enumerate(requests):
            try:
                for row, event in enumerate(events):
                    self._check_event(f"events[{row}]", event)
            except RequestError as error:
                responses[number] = error
            else:
                valid.append(number)

        def respond(requests: list[list[Event]]) -> list[dict[str, Any]]:
            self._observe([*chain.from_iterable(requests)])
            return [{"observed": len(events), "model": self.version} for events in requests]

        valid_responses = _each([requests[number] for number in valid], respond)
        responses.update(zip(valid, valid_responses, strict=True))
        return [responses[number] for number in range(len(requests))]

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
        ids = {"user": (self.users, event.user), "item": (self.items, event.item)}
        for role, (reader, value) in ids.items():
            reader.check(f"{path}.{role}", value)
            if reader.exact([value]) == [None]:
                raise invalid(f"{path}.{role}", f"{path}.{role} is beyond 64 bits.")
        if event.time is not None:
            self.time.read(f"{path}.time", event.time)
        elif self.time.kind is not None:
            raise invalid(f"{path}.time", f"{path}.time is missing; add the time of the event.")
        _check_features(f"{path}.features", event.features, self.features | self.event_features)

    def _recommend(self, k: int, exclude_seen: bool, queries: list[Query]) -> list[dict[str, Any]]:
        coded = self._read(queries, exclude_seen)
        allowed = coded.allowed
        unknown: list[dict[str, int]] = [{} for _ in queries]
        for name in ("history", "candidates", "exclude"):
            rows = [getattr(query, name) or [] for query in queries]
            lengths = np.array([len(row) for row in rows])
            if not lengths.any():
                continue
            codes = coded.lookup([*chain.from_iterable(rows)])
            stop = np.cumsum(lengths)
            lists = ItemLists(codes, stop - lengths, stop)
            for row in np.flatnonzero(lengths):
                if count := int((codes[lists.start[row] : stop[row]] < FIRST_KNOWN).sum()):
                    unknown[row][name] = count
            if name == "candidates":
                allowed = allowed._replace(candidates=lists, has_candidates=lengths > 0)
            elif name == "exclude":
                allowed = allowed._replace(exclude=(*allowed.exclude, lists))
        positions, scores, source = coded.search(k, allowed)
        is_item = positions >= 0
        items, values = coded.decode(positions[is_item]), scores[is_item].tolist()
        responses, first = [], 0
        bounds = np.cumsum(is_item.sum(1)).tolist()
        for query_source, last, query_unknown in zip(source.tolist(), bounds, unknown, strict=True):
            response = {
                "items": items[first:last],
                "scores": values[first:last],
                "source": query_source if last > first else None,
                "model": self.version,
            }
            if query_unknown:
                response["unknown"] = query_unknown
            responses.append(response)
            first = last
        return responses

    def _columns(self, queries: list[Query]) -> dict[Any, list]:
        """Return the columns of features and histories; None stands for the stored value."""
        columns = feature_columns([query.features for query in queries], self.features)
        if any(query.history is not None for query in queries):
            columns["history"] = [
                None if query.history is None else self.items.exact(query.history)
                for query in queries
            ]
            for name in set(chain.from_iterable(query.history_features for query in queries)):
                reader = self.event_features[name]
                columns[f"history_{reader.label}"] = [
                    reader.exact(query.history_features[name])
                    if name in query.history_features
                    else [None] * len(query.history or ())
                    for query in queries
                ]
        return columns


def load_model(path: Path) -> Model:
    """Load a file of `persistence.save`, or a folder of `export.to_onnx`."""
    # Imported here: neither kind of model needs the packages of the other.
    if path.is_dir():
        from skmatch.serve._exported import ExportedModel

        return ExportedModel.load(path)
    from skmatch.serve._pipeline import PipelineModel

    return PipelineModel.load(path)


def feature_columns(
    rows: list[dict[str, Any]], readers: dict[str, FeatureReader]
) -> dict[Any, list]:
    """Return the features of rows as columns; None where a row has no value."""
    names = set(chain.from_iterable(rows))
    return {
        readers[name].label: readers[name].exact([row.get(name) for row in rows]) for name in names
    }


def _each(requests: list[Any], respond: Callable[[list], list]) -> list[Any]:
    """Respond to all requests at once or, if that fails, to each alone."""
    if not requests:
        return []
    try:
        return respond(requests)
    except Exception as error:
        if len(requests) > 1:
            return [response for request in requests for response in _each([request], respond)]
        # The messages of ValueErrors name the remedy; other errors are faults of the service.
        return [invalid(None, str(error)) if isinstance(error, ValueError) else error]


def _check_name(path: str, name: str, readers: dict[str, FeatureReader]) -> None:
    if name not in readers:
        names = ", ".join(readers) or "none"
        raise invalid(f"{path}.{name}", f"{name!r} is no feature of the model, which has: {names}.")


def _check_features(path: str, features: dict[str, Any], readers: dict[str, FeatureReader]) -> None:
    for name, value in features.items():
        _check_name(path, name, readers)
        readers[name].check(f"{path}.{name}", value)
