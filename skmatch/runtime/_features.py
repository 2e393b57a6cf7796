"""Features of queries as a network reads them, and the stored values of users over time."""

from __future__ import annotations

import datetime
import math
import reprlib
from typing import Any

import numpy as np

from skmatch._arrays import (
    UNKNOWN,
    Column,
    RaggedArray,
    count_before,
    gather_rows,
    is_missing,
    where_rows,
)
from skmatch.runtime._files import Files
from skmatch.runtime._vocabulary import Vocabulary

MISSING_ROW = 0  # of a timeline: the row of the missing value
MAX_NUMBER, MAX_STANDARDISED = 1e150, 1e6  # as at fit
CELLS = (list, tuple, set, frozenset, np.ndarray)


class Feature:
    """A feature of users or events: its codes, or its standardised numbers."""

    def __init__(self, entry: dict[str, Any], files: Files, delimiter: str):
        self.name, self.kind, self.delimiter = entry["name"], entry["kind"], delimiter
        self.length, self.made_by = entry["length"], entry["made_by"]
        self.mean, self.scale = np.asarray(entry["mean"], np.float64), entry["scale"]
        if self.length:
            self.mean = self.mean.astype(np.float32)
        vocabulary = entry["vocabulary"]
        self.vocabulary = None if vocabulary is None else Vocabulary(files.text(vocabulary))

    @property
    def is_coded(self) -> bool:
        return self.vocabulary is not None

    def encode(self, values: list) -> tuple[Column, np.ndarray]:
        """Return the codes or numbers of cells, and which cells hold a value."""
        has_value = np.array([not is_missing(value) for value in values], dtype=bool)
        if self.kind == "numeric":
            numbers = np.array([self._number(value) for value in values], dtype=np.float64)
            return self._standardised(numbers), ~np.isnan(numbers)
        if self.kind == "vector":
            return self._standardised(self._vectors(values, has_value)), has_value
        assert self.vocabulary is not None
        if self.kind == "categorical":
            return self.vocabulary.lookup(values, self.name), has_value
        cells = [split_cell(value, self.delimiter, self.name) for value in values]
        codes = self.vocabulary.lookup([item for cell in cells for item in cell], self.name)
        return RaggedArray(codes, np.cumsum([0, *map(len, cells)], dtype=np.int64)), has_value

    def missing(self, n_values: int) -> np.ndarray:
        """Return the codes or numbers of missing values."""
        if self.is_coded:
            return np.full(n_values, UNKNOWN, dtype=np.int32)
        return np.full(n_values, np.nan, dtype=np.float32)

    def _number(self, value: Any) -> float:
        if is_missing(value):
            return math.nan
        try:
            number = _as_number(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"The numeric feature {self.name!r} holds {value!r}, which is not a number "
                f"({error}): pass numbers, or None where there is none."
            ) from None
        if not math.isfinite(number):
            return math.nan
        return min(max(number, -MAX_NUMBER), MAX_NUMBER)

    def _vectors(self, values: list, has_value: np.ndarray) -> np.ndarray:
        vectors = np.full((len(values), self.length), np.nan, dtype=np.float32)
        for row in np.flatnonzero(has_value):
            try:
                vector = np.asarray(values[row], dtype=np.float32)
            except (TypeError, ValueError, OverflowError):
                vector = np.empty(0, dtype=np.float32)
            if vector.shape != (self.length,) or not np.isfinite(vector).all():
                remedy = (
                    f" In fit a {self.made_by} made these vectors, which the runtime cannot call: "
                    "pass what its transform returns, or leave the column out."
                    if self.made_by
                    else " Pass vectors of one length, and None where there is none."
                )
                raise ValueError(
                    f"The feature {self.name!r} holds {reprlib.repr(values[row])} in row {row}, "
                    f"and not a vector of {self.length} finite numbers.{remedy}"
                )
            vectors[row] = vector
        return vectors

    def _standardised(self, numbers: np.ndarray) -> np.ndarray:
        deviations = (numbers - self.mean) / max(self.scale, 1 / MAX_NUMBER)
        return np.clip(deviations, -MAX_STANDARDISED, MAX_STANDARDISED).astype(np.float32)


def _as_number(value: Any) -> float:
    """Return a number, a datetime or a length of time as a float; times in microseconds."""
    if hasattr(value, "to_numpy"):  # a Timestamp or Timedelta of pandas
        value = value.to_numpy()
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        value = np.datetime64(value)
    elif isinstance(value, datetime.timedelta):
        value = np.timedelta64(value)
    if isinstance(value, np.datetime64):
        return float(value.astype("datetime64[us]").astype(np.int64))
    if isinstance(value, np.timedelta64):
        return float(value.astype("timedelta64[us]").astype(np.int64))
    return float(value)


def split_cell(cell: Any, delimiter: str, column: Any) -> list:
    """Return the values of a cell: text is split, a missing cell has no values."""
    if isinstance(cell, str):
        return [part for part in cell.split(delimiter) if part]
    if isinstance(cell, CELLS) and not (isinstance(cell, np.ndarray) and cell.ndim == 0):
        return cell.tolist() if isinstance(cell, np.ndarray) else list(cell)
    if is_missing(cell):
        return []
    raise ValueError(
        f"The column {column!r} holds {cell!r}; pass lists, or text delimited by {delimiter!r}."
    )


class Timeline:
    """The values that users had over time, oldest first, as `MatchEncoder` stored them."""

    def __init__(self, entry: dict[str, str], files: Files):
        self.offsets, self.times = files.array(entry["offsets"]), files.array(entry["times"])
        self.column: Column = files.array(entry["values"])
        if "value_offsets" in entry:
            self.column = RaggedArray(self.column, files.array(entry["value_offsets"]))

    def at(self, user: np.ndarray, time: np.ndarray | None) -> Column:
        """Return the latest values of users, up to and including the times if any are passed."""
        first_row, stop = self.offsets[user], self.offsets[user + 1]
        if time is not None:
            stop = count_before(self.times, first_row, stop, time, or_equal=True)
        return gather_rows(self.column, np.where(stop > first_row, stop - 1, MISSING_ROW))

    def known_at(
        self, user: np.ndarray, time: np.ndarray | None, column: Column, has_value: np.ndarray
    ) -> Column:
        """Return the values of `column`, and the stored values where it has none."""
        return where_rows(has_value, column, self.at(user, time))
