"""`Timeline`: the values of a user feature over time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from skmatch._arrays import count_before
from skmatch._columns import (
    UNKNOWN,
    Column,
    RaggedArray,
    check_offsets,
    count_codes,
    gather_rows,
    where_rows,
)
from skmatch._files import allocate
from skmatch._schema import Feature
from skmatch.preprocessing._time_order import (
    in_blocks,
    order_in_blocks,
    user_blocks,
)

MISSING = 0  # the row of a timeline's column that holds the missing value


@dataclass(frozen=True, eq=False)
class UserRows:
    """Rows of values of users, sorted once for all features; without `time` all have the same."""

    user: np.ndarray
    time: np.ndarray | None
    n_codes: int
    on_disk: bool = False

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where the rows of each user begin and end in `order`, (n_codes + 1,)."""
        return np.append(0, np.cumsum(count_codes(self.user, self.n_codes)))

    @cached_property
    def order(self) -> np.ndarray:
        """The rows by user, then time, then row."""
        return order_in_blocks(self.user, self.time, self.offsets, self.on_disk)


@dataclass(frozen=True, eq=False)
class Timeline:
    """The values of a user feature over time.

    The user with code `u` had the values in the rows ``offsets[u]`` to ``offsets[u + 1] - 1`` of
    `column`, oldest first. Of a run of equal values the first and the last are kept, so values
    that arrive late are inserted in the right order.
    """

    offsets: np.ndarray  # (n_codes + 1,) int64
    times: np.ndarray
    column: Column  # row 0 is the missing value

    def __setstate__(self, state: dict[str, Any]) -> None:
        check_offsets(state["offsets"] - 1, len(state["times"]) - 1)
        self.__dict__.update(state)

    @classmethod
    def empty(cls, feature: Feature) -> Timeline:
        """Return the timeline of a feature without any values."""
        column: Column = np.array([UNKNOWN], dtype=np.int32)
        if feature.kind == "multi_valued":
            column = RaggedArray(np.empty(0, dtype=np.int32), np.zeros(2, dtype=np.int64))
        elif feature.kind == "numeric":
            column = np.array([np.nan])  # until the mean is known
        elif feature.kind == "vector":
            column = np.full((1, feature.length), np.nan, dtype=np.float32)
        return cls(np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64), column)

    def at(self, user: np.ndarray, time: np.ndarray | None = None) -> Column:
        """Return the latest values of users, up to and including the times if any are passed."""
        first_row, stop = self.offsets[user], self.offsets[user + 1]
        if time is not None:
            stop = count_before(self.times, first_row, stop, time, or_equal=True)
        return gather_rows(self.column, np.where(stop > first_row, stop - 1, MISSING))

    def latest(self) -> Column:
        """Return the latest value of every code."""
        return self.at(np.arange(len(self.offsets) - 1))

    def blank(self, n_rows: int) -> Column:
        """Return a column in which every value is missing."""
        return gather_rows(self.column, np.full(n_rows, MISSING))

    def extended(
        self, rows: UserRows, column: Column, present: np.ndarray
    ) -> tuple[Column, Timeline]:
        """Fill the missing values of rows, and add the other values to the timeline.

        A missing value becomes its user's latest earlier value, in the order of time, then rows.
        On disk, users are processed in blocks, and the filled column is in temporary files.
        """
        on_disk, n_events = rows.on_disk, rows.offsets
        n_new = rows.n_codes + 1 - len(self.offsets)
        offsets = np.append(self.offsets, np.full(n_new, self.offsets[-1]))
        is_complete = bool(present.all())
        origin = np.empty(0) if is_complete else allocate(len(present), np.int64, on_disk)
        parts = [(np.empty(0, dtype=np.int64), self.times[:1], self.blank(1))]

        for first, stop in user_blocks(n_events, on_disk):
            # Rows of this timeline are numbered -1, -2, ..., rows of the column 0, 1, ...
            numbers = rows.order[n_events[first] : n_events[stop]]
            times = np.zeros(len(numbers), np.int64) if rows.time is None else rows.time[numbers]
            lengths = np.diff(n_events[first : stop + 1])
            users = np.repeat(np.arange(first, stop), lengths)
            stored = np.arange(offsets[first], offsets[stop])
            is_row = np.ones(len(numbers), dtype=bool)
            if len(stored):  # stored values precede the rows of their time
                starts, stops = offsets[users], offsets[users + 1]
                index = count_before(self.times, starts, stops, times, or_equal=True) - stored[0]
                is_row = np.zeros(len(stored) + len(numbers), dtype=bool)
                is_row[index + np.arange(len(numbers))] = True
                numbers = _merged(is_row, numbers, -1 - stored)
                times = _merged(is_row, times, self.times[stored])
                lengths += np.diff(offsets[first : stop + 1])
                users = np.repeat(np.arange(first, stop), lengths)
            if not is_complete:
                has_value = np.ones(len(numbers), dtype=bool)
                has_value[is_row] = present[numbers[is_row]]
                position = np.arange(len(numbers))
                latest = np.maximum.accumulate(np.where(has_value, position, -1))
                is_first = np.append(True, users[1:] != users[:-1])[: len(users)]
                start = np.maximum.accumulate(np.where(is_first, position, 0))
                source = np.where(latest >= start, numbers[latest], -1 - MISSING)
                origin[numbers[is_row]] = source[is_row]
                numbers, users, times = numbers[has_value], users[has_value], times[has_value]

            values = self._gather(numbers, column)
            is_repeat = (users[1:] == users[:-1]) & _repeats(values)
            is_inside_run = np.append(False, is_repeat) & np.append(is_repeat, False)
            run_ends = np.flatnonzero(~is_inside_run[: len(users)])
            parts.append((users[run_ends], times[run_ends], gather_rows(values, run_ends)))

        filled = column
        if not is_complete:
            filled = in_blocks(
                lambda part: self._gather(origin[part], column), len(origin), on_disk
            )
        all_users, all_times, columns = zip(*parts, strict=True)
        n_values = count_codes(np.concatenate(all_users), rows.n_codes)
        timeline = Timeline(
            np.append(1, 1 + np.cumsum(n_values)),
            np.concatenate(all_times),
            reduce(_followed_by, columns),
        )
        return filled, timeline

    def _gather(self, numbers: np.ndarray, column: Column) -> Column:
        """Return rows of a column, or of this timeline where the number is negative."""
        is_stored = numbers < 0
        if not is_stored.any():
            return gather_rows(column, numbers)
        stored = gather_rows(self.column, np.where(is_stored, -1 - numbers, MISSING))
        if is_stored.all():
            return stored
        return where_rows(is_stored, stored, gather_rows(column, np.maximum(numbers, 0)))


def _merged(is_first: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the values of two arrays in turn: of `first` where the mask holds."""
    values = np.empty(len(is_first), dtype=np.result_type(first, second))
    values[is_first], values[~is_first] = first, second
    return values


def _followed_by(column: Column, later: Column) -> Column:
    if isinstance(column, RaggedArray) and isinstance(later, RaggedArray):
        return column.concatenate(later)
    return np.concatenate([column, later])


def _repeats(column: Column) -> np.ndarray:
    """Return whether each row but the first equals the previous row."""
    if isinstance(column, np.ndarray):
        is_same = column[1:] == column[:-1]
        return is_same if column.ndim == 1 else is_same.all(1)
    lengths = np.diff(column.offsets)
    row = np.repeat(np.arange(len(lengths)), lengths)
    before = np.maximum(np.arange(len(row)) - lengths[row], 0)
    differs = np.bincount(row[column.values != column.values[before]], minlength=len(lengths))
    return (lengths[1:] == lengths[:-1]) & (differs[1:] == 0)
