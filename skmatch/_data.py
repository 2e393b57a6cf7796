"""The values that pass between the steps: `Schema`, `Events` and `Samples`.

Codes everywhere: 0 is padding, 1 is unknown, known values start at 2. All of these values are
treated as immutable: a step makes a new one and never changes one it was given.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, cast

import numpy as np
import pandas as pd

from skmatch._columns import (
    FIRST_KNOWN,
    PADDING,
    UNKNOWN,
    Column,
    Columns,
    RaggedArray,
    Vocabulary,
    concatenate_ranges,
)

HISTORY = "history"  # the column of the histories that queries bring along, and of decoded ones


def index_dtype(n_events: int) -> type:
    """Give the dtype that places among so many events need."""
    return np.int32 if n_events <= np.iinfo(np.int32).max else np.int64


def gather_rows(column: Column, rows: np.ndarray) -> Column:
    """Give some rows of a column of either form."""
    return column.gather(rows) if isinstance(column, RaggedArray) else column[rows]


def where_rows(condition: np.ndarray, column: Column, other: Column) -> Column:
    """Give the rows of a column where a condition holds, else those of another of its form."""
    if isinstance(column, np.ndarray):
        return np.where(condition, column, cast(np.ndarray, other))
    assert isinstance(other, RaggedArray)
    n_rows = len(condition)
    rows = np.arange(n_rows) + np.where(condition, 0, n_rows)
    return column.concatenate(other).gather(rows)


class _Shared:
    """Copied by reference: frames carry such a value in ``attrs``, which pandas copies deeply."""

    def __deepcopy__(self, memo: dict) -> Self:
        return self


@dataclass(frozen=True, eq=False)
class Feature:
    """What was learnt of a feature's column.

    `kind` is "categorical", "numeric" or "multi_valued"; `vocabulary` belongs to the first and
    last, `mean` and `scale` to the second.
    """

    name: Hashable
    kind: str
    vocabulary: Vocabulary | None = None
    mean: float = 0.0
    scale: float = 1.0

    def extends(self, other: Feature) -> bool:
        """Tell whether the codes and numbers of another mean the same in this one."""
        if self.vocabulary is None or other.vocabulary is None:
            same = (self.mean, self.scale) == (other.mean, other.scale)
        else:
            same = self.vocabulary.extends(other.vocabulary)
        return same and (self.name, self.kind) == (other.name, other.kind)

    @property
    def size(self) -> int:
        """Number of codes; 0 for a numeric feature."""
        return 0 if self.vocabulary is None else len(self.vocabulary)


@dataclass(frozen=True, eq=False, repr=False)
class Schema(_Shared):
    """What a `MatchEncoder` knows: the roles, the ids, the features and their latest values."""

    user: Hashable
    item: Hashable
    time: Hashable | None
    time_kind: str  # "number", "datetime", or "order" where the order of the rows is the time
    users: Vocabulary
    items: Vocabulary
    user_features: tuple[Feature, ...]
    item_features: tuple[Feature, ...]
    user_table: Columns  # one row a code, padding and unknown included
    item_table: Columns
    pending: Vocabulary | None = None  # items that were observed while the catalogue lacked them

    def __repr__(self) -> str:
        lines = [
            f"Schema: {len(self.users.values):,} users, {len(self.items.values):,} items",
            f"  user {self.user!r} ({self.users.dtype}), item {self.item!r} ({self.items.dtype}), "
            f"time {'is the order of the rows' if self.time is None else repr(self.time)}",
        ]
        for side, features in (("user", self.user_features), ("item", self.item_features)):
            for feature in features:
                size = f", {feature.size - FIRST_KNOWN:,} values" if feature.vocabulary else ""
                lines.append(f"  {side} feature {feature.name!r}: {feature.kind}{size}")
        return "\n".join(lines)

    def agrees_with(self, other: Schema) -> bool:
        """Tell whether codes mean the same in both."""
        return self is other or (self.extends(other) and other.extends(self))

    def extends(self, other: Schema) -> bool:
        """Tell whether the codes of another mean the same in this one."""
        return self is other or (
            self.users.extends(other.users)
            and self.items.extends(other.items)
            and len(self.user_features) == len(other.user_features)
            and len(self.item_features) == len(other.item_features)
            and all(map(Feature.extends, self.user_features, other.user_features))
            and all(map(Feature.extends, self.item_features, other.item_features))
        )

    def item_values(self, name: Hashable) -> pd.Series:
        """Give the latest value of a feature of each item; lists where it is multi-valued."""
        feature = next((one for one in self.item_features if one.name == name), None)
        if feature is None:
            known = ", ".join(repr(one.name) for one in self.item_features) or "none"
            raise ValueError(
                f"feature={name!r} is no item feature of the MatchEncoder, which has {known}: name "
                "one of them, or give a Series of values, indexed by item ids."
            )
        column = gather_rows(self.item_table[name], np.arange(FIRST_KNOWN, len(self.items)))
        if isinstance(column, np.ndarray):
            if feature.vocabulary is None:
                return pd.Series(column * feature.scale + feature.mean, name=name)
            return pd.Series(feature.vocabulary.decode(column), name=name)
        assert feature.vocabulary is not None
        values = feature.vocabulary.decode(column.values).tolist()
        bounds = pairwise(column.offsets.tolist())
        return pd.Series([values[a:b] for a, b in bounds], name=name, dtype=object)

    def to_frame(self) -> pd.DataFrame:
        """Give one row a column: its role, kind and number of known values."""
        rows: list[tuple] = [
            (self.user, "user", "id", len(self.users.values)),
            (self.item, "item", "id", len(self.items.values)),
        ]
        if self.time is not None:
            rows.append((self.time, "time", self.time_kind, pd.NA))
        for role, features in (
            ("user feature", self.user_features),
            ("item feature", self.item_features),
        ):
            for feature in features:
                size = feature.size - FIRST_KNOWN if feature.vocabulary else pd.NA
                rows.append((feature.name, role, feature.kind, size))
        return pd.DataFrame(rows, columns=["column", "role", "kind", "n_values"])


@dataclass(frozen=True, eq=False, repr=False)
class _Rows:
    """What `Events` and `Samples` share: coded rows that look like a table."""

    schema: Schema
    user: np.ndarray  # (n,) int32
    item: np.ndarray  # (n,) int32; PADDING where the row has no item
    time: np.ndarray | None = None  # (n,) int64 or float64; None: the order of the rows
    features: Columns = field(default_factory=dict)  # user features that the rows bring along
    user_ids: pd.Series | None = None  # as the caller wrote them, for the answer
    item_ids: pd.Series | None = None  # as the caller wrote them, to tell unknown ones apart

    _SCHEMA_KEY: ClassVar[str] = "skmatch_schema"
    _USER_KEY: ClassVar[str] = "user_as_given"
    _ITEM_KEY: ClassVar[str] = "item_as_given"

    def __len__(self) -> int:
        return len(self.user)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape as of a table."""
        return len(self), len(self._own_names())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.to_frame(), dtype=dtype)

    def __getitem__(self, rows: Any) -> Self:
        return self.gather(np.arange(len(self))[rows])

    def gather(self, rows: np.ndarray) -> Self:
        """Give some of the rows."""
        return replace(self, **self._gathered(rows))

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        return {
            "user": self.user[rows],
            "item": self.item[rows],
            "time": None if self.time is None else self.time[rows],
            "features": {name: gather_rows(col, rows) for name, col in self.features.items()},
            "user_ids": None if self.user_ids is None else self.user_ids.iloc[rows],
            "item_ids": None if self.item_ids is None else self.item_ids.iloc[rows],
        }

    @staticmethod
    def column_names(schema: Schema, features: tuple) -> list:
        """Give the names of the columns of `to_frame`."""
        time = [] if schema.time is None else [schema.time]
        return [schema.user, schema.item, *time, *features]

    def _own_names(self) -> list:
        """Give the names of the columns of `to_frame`; queries differ from training rows."""
        names = self.column_names(self.schema, tuple(self.features))
        if self.time is None and self.schema.time is not None:
            names.remove(self.schema.time)
        names += [self._USER_KEY] * self._has_unknown_user()
        return names + [self._ITEM_KEY] * self._has_unknown_item()

    def _has_unknown_user(self) -> bool:
        return self.user_ids is not None and bool((self.user == UNKNOWN).any())

    def _has_unknown_item(self) -> bool:
        return self.item_ids is not None and bool((self.item == UNKNOWN).any())

    def to_frame(self) -> pd.DataFrame:
        """Give the codes as a frame that carries the schema, so that the next step can read it.

        Queries lack the column of a time that they do not have, and have an additional one where
        codes are not enough: ``user_as_given`` and ``item_as_given`` where one is unknown.
        """
        columns: dict[Hashable, Any] = {self.schema.user: self.user, self.schema.item: self.item}
        if self.time is not None:
            columns[self.schema.time] = self.time
        for name, column in self.features.items():
            columns[name] = column.to_lists() if isinstance(column, RaggedArray) else column
        frame = pd.DataFrame(columns)
        if self.user_ids is not None:
            frame.index = self.user_ids.index
            if self._has_unknown_user():
                frame[self._USER_KEY] = self.user_ids.array
        if self.item_ids is not None and self._has_unknown_item():
            frame[self._ITEM_KEY] = self.item_ids.array
        frame.attrs[self._SCHEMA_KEY] = self.schema
        return frame

    @classmethod
    def _from_frame(cls, frame: pd.DataFrame) -> dict[str, Any]:
        schema = frame.attrs[cls._SCHEMA_KEY]
        for name in (schema.user, schema.item):
            if name not in frame.columns:
                raise ValueError(
                    f"The frame of codes lacks its column {name!r}: pass on all that the step "
                    "before gave."
                )
        features: Columns = {}
        for feature in schema.user_features:
            if feature.name in frame.columns:
                column = frame[feature.name]
                is_multi = feature.kind == "multi_valued"
                features[feature.name] = (
                    RaggedArray.from_lists(column.tolist()) if is_multi else column.to_numpy()
                )
        return {
            "schema": schema,
            "user": frame[schema.user].to_numpy(),
            "item": frame[schema.item].to_numpy(),
            "time": frame[schema.time].to_numpy() if schema.time in frame.columns else None,
            "features": features,
            "user_ids": frame[cls._USER_KEY] if cls._USER_KEY in frame.columns else None,
            "item_ids": frame[cls._ITEM_KEY] if cls._ITEM_KEY in frame.columns else None,
        }

    def user_columns(self) -> Columns:
        """Return every user feature of the rows, the latest known where they hold none."""
        return {
            feature.name: self.features[feature.name]
            if feature.name in self.features
            else gather_rows(self.schema.user_table[feature.name], self.user)
            for feature in self.schema.user_features
        }

    def original_users(self) -> pd.Series:
        """Give the users as the caller wrote them, unknown ones included."""
        if self.user_ids is not None:
            return self.user_ids
        return self.schema.users.decode(self.user)

    def ids(self) -> pd.DataFrame:
        """Give the users, and the items where the rows have any, in the user's own ids."""
        users = self.original_users().reset_index(drop=True)
        frame = pd.DataFrame({self.schema.user: users})
        if (self.item != PADDING).any():
            frame[self.schema.item] = self.schema.items.decode(self.item)
        return frame


