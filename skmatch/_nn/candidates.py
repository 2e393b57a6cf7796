"""Candidates: the items that the rows of a step are scored against, and how they are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skmatch._columns import FIRST_KNOWN
from skmatch._nn.batches import Batch
from skmatch._nn.device import accumulation_dtype
from skmatch._nn.embedding import distinct, gather
from skmatch._nn.scorer import CosineScorer

POWER = 0.75  # of word2vec
SHARED_ROWS = 256  # a step draws negatives for at most this many rows; all rows share them
MAX_DRAWS = 4  # draws per item of the catalogue: further draws hardly find new items


class SharedCandidates(NamedTuple):
    """Candidates that all rows share, weighted so that they stand for the catalogue."""

    items: Tensor  # (N,) codes, sorted
    log_weight: Tensor  # (N,), added to the scores
    masked: Tensor  # (R, M), indices of items that are not a row's negatives; -1 is padding

    def score(self, scorer: CosineScorer, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores of users (R, V) against items (N, V), (R, N); -inf where masked."""
        scores = scorer.matrix(users, items, self.log_weight)
        mask = scores.new_zeros(self.masked.shape).masked_fill_(self.masked >= 0, -torch.inf)
        return scores.scatter_add_(1, self.masked.clamp(min=0), mask)


