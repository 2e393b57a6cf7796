"""Bootstrap percentile intervals of averages over users."""

from __future__ import annotations

from numbers import Real

import numpy as np

N_RESAMPLES = 1000


def check_confidence(confidence: float) -> None:
    """Raise if a level is not between 0 and 1."""
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(
            f"confidence={confidence!r} must be a level between 0 and 1, such as 0.95."
        )


def bootstrap(
    values: np.ndarray, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals of the columns' means without NaN; all columns share the resamples."""
    n_queries = len(values)
    is_defined = ~np.isnan(values)
    filled = np.where(is_defined, values, 0)
    means = np.empty((N_RESAMPLES, values.shape[1]))
    for resample in range(N_RESAMPLES):  # a resample at a time, to bound the memory
        count = np.bincount(rng.integers(n_queries, size=n_queries), minlength=n_queries)
        with np.errstate(invalid="ignore"):
            means[resample] = count @ filled / (count @ is_defined)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail], axis=0)
    return low, high
