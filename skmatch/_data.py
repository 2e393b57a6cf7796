"""The values that pass between the steps: `Events` and `Samples`.

Codes everywhere: 0 is padding, 1 is unknown, known values start at 2. All of these values are
immutable: a step returns a new value and never changes its input.
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
    RaggedArray,
    concatenate_ranges,
)
from skmatch._event_log import EventLog, NegativeSampling
from skmatch._rows import CodedRows
from skmatch._schema import Schema

HISTORY = "history"  # the column of histories, in queries and in decoded samples


def history_name(name: Hashable) -> str:
    """Return the column by which queries provide a feature of the events of their histories."""
    return f"{HISTORY}_{name}"


def index_dtype(n_events: int) -> type:
    """Return the integer dtype that can index so many events."""
    return np.int32 if n_events <= np.iinfo(np.int32).max else np.int64


@dataclass(frozen=True, eq=False, repr=False)
class Events(CodedRows):
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
    event_features : dict of label to ndarray of shape (n_rows,)
        Features of events to train on: codes or standardised numbers.
    history_features : dict of label to ndarray
        Features of the events of `history`, one value per value there.
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
    event_features: dict[Hashable, np.ndarray] = field(default_factory=dict)
    history_features: dict[Hashable, np.ndarray] = field(default_factory=dict)
    on_disk: bool = False

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        event_features = {name: column[rows] for name, column in self.event_features.items()}
        gathered = super()._gathered(rows) | {"on_disk": False, "event_features": event_features}
        if self.history is not None and self.has_history is not None:
            gathered["history"] = self.history.gather(rows)
            gathered["has_history"] = self.has_history[rows]
            gathered["history_features"] = {
                name: RaggedArray(values, self.history.offsets).gather(rows).values
                for name, values in self.history_features.items()
            }
        return gathered

    @staticmethod
    def column_names(schema: Schema, features: tuple) -> list:
        """Return the column names of `to_frame` for training rows."""
        of_events = [feature.name for feature in schema.event_features]
        return [*CodedRows.column_names(schema, features), *of_events]

    def _own_names(self) -> list:
        names = super()._own_names()
        if not self.event_features:
            names = [name for name in names if name not in self._event_names()]
        if self.history is None:
            return names
        return [*names, HISTORY, *map(history_name, self.history_features)]

    def _event_names(self) -> list:
        return [feature.name for feature in self.schema.event_features]

    def to_frame(self) -> pd.DataFrame:
        """Return the codes as a DataFrame that the next step can read.

        Queries without times lack their column. Rows with unknown users or items have the
        additional columns ``user_as_given`` or ``item_as_given``, and queries that provide a
        history the column ``history``.
        """
        frame = super().to_frame()
        for name, column in self.event_features.items():
            frame[name] = column
        if self.history is not None and self.has_history is not None:
            columns = {HISTORY: self.history.values}
            columns |= {
                history_name(name): values for name, values in self.history_features.items()
            }
            for name, values in columns.items():
                lists = RaggedArray(values, self.history.offsets).to_lists()
                rows = zip(lists, self.has_history, strict=True)
                cells = [values if has_history else None for values, has_history in rows]
                frame[name] = pd.Series(cells, index=frame.index, dtype=object)
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Read a frame made by `to_frame`."""
        columns = cls._from_frame(frame)
        features = columns["schema"].event_features
        columns["event_features"] = {
            feature.name: frame[feature.name].to_numpy()
            for feature in features
            if feature.name in frame.columns
        }
        if HISTORY in frame.columns:
            cells = frame[HISTORY]
            columns["has_history"] = cells.notna().to_numpy()
            columns["history"] = RaggedArray.from_lists(
                [[] if cell is None else cell for cell in cells]
            )
            columns["history_features"] = {
                feature.name: np.array(
                    [value for cell in frame[history_name(feature.name)] for value in cell or ()],
                    dtype=np.float32 if feature.kind == "numeric" else np.int32,
                )
                for feature in features
            }
        return cls(**columns)

    def __repr__(self) -> str:
        head = self.gather(np.arange(min(5, len(self)))).decode()
        return f"Events: {len(self):,} rows, of {self.schema!r}\n{head}"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Samples(CodedRows):
    """Encoded events or queries with the history of each, the output of `SequenceSampler`.

    Do not construct it. It has the length, indexing and further attributes of `Events`. Histories
    are ranges of one shared log: the history of row `i` is ``log.items[start[i]:stop[i]]``, oldest
    first, and all items that its user has seen are ``log.items[seen[i]:stop[i]]``.

    Attributes
    ----------
    log : EventLog
        The array ``log.items`` holds the item codes of all events, ordered by user, then time, and
        the dict ``log.features`` the features of the events.
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
    begins_visit : ndarray of shape (n_rows,), bool, or None
        Whether each row begins a visit; None without visits.
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

    @property
    def begins_visit(self) -> np.ndarray | None:
        return None if self.visit is None else self.visit >= self.stop

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        return super()._gathered(rows) | {
            name: column[rows]
            for name in self._COLUMNS.values()
            if (column := getattr(self, name)) is not None
        }

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # The columns must not depend on the rows, as the presence of an event_stop does.
        return np.asarray(replace(self, event_stop=None).to_frame(), dtype=dtype)

    @staticmethod
    def column_names(schema: Schema, features: tuple) -> list:
        """Return the column names of `to_frame` for training rows."""
        return [*CodedRows.column_names(schema, features), *Samples.WINDOW]

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

    def by_user(self) -> tuple[Samples, np.ndarray, np.ndarray, np.ndarray]:
        """Return a query per user, its row, and each row's query number and item, as held out.

        A user's query is the user's earliest row, so its history has none of the other rows, but
        has stored events of the same time. Items are positions in the catalogue; each unknown item
        has its own number below -1.
        """
        query, _ = pd.factorize(self.original_users(), use_na_sentinel=False)
        keys = (query,) if self.time is None else (self.time, query)
        order = np.lexsort(keys)
        _, first_indices = np.unique(query[order], return_index=True)
        row = order[first_indices]
        item = self.item.astype(np.int64) - FIRST_KNOWN
        unknown = np.flatnonzero(item < 0)
        ids = unknown if self.item_ids is None else self.item_ids.iloc[unknown]
        item[unknown] = -2 - pd.factorize(ids, use_na_sentinel=False)[0]
        queries = self.gather(row)
        if queries.event_stop is not None:
            stop = queries.event_stop
            start = np.maximum(queries.seen, stop - self.max_length)
            queries = replace(queries, start=start, stop=stop, event_stop=None)
        return queries, row, query, item

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


def is_coded_frame(X: Any, kind: type[CodedRows]) -> bool:
    """Return whether `X` was made by `to_frame` of `Events` or of `Samples`."""
    if not isinstance(X, pd.DataFrame):
        return False
    attrs: Mapping = X.attrs
    is_samples = Samples._SAMPLES_KEY in attrs and set(Samples.WINDOW) <= set(X.columns)
    return is_samples if kind is Samples else CodedRows._SCHEMA_KEY in attrs and not is_samples
