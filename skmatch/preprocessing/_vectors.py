"""Features of vectors: cells of equal-length numbers as the rows of a matrix."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from skmatch._columns import FIRST_KNOWN
from skmatch._schema import Feature


def type_in(cell: Any) -> str | None:
    """Return the name of the type of the values in a sequence, None for other cells."""
    if not isinstance(cell, (list, tuple, np.ndarray)) or getattr(cell, "ndim", 1) != 1:
        return None
    return pd.api.types.infer_dtype(cell)


def with_transformer(feature: Feature, transformer: Any) -> Feature:
    """Return a feature of vectors, which a copy of a transformer makes of the values learned."""
    assert feature.vocabulary is not None
    values = feature.vocabulary.decode(np.arange(FIRST_KNOWN, feature.size))
    values.name = feature.name
    if values.empty:
        return Feature(feature.name, "vector")
    try:
        fitted = clone(transformer).fit(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The transformer of the feature {feature.name!r} cannot be fitted on the Series of "
            f"its {len(values):,} distinct values, such as {values.tolist()[0]!r} ({error}): pass "
            "one that reads a Series of such values."
        ) from error
    vectors = _transformed(values[:1], fitted)
    return Feature(feature.name, "vector", transformer=fitted, length=vectors.shape[1])


def transform_values(column: pd.Series, feature: Feature) -> np.ndarray:
    """Return the vectors that a feature's transformer makes of each distinct value."""
    codes, _ = pd.factorize(column)
    distinct = column[~column.duplicated() & column.notna()]  # in the order of the codes
    missing = np.full((1, feature.length), np.nan, dtype=np.float32)
    if distinct.empty:
        return np.repeat(missing, len(column), axis=0)
    return np.concatenate([_transformed(distinct, feature.transformer), missing])[codes]


def _transformed(values: pd.Series, transformer: Any) -> np.ndarray:
    result = transformer.transform(values)
    if hasattr(result, "toarray"):
        raise ValueError(
            f"The transformer of the feature {values.name!r} returns a sparse matrix of "
            f"{result.shape[1]:,} columns: reduce it, as in make_pipeline(..., TruncatedSVD(64))."
        )
    vectors = np.asarray(result, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(values) or not np.isfinite(vectors).all():
        raise ValueError(
            f"The transformer of the feature {values.name!r} returns an array of shape "
            f"{vectors.shape} for {len(values):,} values: it must return one vector of finite "
            "numbers per value, (n_values, length)."
        )
    return vectors


def to_vectors(column: pd.Series, length: int) -> np.ndarray:
    """Return cells as the rows of a float32 matrix, NaN where a cell is missing."""
    vectors = np.full((len(column), length), np.nan, dtype=np.float32)
    is_present = column.notna().to_numpy()
    for row, cell in enumerate(column):
        if is_present[row]:
            try:
                vector = np.asarray(cell, dtype=np.float32)
            except (TypeError, ValueError, OverflowError):
                vector = np.empty(0, dtype=np.float32)
            if vector.shape != (length,) or not np.isfinite(vector).all():
                raise ValueError(
                    f"The feature {column.name!r} holds {reprlib.repr(cell)} in row "
                    f"{column.index[[row]].tolist()[0]!r}, and not a vector of {length} finite "
                    "numbers: pass vectors of one length, and None where there is none. If the "
                    f"numbers are names, set kinds={{{column.name!r}: 'multi_valued'}}."
                )
            vectors[row] = vector
    return vectors
