"""Input checks shared by every part, and their messages."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.utils import check_array

DEFAULT_TIME = "timestamp"


class Roles(NamedTuple):
    """Labels of the columns that hold user, item and time; `time` is None where there is none."""

    user: Hashable
    item: Hashable
    time: Hashable | None


def read_table(
    X: Any, *, user: Hashable, item: Hashable, time: Hashable | None, estimator: Any = None
) -> tuple[pd.DataFrame, Roles]:
    """Give events or queries as a frame, with the labels of its role columns.

    A frame passes through as it is. The columns of an array are named: positions 0, 1 and 2 get
    the names of user, item and time, further ones keep their position as label. A role given as an
    integer that is no label of the frame is a position, as in ``ColumnTransformer``.
    """
    if isinstance(X, pd.DataFrame):
        if not X.columns.is_unique:
            twice = X.columns[X.columns.duplicated()][0]
            raise ValueError(f"Column {twice!r} occurs more than once in X: rename or drop one.")
        frame = X
        labels = [_label_at(frame, role) for role in (user, item, time)]
    else:
        values = check_array(
            X, dtype=None, ensure_all_finite=False, ensure_min_samples=0, estimator=estimator
        )
        names = [0, 1, 2]
        for position, role in enumerate((user, item, time)):
            if isinstance(role, str):
                names[position] = role  # type: ignore[call-overload]
        columns = (names + list(range(3, values.shape[1])))[: values.shape[1]]
        frame = pd.DataFrame(values, columns=pd.Index(columns, dtype=object), copy=False)
        labels = [user, item, time if values.shape[1] > 2 else None]
    if time == DEFAULT_TIME and labels[2] not in frame.columns:
        labels[2] = None
    return frame, Roles(*labels)


def _label_at(frame: pd.DataFrame, role: Hashable) -> Hashable:
    is_position = isinstance(role, (int, np.integer)) and role not in frame.columns
    if is_position and 0 <= role < frame.shape[1]:  # type: ignore[operator]
        return frame.columns[role]  # type: ignore[call-overload]
    return role


def require_column(
    frame: pd.DataFrame, label: Hashable, role: str, remedy: str = "", table: str = "X"
) -> pd.Series:
    """Give the column of a role, or say which is missing and what to do."""
    if label not in frame.columns:
        present = ", ".join(repr(name) for name in frame.columns[:12])
        remedy = remedy or f"Rename the column or say {role}=... where the roles are named."
        raise ValueError(
            f"The {role} column {label!r} is missing; {table} has {present or 'no columns'}. "
            f"{remedy}"
        )
    return frame[label]


def reject_missing(column: pd.Series, remedy: str) -> None:
    """Raise where a value is missing."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"Column {column.name!r} of X has no value in row "
            f"{column.index[missing].tolist()[0]!r} ({missing.sum():,} such rows): {remedy}"
        )


def read_times(column: pd.Series) -> tuple[np.ndarray, str]:
    """Give times as int64 or float64 with their kind, "number" or "datetime".

    Datetimes become nanoseconds (UTC where they have a zone). A missing time becomes the time
    after every event.
    """
    if column.dtype == object:
        column = column.infer_objects()
    dtype = column.dtype
    missing = column.isna().to_numpy()
    if pd.api.types.is_datetime64_any_dtype(dtype):
        plain = pd.DatetimeIndex(column)
        if plain.tz is not None:
            plain = plain.tz_convert("UTC").tz_localize(None)
        times = plain.as_unit("ns").asi8.copy()
        times[missing] = np.iinfo(np.int64).max
        return times, "datetime"
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype):
        if missing.all() and len(column):
            return np.full(len(column), np.iinfo(np.int64).max), "none"
        example = column[~missing].tolist()[0] if len(column) else None
        raise ValueError(
            f"The time column {column.name!r} has dtype {dtype}, which has no order in time "
            f"(it holds {example!r}). Convert it with pd.to_datetime or to numbers."
        )
    if pd.api.types.is_complex_dtype(dtype):
        raise ValueError(f"The time column {column.name!r} is complex; give real numbers.")
    if pd.api.types.is_integer_dtype(dtype) and not (column > np.iinfo(np.int64).max).any():
        times = column.to_numpy(dtype=np.int64, na_value=np.iinfo(np.int64).max)
        return times, "number"
    return np.where(missing, np.inf, column.to_numpy(dtype=float, na_value=np.nan)), "number"


def check_choice(parameter: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise where a name is none of the choices."""
    if value not in choices:
        raise ValueError(
            f"{parameter}={value!r} is not known; choose one of {', '.join(map(repr, choices))}."
        )


def check_k(k: Any) -> int:
    """Give the number of items a query, at least 1."""
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(
            f"k={k!r} must be an integer number of items: use an integer of at least 1."
        )
    return int(k)
