"""Coded columns: `Vocabulary`, and functions that count and sort codes.

Codes everywhere: 0 is padding, 1 is unknown, known values start at 2.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from skmatch._arrays import (
    FIRST_KNOWN,
    PADDING,
    UNKNOWN,
    Column,
    Columns,
    RaggedArray,
    check_offsets,
    concatenate_ranges,
    gather_rows,
    where_rows,
)

__all__ = [
    "FIRST_KNOWN",
    "PADDING",
    "UNKNOWN",
    "Column",
    "Columns",
    "RaggedArray",
    "Vocabulary",
    "check_offsets",
    "concatenate_ranges",
    "count_codes",
    "gather_rows",
    "order_by_code",
    "order_by_time",
    "where_rows",
]

# Before pandas 3, pandas.factorize compares strings only up to their first NUL.
STRINGS_END_AT_NUL = len(pd.factorize(np.array(["", "\0"], dtype=object))[1]) == 1
COUNTED_ROWS = 2**22  # per block: np.bincount copies its input to int64


def count_codes(codes: np.ndarray, n_codes: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Count the rows of each code, or sum their weights, in blocks of bounded memory."""
    counts = np.zeros(n_codes, dtype=np.int64 if weight is None else np.float64)
    for start in range(0, len(codes), COUNTED_ROWS):
        rows = slice(start, start + COUNTED_ROWS)
        block_weights = None if weight is None else weight[rows]
        counts += np.bincount(codes[rows], block_weights, minlength=n_codes)
    return counts


