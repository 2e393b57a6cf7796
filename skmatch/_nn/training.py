"""Training: one class that holds the data on the device and runs an epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skmatch._columns import PADDING
from skmatch._nn import distributed
from skmatch._nn.device import float_for_sums, is_waited_for
from skmatch._nn.distinct import distinct
from skmatch._nn.losses import PAIR_LOSSES, SharedNegatives, softmax
from skmatch._nn.negatives import NegativeSampler
from skmatch._nn.optimizer import AdamW
from skmatch._nn.tables import rows_of
from skmatch._nn.towers import BagTensor, FeatureTensor, TwoTowers

if TYPE_CHECKING:
    from skmatch._nn.ensemble import Ensemble

WARM_UP = 0.1  # share of the steps in which the learning rate rises
SHARED_ROWS = 256  # a step draws negatives for so many rows, and all of its rows share them
BLOCK_SIZE = 32  # events of a user that share their histories' tokens
ROWS_READ = 2**14  # of the steps that are read at once: their calls take longer than what they do
PRECISIONS = ("float32", "bfloat16")
CATALOGUE_BLOCK = 4096  # items encoded at a time; more take memory and are no faster


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
    if is_waited_for(rows.device):  # it alone knows how many codes these are
        position = start[:, None] + torch.arange(column.longest, device=rows.device)
        outside = position >= stop[:, None]
        return column.values[position.masked_fill_(outside, 0)].masked_fill_(outside, PADDING)
    positions, offsets = ranges(start, stop - start)
    return BagTensor(column.values[positions], offsets, column.longest)


def is_same_in_blocks(column: FeatureTensor, is_first: np.ndarray) -> bool:
    """Tell whether each row that is no block's first has the value of the row before."""
    follows = ~is_first[1:]
    if isinstance(column, BagTensor):
        values, lengths = column.values.cpu().numpy(), np.diff(column.offsets.cpu().numpy())
        if (lengths[1:] != lengths[:-1])[follows].any():
            return False
        inside = np.flatnonzero(np.repeat(~is_first, lengths))
        before = inside - np.repeat(lengths, lengths)[inside]
        return bool((values[inside] == values[before]).all())
    values = column.cpu().numpy()
    is_same = values[1:] == values[:-1]
    is_same |= (values[1:] != values[1:]) & (values[:-1] != values[:-1])  # both missing
    return bool(is_same[follows].all())


