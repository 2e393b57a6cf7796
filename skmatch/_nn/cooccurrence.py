"""First vectors of items, from which items stand near each other in the sequences of users.

Training from random vectors spends its first epochs on finding out as much.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.sparse import csr_array

NEAR = 10  # events on either side of one
MOST_ITEMS = 100_000  # the most frequent ones; what is left has few events to learn this from
N_ITERATIONS, N_MORE = 3, 16  # of the search for the main directions, which looks for some more
WEAK = 1e-5  # of the square of the largest direction: what is smaller is mostly rounding
CHUNK = 2**12  # events whose vectors are held, and summed, at a time


def cooccurrence_vectors(
    users: np.ndarray, items: np.ndarray, dim: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Factorise the counts of pairs of items that lie near each other.

    Parameters
    ----------
    users, items : ndarray of shape (n_events,), int
        Codes, user after user, in the order of time.
    dim : int
        Largest number of dimensions; not more than there are items to tell apart.
    seed : int
        Seeds the search for these dimensions.

    Returns
    -------
    codes : ndarray of shape (n_placed,)
        The items that have neighbours.
    vectors : ndarray of shape (n_placed, n_dims), float32
        Their vectors; the mean square of all values is 1.
    """
    counts = np.bincount(items)
    codes = np.sort(np.argsort(-counts, kind="stable")[: min(MOST_ITEMS, (counts > 0).sum())])
    place = np.full(len(counts), -1, dtype=np.int32)
    place[codes] = np.arange(len(codes))
    is_kept = place[items] >= 0
    count = partial(_count_near, users[is_kept], place[items[is_kept]])
    ones = np.ones((len(codes), 1), dtype=np.float32)
    n_near = count(ones, ones)
    # As in a walk from item to item: what is frequent would else be near to everything.
    scale = 1 / np.sqrt(np.maximum(n_near, 1))

    def product(vectors: np.ndarray) -> np.ndarray:
        total = count(scale, vectors)
        total *= scale
        return total

    # Subspace iteration (Halko, Martinsson and Tropp, 2011), for which the matrix need not be held.
    width = min(dim + N_MORE, len(codes))
    basis = np.random.default_rng(seed).standard_normal((len(codes), width), dtype=np.float32)
    for _ in range(N_ITERATIONS):
        basis = product(basis)  # let go of the one before: here a fit of many items has its peak
        basis = _orthonormal(basis)
    values, rotation = np.linalg.eigh(basis.T @ product(basis))
    main = np.argsort(-np.abs(values), kind="stable")[:dim]
    placed = basis @ (rotation[:, main] * np.abs(values[main]))
    has_near = n_near[:, 0] > 0
    placed = placed[has_near]
    size = float(np.linalg.norm(placed)) / max(placed.size, 1) ** 0.5
    return codes[has_near], placed / size if size > 0 else placed


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Give an orthonormal basis of the columns, without directions that are mostly rounding.

    By the eigenvectors of their products (Stathopoulos and Wu, 2002): numpy's QR would hold
    several copies in double precision.
    """
    values, rotation = np.linalg.eigh(vectors.T @ vectors)
    is_clear = values > WEAK * values.max(initial=0)
    return vectors @ (rotation[:, is_clear] / np.sqrt(values[is_clear]))


def _count_near(
    users: np.ndarray, items: np.ndarray, weights: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """Give for each item the sum of the weighted vectors, (n_items, D), near its events.

    It is the product of the matrix of counts, which would take more memory than the events.
    """
    total = np.zeros_like(vectors)
    for start in range(0, len(items), CHUNK):
        stop = min(start + CHUNK, len(items))
        low, high = max(start - NEAR, 0), min(stop + NEAR, len(items))
        near_items = items[low:high]
        own = vectors[near_items]
        own *= weights[near_items]
        sums = np.zeros((high - low + 1, own.shape[1]), dtype=np.float32)
        np.cumsum(own, axis=0, out=sums[1:])
        event = np.arange(start, stop) - low
        same = np.r_[True, users[low + 1 : high] != users[low : high - 1], True]
        bounds = np.flatnonzero(same)
        of_user = np.searchsorted(bounds, event, side="right")
        first = np.maximum(event - NEAR, bounds[of_user - 1])
        last = np.minimum(event + NEAR + 1, bounds[of_user])
        near = (sums[last] - sums[first]) - own[event]
        touched, place = np.unique(items[start:stop], return_inverse=True)
        ones = np.ones(len(place), dtype=np.float32)
        events_of_items = csr_array((ones, (place, np.arange(len(place)))))
        total[touched] += events_of_items @ near
    return total