@dataclass(frozen=True, eq=False, repr=False)
class Events(_Rows):
    """Coded events or queries, one row each, as `MatchEncoder` gives them."""

    history: RaggedArray | None = None  # item codes that queries bring along
    has_history: np.ndarray | None = None  # (n,) bool: which queries do
    on_disk: bool = False  # the columns lie in temporary files, and so shall those made from them

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        own = super()._gathered(rows) | {"on_disk": False}
        if self.history is not None and self.has_history is not None:
            own |= {"history": self.history.gather(rows), "has_history": self.has_history[rows]}
        return own

    def _own_names(self) -> list:
        return super()._own_names() + [HISTORY] * (self.history is not None)

    def to_frame(self) -> pd.DataFrame:
        """Give the codes as a frame that carries the schema, so that the next step can read it.

        Queries lack the column of a time that they do not have, and have additional ones where
        codes are not enough: ``user_as_given`` and ``item_as_given`` where one is unknown, and
        their own ``history``.
        """
        frame = super().to_frame()
        if self.history is not None and self.has_history is not None:
            rows = zip(self.history.to_lists(), self.has_history, strict=True)
            cells = [items if own else None for items, own in rows]
            frame[HISTORY] = pd.Series(cells, index=frame.index, dtype=object)
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Read a frame made by `to_frame`."""
        columns = cls._from_frame(frame)
        if HISTORY in frame.columns:
            cells = frame[HISTORY]
            columns["has_history"] = cells.notna().to_numpy()
            columns["history"] = RaggedArray.from_lists([[] if c is None else c for c in cells])
        return cls(**columns)

    def decode(self) -> pd.DataFrame:
        """Give the rows in the user's own ids."""
        return self.ids()

    def __repr__(self) -> str:
        head = self.gather(np.arange(min(5, len(self)))).decode()
        return f"Events: {len(self):,} rows, of {self.schema!r}\n{head}"


