"""Bodies of requests: JSON to `Query` and `Event`, independent of any model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_BODY = 2**20  # bytes
MAX_TEXT = 1000  # characters
MAX_K = 1000
MAX_HISTORY = 1000
MAX_ITEMS = 10_000  # of `candidates` and of `exclude`
MAX_FEATURES = 100
MAX_VALUES = 4096  # of a feature: a vector, or a list of categories
MAX_EVENTS = 1000


class RequestError(Exception):
    """An error response to a request: its status, the field at fault, the remedy."""

    def __init__(self, status: int, message: str, field: str | None = None):
        super().__init__(message)
        self.status = status
        self.field = field

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {"error": {"field": self.field, "message": str(self)}}


def invalid(field: str | None, message: str) -> RequestError:
    return RequestError(422, message, field)


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a known user, a session or a new user."""

    user: Any = None
    time: Any = None
    history: list | None = None
    history_features: dict[str, list] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    k: int | None = None
    exclude_seen: bool | None = None
    candidates: list | None = None
    exclude: list | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event to observe."""

    user: Any
    item: Any
    time: Any = None
    features: dict[str, Any] = field(default_factory=dict)


def read_query(body: bytes) -> Query:
    """Return the query in the body of a request; raise `RequestError` if it is not a query."""
    return Query(**_read_fields(_read_json(body), _QUERY_FIELDS))


def read_events(body: bytes) -> list[Event]:
    """Return the events in the body of a request; raise `RequestError` if it has none."""
    fields = _read_fields(_read_json(body), {"events": _read_rows}, required=("events",))
    events = []
    for row, values in enumerate(fields["events"]):
        path = f"events[{row}]"
        values = _read_fields(values, _EVENT_FIELDS, path, required=("user", "item"))
        events.append(Event(**values))
    return events


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_reject_constant, object_pairs_hook=_to_dict)
    except RecursionError:
        message = "The body is nested too deeply."
    except ValueError as error:  # also of bytes that are no UTF-8 and of integers that are too long
        message = f"The body is no valid JSON: {error}."
    raise invalid(None, message)


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has the same name twice")
    return values


def _read_fields(
    values: Any,
    readers: dict[str, Callable[[str, Any], Any]],
    path: str = "",
    required: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the fields of an object, each checked by its reader; null stands for the default."""
    if not isinstance(values, dict):
        raise invalid(path or None, f"{path or 'The body'} must be a JSON object.")
    prefix = f"{path}." if path else ""
    for name in values:
        if name not in readers:
            names = ", ".join(readers)
            raise invalid(prefix + name, f"{name!r} is unknown; the fields are: {names}.")
    fields = {
        name: readers[name](prefix + name, value)
        for name, value in values.items()
        if value is not None
    }
    for name in required:
        if name not in fields:
            raise invalid(prefix + name, f"{prefix}{name} is missing; add it.")
    return fields


def _read_value(name: str, value: Any) -> Any:
    """Return text, a finite number or a boolean."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise invalid(name, f"{name} must have at most {MAX_TEXT} characters.")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise invalid(name, f"{name} holds half of a surrogate pair, which is no text.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise invalid(name, f"{name} must be a finite number.")
    elif not isinstance(value, (bool, int)):
        raise invalid(name, f"{name} must be text, a number or a boolean.")
    return value


def _read_id(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        raise invalid(name, f"{name} must be text or a number.")
    return _read_value(name, value)


def _read_list(name: str, values: Any, longest: int) -> list:
    if not isinstance(values, list):
        raise invalid(name, f"{name} must be a list.")
    if len(values) > longest:
        raise invalid(name, f"{name} has {len(values)} values; pass at most {longest}.")
    return values


def _ids(longest: int, is_empty_valid: bool = True) -> Callable[[str, Any], list]:
    def read(name: str, values: Any) -> list:
        for value in _read_list(name, values, longest):
            _read_id(name, value)
        if not values and not is_empty_valid:
            raise invalid(
                name,
                f"{name} is empty, so that no item can be recommended; pass at least one id, or "
                "leave the field out to allow all items.",
            )
        return values

    return read


def _read_object(name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise invalid(name, f"{name} must be a JSON object.")
    if len(values) > MAX_FEATURES:
        raise invalid(name, f"{name} has {len(values)} fields; pass at most {MAX_FEATURES}.")
    for key in values:
        _read_value(name, key)
    return values


def _read_features(name: str, values: Any) -> dict[str, Any]:
    """Return the features that have a value; null is as if the feature were left out."""
    for key, value in _read_object(name, values).items():
        cells = value if isinstance(value, list) else [value]
        for cell in _read_list(f"{name}.{key}", cells, MAX_VALUES):
            if cell is not None or cells is value:
                _read_value(f"{name}.{key}", cell)
    return {key: value for key, value in values.items() if value is not None}


def _read_history_features(name: str, values: Any) -> dict[str, list]:
    for key, cells in _read_object(name, values).items():
        for cell in _read_list(f"{name}.{key}", cells, MAX_HISTORY):
            if cell is not None:
                _read_value(f"{name}.{key}", cell)
    return values


def _read_k(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_K:
        raise invalid(name, f"{name} must be an integer from 1 to {MAX_K}.")
    return value


def _read_boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid(name, f"{name} must be true or false.")
    return value


def _read_rows(name: str, values: Any) -> list:
    if not _read_list(name, values, MAX_EVENTS):
        raise invalid(name, f"{name} is empty; pass at least one event.")
    return values


_QUERY_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "user": _read_id,
    "time": _read_id,
    "history": _ids(MAX_HISTORY),
    "history_features": _read_history_features,
    "features": _read_features,
    "k": _read_k,
    "exclude_seen": _read_boolean,
    "candidates": _ids(MAX_ITEMS, is_empty_valid=False),
    "exclude": _ids(MAX_ITEMS),
}
_EVENT_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "user": _read_id,
    "item": _read_id,
    "time": _read_id,
    "features": _read_features,
}
