"""Queries: tables of users, times, histories and features as codes."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skmatch._arrays import (
    FIRST_KNOWN,
    Columns,
    any_known,
    concatenate_ranges,
    count_before,
    gather_rows,
    is_known,
    is_missing,
    reject_sets,
)
from skmatch.runtime._features import Feature, Timeline, split_cell
from skmatch.runtime._files import Files
from skmatch.runtime._vocabulary import Vocabulary, nanoseconds, object_array

HISTORY, FEATURES, POPULARITY = "history", "features", "popularity"  # sources of recommendations


@dataclass(frozen=True)
class Queries:
    """Coded queries; the history of query `i` is ``log[start[i]:stop[i]]``, oldest first."""

    users: np.ndarray  # as the caller wrote them
    user: np.ndarray  # codes
    log: np.ndarray  # codes of items
    seen: np.ndarray  # log[seen[i]:stop[i]] holds all seen items of the user
    start: np.ndarray
    stop: np.ndarray
    begins_visit: np.ndarray | None  # None: the model knows no visits
    time: np.ndarray | None = None  # None: all queries are as of now
    features: Columns = field(default_factory=dict)  # of users
    log_features: dict[Any, np.ndarray] = field(default_factory=dict)  # values of the log's events

    def __len__(self) -> int:
        return len(self.user)

    def gather(self, rows: np.ndarray) -> Queries:
        """Return some of the queries."""
        return replace(
            self,
            users=self.users[rows],
            user=self.user[rows],
            seen=self.seen[rows],
            start=self.start[rows],
            stop=self.stop[rows],
            time=None if self.time is None else self.time[rows],
            begins_visit=None if self.begins_visit is None else self.begins_visit[rows],
            features={name: gather_rows(column, rows) for name, column in self.features.items()},
        )

    def source(self) -> np.ndarray:
        """Return the best available source of recommendations for each query."""
        has_history = any_known(self.log, self.start, self.stop)
        has_feature = np.zeros(len(self), dtype=bool)
        for column in self.features.values():
            has_feature |= is_known(column)
        return np.where(has_history, HISTORY, np.where(has_feature, FEATURES, POPULARITY))


class QueryReader:
    """Reads queries as `MatchEncoder` and `SequenceSampler` do, from lists and dicts."""

    def __init__(self, files: Files, items: Vocabulary):
        manifest = files.manifest
        self.columns, self.time_kind = manifest["columns"], manifest["time_kind"]
        delimiter = self.delimiter = manifest["delimiter"]
        self.users, self.items = Vocabulary(files.text(manifest["users"])), items
        entries = manifest["user_features"]
        self.features = [Feature(entry, files, delimiter) for entry in entries]
        self.timelines = [Timeline(entry["timeline"], files) for entry in entries]
        entries = manifest["event_features"]
        self.event_features = [Feature(entry, files, delimiter) for entry in entries]
        self.max_length, self.pause = manifest["max_length"], manifest["visit_pause"]
        histories = manifest["histories"]
        self.has_histories = histories is not None
        self.log, self.times = np.empty(0, dtype=np.int32), None
        self.offsets = np.zeros(len(self.users) + 1, dtype=np.int64)
        self.log_features = {feature.name: feature.missing(0) for feature in self.event_features}
        if histories is not None:
            self.log, self.offsets = (files.array(histories[name]) for name in ("items", "offsets"))
            if histories["times"] is not None:
                self.times = files.array(histories["times"])
            names = [feature.name for feature in self.event_features]
            arrays = map(files.array, histories["features"])
            self.log_features = dict(zip(names, arrays, strict=True))

    @property
    def names(self) -> list:
        """Names of the columns that queries are read from."""
        time = [] if self.columns["time"] is None else [self.columns["time"]]
        event_columns = [f"{HISTORY}_{feature.name}" for feature in self.event_features]
        features = [feature.name for feature in self.features]
        return [self.columns["user"], *time, HISTORY, *event_columns, *features]

    def read(self, X: Any) -> Queries:
        """Return queries in any accepted form as codes."""
        table = self._table(X)
        users = table[self.columns["user"]]
        user = self.users.lookup(users, self.columns["user"])
        time = self._times(table)
        features: Columns = {}
        for feature, timeline in zip(self.features, self.timelines, strict=True):
            if feature.name in table:
                cells = feature.encode(table[feature.name])
                features[feature.name] = timeline.known_at(user, time, *cells)
            else:
                features[feature.name] = timeline.at(user, time)
        first_event, stop = self.offsets[user], self.offsets[user + 1]
        if time is not None and self.times is not None:
            stop = count_before(self.times, first_event, stop, time)
        shared: dict[str, Any] = {
            "users": _ids(users), "user": user, "time": time, "features": features
        }  # fmt: skip
        begins_visit = self._begins_visit(first_event, stop, time)
        histories = table.get(HISTORY)
        self._require_histories(users, user, histories)
        if histories is not None:
            return self._with_histories(table, first_event, stop, begins_visit, shared)
        start = np.maximum(first_event, stop - self.max_length)
        return Queries(
            log=self.log, seen=first_event, start=start, stop=stop, begins_visit=begins_visit,
            log_features=self.log_features, **shared,
        )  # fmt: skip

    def _table(self, X: Any) -> dict[Any, list]:
        """Return queries as columns; raise if a column is missing, unknown or of another length."""
        user = self.columns["user"]
        if X is None:
            return {user: as_list(self.users.values, "X")}
        if isinstance(X, Mapping):
            table = {
                name: as_list(values, f"The column {name!r} of X") for name, values in X.items()
            }
        else:
            rows = as_list(X, "X")
            table = {user: rows}
            if rows and all(isinstance(row, Mapping) for row in rows):
                names = list(dict.fromkeys(name for row in rows for name in row))
                table = {name: [row.get(name) for row in rows] for name in names}
        columns = {*self.names, *self.columns["unread"]}
        for name in table:
            if name not in columns:
                raise ValueError(
                    f"X has the column {name!r}, which the model does not know: queries have the "
                    f"columns {', '.join(map(repr, self.names))}. Correct its name, or drop it."
                )
        if user not in table:
            raise ValueError(
                f"The user column {user!r} is missing; X has "
                f"{', '.join(map(repr, table)) or 'no columns'}. In a query of an unknown user, it "
                "holds None or any new id."
            )
        lengths = {len(values) for values in table.values()}
        if len(lengths) > 1:
            sizes = ", ".join(f"{name!r} {len(values)}" for name, values in table.items())
            raise ValueError(
                f"The columns of X differ in length ({sizes}): pass one value per row."
            )
        for feature in self.event_features:
            name = f"{HISTORY}_{feature.name}"
            if name in table and HISTORY not in table:
                raise ValueError(
                    f"X has the column {name!r} without a column {HISTORY!r}, whose items it "
                    f"describes: add {HISTORY!r}, or drop {name!r}."
                )
        return table

    def _times(self, table: dict[Any, list]) -> np.ndarray | None:
        """Return the times of queries, nanoseconds of datetimes; a missing time is the latest."""
        name = self.columns["time"]
        if name is None or name not in table:
            return None
        values, kind = table[name], self.time_kind
        missing = [is_missing(value) for value in values]
        if all(missing):
            return np.full(len(values), np.inf)
        numbers: list = []
        for value, is_absent in zip(values, missing, strict=True):
            number = None if is_absent else _time(value, kind)
            if number is None and not is_absent:
                kinds = {"number": "a number", "datetime": "a datetime without time zone"}
                raise ValueError(
                    f"The time column {name!r} holds {value!r}, and in fit it held a {kind}: pass "
                    f"{kinds.get(kind, 'a datetime with a time zone')}."
                )
            numbers.append(number)
        if all(number is None or isinstance(number, int) for number in numbers):
            latest = np.iinfo(np.int64).max
            if all(number is None or abs(number) <= latest for number in numbers):
                return np.array(
                    [latest if number is None else number for number in numbers], dtype=np.int64
                )
            if kind != "number":
                raise ValueError(
                    f"The time column {name!r} holds a time outside the range of nanoseconds in 64 "
                    "bits: use times from 1678 to 2261."
                )
        return np.array(
            [math.inf if number is None else number for number in numbers], dtype=np.float64
        )

    def _begins_visit(
        self, first_event: np.ndarray, stop: np.ndarray, time: np.ndarray | None
    ) -> np.ndarray | None:
        """Return which queries begin a visit: they have no time, or follow a pause."""
        if self.pause is None:
            return None
        if time is None or self.times is None or not len(self.times):
            return np.ones(len(first_event), dtype=bool)
        last_event = np.maximum(stop - 1, 0)
        return (stop <= first_event) | (self.times[last_event] <= time - self.pause)

    def _require_histories(self, users: list, user: np.ndarray, histories: list | None) -> None:
        if self.has_histories:
            return
        for row in np.flatnonzero(user >= FIRST_KNOWN):
            if histories is None or is_missing(histories[row]):
                raise ValueError(
                    f"The query of the user {users[row]!r} has no {HISTORY!r}, and the folder "
                    f"holds no histories: pass a column {HISTORY!r} of lists of items, or export "
                    "with histories=True."
                )

    def _with_histories(
        self,
        table: dict[Any, list],
        first_event: np.ndarray,
        stop: np.ndarray,
        begins_visit: np.ndarray | None,
        shared: dict[str, Any],
    ) -> Queries:
        """Return queries with the histories in `table`; the stored events still count as seen."""
        cells = table[HISTORY]
        has_history = np.array([not is_missing(cell) for cell in cells], dtype=bool)
        reject_sets(cells, HISTORY)
        lists = [split_cell(cell, self.delimiter, HISTORY) for cell in cells]
        length = np.array([len(cell) for cell in lists], dtype=np.int64)
        items = self.items.lookup([item for cell in lists for item in cell], HISTORY)
        end = np.cumsum(stop - first_event + length)
        seen = end - length - (stop - first_event)
        stored, _ = concatenate_ranges(first_event, stop)
        to_stored, _ = concatenate_ranges(seen, end - length)
        to_query, _ = concatenate_ranges(end - length, end)

        def joined(log_values: np.ndarray, query_values: np.ndarray) -> np.ndarray:
            column = np.empty(len(stored) + len(query_values), dtype=log_values.dtype)
            column[to_stored], column[to_query] = log_values[stored], query_values
            return column

        log_features = {
            feature.name: joined(
                self.log_features[feature.name], self._of_histories(feature, table, lists)
            )
            for feature in self.event_features
        }
        start = np.where(has_history, end - length, seen)
        if begins_visit is not None:  # a history in the query is the history of its visit
            begins_visit = np.where(has_history, length == 0, begins_visit)
        return Queries(
            log=joined(self.log, items), seen=seen, stop=end, begins_visit=begins_visit,
            start=np.maximum(end - self.max_length, start), log_features=log_features, **shared,
        )  # fmt: skip

    def _of_histories(self, feature: Feature, table: dict[Any, list], lists: list) -> Any:
        """Return a feature of the events in the histories that queries provide."""
        name = f"{HISTORY}_{feature.name}"
        if name not in table:
            return feature.missing(sum(map(len, lists)))
        reject_sets(table[name], name)
        values = [split_cell(cell, self.delimiter, name) for cell in table[name]]
        for row, (cell_values, items) in enumerate(zip(values, lists, strict=True)):
            if len(cell_values) != len(items):
                raise ValueError(
                    f"The column {name!r} does not hold one value for each item of {HISTORY!r} in "
                    f"row {row}: pass lists of equal length, with None for what is unknown."
                )
        return feature.encode([value for cell_values in values for value in cell_values])[0]


def as_list(values: Any, name: str) -> list:
    """Return a list of the elements of an array, a list or a tuple."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return list(values) if values.dtype.kind in "mM" else values.tolist()
    if isinstance(values, (list, tuple)):
        return list(values)
    raise TypeError(
        f"{name} is a {type(values).__name__}: pass a list or an array, also for a single value. "
        "Queries are a list of user ids, a list of dicts, or a dict of columns, such as "
        "frame.to_dict('list') of a DataFrame."
    )


def _ids(values: list) -> np.ndarray:
    """Return ids as an array: integers as int64, all other ids as objects."""
    if values and all(type(value) is int for value in values):
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    return object_array(values)


def _time(value: Any, kind: str) -> int | float | None:
    """Return a time of a kind as a number; None if it is of another kind."""
    zone = getattr(value, "tzinfo", None)
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(
        value, (bool, np.bool_, np.timedelta64)
    )
    if kind == "number":
        return None if not is_number else value.item() if isinstance(value, np.generic) else value
    is_time = isinstance(value, (datetime.datetime, np.datetime64)) and kind != "order"
    if not is_time or (zone is None) == (kind == "zoned datetime"):
        return None
    if hasattr(value, "to_datetime64"):
        value = value.to_datetime64()  # of a pandas.Timestamp, in UTC
    elif zone is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return int(nanoseconds(value))
