"""Training: one class that holds the data on the device and runs an epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from skmatch._nn.losses import LOSSES
from skmatch._nn.negatives import NegativeSampler
from skmatch._nn.towers import BagTensor, FeatureTensor, TwoTowers

WARM_UP = 0.1  # share of the steps in which the learning rate rises
USERS_PER_STEP = 32  # a step mixes at least so many stretches of users' events


@dataclass
class FeatureSource:
    """Where the values of a feature come from: one row a row of the data, or one a code."""

    column: FeatureTensor
    by_code: bool

    def take(self, rows: Tensor, codes: Tensor) -> FeatureTensor:
        """Give the values of some rows, whose users or items have these codes."""
        return take(self.column, codes if self.by_code else rows)


def take(column: FeatureTensor, rows: Tensor) -> FeatureTensor:
    """Give some rows of a column."""
    if not isinstance(column, BagTensor):
        return column[rows]
    start, stop = column.offsets[rows], column.offsets[rows + 1]
    positions, offsets = ranges(start, stop - start)
    return BagTensor(column.values[positions], offsets)


def ranges(start: Tensor, length: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Give the integers of all ranges one after another, and the offsets of the ranges."""
    offsets = torch.zeros(len(length) + 1, dtype=torch.int64, device=start.device)
    torch.cumsum(length, 0, out=offsets[1:])
    shift = torch.repeat_interleave(start - offsets[:-1], length, output_size=total)
    return torch.arange(len(shift), device=start.device) + shift, offsets


@dataclass
class Rows:
    """Rows to train on or to encode; a row's history is ``tokens[start:stop]``."""

    user: Tensor  # (n,) codes
    start: Tensor  # (n,)
    stop: Tensor  # (n,)
    tokens: Tensor  # (n_tokens,) codes of items
    features: list[FeatureSource]

    def __len__(self) -> int:
        return len(self.user)


@dataclass
class Targets:
    """The positive and the weight of each row."""

    item: Tensor  # (n,) codes
    weight: Tensor  # (n,)


