"""Lengths of time that parameters hold."""

from __future__ import annotations

from contextlib import suppress
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd


def is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.timedelta64))


def as_timedelta(value: Any) -> pd.Timedelta | None:
    """Return a length of time; None where it has no unit, which pandas reads as nanoseconds."""
    is_text = isinstance(value, str)
    if is_real(value) or isinstance(value, bool) or (is_text and not value.strip("0123456789.+- ")):
        return None
    with suppress(TypeError, ValueError):
        return pd.Timedelta(value)
    return None


def read_duration(name: str, value: Any, is_datetime: bool) -> float:
    """Return a length of time as `read_times` counts it: nanoseconds where times are datetimes."""
    length: float = np.nan
    if is_datetime:
        timedelta = as_timedelta(value)
        length = np.nan if timedelta is None else float(timedelta.value)
    elif is_real(value):
        length = float(value)
    if not 0 < length < np.inf:
        kind = "a pandas.Timedelta or text such as '7D'" if is_datetime else "a number"
        raise ValueError(f"{name}={value!r} is not a length of time above 0: use {kind}.")
    return length
