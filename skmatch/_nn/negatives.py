"""Ways of drawing negatives. Items are positions 0 ... n_items - 1 of the catalogue here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skmatch._nn.device import float_for_sums

POWER = 0.75  # of word2vec


class NegativeSampler:
    """Draws items, and knows the probability of each.

    "in_batch" and "all" draw nothing; for them, too, `log_probability` holds what a step needs:
    an item's share of the events is its chance to be another row's positive.

    Parameters
    ----------
    name : str
        One of the names of `SequenceSampler`.
    counts : ndarray of shape (n_items,)
        Events of each item; an item without any counts as if it had one.
    generator : torch.Generator
        On the device where the draws are used.
    """

    def __init__(self, name: str, counts: np.ndarray, generator: torch.Generator):
        self.name = name
        self.generator = generator
        self.device = generator.device
        self.n_items = len(counts)
        probability = item_probabilities(name, counts)
        self.log_probability = torch.as_tensor(
            np.log(probability), dtype=torch.float32, device=self.device
        )
        self._cumulative: Tensor | None = None
        self._by_rank: Tensor | None = None
        if name in ("popularity", "log"):
            self._cumulative = torch.as_tensor(
                np.cumsum(probability), dtype=float_for_sums(self.device), device=self.device
            )
        if name == "zipf":
            self._by_rank = torch.as_tensor(popularity_order(counts), device=self.device)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Draw items, int64."""
        if self.name == "uniform":
            return torch.randint(self.n_items, shape, generator=self.generator, device=self.device)
        uniform = torch.rand(
            shape,
            generator=self.generator,
            device=self.device,
            dtype=float_for_sums(self.device),
        )
        if self._by_rank is not None:
            # The inverse of the distribution function log(rank + 1) / log(n + 1).
            rank = torch.exp(uniform * np.log(self.n_items + 1)).long() - 1
            return self._by_rank[rank.clamp_(0, self.n_items - 1)]
        assert self._cumulative is not None
        drawn = torch.searchsorted(self._cumulative, uniform, right=True)
        return drawn.clamp_(max=self.n_items - 1)


def item_probabilities(name: str, counts: np.ndarray) -> np.ndarray:
    """Give each item's probability under a way of drawing."""
    counts = np.maximum(counts, 1).astype(float)
    if name in ("uniform", "all"):
        weights = np.ones(len(counts))
    elif name == "popularity":
        weights = counts**POWER
    elif name == "log":
        weights = np.log(counts + 1)
    elif name == "in_batch":
        weights = counts
    else:
        weights = np.empty(len(counts))
        rank = np.arange(len(counts))
        weights[popularity_order(counts)] = np.log((rank + 2) / (rank + 1))
    return weights / weights.sum()


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """Give the items from the most to the least popular."""
    return np.argsort(-np.maximum(counts, 1), kind="stable")