def ranges(start: Tensor, length: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Give the integers of all ranges one after another, and the offsets of the ranges.

    Without their number, `total`, the device is waited for.
    """
    offsets = torch.zeros(len(length) + 1, dtype=torch.int64, device=start.device)
    torch.cumsum(length, 0, out=offsets[1:])
    shift = torch.repeat_interleave(start - offsets[:-1], length, output_size=total)
    return torch.arange(len(shift), device=start.device) + shift, offsets


@dataclass
class Rows:
    """Rows to train on or to encode; a row's history is ``log[start:stop]``."""

    user: Tensor  # (n,) codes, int32, as small as they come
    start: Tensor  # (n,), int32 where that is enough
    stop: Tensor  # (n,)
    log: Tensor  # (n_events,) codes of items
    features: list[FeatureSource]

    def __len__(self) -> int:
        return len(self.user)


@dataclass
class Targets:
    """The positive and the weight of each row; without weights all count alike."""

    item: Tensor  # (n,) codes
    weight: Tensor | None  # (n,)


class Step(NamedTuple):
    """What a step trains on: R rows in B blocks of neighbours, as `pooling` explains them."""

    first: Tensor  # (B,), the first row of each block
    user: Tensor  # (B,) codes
    tokens: Tensor  # (B, S) codes of items
    row: Tensor  # (R,)
    block: Tensor  # (R,), in which a row lies
    offset: Tensor  # (R,), where its history begins in its block
    n_seen: Tensor  # (R,), events in it
    positive: Tensor  # (R,) codes of items


class Trainer:
    """Trains a network on rows that are sorted by their place in the log of events.

    Neighbouring events of a user form blocks that share the tokens of their histories (see
    `pooling`). A step takes blocks at random, runs the user tower once a row and the item tower
    once a distinct item of the step. Processes that train together (see `distributed`) make the
    same steps up; each runs its part of a step's blocks, with draws of its own.
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
        exclude_history: bool,
        temperature: float,
        batch_size: int,
        lr: float,
        weight_decay: float,
        max_epochs: int,
        precision: str,
        rng: np.random.Generator,
        generator: torch.Generator,
    ):
        self.network = network
        self.rows = rows
        self.targets = targets
        self.item_features = item_features
        self.sampler = sampler
        self.loss_name = loss
        self.neg_ratio = neg_ratio
        self.exclude_history = exclude_history
        self.temperature = temperature
        self.batch_size = batch_size
        self.lr = lr
        self.product_dtype = getattr(torch, precision)
        self.rng = rng  # of the batches
        self.generators = [generator, sampler.generator]  # of dropout, and of negatives
        network.set_generator(generator)
        self.optimizer = AdamW(network, weight_decay)
        self._cut_blocks()
        self.n_steps = max_epochs * math.ceil(len(rows) / batch_size)
        self.step = 0

    def state(self) -> dict[str, Any]:
        """Give what the epochs to come depend on, beside the weights: until the next, no copies."""
        return {
            "step": self.step,
            "rng": self.rng.bit_generator.state,
            "generators": [generator.get_state().numpy() for generator in self.generators],
            "optimizer": self.optimizer.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.step = state["step"]
        self.rng.bit_generator.state = state["rng"]
        for generator, values in zip(self.generators, state["generators"], strict=True):
            generator.set_state(torch.from_numpy(np.array(values)))
        self.optimizer.load(state["optimizer"])

    def end(self) -> None:
        """Let go of what only further epochs would need: moments take as much as the tables."""
        del self.optimizer, self.rows, self.targets

    def _cut_blocks(self) -> None:
        """Cut the rows into blocks of one user's events that lie within BLOCK_SIZE of the first.

        Within a block a history is its predecessor's, moved on: only then do they share tokens.
        """
        user, start, stop = (
            column.cpu().numpy() for column in (self.rows.user, self.rows.start, self.rows.stop)
        )
        is_first = np.ones(len(user), dtype=bool)
        is_first[1:] = user[1:] != user[:-1]
        moved_on = stop[1:] - self.network.config.max_length
        is_first[1:] |= start[1:] != np.maximum(start[:-1], moved_on, out=moved_on)
        first = np.flatnonzero(is_first)
        # In the place of what is no longer needed: here a fit's memory has its peak.
        grid = stop - np.repeat(stop[first], np.diff(first, append=len(user)))
        grid //= BLOCK_SIZE
        is_first[1:] |= grid[1:] != grid[:-1]
        block_row = np.flatnonzero(is_first)
        self.block_length = np.diff(np.append(block_row, len(user)))
        # What users bring along seldom changes: then a block reads and maps it once.
        self.is_of_block = [
            source.by_code or is_same_in_blocks(source.column, is_first)
            for source in self.rows.features
        ]
        self.block_weight = self.block_length
        if self.targets.weight is not None:
            weight = self.targets.weight.cpu().numpy()
            self.block_weight = np.add.reduceat(weight, block_row, dtype=float)
        # The host draws steps and knows their sizes; the device finds their rows.
        self.block_rows = torch.as_tensor(
            np.stack([block_row, self.block_length]), device=self.rows.user.device
        )

    def _batches(self) -> Iterator[np.ndarray]:
        order = self.rng.permutation(len(self.block_length))
        first_row = np.cumsum(self.block_length[order]) - self.block_length[order]
        bounds = np.flatnonzero(np.diff(first_row // self.batch_size)) + 1
        yield from np.split(order, bounds)

    def _groups(self) -> Iterator[tuple[Tensor, list[int], list[int], list[float]]]:
        """Give the blocks of neighbouring steps that are this process's, each with its number in
        its step, (2, B), and each step's numbers of blocks and rows and its share of weight.

        The order of an epoch is brought to the device once: what each step brought would wait for
        the step before.
        """
        batches = list(self._batches())
        parts = [blocks[distributed.rank() :: distributed.size()] for blocks in batches]
        n_blocks = [len(part) for part in parts]
        n_rows = [int(self.block_length[part].sum()) for part in parts]
        shares = [1.0] * len(parts)
        if distributed.size() > 1:
            weight = self.block_weight
            shares = [
                weight[own].sum() / weight[blocks].sum()
                for own, blocks in zip(parts, batches, strict=True)
            ]
        number = np.concatenate([np.arange(n) for n in n_blocks])
        order = torch.as_tensor(
            np.stack([np.concatenate(parts), number]), device=self.rows.user.device
        )
        size = max(1, ROWS_READ // self.batch_size)
        groups = [slice(a, a + size) for a in range(0, len(parts), size)]
        blocks = order.split([sum(n_blocks[group]) for group in groups], 1)
        for group, own in zip(groups, blocks, strict=True):
            yield own, n_blocks[group], n_rows[group], shares[group]

    def _read(self, blocks: Tensor, n_blocks: list[int], n_rows: list[int]) -> Iterator[Step]:
        """Read what some steps train on, all in as many calls as one step would take."""
        numbers, number_in_step = blocks
        first, length = self.block_rows[:, numbers]
        row, _ = ranges(first, length, sum(n_rows))
        number = torch.arange(len(first), device=first.device)
        block = torch.repeat_interleave(number, length, output_size=sum(n_rows))
        max_length = self.network.config.max_length
        tokens, offset, n_seen = windows(self.rows, first, row, block, BLOCK_SIZE, max_length)
        user, positive = self.rows.user[first].long(), self.targets.item[row].long()
        of_blocks = (column.split(n_blocks) for column in (first, user, tokens))
        columns_of_rows = row, number_in_step[block], offset, n_seen, positive
        of_rows = (column.split(n_rows) for column in columns_of_rows)
        return map(Step, *of_blocks, *of_rows)

    def run_epoch(self) -> float:
        """Train on every row once; give the mean loss."""
        self.network.train()
        self._draw_apart()
        device = self.rows.user.device
        total = torch.zeros((), dtype=float_for_sums(device), device=device)
        weight = torch.zeros_like(total)
        for blocks, n_blocks, n_rows, shares in self._groups():
            for step, share in zip(self._read(blocks, n_blocks, n_rows), shares, strict=True):
                if len(step.row):
                    with self._precision():
                        loss, batch_weight = self._loss(step)
                    total += loss.detach() * batch_weight
                    weight += batch_weight
                    if share < 1:  # the parts of the other processes come on top
                        loss = loss * share
                    loss.backward()
                self.optimizer.step(self.lr * one_cycle(self.step / self.n_steps))
                self.step += 1
        distributed.copy_of_first(self.network.buffers())
        return float(distributed.sum_(total) / distributed.sum_(weight))

    def _precision(self) -> AbstractContextManager:
        """Let matrix products be of the precision asked for; weights and losses are float32."""
        if self.product_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.rows.user.device.type, self.product_dtype)

    def _draw_apart(self) -> None:
        """Let the draws of processes that train together differ; `rng` stays the same on all."""
        if distributed.size() > 1:
            seeds = self.rng.integers(2**63, size=(distributed.size(), len(self.generators)))
            for generator, seed in zip(self.generators, seeds[distributed.rank()], strict=True):
                generator.manual_seed(int(seed))

    def _loss(self, step: Step) -> tuple[Tensor, Tensor]:
        features = [
            source.take(step.first if is_of_block else step.row, step.user)
            for source, is_of_block in zip(self.rows.features, self.is_of_block, strict=True)
        ]
        place = step.block * BLOCK_SIZE + step.offset
        vectors = self.network.encode_users(
            step.user, features, step.tokens, place, step.n_seen, step.block
        )
        seen = Windows(step.tokens, step.block, step.offset) if self.exclude_history else None
        losses = self._losses(vectors / self.temperature, step.positive, seen)
        exact = float_for_sums(losses.device)
        if self.targets.weight is None:
            return losses.mean(), torch.full((), len(losses), dtype=exact, device=losses.device)
        weight = self.targets.weight[step.row]
        batch_weight = weight.sum()
        return (losses * weight).sum() / batch_weight, batch_weight.to(exact)

    def _losses(self, users: Tensor, positive: Tensor, seen: Windows | None) -> Tensor:
        """Give the loss of each row, (R,); users come divided by the temperature."""
        if self.loss_name == "softmax":
            return softmax(users, *self._shared(users, positive, seen))
        return PAIR_LOSSES[self.loss_name](*self._pairs(users, positive, seen))

    def _pairs(
        self, users: Tensor, positive: Tensor, seen: Windows | None
    ) -> tuple[Tensor, Tensor]:
        """Give the scores of the positives, (R,), and of each row's own negatives, (R, N)."""
        if self.sampler.name == "all":
            positive_score, negatives = self._shared(users, positive, seen)
            return positive_score, negatives.scores(users)
        n_rows = len(positive)
        # Rows pick theirs from few draws, so that the item tower encodes few items a step.
        drawn = self._draw((self.neg_ratio * min(n_rows, SHARED_ROWS),), positive)
        picked = self._pick((self.neg_ratio, n_rows), len(drawn))
        items, place = self._encode_distinct(positive, drawn)
        own, others = place.split([n_rows, len(drawn)])
        candidates = rows_of(items, torch.cat([own[None], others[picked]]))
        scores = (candidates * users).sum(2)
        negative = drawn[picked]
        is_none = negative == positive
        if seen is not None:
            is_none |= (negative[:, :, None] == seen.of_rows(seen.tokens)).any(2)
        return scores[0], scores[1:].masked_fill(is_none, -torch.inf).T

    def _shared(
        self, users: Tensor, positive: Tensor, seen: Windows | None
    ) -> tuple[Tensor, SharedNegatives]:
        """Give the scores of the positives, (R,), and the negatives that all rows share.

        An item drawn c times in K draws of probability q stands for c / (K q) items: with that
        weight the sum over the draws estimates the sum over the catalogue (logQ correction).
        """
        if self.sampler.name == "all":
            negative = torch.arange(2, self.sampler.n_items + 2, device=positive.device)
            correction = torch.zeros(len(negative), device=positive.device)
        else:
            in_batch = self.sampler.name == "in_batch"
            n_draws = SHARED_ROWS * self.neg_ratio
            drawn = positive if in_batch else self._draw((n_draws,), positive)
            negative, place = distinct(drawn)
            # Repeats that are left count 0 times; their correction of -inf takes them out.
            count = torch.zeros_like(negative).index_add_(0, place, torch.ones_like(place))
            correction = torch.log(count / len(drawn)) - self.sampler.log_probability[negative - 2]
        items, place = self._encode_distinct(positive, negative)
        n_rows = len(positive)
        positive_score = (users * rows_of(items, place[:n_rows])).sum(1)
        vectors = rows_of(items, place[n_rows:]).to(self.product_dtype)
        column = columns(negative, positive)[:, None]  # of what is none of a row's own negatives
        if seen is not None:
            column = torch.cat([column, seen.of_rows(columns(negative, seen.tokens))], 1)
        return positive_score, SharedNegatives(vectors, correction, column)

    def _draw(self, shape: tuple[int, ...], positive: Tensor) -> Tensor:
        if self.sampler.name == "in_batch":
            return positive[self._pick(shape, len(positive))]
        return self.sampler.draw(shape) + 2

    def _pick(self, shape: tuple[int, ...], n_draws: int) -> Tensor:
        """Pick places among draws."""
        sampler = self.sampler
        return torch.randint(n_draws, shape, generator=sampler.generator, device=sampler.device)

    def _encode_distinct(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Encode each item of a step once; give the vectors and each item's place among them.

        Repeats that `distinct` left are encoded, too, and count in batch normalisation.
        """
        codes, place = distinct(torch.cat([positive, negative]))
        return self._encode_items(codes), place

    def _encode_items(self, codes: Tensor) -> Tensor:
        features = [source.take(codes, codes) for source in self.item_features]
        return self.network.encode_items(codes, features)


class Windows(NamedTuple):
    """The histories of rows, within the tokens of their blocks."""

    tokens: Tensor  # (B, S), as `Pooling` reads them
    block: Tensor  # (R,), in which a row lies
    offset: Tensor  # (R,), where its history begins

    def of_rows(self, values: Tensor) -> Tensor:
        """Turn a value a token, (B, S), into those of each row's history, (R, L)."""
        max_length = values.shape[1] - BLOCK_SIZE + 1
        return values.unfold(1, max_length, 1)[self.block, self.offset]


def columns(ordered: Tensor, codes: Tensor) -> Tensor:
    """Give the place of codes among those that are in order, and -1 where one is not there."""
    place = torch.searchsorted(ordered, codes).clamp_(max=len(ordered) - 1)
    return place.masked_fill_(ordered[place] != codes, -1)


def one_cycle(progress: float) -> float:
    """Give the share of the peak learning rate: up in a line, down along a cosine."""
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def windows(
    rows: Rows, first: Tensor, row: Tensor, block: Tensor, block_size: int, max_length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the tokens of blocks, (B, S), with where each window begins and its length, (R,).

    `first` (B,) is the first row of each block; `block` (R,) says in which block a row lies.
    """
    first_stop, stop = rows.stop[first], rows.stop[row]
    origin = first_stop - max_length
    span = torch.arange(max_length + block_size - 1, device=first.device)
    position = origin[:, None] + span
    inside = (position >= rows.start[first, None]) & (position < len(rows.log))
    tokens = (
        rows.log[torch.where(inside, position, 0)] * inside
        if len(rows.log)
        else (torch.zeros_like(position))
    )
    offset = stop - first_stop[block]
    length = (stop - rows.start[row]).clamp(max=max_length)
    return tokens, offset, length


@torch.no_grad()
def encode_rows(network: TwoTowers | Ensemble, rows: Rows) -> Tensor:
    """Give the users' vectors of rows, in blocks of bounded memory."""
    network.eval()
    max_length, dim = network.config.max_length, network.config.embedding_dim
    n_rows_per_block = max(1, 2**23 // (max_length * dim))
    vectors = []
    for row in torch.arange(len(rows), device=rows.user.device).split(n_rows_per_block):
        user = rows.user[row].long()
        features = [source.take(row, user) for source in rows.features]
        block = torch.arange(len(row), device=row.device)
        tokens, offset, length = windows(rows, row, row, block, 1, max_length)
        vectors.append(network.encode_users(user, features, tokens, block + offset, length))
    return torch.cat(vectors)


@torch.no_grad()
def encode_catalogue(
    network: TwoTowers | Ensemble,
    features: list[FeatureSource],
    codes: Tensor,
    block: int = CATALOGUE_BLOCK,
) -> Tensor:
    """Give the vectors of items, in blocks of bounded memory."""
    network.eval()
    vectors = torch.empty(len(codes), network.config.width, device=codes.device)
    for part, own in zip(codes.split(block), vectors.split(block), strict=True):
        own.copy_(network.encode_items(part, [source.take(part, part) for source in features]))
    return vectors
