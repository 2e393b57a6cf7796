"""Values of a feature, or vectors, of each item, aligned with the catalogue."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from skmatch._columns import FIRST_KNOWN

Table = TypeVar("Table", bound=pd.Series | pd.DataFrame)


def read_content(feature: Any, schema: Any) -> Any:
    """Return the values or vectors of each item of the catalogue, (n_items, n_values)."""
    ids = schema.items.decode(np.arange(FIRST_KNOWN, len(schema.items)))
    if isinstance(feature, (pd.Series, pd.DataFrame)):
        return content_of(by_id(feature, "feature", ids))
    if not isinstance(feature, Hashable):
        raise ValueError(
            f"feature is a {type(feature).__name__}: pass the label of an item feature, or a "
            "Series (values) or DataFrame (vectors) indexed by item ids."
        )
    return content_of(schema.item_values(feature))


def content_of(values: pd.Series | pd.DataFrame) -> Any:
    """Return vectors as they are, and the values of a feature as a matrix of 0 and 1."""
    if isinstance(values, pd.DataFrame):
        try:
            vectors = values.to_numpy(dtype=float, na_value=np.nan)
        except (TypeError, ValueError):
            raise ValueError(
                f"feature is a DataFrame with the columns {list(values.columns)[:5]}, not all of "
                "them numbers: pass vectors, or the Series of one feature."
            ) from None
        return np.nan_to_num(vectors, posinf=0, neginf=0)
    if pd.api.types.is_float_dtype(values.dtype):
        raise ValueError(
            f"feature {values.name!r} holds numbers with fractions, not categories: pass a Series "
            "of pandas.cut of them, or a DataFrame to use them as vectors."
        )
    cells = values.reset_index(drop=True).explode().dropna()
    code, labels = pd.factorize(cells)
    shape = len(values), max(len(labels), 1)
    matrix = csr_array((np.ones(len(code)), (cells.index, code)), shape)
    matrix.data[:] = 1  # a value that is repeated in a cell counts once
    return matrix


def by_id(values: Table, parameter: str, ids: pd.Series, kind: str = "item") -> Table:
    """Return the values of the given ids, in their order; missing where there is none."""
    if not values.index.is_unique:
        repeated = values.index[values.index.duplicated()].tolist()[0]
        raise ValueError(f"{parameter} has several values for the {kind} {repeated!r}; keep one.")
    if not values.index.isin(ids).any():
        raise ValueError(
            f"{parameter} holds no {kind} of the catalogue: index it by {kind} ids, such as "
            f"{ids.tolist()[0]!r}; its index holds {values.index.tolist()[:1]!r}."
        )
    aligned = values.reindex(pd.Index(ids, tupleize_cols=False)).reset_index(drop=True)
    return cast(Table, aligned)
