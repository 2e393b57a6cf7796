"""Arrays of codes and ranges of codes, without pandas: shared by the runtime and the estimators.

Codes everywhere: 0 is padding, 1 is unknown, known values start at 2.
"""

from __future__ import annotations

import reprlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self, cast

import numpy as np

PADDING, UNKNOWN, FIRST_KNOWN = 0, 1, 2


def concatenate_ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated integers of all ranges, and the offsets of the ranges."""
    lengths = stop - start
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    shift = np.repeat(start - offsets[:-1], lengths)
    return np.arange(offsets[-1], dtype=np.int64) + shift, offsets


def check_offsets(offsets: np.ndarray, n_values: int) -> None:
    """Raise if loaded offsets do not ascend from 0 to the number of values.

    With descending offsets a small file could allocate any amount of memory.
    """
    is_valid = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 0
    if not (
        is_valid
        and offsets[0] == 0
        and offsets[-1] == n_values
        and (offsets[:-1] <= offsets[1:]).all()
    ):
        raise ValueError(
            f"The file is damaged: the offsets of its rows do not ascend from 0 to {n_values}. "
            "Copy it again from where it was saved."
        )


@dataclass(frozen=True, eq=False)
class RaggedArray:
    """Rows of several codes each: row `i` holds ``values[offsets[i]:offsets[i + 1]]``."""

    values: np.ndarray
    offsets: np.ndarray

    def __setstate__(self, state: dict[str, Any]) -> None:
        values, offsets = state["values"], state["offsets"]
        check_offsets(offsets, len(values))
        self.__dict__.update(values=values, offsets=offsets)

    @classmethod
    def from_lists(cls, rows: list[np.ndarray] | list[list[int]]) -> Self:
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.concatenate(rows) if offsets[-1] else np.empty(0)
        return cls(values.astype(np.int32), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def longest(self) -> int:
        """Largest number of codes in a row; cached, as every batch of queries reads it."""
        return int(np.diff(self.offsets).max(initial=0))

    def gather(self, rows: np.ndarray) -> RaggedArray:
        """Return some of the rows."""
        positions, offsets = concatenate_ranges(self.offsets[rows], self.offsets[rows + 1])
        return RaggedArray(self.values[positions], offsets)

    def concatenate(self, other: RaggedArray) -> RaggedArray:
        offsets = np.append(self.offsets, self.offsets[-1] + other.offsets[1:])
        return RaggedArray(np.concatenate([self.values, other.values]), offsets)

    def to_lists(self) -> list[list[int]]:
        values = self.values.tolist()
        bounds = self.offsets.tolist()
        return [values[a:b] for a, b in pairwise(bounds)]


Column = np.ndarray | RaggedArray
Columns = dict[Hashable, Column]


def gather_rows(column: Column, rows: np.ndarray) -> Column:
    """Return some rows of an array or a ragged array."""
    return column.gather(rows) if isinstance(column, RaggedArray) else column[rows]


def where_rows(condition: np.ndarray, column: Column, other: Column) -> Column:
    """Return the rows of `column` where the condition holds, else those of `other`."""
    if isinstance(column, np.ndarray):
        aligned = condition if column.ndim == 1 else condition[:, None]
        return np.where(aligned, column, cast(np.ndarray, other))
    assert isinstance(other, RaggedArray)
    n_rows = len(condition)
    rows = np.arange(n_rows) + np.where(condition, 0, n_rows)
    return column.concatenate(other).gather(rows)


def count_before(
    times: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    before: np.ndarray,
    or_equal: bool = False,
) -> np.ndarray:
    """Return the first index in each range [start, stop) whose time reaches a limit.

    All ranges are bisected together.
    """
    compare = np.less_equal if or_equal else np.less
    low, high = start.copy(), stop.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        earlier = np.zeros(len(low), dtype=bool)
        earlier[open_] = compare(times[middle[open_]], before[open_])
        low = np.where(open_ & earlier, middle + 1, low)
        high = np.where(open_ & ~earlier, middle, high)
    return low


def is_in(values: np.ndarray, test_values: np.ndarray) -> np.ndarray:
    """Compute np.isin(values, test_values), several times faster."""
    if not len(test_values):
        return np.zeros(values.shape, dtype=bool)
    test_values = np.sort(test_values)
    index = np.searchsorted(test_values, values)
    return test_values[np.minimum(index, len(test_values) - 1)] == values


def is_known(column: Column) -> np.ndarray:
    """Return which rows of a user feature hold a known value."""
    if isinstance(column, RaggedArray):
        return any_known(column.values, column.offsets[:-1], column.offsets[1:])
    if column.dtype.kind == "i":
        return column >= FIRST_KNOWN
    # A missing vector is NaN in all columns.
    return ~np.isnan(column if column.ndim == 1 else column[:, 0])


def any_known(codes: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return for each range of codes whether any of its codes is known."""
    has_known = stop > start
    # The last code is nearly always known; otherwise all codes of the range are read.
    has_known[has_known] = codes[stop[has_known] - 1] >= FIRST_KNOWN
    undecided = np.flatnonzero(~has_known & (stop > start))
    index, offsets = concatenate_ranges(start[undecided], stop[undecided])
    has_known[undecided] = np.logical_or.reduceat(codes[index] >= FIRST_KNOWN, offsets[:-1])
    return has_known


def is_missing(value: Any) -> bool:
    """Return whether a cell is None, NaN or NaT."""
    if value is None:
        return True
    if getattr(value, "ndim", 0):
        return False
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA
        return type(value).__name__ == "NAType"


def reject_sets(cells: Iterable[Any], column: Any) -> None:
    """Raise if a cell that needs an order is a set, whose order may differ between processes."""
    for cell in cells:
        if isinstance(cell, (set, frozenset)):
            raise ValueError(
                f"The column {column!r} holds {reprlib.repr(cell)}, a set without an order: pass "
                "lists, newest last."
            )