def order_by_code(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return row numbers sorted by code; rows with equal codes keep the given order.

    Building a sparse matrix is a counting sort, several times faster than a comparison sort.
    """
    n_codes, n_rows = int(codes.max(initial=0)) + 1, len(order)
    shape = (n_codes, max(n_rows, 1))
    by_code: np.ndarray = csr_array((order, (codes[order], np.arange(n_rows))), shape=shape).data
    return by_code


def order_by_time(times: np.ndarray) -> np.ndarray:
    """Return row numbers sorted by time; rows of equal times keep their order.

    Sorting integers that hold time and row is several times faster than a stable argsort.
    """
    n_rows = len(times)
    if n_rows and times.dtype.kind == "i":
        first = int(times.min())
        if (int(times.max()) - first + 1) * n_rows <= np.iinfo(np.int64).max:
            keys = (times.astype(np.int64, copy=False) - first) * n_rows + np.arange(n_rows)
            keys.sort()
            return keys % n_rows
    return np.argsort(times, kind="stable")


class Vocabulary:
    """Distinct values of a column and their codes; decodes to the column's own dtype.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        The known values; the code of ``values[i]`` is ``i + 2``.
    dtype : str
        Name of the pandas dtype that decoded values have.
    categories : Vocabulary or None
        All categories, where `dtype` is ``"category"``.
    ordered : bool
        Whether the categories have an order.
    """

    def __init__(
        self,
        values: np.ndarray,
        dtype: str,
        categories: Vocabulary | None = None,
        ordered: bool = False,
    ):
        self.values = values
        self.dtype = dtype
        self.categories = categories
        self.ordered = ordered
        # Caches, which are not saved.
        self._index: pd.Index | None = None
        self._original: Any = None

    @classmethod
    def learn(cls, column: pd.Series) -> tuple[Self, np.ndarray]:
        """Return the vocabulary of a column, and the column's codes."""
        codes, uniques = _factorize(column)
        dtype = column.dtype
        categories, ordered = None, False
        if isinstance(dtype, pd.CategoricalDtype):
            categories, _ = cls.learn(pd.Series(dtype.categories))
            ordered = bool(dtype.ordered)
        vocabulary = cls(_plain_values(uniques), _dtype_name(dtype), categories, ordered)
        # pandas codes missing values as -1, which becomes UNKNOWN.
        return vocabulary, (codes + FIRST_KNOWN).astype(np.int32)

    def extended(self, column: pd.Series) -> tuple[Self, np.ndarray]:
        """Return a vocabulary with a column's new values added, and the column's codes."""
        codes = self.lookup(column)
        rows = np.flatnonzero((codes == UNKNOWN) & column.notna().to_numpy())
        if not len(rows):
            return self, codes
        added, added_codes = type(self).learn(self._in_own_dtype(column.iloc[rows]))
        categories = self.categories
        if categories is not None:
            categories, _ = categories.extended(pd.Series(added.values, dtype=added.values.dtype))
        codes[rows] = added_codes + len(self.values)
        values = np.concatenate([self.values, added.values])
        return type(self)(values, self.dtype, categories, self.ordered), codes

    def _in_own_dtype(self, column: pd.Series) -> pd.Series:
        """Return values in the dtype of the known values; raise if that changes a value."""
        if self.categories is not None:
            return self.categories._in_own_dtype(column)
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype)
        dtype = pd.api.types.pandas_dtype(self.dtype)
        if column.dtype == dtype:
            return column
        try:
            converted = column.astype(dtype)
            differs = (converted.astype(object) != column.astype(object)).to_numpy(dtype=bool)
        except (TypeError, ValueError, OverflowError):
            differs = np.ones(len(column), dtype=bool)
        if differs.any():
            example = f", such as {self.values[:1].tolist()[0]!r}" if len(self.values) else ""
            raise ValueError(
                f"Column {column.name!r} holds {column[differs].tolist()[0]!r}, but the fitted "
                f"values have dtype {self.dtype}{example}: convert the column to that dtype, or "
                "fit again."
            )
        return converted

    def emptied(self) -> Self:
        """Return an empty vocabulary of the same dtype."""
        return type(self)(self.values[:0], self.dtype, self.categories, self.ordered)

    def __len__(self) -> int:
        """Return the number of codes, padding and unknown included."""
        return len(self.values) + FIRST_KNOWN

    def extends(self, other: Vocabulary) -> bool:
        """Return whether all codes of `other` mean the same in this vocabulary."""
        return self is other or np.array_equal(self.values[: len(other.values)], other.values)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_index": None, "_original": None}
        if self.values.dtype == object and all(type(value) is str for value in self.values):
            # Two plain arrays are smaller and faster to load than many objects.
            encoded = [value.encode("utf-8", "surrogatepass") for value in self.values]
            offsets = np.cumsum([0, *map(len, encoded)])
            state["values"] = RaggedArray(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.values, RaggedArray):
            encoded, bounds = self.values.values.tobytes(), self.values.offsets.tolist()
            strings = [encoded[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(bounds)]
            self.values = np.array(strings, dtype=object)

    @property
    def index(self) -> pd.Index:
        """Hash table of the known values."""
        if self._index is None:
            index = pd.Index(self.values, dtype=self.values.dtype, tupleize_cols=False)
            # Fill the hash table now: pandas lets other threads read it while it is filled.
            index.get_indexer(index[:1])
            self._index = index
        return self._index

    def lookup(self, values: Any) -> np.ndarray:
        """Return the int32 codes of values; unseen and missing values are UNKNOWN."""
        column = values if isinstance(values, pd.Series) else pd.Series(values)
        if isinstance(column.dtype, pd.CategoricalDtype):
            by_category = self._find(column.cat.categories)
            by_category = np.append(by_category, np.int32(UNKNOWN))  # code -1: missing
            return by_category[column.cat.codes.to_numpy()]
        if column.dtype == object == self.index.dtype:
            return self._find(column)  # factorizing first would not be faster
        codes, distinct = _factorize(column)  # look up each distinct value once
        return np.append(self._find(distinct), np.int32(UNKNOWN))[codes]  # code -1: missing

    def warn_of_another_dtype(self, values: pd.Series, codes: np.ndarray) -> None:
        """Warn if all values are unknown, but a value would be known in the fitted dtype."""
        if not len(codes) or (codes != UNKNOWN).any():
            return
        values = values.dropna()
        try:
            if self.dtype == "object" and len(self.values):
                converted = values.map(type(self.values[0])).astype(object)
            else:
                converted = values.astype(pd.api.types.pandas_dtype(self.dtype))
            reads_same = converted.astype(str) == values.astype(str)
            is_same = ((self.lookup(converted) != UNKNOWN) & reads_same).to_numpy()
        except Exception:  # types of ids, for example UUID, raise any error
            return
        if is_same.any():
            value, fitted = (column[is_same].tolist()[0] for column in (values, converted))
            dtype = type(fitted).__name__ if self.dtype == "object" else self.dtype
            warnings.warn(
                f"Column {values.name!r} holds {value!r}, and fit got {fitted!r}, so all its "
                f"values are unknown. Convert it to {dtype}.",
                UserWarning,
                stacklevel=4,
            )

    def _find(self, values: Any) -> np.ndarray:
        plain = _plain_values(values)
        if plain.dtype != self.index.dtype and object in (plain.dtype, self.index.dtype):
            # As objects, since plain values have lost their time zone.
            index, target = (
                pd.Index(array, tupleize_cols=False).astype(object)
                for array in (self._original_values(), values)
            )
            codes = index.get_indexer_for(target)
        else:
            target = pd.Index(plain, dtype=plain.dtype, tupleize_cols=False)
            try:
                codes = self.index.get_indexer_for(target)
            except TypeError:
                raise _not_hashable(pd.Series(values)) from None
        return (codes + FIRST_KNOWN).astype(np.int32)

    def decode(self, codes: np.ndarray) -> pd.Series:
        """Return the values of codes in the original dtype; padding and unknown become missing."""
        positions = np.asarray(codes, dtype=np.int64) - FIRST_KNOWN
        invalid = (positions < -FIRST_KNOWN) | (positions >= len(self.values))
        if invalid.any():
            raise ValueError(
                f"{positions[invalid][0] + FIRST_KNOWN} is not a code: codes are 0 to "
                f"{len(self) - 1}. Decode with the MatchEncoder that encoded them."
            )
        missing = positions < 0
        values = self._original_values()
        if missing.any():
            positions = np.where(missing, -1, positions)
            if isinstance(values, np.ndarray) and values.dtype.kind not in "fmMO":
                values = values.astype(object)  # integers have no missing value
            decoded = pd.api.extensions.take(values, positions, allow_fill=True)
        else:
            decoded = values.take(positions)
        return pd.Series(decoded, dtype=decoded.dtype, copy=False)  # dtype: no inference

    def _original_values(self) -> Any:
        """Return the known values as an array of the original dtype, cached."""
        if self._original is None:
            self._original = self._in_original_dtype()
        return self._original

    def _in_original_dtype(self) -> Any:
        values: Any = self.values
        if self.categories is not None:
            categories = pd.Index(self.categories._original_values(), tupleize_cols=False)
            codes = self.categories._find(values) - FIRST_KNOWN
            return pd.Categorical.from_codes(codes, categories, ordered=self.ordered)
        if str(values.dtype) == self.dtype:
            return values
        dtype = pd.api.types.pandas_dtype(self.dtype)
        if isinstance(dtype, pd.DatetimeTZDtype):
            values = pd.DatetimeIndex(values, tz="UTC")  # as `_plain_values` returns them
        return pd.Series(values).astype(dtype).array


def _factorize(column: pd.Series) -> tuple[np.ndarray, Any]:
    """Return `pandas.factorize` of a column; raise if a value is not hashable."""
    is_cut = STRINGS_END_AT_NUL and column.dtype in (np.dtype(object), "string[python]")
    try:
        if not is_cut:
            return pd.factorize(column)
        # In a column that also holds other values, strings are compared as Python compares them.
        codes, uniques = pd.factorize(pd.Series([*column, object()], dtype=object))
        return codes[:-1], uniques[:-1]
    except (TypeError, NotImplementedError):  # pyarrow raises the latter
        raise _not_hashable(column) from None


def _not_hashable(column: pd.Series) -> ValueError:
    value = next((v for v in column if not pd.api.types.is_hashable(v)), column.dtype)
    return ValueError(
        f"Column {column.name!r} holds {value!r}, an unhashable {type(value).__name__!r}. "
        "Use strings, numbers or other hashable values, such as tuples instead of lists."
    )


def _dtype_name(dtype: Any) -> str:
    """Return a name that pandas reads as the same dtype."""
    if isinstance(dtype, pd.StringDtype) and dtype.na_value is pd.NA:
        return f"string[{dtype.storage}]"
    name = str(dtype)
    if isinstance(dtype, pd.ArrowDtype):
        if name == "string[pyarrow]":
            return "utf8[pyarrow]"  # pandas reads "string[pyarrow]" as a StringDtype
        try:
            pd.api.types.pandas_dtype(name)
        except (TypeError, ValueError, NotImplementedError):  # of dictionaries and decimals
            return "object"
    return name


def _plain_values(values: Any) -> np.ndarray:
    """Return values, none of them missing, as a numpy array that loads without pandas."""
    if isinstance(values, pd.Series):
        values = values.array
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        values = values.astype(dtype.categories.dtype)
        return _plain_values(values)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return np.asarray(values.tz_convert("UTC").tz_localize(None))
    if isinstance(dtype, np.dtype):
        return np.asarray(values)
    kind = getattr(dtype, "kind", "O")
    if kind in "iub":
        return values.to_numpy(dtype=bool if kind == "b" else f"{kind}8")
    if kind == "f":
        return values.to_numpy(dtype=float)
    return np.asarray(values, dtype=object)
