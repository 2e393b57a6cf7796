"""Features of users and items: kinds, codes and numbers, and the latest values of items."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from skmatch._columns import FIRST_KNOWN, UNKNOWN, Column, RaggedArray, Vocabulary
from skmatch._files import blocks
from skmatch._schema import Feature, Kind
from skmatch._validation import as_series
from skmatch.preprocessing._vectors import (
    to_vectors,
    transform_values,
    type_in,
    with_transformer,
)

KINDS = get_args(Kind)
NUMBERS = ("numeric", "vector")  # kinds without codes
# Names of types, as of pandas.api.types.infer_dtype.
FRACTIONS, UNDECIDED = ("floating", "mixed-integer-float", "decimal"), ("integer", "empty")
CELLS = (list, tuple, set, frozenset, np.ndarray)  # types of cells with several values
MAX_NUMBER = 1e150  # its square is finite
MAX_STANDARDISED = 1e6  # more deviations than a number can have among 1e12


class Rows(NamedTuple):
    """Rows of values: the item code and the time of each."""

    codes: np.ndarray
    times: np.ndarray

    @classmethod
    def of_events(cls, codes: np.ndarray, times: np.ndarray | None) -> Rows:
        return cls(codes, np.zeros(len(codes)) if times is None else times)

    @classmethod
    def of_table(cls, codes: np.ndarray) -> Rows:
        # Values in a table are later than those of any event.
        return cls(codes, np.full(len(codes), np.inf))


class FeatureValues(NamedTuple):
    """An item feature, its latest value for each code, and the time of that value."""

    feature: Feature
    column: Column
    times: np.ndarray  # float64, -inf without a value

    @classmethod
    def blank(cls, feature: Feature) -> FeatureValues:
        """Return a feature without values; `settled` ends learning."""
        column: Column = np.empty(0, dtype=np.int32)
        if feature.kind == "multi_valued":
            column = RaggedArray.from_lists([])
        elif feature.kind == "numeric":
            column = np.empty(0, dtype=np.float64)  # not standardised until the mean is known
        elif feature.kind == "vector":
            column = np.empty((0, feature.length), dtype=np.float32)
        return cls(feature, column, np.empty(0))

    def updated(self, column: pd.Series, rows: Rows, n_codes: int, delimiter: str) -> FeatureValues:
        """Return a copy with the later values of a column, and its new categories."""
        kind = self.feature.kind
        times = np.append(self.times, np.full(n_codes - len(self.times), -np.inf))
        latest = _latest(rows, is_present(column, kind), n_codes)
        latest = latest[rows.times[latest] >= times[rows.codes[latest]]]
        # Cells with several values are slow to read, so only the latest are read.
        read = column.iloc[latest] if kind in ("multi_valued", "vector") else column
        feature = learn(self.feature, read, delimiter)
        latest_values = self._replace(feature=feature).lengthened(n_codes).column
        # Vectors in blocks: a second matrix of them would be the peak of a fit's memory.
        for part in blocks(len(latest), on_disk=kind == "vector", width=max(feature.length, 1)):
            index = latest[part]
            values = encode(feature, column.iloc[index], delimiter)
            if kind in NUMBERS and feature.scale > 0:
                values = standardise(values, feature)
            latest_values = _put(latest_values, rows.codes[index], values)
        times[rows.codes[latest]] = rows.times[latest]
        return FeatureValues(feature, latest_values, times)

    def settled(self) -> FeatureValues:
        """Return a copy whose vocabulary, mean and scale depend on the latest values alone.

        Vectors are standardised in place.
        """
        if isinstance(self.column, RaggedArray):
            # Drop values that only replaced cells had, and number the remaining values in order.
            vocabulary = self.feature.vocabulary
            assert vocabulary is not None
            codes = self.column.values
            is_known = codes >= FIRST_KNOWN
            renumbered, used_codes = pd.factorize(codes[is_known])
            codes = np.full_like(codes, UNKNOWN)
            codes[is_known] = renumbered + FIRST_KNOWN
            used = vocabulary.values[used_codes - FIRST_KNOWN]
            feature = replace(self.feature, vocabulary=Vocabulary(used, vocabulary.dtype))
            return self._replace(feature=feature, column=RaggedArray(codes, self.column.offsets))
        if self.feature.kind not in NUMBERS:
            return self
        feature = with_scale(self.feature, [self.column])
        if feature.kind == "numeric":
            return self._replace(feature=feature, column=standardise(self.column, feature))
        assert isinstance(self.column, np.ndarray)
        for part in blocks(len(self.column), width=feature.length):
            self.column[part] = standardise(self.column[part], feature)
        return self._replace(feature=feature)

    def with_transformer(self, transformer: Any) -> FeatureValues:
        """Return a copy whose values are the vectors that a transformer makes of its values."""
        assert self.feature.vocabulary is not None
        assert isinstance(self.column, np.ndarray)
        feature = with_transformer(self.feature, transformer)
        values = self.feature.vocabulary.decode(self.column)
        values.name = feature.name
        return self._replace(feature=feature, column=transform_values(values, feature))

    def has_values(self) -> bool:
        return not np.isneginf(self.times).all()

    def lengthened(self, n_codes: int) -> FeatureValues:
        """Return a copy with codes added that have no value."""
        n_new = n_codes - len(self.column)
        times = np.append(self.times, np.full(n_new, -np.inf))
        if isinstance(self.column, RaggedArray):
            offsets = np.append(self.column.offsets, np.full(n_new, self.column.offsets[-1]))
            return self._replace(column=RaggedArray(self.column.values, offsets), times=times)
        missing, column = np.nan if self.feature.kind in NUMBERS else UNKNOWN, self.column
        if self.feature.kind == "vector" and column.shape[1] < self.feature.length:  # all missing
            column, n_new = column[:0].reshape(0, self.feature.length), n_codes
        longer = np.full((len(column) + n_new, *column.shape[1:]), missing, dtype=column.dtype)
        longer[: len(column)] = column
        return self._replace(column=longer, times=times)


def learn(feature: Feature, column: pd.Series, delimiter: str) -> Feature:
    """Return the feature with the categories of a column added."""
    if feature.kind == "numeric":
        return feature
    if feature.kind == "vector":
        first_cell = next((cell for cell in column[column.notna()]), ())
        return feature if feature.length else replace(feature, length=np.size(first_cell))
    if feature.kind == "multi_valued":
        column, _ = flatten(split_cells(column, delimiter), column.name)
    if feature.vocabulary is None:
        return replace(feature, vocabulary=Vocabulary.learn(column)[0])
    return replace(feature, vocabulary=feature.vocabulary.extended(column)[0])


def encode(feature: Feature, column: pd.Series, delimiter: str) -> Column:
    """Return the codes or numbers of a column."""
    if feature.kind == "numeric":
        return to_numbers(column)
    if feature.kind == "vector":
        is_made = feature.transformer is not None
        return transform_values(column, feature) if is_made else to_vectors(column, feature.length)
    assert feature.vocabulary is not None
    values, offsets = column, None
    if feature.kind == "multi_valued":
        values, offsets = flatten(split_cells(column, delimiter), column.name)
    codes = feature.vocabulary.lookup(values)
    feature.vocabulary.warn_of_another_dtype(values, codes)
    return codes if offsets is None else RaggedArray(codes, offsets)


def is_present(column: pd.Series, kind: str) -> np.ndarray:
    """Return which cells hold a value; numbers must be finite."""
    return ~np.isnan(to_numbers(column)) if kind == "numeric" else column.notna().to_numpy()


def with_scale(feature: Feature, columns: list[Any]) -> Feature:
    """Return a feature with the mean of columns of numbers or vectors, and their deviation.

    The deviation of vectors is the root mean square of their distances from the mean.
    """

    if feature.kind == "vector" and not feature.length:
        raise ValueError(
            f"The feature {feature.name!r} holds no vector, so that their length is unknown: pass "
            "at least one, or remove the feature."
        )

    def parts() -> Iterator[np.ndarray]:
        # The same blocks in memory and on disk, as rounding depends on them.
        for column in columns:
            for rows in blocks(len(column), width=max(feature.length, 1)):
                part = column[rows]
                is_missing = np.isnan(part if part.ndim == 1 else part[:, 0])
                yield part[~is_missing].astype(np.float64, copy=False)

    n_numbers = sum(map(len, parts()))
    if not n_numbers:
        return replace(feature, scale=1.0)
    # Subtract a first number, so that equal numbers have a deviation of exactly 0.
    origin = next(part[0] for part in parts() if len(part))
    shift = sum((part - origin).sum(0) for part in parts()) / n_numbers
    squares = sum(((part - origin - shift) ** 2).sum() for part in parts())
    scale = float(np.sqrt(squares / n_numbers)) or 1.0
    mean = np.asarray(origin + shift, dtype=np.float32) if feature.length else float(origin + shift)
    return replace(feature, mean=mean, scale=scale)


def _latest(rows: Rows, present: np.ndarray, n_codes: int) -> np.ndarray:
    """Return the row of the latest value of each code that has one, the last of equal times."""
    rows_with_value = np.flatnonzero(present)
    codes, times = rows.codes[rows_with_value], rows.times[rows_with_value]
    latest = np.empty(n_codes, dtype=times.dtype)
    latest[codes] = times
    np.maximum.at(latest, codes, times)
    is_latest = times == latest[codes]
    row_of = np.full(n_codes, -1, dtype=np.int64)
    # Of a repeated index, numpy keeps the last.
    row_of[codes[is_latest]] = rows_with_value[is_latest]
    row_of[:FIRST_KNOWN] = -1
    return row_of[row_of >= 0]


def _put(column: Column, indices: np.ndarray, values: Column) -> Column:
    """Return a column with some values replaced, those of an array in place."""
    if not isinstance(column, RaggedArray) or not isinstance(values, RaggedArray):
        column[indices] = values  # type: ignore[index]
        return column
    rows = np.arange(len(column))
    rows[indices] = len(column) + np.arange(len(values))
    return column.concatenate(values).gather(rows)


def kind_of(column: pd.Series) -> Kind:
    """Return the kind of a feature by the dtype of its column, or by its cells."""
    if pd.api.types.is_float_dtype(column.dtype):
        return "numeric"
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    may_hold_cells = values.dtype == object or isinstance(values.dtype, pd.ArrowDtype)
    if not may_hold_cells:
        return "categorical"
    inferred = pd.api.types.infer_dtype(values)
    if inferred == "string":
        return "categorical"
    if values is column and inferred in FRACTIONS:
        return "numeric"
    present = values[values.notna()]
    # Integers may be names or numbers of a vector, which a cell with others decides.
    types = (type_in(cell) for cell in present)
    if next((of_cell for of_cell in types if of_cell not in UNDECIDED), None) in FRACTIONS:
        return "vector"
    first_value = next(iter(present), None)
    return "multi_valued" if isinstance(first_value, CELLS) else "categorical"


def split_cells(column: pd.Series, delimiter: str) -> list[list]:
    """Return the values of each cell; strings are split, missing cells have no values."""
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
                f"The multi-valued column {column.name!r} holds {cell!r}; pass lists, or "
                f"strings delimited by {delimiter!r}."
            )
    return cells


def flatten(cells: list[list], name: Hashable) -> tuple[pd.Series, np.ndarray]:
    """Return the concatenated values of all cells, and the offsets of the cells."""
    offsets = np.cumsum([0, *map(len, cells)], dtype=np.int64)
    return as_series([value for cell in cells for value in cell], name), offsets


def to_numbers(column: pd.Series) -> np.ndarray:
    """Return a column as floats; missing and infinite values become NaN."""
    missing = column.isna().to_numpy()
    try:
        if isinstance(column.dtype, pd.ArrowDtype) and column.dtype.kind == "O":
            column = column.astype(object)  # pandas.to_numeric fails at decimals beside nulls
        if column.dtype == object:
            column = column.infer_objects()
        if column.dtype.kind in "mM":  # in the same unit for all columns
            index = pd.DatetimeIndex if column.dtype.kind == "M" else pd.TimedeltaIndex
            numeric = pd.Series(index(column).as_unit("us").asi8)
        else:
            numeric = pd.to_numeric(column)
        if pd.api.types.is_complex_dtype(numeric.dtype):
            raise TypeError(f"{numeric.iloc[0]!r} is complex")
        numbers = numeric.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"The numeric feature {column.name!r} holds a value that is not a number ({error}): "
            "make it numbers, or set its kind to 'categorical' in kinds."
        ) from None
    finite = np.where(np.isfinite(numbers) & ~missing, numbers, np.nan)  # NaT is an integer here
    return np.clip(finite, -MAX_NUMBER, MAX_NUMBER)


def standardise(numbers: Any, feature: Feature) -> np.ndarray:
    """Return numbers standardised by the mean and scale of the fit, and clipped."""
    deviations = numbers - feature.mean
    deviations /= max(feature.scale, MAX_NUMBER**-1)
    np.clip(deviations, -MAX_STANDARDISED, MAX_STANDARDISED, out=deviations)
    return deviations.astype(np.float32, copy=False)
