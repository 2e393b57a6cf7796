"""Queries in all accepted forms, and the source of recommendations to each."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_hashable

from skmatch._arrays import any_known, is_known
from skmatch._data import FIRST_KNOWN, Events, Samples
from skmatch._schema import Schema
from skmatch._validation import as_pandas, as_series

HISTORY, FEATURES, POPULARITY = "history", "features", "popularity"  # sources of recommendations


def queries_of(X: Any, schema: Schema) -> Any:
    """Return a list of user ids, or None for all known users, as a frame of queries."""
    if X is None:
        return pd.DataFrame(
            {schema.user: schema.users.decode(np.arange(FIRST_KNOWN, len(schema.users)))}
        )
    X = as_pandas(X)
    is_array = hasattr(X, "ndim") and not isinstance(X, pd.Series)
    is_list_of_rows = isinstance(X, (list, tuple)) and len(X) > 0 and not is_hashable(X[0])
    if isinstance(X, (Samples, Events)) or is_list_of_rows or (is_array and X.ndim > 1):
        return X
    return read_ids(X, "X", schema.user).to_frame(schema.user)


def read_ids(values: Any, parameter: str, name: Hashable) -> pd.Series:
    values = as_pandas(values)
    is_list = isinstance(values, (list, tuple)) or getattr(values, "ndim", 0) == 1
    if not is_list:
        table = " Queries with several columns are a DataFrame." if parameter == "X" else ""
        raise ValueError(
            f"{parameter}={values!r} is not a list of ids; pass a list, also for a single id."
            f"{table}"
        )
    return as_series(values, name)


def known_items(values: Any, schema: Schema) -> tuple[pd.Series, np.ndarray]:
    """Return a list of item ids as a column, and their codes; raise if an id is unknown."""
    ids = read_ids(values, "items", schema.item)
    codes = schema.items.lookup(ids)
    if (codes < FIRST_KNOWN).any():
        unknown = ids[codes < FIRST_KNOWN].tolist()[0]
        raise ValueError(f"The item {unknown!r} is not in the catalogue; item_ids_ lists what is.")
    return ids, codes


def known_users(values: Any, schema: Schema) -> tuple[pd.Series, np.ndarray]:
    """Return a list of user ids as a column, and their codes; raise if an id is unknown."""
    ids = read_ids(values, "users", schema.user)
    codes = schema.users.lookup(ids)
    if (codes < FIRST_KNOWN).any():
        unknown = ids[codes < FIRST_KNOWN].tolist()[0]
        raise ValueError(f"The user {unknown!r} is unknown: pass users who have events.")
    return ids, codes


def source_of(samples: Samples) -> np.ndarray:
    """Return the best available source of recommendations for each row."""
    has_history = any_known(samples.log.items, samples.start, samples.stop)
    has_feature = np.zeros(len(samples), dtype=bool)
    for column in samples.user_columns().values():
        has_feature |= is_known(column)
    without_history = np.where(has_feature, FEATURES, POPULARITY)
    return np.where(has_history, HISTORY, without_history)