class RowCandidates(NamedTuple):
    """Candidates that differ between rows, picked from a few items, which are encoded."""

    items: Tensor  # (N,) codes
    picked: Tensor  # (R, K), indices into `items`
    masked: Tensor  # (R, K) bool

    def score(self, scorer: CosineScorer, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores of users (R, V) against items (N, V), (R, K); -inf where masked."""
        scores = scorer.pairs(users[:, None], gather(items, self.picked))
        return scores.masked_fill(self.masked, -torch.inf)


class CandidateSampler:
    """Draw the negatives of a step's rows.

    Parameters
    ----------
    negatives : str
        A way of drawing, by its name in `SequenceSampler`.
    counts : ndarray of shape (n_items,)
        Number of the events of each item, weighted events counted in units of the smallest weight;
        an item without events counts as if it had one. For "in_batch", of the training rows only.
    neg_ratio : int
        Number of negatives per positive.
    exclude_history : bool
        Whether items of a row's history are not its negatives.
    generator : torch.Generator
        On the device where the draws are used.
    """

    def __init__(
        self,
        negatives: str,
        counts: np.ndarray,
        *,
        neg_ratio: int,
        exclude_history: bool,
        generator: torch.Generator,
    ):
        self.negatives = negatives
        self.neg_ratio = neg_ratio
        self.exclude_history = exclude_history
        self.generator = generator
        self.device = generator.device
        self.n_items = len(counts)
        probability = item_probabilities(negatives, counts)
        self.log_probability = torch.as_tensor(
            np.log(probability), dtype=torch.float32, device=self.device
        )
        self._cumulative: Tensor | None = None
        self._by_rank: Tensor | None = None
        if negatives in ("popularity", "log"):
            self._cumulative = torch.as_tensor(
                np.cumsum(probability), dtype=accumulation_dtype(self.device), device=self.device
            )
        if negatives == "zipf":
            self._by_rank = torch.as_tensor(popularity_order(counts), device=self.device)

    def shared(self, batch: Batch) -> SharedCandidates:
        """Draw candidates that all rows share.

        An item drawn c times in K draws of probability q stands for c / (K q) items: with that
        weight the sum over the draws estimates the sum over the catalogue (logQ correction). In a
        batch, the draws are the positives, and the weights of their rows their counts.
        """
        if self.negatives == "all":
            items = FIRST_KNOWN + torch.arange(self.n_items, device=self.device)
            log_weight = torch.zeros(self.n_items, device=self.device, dtype=torch.float32)
        else:
            if self.negatives == "in_batch":
                drawn, weight = batch.positive, batch.weight
            else:
                drawn, weight = self.draw(self._n_draws(SHARED_ROWS)), None
            if weight is None:
                weight = torch.ones(len(drawn), device=self.device, dtype=torch.float32)
            items, index = distinct(drawn)
            # On a GPU `distinct` leaves repeats: they have count 0 and weight log 0.
            count = torch.zeros_like(items, dtype=torch.float32).index_add_(0, index, weight)
            share = count / weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
            log_weight = torch.log(share) - self.log_probability[items - FIRST_KNOWN]
        masked = [indices_among(items, batch.positive)[:, None]]
        if self.exclude_history:
            masked.append(batch.of_history(indices_among(items, batch.users.tokens)))
        return SharedCandidates(items, log_weight, torch.cat(masked, 1))

    def per_row(self, batch: Batch) -> RowCandidates:
        """Draw candidates for each row; rows pick them from a few items, which are encoded."""
        n_rows = len(batch.positive)
        n_picked = min(self.neg_ratio, self.n_items)
        if self.negatives == "in_batch":
            items = batch.positive
            picked = self._pick_positives(batch, n_rows, n_picked)
        else:
            items = self.draw(self._n_draws(min(n_rows, SHARED_ROWS)))
            picked = torch.randint(
                len(items), (n_rows, n_picked), generator=self.generator, device=self.device
            )
        codes = items[picked]
        masked = codes == batch.positive[:, None]
        if self.exclude_history:
            history = batch.of_history(batch.users.tokens)
            for column, candidate in enumerate(
                codes.T
            ):  # (R, K, L) at once takes K times the memory
                masked[:, column] |= (history == candidate[:, None]).any(1)
        return RowCandidates(items, picked, masked)

    def _pick_positives(self, batch: Batch, n_rows: int, n_picked: int) -> Tensor:
        """Pick positives of the batch, in proportion to the weights of their rows."""
        if batch.weight is None:
            return torch.randint(
                n_rows, (n_rows, n_picked), generator=self.generator, device=self.device
            )
        weight = batch.weight.clamp(min=torch.finfo(torch.float32).tiny)
        drawn = torch.multinomial(
            weight, n_rows * n_picked, replacement=True, generator=self.generator
        )
        return drawn.view(n_rows, n_picked)

    def _n_draws(self, n_rows: int) -> int:
        """Return the number of draws for some rows, bounded by the size of the catalogue."""
        return min(self.neg_ratio * n_rows, max(MAX_DRAWS * self.n_items, 4 * SHARED_ROWS))

    def draw(self, n_draws: int) -> Tensor:
        """Draw codes of items, (n_draws,)."""
        if self.negatives == "uniform":
            index = torch.randint(
                self.n_items, (n_draws,), generator=self.generator, device=self.device
            )
            return index + FIRST_KNOWN
        uniform = torch.rand(
            n_draws,
            generator=self.generator,
            device=self.device,
            dtype=accumulation_dtype(self.device),
        )
        if self._by_rank is not None:
            # The inverse of the distribution function log(rank + 1) / log(n + 1).
            rank = torch.exp(uniform * np.log(self.n_items + 1)).long() - 1
            return self._by_rank[rank.clamp_(0, self.n_items - 1)] + FIRST_KNOWN
        assert self._cumulative is not None
        index = torch.searchsorted(self._cumulative, uniform, right=True)
        return index.clamp_(max=self.n_items - 1) + FIRST_KNOWN


def item_probabilities(negatives: str, counts: np.ndarray) -> np.ndarray:
    """Compute each item's probability under a way of drawing, (n_items,)."""
    counts = np.maximum(counts, 1).astype(float)
    if negatives in ("uniform", "all"):
        weights = np.ones(len(counts))
    elif negatives == "popularity":
        weights = counts**POWER
    elif negatives == "log":
        weights = np.log(counts + 1)
    elif negatives == "in_batch":
        weights = counts
    else:
        weights = np.empty(len(counts))
        rank = np.arange(len(counts))
        weights[popularity_order(counts)] = np.log((rank + 2) / (rank + 1))
    return weights / weights.sum()


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """Return the items from the most to the least popular."""
    return np.argsort(-np.maximum(counts, 1), kind="stable")


def indices_among(ordered: Tensor, codes: Tensor) -> Tensor:
    """Return the index of each code in a sorted array, -1 where the array has no such code."""
    index = torch.searchsorted(ordered, codes).clamp_(max=len(ordered) - 1)
    return index.masked_fill_(ordered[index] != codes, -1)
