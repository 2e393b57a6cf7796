"""Features of users and items: their kinds, and the latest value of each user or item."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from skmatch._columns import FIRST_KNOWN, UNKNOWN, Bag, Column, Vocabulary
from skmatch._data import Feature

KINDS = ("categorical", "numeric", "multi_valued")
CELLS = (list, tuple, set, frozenset, np.ndarray)  # what holds several values
MAX_NUMBER = 1e150  # its square is finite
MAX_STANDARDISED = 1e6  # no number of fewer than 1e12 is so many deviations from their mean


class Rows(NamedTuple):
    """The rows that hold values: the code of each one's user or item, and its time."""

    codes: np.ndarray
    times: np.ndarray
    order: np.ndarray  # the rows in the order of time, equal ones as they come

    @classmethod
    def of_events(cls, codes: np.ndarray, times: np.ndarray | None) -> Rows:
        if times is None:
            return cls(codes, np.zeros(len(codes)), np.arange(len(codes)))
        return cls(codes, times, np.argsort(times, kind="stable"))

    @classmethod
    def of_table(cls, codes: np.ndarray) -> Rows:
        # What stands in a table is later than any event.
        return cls(codes, np.full(len(codes), np.inf), np.arange(len(codes)))


class FeatureValues(NamedTuple):
    """A feature, its latest value for each code, and the time of that value."""

    feature: Feature
    column: Column
    times: np.ndarray  # float64, -inf where there is no value

    @classmethod
    def blank(cls, name: Hashable, kind: str) -> FeatureValues:
        """Give a feature of which nothing is known; `settled` ends its learning."""
        column: Column = np.empty(0, dtype=np.int32)
        if kind == "multi_valued":
            column = Bag.from_lists([])
        elif kind == "numeric":
            column = np.empty(0, dtype=np.float64)  # as they come, until their mean is known
        return cls(Feature(name, kind), column, np.empty(0))

    def updated(self, column: pd.Series, rows: Rows, n_codes: int, delimiter: str) -> FeatureValues:
        """Take over the values that are later than those known, and learn new categories."""
        kind, vocabulary = self.feature.kind, self.feature.vocabulary
        column = _readable(column, kind)
        known = self.lengthened(n_codes)
        latest = _latest(rows, column.notna().to_numpy(), n_codes)
        latest = latest[rows.times[latest] >= known.times[rows.codes[latest]]]
        values: Column
        if kind == "numeric":
            numbers = column.to_numpy()[latest]
            values = standardise(numbers, self.feature) if known._is_settled() else numbers
        elif kind == "categorical":
            vocabulary, codes = _learn(vocabulary, column)
            values = codes[latest]
        else:
            cells = split_cells(column.iloc[latest], delimiter)
            flat = [value for cell in cells for value in cell]
            named = pd.Series(flat, name=column.name, dtype=object)
            vocabulary, codes = _learn(vocabulary, named)
            values = Bag(codes, np.cumsum([0, *map(len, cells)]))
        places, times = rows.codes[latest], known.times.copy()
        times[places] = rows.times[latest]
        feature = replace(self.feature, vocabulary=vocabulary)
        return FeatureValues(feature, _put(known.column, places, values), times)

    def settled(self) -> FeatureValues:
        """End the learning: what the latest values of all decide is the same for any pieces."""
        if isinstance(self.column, Bag):
            # Values that only earlier cells had go, and the others are numbered in order.
            old = self.feature.vocabulary
            assert old is not None
            codes = self.column.values
            is_known = codes >= FIRST_KNOWN
            new, kept = pd.factorize(codes[is_known])
            codes = np.full_like(codes, UNKNOWN)
            codes[is_known] = new + FIRST_KNOWN
            vocabulary = Vocabulary(old.values[kept - FIRST_KNOWN], old.dtype)
            feature = replace(self.feature, vocabulary=vocabulary)
            return self._replace(feature=feature, column=Bag(codes, self.column.offsets))
        if self.feature.kind != "numeric":
            return self
        numbers = self.column[~np.isnan(self.column)]
        mean = float(numbers.mean()) if len(numbers) else 0.0
        scale = (float(numbers.std()) if len(numbers) else 0.0) or 1.0
        feature = replace(self.feature, mean=mean, scale=scale)
        return self._replace(feature=feature, column=standardise(self.column, feature))

    def _is_settled(self) -> bool:
        return isinstance(self.column, Bag) or self.column.dtype != np.float64

    def has_values(self) -> bool:
        """Tell whether any value is known."""
        return not np.isneginf(self.times).all()

    def lengthened(self, n_codes: int) -> FeatureValues:
        """Add codes that have no value."""
        n_new = n_codes - len(self.column)
        times = np.append(self.times, np.full(n_new, -np.inf))
        if isinstance(self.column, Bag):
            offsets = np.append(self.column.offsets, np.full(n_new, self.column.offsets[-1]))
            return self._replace(column=Bag(self.column.values, offsets), times=times)
        missing = np.nan if self.feature.kind == "numeric" else UNKNOWN
        column = np.append(self.column, np.full(n_new, missing, dtype=self.column.dtype))
        return self._replace(column=column, times=times)