class Trainer:
    """Trains a network on rows that are sorted by their place in the log of events.

    Neighbouring rows of a user share their history's tokens: a step takes stretches of rows, embeds
    each token of a stretch once, runs the user tower once a row and the item tower once a distinct
    item of the step.
    """

    def __init__(
        self,
        network: TwoTowers,
        rows: Rows,
        targets: Targets,
        item_features: list[FeatureSource],
        sampler: NegativeSampler,
        *,
        loss: str,
        neg_ratio: int,
        temperature: float,
        batch_size: int,
        lr: float,
        weight_decay: float,
        max_epochs: int,
        rng: np.random.Generator,
    ):
        self.network = network
        self.rows = rows
        self.targets = targets
        self.item_features = item_features
        self.sampler = sampler
        self.loss_name = loss
        self.neg_ratio = neg_ratio
        self.temperature = temperature
        self.batch_size = batch_size
        self.lr = lr
        self.rng = rng
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=lr, weight_decay=weight_decay, fused=True
        )
        self._cut_stretches()
        self.n_steps = max_epochs * math.ceil(len(rows) / batch_size)
        self.step = 0

    def _cut_stretches(self) -> None:
        """Cut the rows into stretches of one user, short enough that a step mixes many users."""
        longest = max(1, self.batch_size // USERS_PER_STEP)
        user = self.rows.user.cpu().numpy()
        n = len(user)
        is_first = np.ones(n, dtype=bool)
        is_first[1:] = user[1:] != user[:-1]
        place = np.arange(n) - np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
        first = np.flatnonzero(is_first | (place % longest == 0))
        end = np.append(first[1:], n)
        self.stretch_row = first
        self.stretch_length = end - first
        self.stretch_token = self.rows.start.cpu().numpy()[first]
        self.stretch_n_tokens = self.rows.stop.cpu().numpy()[end - 1] - self.stretch_token

    def _batches(self) -> Iterator[np.ndarray]:
        order = self.rng.permutation(len(self.stretch_row))
        first_row = np.cumsum(self.stretch_length[order]) - self.stretch_length[order]
        bounds = np.flatnonzero(np.diff(first_row // self.batch_size)) + 1
        yield from np.split(order, bounds)

    def run_epoch(self) -> float:
        """Train on every row once; give the mean loss."""
        self.network.train()
        total = torch.zeros((), dtype=torch.float64, device=self.rows.user.device)
        weight = torch.zeros_like(total)
        for stretches in self._batches():
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * one_cycle(self.step / self.n_steps)
            loss, batch_weight = self._loss(stretches)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step += 1
            total += loss.detach() * batch_weight
            weight += batch_weight
        return float(total / weight)

    def _loss(self, stretches: np.ndarray) -> tuple[Tensor, Tensor]:
        device = self.rows.user.device

        def on_device(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values[stretches], device=device)

        length, n_tokens = on_device(self.stretch_length), on_device(self.stretch_n_tokens)
        token_start = on_device(self.stretch_token)
        row, _ = ranges(
            on_device(self.stretch_row), length, int(self.stretch_length[stretches].sum())
        )
        token, offsets = ranges(
            token_start, n_tokens, int(self.stretch_n_tokens[stretches].sum())
        )
        shift = torch.repeat_interleave(offsets[:-1] - token_start, length, output_size=len(row))
        user = self.rows.user[row]
        vectors = self.network.encode_users(
            user,
            [source.take(row, user) for source in self.rows.features],
            self.rows.tokens[token],
            self.rows.start[row] + shift,
            self.rows.stop[row] + shift,
        )
        weight = self.targets.weight[row]
        losses = LOSSES[self.loss_name](*self._scores(vectors, self.targets.item[row]))
        batch_weight = weight.sum()
        return (losses * weight).sum() / batch_weight, batch_weight.double()

    def _encode_items(self, codes: Tensor) -> Tensor:
        features = [source.take(codes, codes) for source in self.item_features]
        return self.network.encode_items(codes, features)

    def _scores(self, users: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        """Give the scores of the positives, (R,), and of the negatives, (R, N)."""
        users = users / self.temperature
        if self.loss_name == "softmax" or self.sampler.name == "all":
            return self._shared_scores(users, positive)
        n_rows = len(positive)
        if self.sampler.name == "in_batch":
            other = torch.randint(
                n_rows, (n_rows, self.neg_ratio),
                generator=self.sampler.generator, device=positive.device,
            )
            negative = positive[other]
        else:
            negative = self.sampler.draw((n_rows, self.neg_ratio)) + 2
        distinct, place = torch.unique(
            torch.cat([positive, negative.flatten()]), return_inverse=True
        )
        items = self._encode_items(distinct)  # (M, V)
        chosen = embedding(place, items)
        positive_score = (users * chosen[:n_rows]).sum(1)
        negatives = chosen[n_rows:].view(n_rows, -1, users.shape[1])  # (R, N, V)
        scores = torch.einsum("rv,rnv->rn", users, negatives)
        return positive_score, scores.masked_fill(negative == positive[:, None], -torch.inf)

    def _shared_scores(self, users: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        """Score every row against all distinct items that the step drew.

        An item drawn c times in K draws of probability q stands for c / (K q) items: with that
        weight the sum over the draws estimates the sum over the catalogue (logQ correction).
        """
        n_rows, sampler = len(positive), self.sampler
        if sampler.name == "all":
            distinct = torch.arange(2, sampler.n_items + 2, device=positive.device)
            place, correction = positive - 2, None
        else:
            n_draws = n_rows * self.neg_ratio if sampler.name != "in_batch" else n_rows
            drawn = positive[:0] if sampler.name == "in_batch" else sampler.draw((n_draws,)) + 2
            distinct, inverse, count = torch.unique(
                torch.cat([positive, drawn]), return_inverse=True, return_counts=True
            )
            place = inverse[:n_rows]
            if sampler.name != "in_batch":
                # Positives are candidates only as often as they were drawn.
                count = torch.bincount(inverse[n_rows:], minlength=len(distinct))
            correction = torch.log(count.float() / n_draws) - sampler.log_probability[distinct - 2]
        scores = users @ self._encode_items(distinct).T  # (R, M)
        positive_score = scores.gather(1, place[:, None]).squeeze(1)
        if correction is not None:
            scores = scores + correction
        return positive_score, scores.scatter(1, place[:, None], -torch.inf)


def one_cycle(progress: float) -> float:
    """Give the share of the peak learning rate: up in a line, down along a cosine."""
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


@torch.no_grad()
def encode_rows(network: TwoTowers, rows: Rows, n_tokens_per_block: int = 2**18) -> Tensor:
    """Give the users' vectors of rows, in blocks of bounded memory."""
    network.eval()
    lengths = (rows.stop - rows.start).cpu().numpy()
    # A row counts as one token at least, so that empty histories make blocks, too.
    block = np.cumsum(np.maximum(lengths, 16)) // n_tokens_per_block
    bounds = [0, *(np.flatnonzero(np.diff(block)) + 1), len(rows)]
    vectors = []
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        row = torch.arange(a, b, device=rows.user.device)
        start, stop = rows.start[a:b], rows.stop[a:b]
        token, offsets = ranges(start, stop - start)
        user = rows.user[a:b]
        features = [source.take(row, user) for source in rows.features]
        vectors.append(
            network.encode_users(user, features, rows.tokens[token], offsets[:-1], offsets[1:])
        )
    return torch.cat(vectors) if vectors else torch.empty(0)


@torch.no_grad()
def encode_catalogue(
    network: TwoTowers, features: list[FeatureSource], codes: Tensor, block: int = 2**16
) -> Tensor:
    """Give the vectors of items, in blocks of bounded memory."""
    network.eval()
    return torch.cat(
        [
            network.encode_items(part, [source.take(part, part) for source in features])
            for part in codes.split(block)
        ]
    )


def mean_ndcg(
    users: Tensor,
    items: Tensor,
    target: Tensor,
    seen: Callable[[int, int], tuple[Tensor, Tensor]],
    k: int = 10,
    block: int = 1024,
) -> float:
    """Give the mean NDCG@k of one target a user, ranked among the items that it has not seen.

    `seen(a, b)` gives rows (counted from `a`) and items to leave out for the users a ... b - 1.
    """
    gains = []
    for a in range(0, len(users), block):
        part = slice(a, a + block)
        scores = users[part] @ items.T
        own = scores.gather(1, target[part, None])
        scores[seen(a, min(a + block, len(users)))] = -torch.inf
        rank = (scores > own).sum(1)
        gains.append(torch.where(rank < k, 1 / torch.log2(rank + 2.0), 0.0))
    return float(torch.cat(gains).mean())
