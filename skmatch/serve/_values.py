"""Values of JSON in the types of the columns that a model was fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from skmatch._columns import Vocabulary
from skmatch._schema import Feature, Schema
from skmatch.serve._requests import invalid

_EXAMPLES = {
    "integers": "an integer such as 1",
    "numbers": "a number such as 1.5",
    "booleans": "true or false",
    "text": 'text such as "a"',
    "text or numbers": "text or a number",
}


class ValueReader:
    """Checks values against a vocabulary, and makes columns of them in its type.

    A value of another type would be unknown to the model, in silence.
    """

    def __init__(self, vocabulary: Vocabulary):
        values = vocabulary.values
        self.bounds = np.iinfo(np.uint64 if values.dtype.kind == "u" else np.int64)
        is_object = values.dtype == object
        types = {type(value) for value in values} if is_object else set()
        if values.dtype.kind in "iufb":
            self.kind = {"f": "numbers", "b": "booleans"}.get(values.dtype.kind, "integers")
        elif is_object and types <= {str}:
            self.kind = "text"
        elif is_object and types <= {str, int, float}:
            self.kind = "text or numbers"
        else:
            self.kind = ""  # JSON has no such type
            self.example = repr(values[:1].tolist())

    def check(self, name: str, value: Any) -> None:
        """Raise if a value is of another type."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_valid = {
            "integers": is_number and value == int(value),
            "numbers": is_number,
            "booleans": isinstance(value, bool),
            "text": isinstance(value, str),
            "text or numbers": is_number or isinstance(value, str),
            "": False,
        }[self.kind]
        if is_valid:
            return
        if not self.kind:
            raise invalid(
                name,
                f"{name} cannot be sent as JSON: the model was fitted on values such as "
                f"{self.example}. Fit it on text or numbers.",
            )
        raise invalid(
            name,
            f"{name} is {value!r}, but the model was fitted on {self.kind}: send "
            f"{_EXAMPLES[self.kind]}.",
        )

    def column(self, values: list[Any]) -> pd.Series:
        """Return checked values as a column; what the type cannot hold is missing, as None is."""
        if self.kind == "numbers":
            return pd.Series([_to_float(value) for value in values], dtype=float)
        if self.kind != "integers":
            return pd.Series(values, dtype=object)
        exact = self.exact(values)
        missing = np.array([value is None for value in exact], dtype=bool)
        numbers = np.array([value or 0 for value in exact], dtype=self.bounds.dtype)
        return pd.Series(pd.arrays.IntegerArray(numbers, missing) if missing.any() else numbers)

    def exact(self, values: list[Any]) -> list[Any]:
        """Return checked values, integers as such; what the type cannot hold becomes None."""
        if self.kind != "integers":
            return values
        least, greatest = int(self.bounds.min), int(self.bounds.max)
        return [
            None if value is None or not least <= value <= greatest else int(value)
            for value in values
        ]


class FeatureReader:
    """Checks the values of a feature, and makes columns of them."""

    def __init__(self, feature: Feature):
        self.feature = feature
        is_coded = feature.vocabulary is not None and feature.transformer is None
        self.values = ValueReader(feature.vocabulary) if is_coded else None  # type: ignore[arg-type]

    def check(self, name: str, value: Any) -> None:
        """Raise if the value is of another kind than the feature."""
        kind, is_list = self.feature.kind, isinstance(value, list)
        if kind == "numeric":
            if is_list or isinstance(value, str) or np.isnan(_to_float(value)):
                raise invalid(name, f"{name} is {value!r}, but a numeric feature: send a number.")
        elif kind == "vector" and self.feature.transformer is None:
            is_valid = is_list and not any(
                isinstance(one, (str, bool)) or np.isnan(_to_float(one)) for one in value
            )
            if not is_valid or len(value) != self.feature.length:
                raise invalid(name, f"{name} must be a list of {self.feature.length} numbers.")
        elif kind == "multi_valued":
            if not is_list:
                value = [value] if not isinstance(value, str) else []  # text is split by the model
            for one in value:
                self._check_one(name, one)
        elif is_list:
            raise invalid(name, f"{name} is a list, but the feature has one value: send that.")
        else:
            self._check_one(name, value)

    def _check_one(self, name: str, value: Any) -> None:
        if self.values is not None:
            self.values.check(name, value)

    def column(self, values: list[Any]) -> pd.Series:
        """Return checked values as a column; None is missing."""
        if self.feature.kind == "numeric":
            return pd.Series([_to_float(value) for value in values], dtype=float)
        if self.feature.kind == "multi_valued":
            values = [v if v is None or isinstance(v, (str, list)) else [v] for v in values]
        if self.feature.kind == "categorical" and self.values is not None:
            return self.values.column(values)
        return pd.Series(values, dtype=object)


class TimeReader:
    """Checks times, and makes columns of them."""

    def __init__(self, schema: Schema):
        self.kind = None if schema.time is None else schema.time_kind

    def read(self, name: str, value: Any) -> Any:
        """Return a number, or the moment of a text; raise if the model has no such times."""
        if self.kind is None:
            raise invalid(name, f"{name} is set, but the model has no times: leave it out.")
        if self.kind == "number":
            if isinstance(value, str):
                raise invalid(name, f"{name} is {value!r}, but times are numbers: send a number.")
            if abs(value) >= 2**63:
                raise invalid(name, f"{name} is {value!r}, which is beyond 64 bits.")
            return value
        is_zoned = self.kind == "zoned datetime"
        try:
            moment = pd.Timestamp(value).as_unit("ns") if isinstance(value, str) else None
        except (ValueError, OverflowError):
            moment = None
        if moment is None or moment is pd.NaT or (moment.tz is not None) != is_zoned:
            form = "2026-05-01T12:00:00" + ("+02:00" if is_zoned else "")
            with_zone = f"{'with' if is_zoned else 'without'} a time zone"
            raise invalid(name, f"{name} must be a date and time {with_zone}, such as {form!r}.")
        return moment.tz_convert("UTC") if is_zoned else moment

    def column(self, values: list[Any]) -> pd.Series:
        if self.kind == "number":
            are_integers = all(isinstance(value, int) for value in values)
            return pd.Series(values, dtype=np.int64 if are_integers else float)
        return pd.Series(pd.DatetimeIndex(values))


def _to_float(value: Any) -> float:
    """Return a number as float; NaN for None and for integers beyond 64 bits."""
    try:
        return float("nan") if value is None else float(value)
    except OverflowError:
        return float("nan")
