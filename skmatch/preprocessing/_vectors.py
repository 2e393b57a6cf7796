"""Features of vectors: cells of equal-length numbers as the rows of a matrix."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import pandas as pd


def is_vector(cell: Any) -> bool:
    """Return whether a cell is a sequence of numbers that are not all integers."""
    if not isinstance(cell, (list, tuple, np.ndarray)) or np.ndim(cell) != 1:
        return False
    return pd.api.types.infer_dtype(cell) in ("floating", "mixed-integer-float")


def to_vectors(column: pd.Series, length: int) -> np.ndarray:
    """Return cells as the rows of a float32 matrix; those of missing cells are NaN."""
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
                    "numbers: give vectors of one length, and None where there is none. If the "
                    f"numbers are names, set kinds={{{column.name!r}: 'multi_valued'}}."
                )
            vectors[row] = vector
    return vectors
