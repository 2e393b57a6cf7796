"""`Int8Vectors`: vectors of a byte per number, which find the few that are scored exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skmatch._ranking import best_candidates

_BLOCK = 2**18  # numbers that are converted at a time: 1 MiB, which stays in the cache
_MARGIN = 100  # further items that are scored exactly, at least `k`


@dataclass(frozen=True, eq=False)
class Int8Vectors:
    """Vectors as integers of a byte, times a scale per vector."""

    codes: np.ndarray  # (n, D) int8
    scales: np.ndarray  # (n,) float32

    @classmethod
    def of(cls, vectors: np.ndarray) -> Int8Vectors:
        """Quantise vectors: the largest number of each becomes 127 or -127."""
        largest = np.abs(vectors).max(1, initial=0)
        scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        return cls(np.rint(vectors / scales[:, None]).astype(np.int8), scales)

    def inner_products(self, queries: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Compute the inner products with queries, (n_queries, n), into `out`."""
        n_items, dim = self.codes.shape
        size = max(1, _BLOCK // max(dim, 1))
        for start in range(0, n_items, size):
            block = self.codes[start : start + size].astype(np.float32)
            np.matmul(queries, block.T, out=out[:, start : start + size])
        out *= self.scales
        return out


def n_to_rescore(k: int, n_items: int) -> int:
    """Return the number of items to score exactly, so that the best `k` are among them."""
    return min(max(2 * k, k + _MARGIN), n_items)


def rescored(
    candidates: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `k` of the candidates, (n_queries, n_candidates), by their exact scores."""
    candidates = np.sort(candidates, axis=1)  # of equal scores, the first item first
    return best_candidates(candidates, candidates >= 0, queries, vectors, k, bias)
