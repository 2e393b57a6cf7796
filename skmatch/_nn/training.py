"""Training: a loop over the batches of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skmatch._nn import distributed
from skmatch._nn.batches import Batch, Batches
from skmatch._nn.candidates import CandidateSampler
from skmatch._nn.device import accumulation_dtype, seeded
from skmatch._nn.embedding import distinct, gather
from skmatch._nn.encoders import TwoTower
from skmatch._nn.features import FeatureSource
from skmatch._nn.losses import LIST_LOSSES, PAIR_LOSSES
from skmatch._nn.optimizer import AdamW
from skmatch._nn.scorer import CosineScorer

WARM_UP = 0.1  # share of the steps in which the learning rate rises
RESTARTS = 1, 2, 4, 8  # epochs after which a cycle of `warm_restarts` ends
PRECISIONS = ("float32", "bfloat16")


class Objective:
    """The loss of a batch: encode its users and items, draw candidates, score, and compare."""

    def __init__(
        self,
        network: TwoTower,
        item_features: list[FeatureSource],
        sampler: CandidateSampler,
        scorer: CosineScorer,
        loss: str,
    ):
        self.network = network
        self.item_features = item_features
        self.sampler = sampler
        self.scorer = scorer
        is_shared = loss in LIST_LOSSES or sampler.negatives == "all"
        self.draw = sampler.shared if is_shared else sampler.per_row
        self.loss = LIST_LOSSES[loss] if loss in LIST_LOSSES else PAIR_LOSSES[loss]

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of each row, (R,)."""
        candidates = self.draw(batch)
        codes, index = distinct(torch.cat([batch.positive, candidates.items]))
        users, vectors = self._encode(batch, codes)
        positives, items = gather(vectors, index).split(
            [len(batch.positive), len(candidates.items)]
        )
        positive = self.scorer.pairs(users, positives)
        return self.loss(positive, candidates.score(self.scorer, users, items))

    def _encode(self, batch: Batch, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of users, (R, V), and of items, (M, V); each item is encoded once."""
        tokens = self.network.id_dropout(batch.users.tokens)
        distinct_codes, index = distinct(torch.cat([tokens.flatten(), codes]))
        features = [source.gather(distinct_codes, distinct_codes) for source in self.item_features]
        encoded = self.network.item_encoder(distinct_codes, features)
        token_index, code_index = index.split([tokens.numel(), len(codes)])
        users = self.network.user_encoder(
            batch.users, gather(encoded, token_index.view(tokens.shape))
        )
        return users, self.network.item_vectors(gather(encoded, code_index))


class Trainer:
    """Train a network, an epoch at a time.

    A row's part of the objective is its weight over the mean weight of all rows, whatever its batch
    or process.
    """

    def __init__(
        self,
        network: TwoTower,
        batches: Batches,
        objective: Callable[[Batch], Tensor],
        *,
        lr: float,
        weight_decay: float,
        max_epochs: int,
        schedule: Callable[[float], float],
        precision: str,
        generators: tuple[torch.Generator, torch.Generator],
    ):
        self.network = network
        self.batches = batches
        self.objective = objective
        self.lr = lr
        self.schedule = schedule
        self.precision = getattr(torch, precision)
        self.generators = generators  # of dropout, and of negatives
        network.set_generator(generators[0])
        self.optimizer = AdamW(network, weight_decay)
        self.n_steps = max_epochs * batches.n_steps
        self.step = 0

    def run_epoch(self) -> float:
        """Train on every row once; return the mean loss."""
        self.network.train()
        self._set_seeds()
        device = self.batches.rows.user.device
        total = torch.zeros(2, dtype=accumulation_dtype(device), device=device)
        seed = int(self.batches.rng.integers(2**63)) if self.network.draws_globally else 0
        with seeded(seed, is_needed=self.network.draws_globally):
            for batch in self.batches.epoch():
                if len(batch.positive):
                    total += self._backward(batch)
                self.optimizer.step(self.lr * self.schedule(self.step / self.n_steps))
                self.step += 1
        distributed.broadcast_tensors(self.network.buffers())
        loss, weight = distributed.all_reduce(total).tolist()
        return loss / weight

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradients of a batch; return the sums of its losses and of its weights."""
        with self._autocast():
            losses = self.objective(batch)
        weight = torch.ones_like(losses) if batch.weight is None else batch.weight
        loss = (losses * weight).sum()
        (loss / self.batches.batch_size).backward()
        return torch.stack([loss.detach(), weight.sum()])

    def _autocast(self) -> AbstractContextManager:
        """Run matrix products in the chosen precision; weights and losses are float32."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.batches.rows.user.device.type, self.precision)

    def _set_seeds(self) -> None:
        """Seed the draws of processes that train together apart; batches stay the same on all."""
        if distributed.size() > 1:
            shape = distributed.size(), len(self.generators)
            seeds = self.batches.rng.integers(2**63, size=shape)
            for generator, seed in zip(self.generators, seeds[distributed.rank()], strict=True):
                generator.manual_seed(int(seed))

    def state(self) -> dict[str, Any]:
        """Return all state of later epochs but the weights, without copies until the next epoch."""
        return {
            "step": self.step,
            "rng": self.batches.rng.bit_generator.state,
            "generators": [generator.get_state().numpy() for generator in self.generators],
            "optimizer": self.optimizer.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a state that `state` returned."""
        self.step = state["step"]
        self.batches.rng.bit_generator.state = state["rng"]
        for generator, values in zip(self.generators, state["generators"], strict=True):
            generator.set_state(torch.from_numpy(np.array(values)))
        self.optimizer.load(state["optimizer"])

    def close(self) -> None:
        """Free the memory that only further epochs need: moments are as large as the tables."""
        del self.optimizer, self.batches, self.objective


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate: up in a line, down along a cosine."""
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def warm_restarts(progress: float) -> float:
    """Return the share in cycles of `one_cycle` that double (Loshchilov and Hutter, ICLR 2017)."""
    epoch = progress * RESTARTS[-1]
    start, end = next(cycle for cycle in pairwise((0, *RESTARTS)) if epoch < cycle[1])
    return one_cycle((epoch - start) / (end - start))


def constant(progress: float) -> float:
    """Return the whole learning rate from the first step on."""
    return 1.0


SCHEDULES = {"one_cycle": one_cycle, "warm_restarts": warm_restarts, "constant": constant}