def _learn(vocabulary: Vocabulary | None, column: pd.Series) -> tuple[Vocabulary, np.ndarray]:
    return Vocabulary.learn(column) if vocabulary is None else vocabulary.extended(column)


def _readable(column: pd.Series, kind: str) -> pd.Series:
    """Give a column in which all that is no value is missing: for numbers, infinities too."""
    return pd.Series(to_numbers(column), name=column.name) if kind == "numeric" else column


def _latest(rows: Rows, present: np.ndarray, n_codes: int) -> np.ndarray:
    """Give for each code that has any value the row of its latest one."""
    order = rows.order[present[rows.order]]
    row_of = np.full(n_codes, -1, dtype=np.int64)
    row_of[rows.codes[order]] = order  # of a repeated index, numpy keeps the last
    row_of[:FIRST_KNOWN] = -1
    return row_of[row_of >= 0]


def _put(column: Column, places: np.ndarray, values: Column) -> Column:
    """Give a column with other values in some places."""
    if not isinstance(column, Bag) or not isinstance(values, Bag):
        changed = column.copy()  # type: ignore[union-attr]
        changed[places] = values
        return changed
    rows = np.arange(len(column))
    rows[places] = len(column) + np.arange(len(values))
    return column.followed_by(values).take(rows)


def kind_of(column: pd.Series) -> str:
    """Tell the kind of a feature from the dtype of its column."""
    if pd.api.types.is_float_dtype(column.dtype):
        return "numeric"
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    may_hold_cells = values.dtype == object or isinstance(values.dtype, pd.ArrowDtype)
    example = next(iter(values[values.notna()]), None) if may_hold_cells else None
    return "multi_valued" if isinstance(example, CELLS) else "categorical"


def split_cells(column: pd.Series, delimiter: str) -> list[list]:
    """Give the values of each cell; a string is split, a missing cell has none."""
    cells = []
    for cell in column:
        if isinstance(cell, str):
            cells.append([part for part in cell.split(delimiter) if part])
        elif isinstance(cell, CELLS) and not (isinstance(cell, np.ndarray) and cell.ndim == 0):
            cells.append(list(cell))
        elif pd.api.types.is_scalar(cell) and pd.isna(cell):
            cells.append([])
        else:
            raise ValueError(
                f"The multi-valued column {column.name!r} holds {cell!r}; give lists, or "
                f"strings delimited by {delimiter!r}."
            )
    return cells


def to_numbers(column: pd.Series) -> np.ndarray:
    """Give a column as finite floats; what is missing or infinite becomes NaN."""
    try:
        numeric = pd.to_numeric(column)
        if pd.api.types.is_complex_dtype(numeric.dtype):
            raise TypeError(f"{numeric.iloc[0]!r} is complex")
        numbers = numeric.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"The numeric feature {column.name!r} holds what is no number ({error}); make it "
            "numbers or name it categorical in kinds."
        ) from None
    finite = np.where(np.isfinite(numbers), numbers, np.nan)
    return np.clip(finite, -MAX_NUMBER, MAX_NUMBER)


def standardise(numbers: np.ndarray, feature: Feature) -> np.ndarray:
    """Give numbers in deviations from the mean of the fit, few enough for the network."""
    deviations = (numbers - feature.mean) / max(feature.scale, MAX_NUMBER**-1)
    return np.clip(deviations, -MAX_STANDARDISED, MAX_STANDARDISED).astype(np.float32)
