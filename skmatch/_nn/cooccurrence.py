"""Initial item embeddings from the co-occurrence of items in users' sequences.

They save the first epochs of training from random embeddings.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.sparse import csr_array

WINDOW = 10  # events before and after each event
MAX_ITEMS = 100_000  # the most frequent; rarer items have too few events to learn from
N_ITERATIONS, N_OVERSAMPLES = 3, 16  # of the randomised subspace iteration
TOLERANCE = 1e-5  # eigenvalues below this share of the largest are mostly rounding
CHUNK_SIZE = 2**12  # events whose vectors are summed at a time


def cooccurrence_vectors(
    users: np.ndarray,
    items: np.ndarray,
    dim: int,
    seed: int,
    event_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Factorise the counts of item pairs within a window of events, sorted by user and time.

    A pair counts the product of the weights of its events, 1 on average. Return the codes of the
    items that have neighbours, and their vectors, (n_found, n_dims), whose values have a mean
    square of 1; `n_dims` is below `dim` if the matrix has a lower rank.
    """
    counts = np.bincount(items)
    codes = np.sort(np.argsort(-counts, kind="stable")[: min(MAX_ITEMS, (counts > 0).sum())])
    row = np.full(len(counts), -1, dtype=np.int32)
    row[codes] = np.arange(len(codes))
    is_kept = row[items] >= 0
    if event_weights is None:
        event_weights = np.ones(len(items), dtype=np.float32)
    sum_nearby = partial(
        _sum_nearby, users[is_kept], row[items[is_kept]], event_weights[is_kept, None]
    )
    ones = np.ones((len(codes), 1), dtype=np.float32)
    n_nearby = sum_nearby(ones, ones)
    # Symmetric normalisation of the counts; otherwise frequent items would be near all others.
    scale = 1 / np.sqrt(np.maximum(n_nearby, 1))

    def product(vectors: np.ndarray) -> np.ndarray:
        total = sum_nearby(scale, vectors)
        total *= scale
        return total

    # Subspace iteration (Halko, Martinsson and Tropp, 2011) needs products with the matrix only.
    width = min(dim + N_OVERSAMPLES, len(codes))
    basis = np.random.default_rng(seed).standard_normal((len(codes), width), dtype=np.float32)
    for _ in range(N_ITERATIONS):
        basis = product(basis)  # reassigned to free the last basis: memory peaks here
        basis = _orthonormal(basis)
    values, rotation = np.linalg.eigh(basis.T @ product(basis))
    main = np.argsort(-np.abs(values), kind="stable")[:dim]
    vectors = basis @ (rotation[:, main] * np.abs(values[main]))
    has_nearby = n_nearby[:, 0] > 0
    vectors = vectors[has_nearby]
    size = float(np.linalg.norm(vectors)) / max(vectors.size, 1) ** 0.5
    return codes[has_nearby], vectors / size if size > 0 else vectors


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns, without directions that are mostly rounding.

    It uses the Gram matrix (Stathopoulos and Wu, 2002), since numpy's QR holds several copies in
    double precision.
    """
    values, rotation = np.linalg.eigh(vectors.T @ vectors)
    is_kept = values > TOLERANCE * values.max(initial=0)
    return vectors @ (rotation[:, is_kept] / np.sqrt(values[is_kept]))


def _sum_nearby(
    users: np.ndarray,
    items: np.ndarray,
    event_weights: np.ndarray,  # (n_events, 1)
    weights: np.ndarray,
    vectors: np.ndarray,
) -> np.ndarray:
    """Return for each item the sum of the weighted vectors, (n_items, D), near its events.

    It is the product with the matrix of counts, which would need more memory than the events.
    """
    total = np.zeros_like(vectors)
    for start in range(0, len(items), CHUNK_SIZE):
        stop = min(start + CHUNK_SIZE, len(items))
        low, high = max(start - WINDOW, 0), min(stop + WINDOW, len(items))
        nearby = items[low:high]
        weighted = vectors[nearby]
        weighted *= weights[nearby] * event_weights[low:high]
        sums = np.zeros((high - low + 1, weighted.shape[1]), dtype=np.float32)
        np.cumsum(weighted, axis=0, out=sums[1:])
        event = np.arange(start, stop) - low
        is_bound = np.r_[True, users[low + 1 : high] != users[low : high - 1], True]
        bounds = np.flatnonzero(is_bound)
        of_user = np.searchsorted(bounds, event, side="right")
        window_start = np.maximum(event - WINDOW, bounds[of_user - 1])
        window_stop = np.minimum(event + WINDOW + 1, bounds[of_user])
        sum_of_event = (sums[window_stop] - sums[window_start]) - weighted[event]
        distinct_items, column = np.unique(items[start:stop], return_inverse=True)
        weight = event_weights[start:stop, 0]
        events_of_items = csr_array((weight, (column, np.arange(len(column)))))
        total[distinct_items] += events_of_items @ sum_of_event
    return total
