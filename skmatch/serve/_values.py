"""Values of JSON, checked against the types that a model was fitted on."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from skmatch.serve._requests import invalid

_EXAMPLES = {
    "integers": "an integer such as 1",
    "numbers": "a number such as 1.5",
    "booleans": "true or false",
    "text": 'text such as "a"',
    "text or numbers": "text or a number",
}
_LARGEST = float(np.finfo(np.float32).max)
_YEARS = range(1678, 2262)  # of nanoseconds in 64 bits


class ValueReader:
    """Checks values against the type of a vocabulary, an array.

    A value of another type would be unknown to the model, in silence.
    """

    def __init__(self, values: np.ndarray):
        bounds = np.iinfo(np.uint64 if values.dtype.kind == "u" else np.int64)
        self.bounds = int(bounds.min), int(bounds.max)
        is_object = values.dtype == object
        types = {type(value) for value in values} if is_object else set()
        if values.dtype.kind in "iufb":
            self.kind = {"f": "numbers", "b": "booleans"}.get(values.dtype.kind, "integers")
        elif is_object and types <= {str}:
            self.kind = "text"
        elif is_object and types <= {str, int, float}:
            self.kind = "text or numbers"
        else:
            self.kind = ""  # JSON cannot hold these values
            self.example = repr(values[:1].tolist())

    @property
    def has_ids(self) -> bool:
        """Whether values of this type can be ids in JSON."""
        return self.kind not in ("", "booleans")

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

    def exact(self, values: list[Any]) -> list[Any]:
        """Return checked values in the type, integers as int; values out of its range as None."""
        if self.kind == "numbers":
            numbers = map(to_float, values)
            return [None if number != number else number for number in numbers]
        if self.kind != "integers":
            return values
        least, greatest = self.bounds
        return [
            None if value is None or not least <= value <= greatest else int(value)
            for value in values
        ]


class FeatureReader:
    """Checks the values of a feature.

    Parameters
    ----------
    label : label
        The column of the feature.
    kind : {"categorical", "numeric", "multi_valued", "vector"} or None
        None: any value, of which the model makes a vector.
    values : ndarray or None
        The categories.
    length : int
        Of a vector.
    """

    def __init__(self, label: Any, kind: str | None, values: np.ndarray | None, length: int):
        self.label, self.kind, self.length = label, kind, length
        self.values = None if values is None else ValueReader(values)

    def check(self, name: str, value: Any) -> None:
        """Raise if the value is of another kind than the feature."""
        is_list = isinstance(value, list)
        if self.kind == "numeric":
            if is_list or isinstance(value, str) or np.isnan(to_float(value)):
                raise invalid(name, f"{name} is {value!r}, but a numeric feature: send a number.")
        elif self.kind == "vector":
            is_valid = is_list and all(
                not isinstance(cell, (str, bool)) and abs(to_float(cell)) <= _LARGEST
                for cell in value
            )
            if not is_valid or len(value) != self.length:
                raise invalid(name, f"{name} must be a list of {self.length} numbers of 32 bits.")
        elif self.kind == "multi_valued":
            if not is_list:
                value = [value] if not isinstance(value, str) else []  # text is split by the model
            for cell in value:
                self._check_value(name, cell)
        elif is_list:
            raise invalid(name, f"{name} is a list, but the feature has one value: send that.")
        else:
            self._check_value(name, value)

    def _check_value(self, name: str, value: Any) -> None:
        if self.values is not None:
            self.values.check(name, value)

    def exact(self, values: list[Any]) -> list[Any]:
        """Return checked values as the model reads them; None is missing."""
        if self.kind == "numeric":
            return [None if value is None else to_float(value) for value in values]
        if self.kind == "multi_valued":
            return [v if v is None or isinstance(v, (str, list)) else [v] for v in values]
        return values if self.values is None else self.values.exact(values)


class TimeReader:
    """Checks times of a kind: "number", "datetime", "zoned datetime", or None without times."""

    def __init__(self, kind: str | None):
        self.kind = kind

    def read(self, name: str, value: Any) -> Any:
        """Return a number, or the time of a text; raise if the model has times of another kind."""
        if self.kind is None:
            raise invalid(name, f"{name} is set, but the model has no times: leave it out.")
        if self.kind == "number":
            if isinstance(value, str):
                raise invalid(name, f"{name} is {value!r}, but times are numbers: send a number.")
            if abs(value) >= 2**63:
                raise invalid(name, f"{name} is {value!r}, which is beyond 64 bits.")
            return value
        is_zoned, moment = self.kind == "zoned datetime", None
        if isinstance(value, str):
            try:
                moment = datetime.datetime.fromisoformat(value)
            except ValueError:
                moment = None
        if moment is None or (moment.tzinfo is not None) != is_zoned:
            form = "2026-05-01T12:00:00" + ("+02:00" if is_zoned else "")
            with_zone = f"{'with' if is_zoned else 'without'} a time zone"
            raise invalid(name, f"{name} must be a date and time {with_zone}, such as {form!r}.")
        if moment.year not in _YEARS:
            years = f"{_YEARS[0]} to {_YEARS[-1]}"
            raise invalid(name, f"{name} is {value!r}: send a time of the years {years}.")
        return moment.astimezone(datetime.UTC) if is_zoned else moment


def to_float(value: Any) -> float:
    """Return a number as float; NaN for None and for integers that are too large."""
    try:
        return float("nan") if value is None else float(value)
    except OverflowError:
        return float("nan")
