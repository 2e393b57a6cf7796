"""The values that pass between the steps: `Events` and `Samples`.

Codes everywhere: 0 is padding, 1 is unknown, known values start at 2. All of these values are
immutable: a step makes a new one and never changes its input.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from skmatch._columns import (
    FIRST_KNOWN,
    PADDING,
    UNKNOWN,
    Columns,
    RaggedArray,
    concatenate_ranges,
    gather_rows,
)
from skmatch._event_log import EventLog, NegativeSampling
from skmatch._schema import Schema

HISTORY = "history"  # the column of histories, in queries and in decoded samples


def index_dtype(n_events: int) -> type:
    """Return the integer dtype that can index so many events."""
    return np.int32 if n_events <= np.iinfo(np.int32).max else np.int64


@dataclass(frozen=True, eq=False, repr=False)
class _Rows:
    """Coded rows that look like a table, the base of `Events` and `Samples`."""

    schema: Schema
    user: np.ndarray  # (n,) int32
    item: np.ndarray  # (n,) int32; PADDING in rows without an item
    time: np.ndarray | None = None  # (n,) int64 or float64; None: the order of the rows
    features: Columns = field(default_factory=dict)  # user features of the rows
    user_ids: pd.Series | None = None  # as the caller wrote them, to return
    item_ids: pd.Series | None = None  # as the caller wrote them, to distinguish unknown items
    weight: np.ndarray | None = None  # (n,) float64, of events to train on

    _SCHEMA_KEY: ClassVar[str] = "skmatch_schema"
    _USER_KEY: ClassVar[str] = "user_as_given"
    _ITEM_KEY: ClassVar[str] = "item_as_given"

    def __len__(self) -> int:
        return len(self.user)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns of `to_frame`."""
        return len(self), len(self._own_names())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.to_frame(), dtype=dtype)

    def __getitem__(self, rows: Any) -> Self:
        return self.gather(np.arange(len(self))[rows])

    def gather(self, rows: np.ndarray) -> Self:
        """Return some of the rows."""
        return replace(self, **self._gathered(rows))

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        return {
            "user": self.user[rows],
            "item": self.item[rows],
            "time": None if self.time is None else self.time[rows],
            "features": {name: gather_rows(col, rows) for name, col in self.features.items()},
            "user_ids": None if self.user_ids is None else self.user_ids.iloc[rows],
            "item_ids": None if self.item_ids is None else self.item_ids.iloc[rows],
            "weight": None if self.weight is None else self.weight[rows],
        }

    @staticmethod
    def column_names(schema: Schema, features: tuple) -> list:
        """Return the column names of `to_frame` for training rows."""
        time = [] if schema.time is None else [schema.time]
        weight = [] if schema.weight is None else [schema.weight]
        return [schema.user, schema.item, *time, *weight, *features]

    def _own_names(self) -> list:
        """Return the column names of `to_frame` for these rows, which may be queries."""
        names = self.column_names(self.schema, tuple(f.name for f in self.schema.user_features))
        if self.time is None and self.schema.time is not None:
            names.remove(self.schema.time)
        if self.weight is None and self.schema.weight is not None:
            names.remove(self.schema.weight)
        return [*names, *self._unknown_ids()]

    def _unknown_ids(self) -> dict[str, pd.Series]:
        """Return the columns of ids that the codes of these rows do not hold."""
        users, items = (self.user, self.user_ids), (self.item, self.item_ids)
        columns = {self._USER_KEY: users, self._ITEM_KEY: items}.items()
        return {
            key: ids
            for key, (codes, ids) in columns
            if ids is not None and (codes == UNKNOWN).any()
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the codes as a DataFrame that the next step can read.

        Queries without times lack their column. Rows with unknown users or items have the
        additional columns ``user_as_given`` or ``item_as_given``.
        """
        columns: dict[Hashable, Any] = {self.schema.user: self.user, self.schema.item: self.item}
        if self.time is not None:
            columns[self.schema.time] = self.time
        if self.weight is not None:
            columns[self.schema.weight] = self.weight
        for name, column in self.user_columns().items():
            if isinstance(column, RaggedArray):
                columns[name] = column.to_lists()
            else:
                columns[name] = column if column.ndim == 1 else list(column)
        frame = pd.DataFrame(columns)
        if self.user_ids is not None:
            frame.index = self.user_ids.index
        for key, ids in self._unknown_ids().items():
            frame[key] = ids.array
        frame.attrs[self._SCHEMA_KEY] = self.schema
        return frame

    @classmethod
    def _from_frame(cls, frame: pd.DataFrame) -> dict[str, Any]:
        schema = frame.attrs[cls._SCHEMA_KEY]
        for name in (schema.user, schema.item):
            if name not in frame.columns:
                raise ValueError(
                    f"The frame of codes lacks the column {name!r}: pass on all columns of the "
                    "previous step's output."
                )
        features: Columns = {}
        for feature in schema.user_features:
            if feature.name in frame.columns:
                column = frame[feature.name]
                if feature.kind == "multi_valued":
                    features[feature.name] = RaggedArray.from_lists(column.tolist())
                elif feature.kind == "vector":
                    vectors = np.array(column.tolist(), dtype=np.float32)
                    features[feature.name] = vectors.reshape(-1, feature.length)
                else:
                    features[feature.name] = column.to_numpy()
        return {
            "schema": schema,
            "user": frame[schema.user].to_numpy(),
            "item": frame[schema.item].to_numpy(),
            "time": frame[schema.time].to_numpy() if schema.time in frame.columns else None,
            "weight": frame[schema.weight].to_numpy() if schema.weight in frame.columns else None,
            "features": features,
            "user_ids": frame.get(cls._USER_KEY),
            "item_ids": frame.get(cls._ITEM_KEY),
        }

    def user_columns(self) -> Columns:
        """Return all user features of the rows; absent ones have the users' latest values."""
        return {
            feature.name: self.features[feature.name]
            if feature.name in self.features
            else gather_rows(self.schema.user_table[feature.name], self.user)
            for feature in self.schema.user_features
        }

    def original_users(self) -> pd.Series:
        """Return the users as the caller wrote them, unknown ones included."""
        return self.schema.users.decode(self.user) if self.user_ids is None else self.user_ids

    def decode(self) -> pd.DataFrame:
        """Return the original ids of users and, if the rows have any, of items."""
        users = self.original_users().reset_index(drop=True)
        frame = pd.DataFrame({self.schema.user: users})
        if (self.item != PADDING).any():
            frame[self.schema.item] = self.schema.items.decode(self.item)
        return frame


@dataclass(frozen=True, eq=False, repr=False)
class Events(_Rows):
    """Encoded events or queries, the output of `MatchEncoder`.

    Do not construct it. It is immutable, has a length, and is indexed by row numbers, slices and
    masks as an array is; ``numpy.asarray`` returns its codes. Code 0 is padding, 1 is unknown,
    known values start at 2.

    Attributes
    ----------
    schema : Schema
        The roles, ids and features.
    user, item : ndarray of shape (n_rows,), int32
        Codes. The item is 0 in queries without one.
    time : ndarray of shape (n_rows,) or None
        Numbers, or nanoseconds of datetimes; None if there are no times.
    features : dict of label to ndarray or RaggedArray
        User features: codes or standardised numbers, a matrix of a feature of vectors. Row `i` of a
        RaggedArray (of a multi-valued feature) is ``values[offsets[i]:offsets[i + 1]]``.
    user_ids, item_ids : Series or None
        The ids as they were passed in.
    weight : ndarray of shape (n_rows,) or None
        Weights of events to train on, where the encoder has a column of weights.
    history : RaggedArray or None
        Item codes of the histories that queries provide.
    has_history : ndarray of shape (n_rows,), bool, or None
        Which queries provide a history.
    on_disk : bool
        Whether the columns are memory-mapped temporary files.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import MatchEncoder
    >>> table = pd.DataFrame({"user_id": ["ann", "bob", "ann"], "item_id": [10, 20, 20]})
    >>> events = MatchEncoder().fit_transform(table)
    >>> events.item
    array([2, 3, 3], dtype=int32)
    >>> events[1:].decode()
      user_id  item_id
    0     bob       20
    1     ann       20
    """

    history: RaggedArray | None = None
    has_history: np.ndarray | None = None
    on_disk: bool = False

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        own = super()._gathered(rows) | {"on_disk": False}
        if self.history is not None and self.has_history is not None:
            own |= {"history": self.history.gather(rows), "has_history": self.has_history[rows]}
        return own

    def _own_names(self) -> list:
        return super()._own_names() + [HISTORY] * (self.history is not None)

    def to_frame(self) -> pd.DataFrame:
        """Return the codes as a DataFrame that the next step can read.

        Queries without times lack their column. Rows with unknown users or items have the
        additional columns ``user_as_given`` or ``item_as_given``, and queries that provide a
        history the column ``history``.
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

    def __repr__(self) -> str:
        head = self.gather(np.arange(min(5, len(self)))).decode()
        return f"Events: {len(self):,} rows, of {self.schema!r}\n{head}"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Samples(_Rows):
    """Encoded events or queries with the history of each, the output of `SequenceSampler`.

    Do not construct it. It has the length, indexing and further attributes of `Events`. Histories
    are ranges of one shared log: the history of row `i` is ``log.items[start[i]:stop[i]]``, oldest
    first, and all items that its user has seen are ``log.items[seen[i]:stop[i]]``.

    Attributes
    ----------
    log : EventLog
        The array ``log.items`` holds the item codes of all events, ordered by user, then time.
    seen, start, stop : ndarray of shape (n_rows,), int32 or int64
        Ranges in the log.
    sampling : NegativeSampling
        How negatives are drawn: the parameters of the `SequenceSampler` and the items' counts.
    max_length, min_history : int
        As in `SequenceSampler`.
    event_stop : ndarray of shape (n_rows,) or None
        The value of `stop` that rows have as held-out events, if it differs.
    visit : ndarray of shape (n_rows,) or None
        Index in the log where the visit of each row began; `stop` for rows that begin a visit. None
        without visits.
    gap_rate : float
        As in `SequenceSampler`.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import SequenceSampler
    >>> table = pd.DataFrame({"user_id": ["ann", "bob", "ann"], "item_id": [10, 20, 20]})
    >>> samples = SequenceSampler().fit_transform(table)
    >>> samples.stop - samples.start
    array([0, 0, 1], dtype=int32)
    >>> samples.decode()
      user_id  item_id history
    0     ann       10      []
    1     bob       20      []
    2     ann       20    [10]
    """

    log: EventLog
    seen: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    sampling: NegativeSampling
    max_length: int
    min_history: int = 0
    event_stop: np.ndarray | None = None
    visit: np.ndarray | None = None
    gap_rate: float = 0.0

    _SAMPLES_KEY: ClassVar[str] = "skmatch_samples"
    WINDOW: ClassVar[tuple[str, ...]] = ("seen_start", "history_start", "history_stop")
    _COLUMNS: ClassVar[dict[str, str]] = {  # of a frame: the attributes that they hold
        **dict(zip(WINDOW, ("seen", "start", "stop"), strict=True)),
        "visit": "visit",
        "event_stop": "event_stop",
    }
    _SHARED = ("log", "sampling", "max_length", "min_history", "gap_rate")  # by all rows

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        return super()._gathered(rows) | {
            name: column[rows]
            for name in self._COLUMNS.values()
            if (column := getattr(self, name)) is not None
        }

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # Whether there is an event_stop depends on all rows; the columns must not.
        return np.asarray(replace(self, event_stop=None).to_frame(), dtype=dtype)

    @staticmethod
    def column_names(schema: Schema, features: tuple) -> list:
        """Return the column names of `to_frame` for training rows."""
        return [*_Rows.column_names(schema, features), *Samples.WINDOW]

    def to_frame(self) -> pd.DataFrame:
        """Return the codes and ranges as a DataFrame that the next step can read."""
        frame = super().to_frame()
        for label, name in self._COLUMNS.items():
            if getattr(self, name) is not None:
                frame[label] = getattr(self, name)
        frame.attrs[self._SAMPLES_KEY] = {name: getattr(self, name) for name in self._SHARED}
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Read a frame made by `to_frame`."""
        columns = cls._from_frame(frame) | frame.attrs[cls._SAMPLES_KEY]
        for label, name in cls._COLUMNS.items():
            if label in frame:
                columns[name] = frame[label].to_numpy()
        return cls(**columns)

    def history_counts(self) -> csr_array:
        """Return how often each item of the catalogue is in each history, (n_rows, n_items)."""
        index, offsets = concatenate_ranges(self.start, self.stop)
        shape = len(self), len(self.schema.items)
        counts = csr_array((np.ones(len(index), np.float32), self.log.items[index], offsets), shape)
        counts.sum_duplicates()
        return counts[:, FIRST_KNOWN:]

    def by_user(self) -> tuple[Samples, np.ndarray, np.ndarray]:
        """Return one query per user, and each row's query number and item, as held-out events.

        A user's query is the user's earliest row, so its history has none of the other rows, but
        has stored events of the same time. Items are positions in the catalogue; each unknown item
        has its own number below -1.
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
        """Return the original ids, and each history as a list, newest last."""
        frame = super().decode()
        positions, offsets = concatenate_ranges(self.start, self.stop)
        items = self.schema.items.decode(self.log.items[positions]).tolist()
        bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        frame[HISTORY] = pd.Series([items[a:b] for a, b in bounds], dtype=object)
        return frame

    def __repr__(self) -> str:
        head = self.gather(np.arange(min(5, len(self)))).decode()
        lengths = self.stop - self.start
        mean = lengths.mean() if len(self) else 0.0
        draws = f"{self.sampling.neg_ratio} negatives per positive, {self.sampling.negatives!r}"
        return f"Samples: {len(self):,} rows, histories of {mean:.1f} events; {draws}\n{head}"


class CatalogueRows(NamedTuple):
    """Codes of items that are new or have new features, and the schema that has them."""

    schema: Schema
    codes: np.ndarray


Coded = TypeVar("Coded", Events, Samples)


def as_coded(X: Any, kind: type[Coded]) -> Coded | None:
    """Return the output of an earlier step, read from its DataFrame if needed; else None."""
    if isinstance(X, kind):
        return X
    return kind.from_frame(X) if is_coded_frame(X, kind) else None


def is_coded_frame(X: Any, kind: type[_Rows]) -> bool:
    """Return whether `X` was made by `to_frame` of `Events` or of `Samples`."""
    if not isinstance(X, pd.DataFrame):
        return False
    attrs: Mapping = X.attrs
    is_samples = Samples._SAMPLES_KEY in attrs and set(Samples.WINDOW) <= set(X.columns)
    return is_samples if kind is Samples else _Rows._SCHEMA_KEY in attrs and not is_samples
