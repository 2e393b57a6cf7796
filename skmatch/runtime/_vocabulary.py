"""Vocabularies in JSON: ids and categories as values, codes and back."""

from __future__ import annotations

import datetime
import warnings
from typing import Any
from uuid import UUID

import numpy as np

from skmatch._arrays import FIRST_KNOWN, UNKNOWN, is_missing

_EPOCH = datetime.datetime(1970, 1, 1)


class Vocabulary:
    """Distinct values and their codes: the code of the value `i` is `i + 2`.

    Parameters
    ----------
    content : dict
        The content of the file: the ``type`` and the list of ``values``.
    """

    def __init__(self, content: dict[str, Any]):
        self.type = content["type"]
        self.values = _decoded(self.type, content["values"])
        keys = content["values"] if self.type == "datetime" else self.values.tolist()
        self._codes = dict(zip(keys, range(FIRST_KNOWN, FIRST_KNOWN + len(keys)), strict=True))

    def __len__(self) -> int:
        """Return the number of codes, padding and unknown included."""
        return len(self.values) + FIRST_KNOWN

    def lookup(self, values: list, column: Any) -> np.ndarray:
        """Return the codes of values; UNKNOWN for unknown and missing values."""
        keys = values
        if self.type == "datetime":
            keys = [value if is_missing(value) else nanoseconds(value) for value in values]
        find = self._codes.get
        try:
            codes = np.fromiter((find(key, UNKNOWN) for key in keys), np.int32, len(keys))
        except TypeError:
            value = next(value for value in values if type(value).__hash__ is None)
            raise ValueError(
                f"Column {column!r} holds {value!r}, an unhashable {type(value).__name__!r}. Use "
                "strings, numbers or other hashable values."
            ) from None
        if len(codes) and (codes == UNKNOWN).all():
            self._warn_of_another_type(values, column)
        return codes

    def _warn_of_another_type(self, values: list, column: Any) -> None:
        """Warn if a value would be known in the type at fit, such as "1" for 1."""
        if not len(self.values) or self.type == "datetime":
            return
        example = self.values[:1].tolist()[0]
        for value in values:
            if is_missing(value):
                continue
            try:
                converted = type(example)(value)
            except Exception:  # types of ids, for example UUID, raise any error
                continue
            if converted in self._codes and str(converted) == str(value):
                warnings.warn(
                    f"Column {column!r} holds {value!r}, and fit got {converted!r}, so all its "
                    f"values are unknown. Convert it to {type(example).__name__}.",
                    UserWarning,
                    stacklevel=5,
                )
                return


def _decoded(kind: str, values: list) -> np.ndarray:
    """Return the values of a file as an array of the vocabulary's type."""
    if kind in ("int", "float", "bool"):
        return np.array(values, dtype={"int": np.int64, "float": np.float64, "bool": bool}[kind])
    if kind == "datetime":
        exact = np.array(values, dtype=np.int64).view("datetime64[ns]")
        rounded = exact.astype("datetime64[us]")  # which `tolist` turns into datetimes
        return rounded if (rounded == exact).all() else exact
    if kind == "uuid":
        return object_array([UUID(value) for value in values])
    if kind == "date":
        return object_array([datetime.date.fromisoformat(value) for value in values])
    return object_array(values)


def object_array(values: list) -> np.ndarray:
    """Return an array of the objects, without conversion."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def nanoseconds(value: Any) -> Any:
    """Return a datetime without time zone as nanoseconds, and other values unchanged."""
    if hasattr(value, "to_datetime64") and value.tzinfo is None:  # a pandas.Timestamp
        value = value.to_datetime64()
    if isinstance(value, np.datetime64):
        rounded = value.astype("datetime64[us]")  # nanoseconds would overflow after the year 2262
        remainder = int((value - rounded) / np.timedelta64(1, "ns"))
        return int(rounded.astype(np.int64)) * 1000 + remainder
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return (value - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
    return value