@dataclass(frozen=True, eq=False)
class NegativeSampling(_Shared):
    """How negatives are drawn: the way by name, how many a positive, and each item's count."""

    negatives: str
    neg_ratio: int
    counts: np.ndarray  # (n_items,) events of each known item
    seed: int | None = None  # None: the retriever's generator draws
    exclude_history: bool = False  # whether an event's negatives leave out its history


@dataclass(frozen=True, eq=False)
class EventLog(_Shared):
    """The items of all events, user after user, in the order of time.

    Items that were observed while the catalogue lacked them are unknown, and wait to be known.
    """

    items: np.ndarray  # (n_events,) int32
    # (2, n_pending): their places, and their codes in the vocabulary `pending` of the schema
    pending: np.ndarray = field(default_factory=lambda: np.empty((2, 0), dtype=np.int64))

    def inserted(self, place: np.ndarray, items: np.ndarray) -> EventLog:
        """Insert items before sorted places; the code of one that waits comes negated."""
        waits = np.flatnonzero(items < 0)
        places, codes = self.pending
        places = places + np.searchsorted(place, places, side="right")
        new = np.stack([place[waits] + waits, -items[waits]])
        return EventLog(
            np.insert(self.items, place, np.maximum(items, UNKNOWN)),
            np.concatenate([np.stack([places, codes]), new], axis=1),
        )

    def resolve_pending(self, schema: Schema) -> EventLog:
        """Give the items that waited the codes of a catalogue that holds them by now."""
        places, codes = self.pending
        if schema.pending is None or not len(places):
            return self
        now = schema.items.lookup(schema.pending.decode(codes))
        is_known = now >= FIRST_KNOWN
        items = self.items.copy()
        items[places[is_known]] = now[is_known]
        return EventLog(items, self.pending[:, ~is_known])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Samples(_Rows):
    """Rows with the history before each, as `SequenceSampler` gives them.

    The history of row `i` is ``log.items[start[i]:stop[i]]``, oldest first; all that its user has
    seen is ``log.items[seen[i]:stop[i]]``. No history is ever copied.
    """

    log: EventLog
    seen: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    sampling: NegativeSampling
    max_length: int
    min_history: int = 0
    event_stop: np.ndarray | None = None  # `stop` of held-out events, where it differs
    # (n,): index in the log where the row's visit began; `stop` where the row begins one
    visit: np.ndarray | None = None
    gap_rate: float = 0.0  # share of the rows trained on with the history before their visit

    _SAMPLES_KEY: ClassVar[str] = "skmatch_samples"
    WINDOW: ClassVar[tuple[str, ...]] = ("seen_start", "history_start", "history_stop")
    _OPTIONAL: ClassVar[tuple[str, ...]] = ("event_stop", "visit")

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        window = {"seen": self.seen[rows], "start": self.start[rows], "stop": self.stop[rows]}
        for name in self._OPTIONAL:
            if getattr(self, name) is not None:
                window[name] = getattr(self, name)[rows]
        return super()._gathered(rows) | window

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # Whether any row has an event_stop depends on the others, and the columns must not.
        return np.asarray(replace(self, event_stop=None, visit=None).to_frame(), dtype=dtype)

    @staticmethod
    def column_names(schema: Schema, features: tuple) -> list:
        """Give the names of the columns of `to_frame`."""
        return [*_Rows.column_names(schema, features), *Samples.WINDOW]

    def to_frame(self) -> pd.DataFrame:
        """Give the codes and windows as a frame that carries the log the windows point into."""
        frame = super().to_frame()
        for name, column in zip(self.WINDOW, (self.seen, self.start, self.stop), strict=True):
            frame[name] = column
        for name in self._OPTIONAL:
            if getattr(self, name) is not None:
                frame[name] = getattr(self, name)
        frame.attrs[self._SAMPLES_KEY] = (
            self.log,
            self.sampling,
            self.max_length,
            self.min_history,
            self.gap_rate,
        )
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Read a frame made by `to_frame`."""
        log, sampling, max_length, min_history, gap_rate = frame.attrs[cls._SAMPLES_KEY]
        seen, start, stop = (frame[name].to_numpy() for name in cls.WINDOW)
        return cls(
            **cls._from_frame(frame),
            seen=seen,
            start=start,
            stop=stop,
            log=log,
            sampling=sampling,
            max_length=max_length,
            min_history=min_history,
            gap_rate=gap_rate,
            **{name: frame[name].to_numpy() for name in cls._OPTIONAL if name in frame},
        )

    def by_user(self) -> tuple[Samples, np.ndarray, np.ndarray]:
        """Return a query per user, and for each row its query and its item, as held-out events.

        A user's query is the earliest of the user's rows, so that none of the others is in its
        history; stored events of the same time are. Items are positions in the catalogue; each
        unknown item has a number below -1.
        """
        query, _ = pd.factorize(self.original_users(), use_na_sentinel=False)
        keys = (query,) if self.time is None else (self.time, query)
        order = np.lexsort(keys)
        _, first = np.unique(query[order], return_index=True)
        item = self.item.astype(np.int64) - FIRST_KNOWN
        unknown = np.flatnonzero(item < 0)
        ids = unknown if self.item_ids is None else self.item_ids.iloc[unknown]
        item[unknown] = -2 - pd.factorize(ids, use_na_sentinel=False)[0]
        queries = self.gather(order[first])
        if queries.event_stop is not None:
            stop = queries.event_stop
            start = np.maximum(queries.seen, stop - self.max_length)
            queries = replace(queries, start=start, stop=stop, event_stop=None)
        return queries, query, item

    def decode(self) -> pd.DataFrame:
        """Give the rows in the user's own ids, with each history as a list, newest last."""
        frame = self.ids()
        positions, offsets = concatenate_ranges(self.start, self.stop)
        items = self.schema.items.decode(self.log.items[positions]).tolist()
        bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        frame[HISTORY] = pd.Series([items[a:b] for a, b in bounds], dtype=object)
        return frame

    def __repr__(self) -> str:
        head = self.gather(np.arange(min(5, len(self)))).decode()
        lengths = self.stop - self.start
        mean = lengths.mean() if len(self) else 0.0
        draws = f"{self.sampling.neg_ratio} negatives a positive, {self.sampling.negatives!r}"
        return f"Samples: {len(self):,} rows, histories of {mean:.1f} events; {draws}\n{head}"


class CatalogueRows(NamedTuple):
    """Items that are new in a catalogue or have new features: the schema with them, their codes."""

    schema: Schema
    codes: np.ndarray


Coded = TypeVar("Coded", Events, Samples)


def as_coded(X: Any, kind: type[Coded]) -> Coded | None:
    """Give what an earlier step coded, as rows or as their frame; None for anything else."""
    if isinstance(X, kind):
        return X
    return kind.from_frame(X) if is_coded_frame(X, kind) else None


def is_coded_frame(X: Any, kind: type[_Rows]) -> bool:
    """Tell whether a frame was made by the `to_frame` of `Events` or `Samples`."""
    if not isinstance(X, pd.DataFrame):
        return False
    attrs: Mapping = X.attrs
    is_samples = Samples._SAMPLES_KEY in attrs and set(Samples.WINDOW) <= set(X.columns)
    return is_samples if kind is Samples else _Rows._SCHEMA_KEY in attrs and not is_samples
