"""The rows of a fit on the device, and how an epoch reads them in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skmatch._nn import distributed
from skmatch._nn.encoders import UserBatch
from skmatch._nn.features import FeatureSource, FeatureTensor, RaggedTensor, concatenate_ranges

BLOCK_SIZE = 32  # events of a user that share their histories' tokens


@dataclass
class Rows:
    """Rows to train on or to encode; a row's history is ``log[start:stop]``."""

    user: Tensor  # (n,) codes, int32
    start: Tensor  # (n,), int32 where that is enough
    stop: Tensor  # (n,)
    log: Tensor  # (n_events,) codes of items
    features: list[FeatureSource]
    max_length: int  # most events that a network reads of a history: of these rows, L

    def __len__(self) -> int:
        return len(self.user)


@dataclass
class Targets:
    """The positive of each row and its weight, 1 on average; without weights all count alike."""

    item: Tensor  # (n,) codes
    weight: Tensor | None  # (n,)


class Batch(NamedTuple):
    """What a step trains on: R rows in B blocks of neighbours."""

    users: UserBatch
    positive: Tensor  # (R,) codes of items
    weight: Tensor | None  # (R,)

    def of_history(self, values: Tensor) -> Tensor:
        """Turn a value per token, (B, S), into those of each row's history, (R, L)."""
        windows = values.unfold(1, self.users.max_length, 1)  # (B, C, L), a view
        n_windows = windows.shape[1]
        return windows[self.users.window // n_windows, self.users.window % n_windows]


class Batches:
    """Batches of rows that are sorted by their index in the log of events.

    Neighbouring events of a user form blocks that share the tokens of their histories (see
    `pooling.History`). An epoch takes blocks in random order and cuts them where a batch is full.
    Processes that train together (see `distributed`) draw the same batches; each reads its part.
    """

    def __init__(self, rows: Rows, targets: Targets, batch_size: int, rng: np.random.Generator):
        self.rows = rows
        self.targets = targets
        self.batch_size = min(batch_size, len(rows))
        self.rng = rng
        self._cut_blocks()

    @property
    def n_steps(self) -> int:
        """Number of batches of an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def _cut_blocks(self) -> None:
        """Cut the rows into blocks of one user's events that lie within BLOCK_SIZE of the first.

        Only where a history is its predecessor's, moved on by an event, do they share tokens.
        """
        user, start, stop = (
            column.cpu().numpy() for column in (self.rows.user, self.rows.start, self.rows.stop)
        )
        is_first = np.ones(len(user), dtype=bool)
        is_first[1:] = user[1:] != user[:-1]
        moved_on = stop[1:] - self.rows.max_length
        is_first[1:] |= start[1:] != np.maximum(start[:-1], moved_on, out=moved_on)
        first = np.flatnonzero(is_first)
        # In place of `stop`, since a fit's memory peaks here.
        grid = stop - np.repeat(stop[first], np.diff(first, append=len(user)))
        grid //= BLOCK_SIZE
        is_first[1:] |= grid[1:] != grid[:-1]
        self.first_row = np.flatnonzero(is_first)
        self.block_length = np.diff(self.first_row, append=len(user))
        # Most features of users do not change within a block, which then reads them once.
        self.is_of_block = [
            source.by_code or is_constant_in_blocks(source.column, is_first)
            for source in self.rows.features
        ]

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw the parts of blocks of an epoch: first row, number of rows and batch of each."""
        order = self.rng.permutation(len(self.block_length))
        position = np.cumsum(self.block_length[order]) - self.block_length[order]
        cuts = np.union1d(position, np.arange(0, len(self.rows), self.batch_size))
        block = np.searchsorted(position, cuts, side="right") - 1
        first = self.first_row[order[block]] + cuts - position[block]
        return first, np.diff(cuts, append=len(self.rows)), cuts // self.batch_size

    def epoch(self) -> Iterator[Batch]:
        """Read the batches of an epoch; those of a process without rows in them are empty."""
        first, length, number = self.draw()
        in_batch = np.arange(len(number)) - np.searchsorted(number, number)
        is_own = in_batch % distributed.size() == distributed.rank()
        first, length, number = first[is_own], length[is_own], number[is_own]
        bounds = np.searchsorted(number, np.arange(self.n_steps + 1))
        # Brought to the device once per epoch: a copy per step would wait for the step before.
        parts = torch.as_tensor(np.stack([first, length]), device=self.rows.user.device)
        for a, b in pairwise(bounds):
            yield self._read(parts[0, a:b], parts[1, a:b], int(length[a:b].sum()))

    def _read(self, first: Tensor, length: Tensor, n_rows: int) -> Batch:
        rows = self.rows
        row, _ = concatenate_ranges(first, length, n_rows)
        number = torch.arange(len(first), device=first.device)
        block = torch.repeat_interleave(number, length, output_size=n_rows)
        user = rows.user[first].long()
        features = [
            source.gather(first if is_of_block else row, user)
            for source, is_of_block in zip(rows.features, self.is_of_block, strict=True)
        ]
        weight = self.targets.weight
        return Batch(
            read_users(rows, user, features, first, row, block, BLOCK_SIZE),
            self.targets.item[row].long(),
            None if weight is None else weight[row],
        )


def read_users(
    rows: Rows,
    user: Tensor,
    features: list[FeatureTensor],
    first: Tensor,  # (B,), the first row of each block
    row: Tensor,  # (R,)
    block: Tensor,  # (R,), the block of each row
    block_size: int,
) -> UserBatch:
    """Read the histories of rows as windows into the tokens of their blocks."""
    max_length = rows.max_length
    first_stop, stop = rows.stop[first], rows.stop[row]
    offset = torch.arange(max_length + block_size - 1, device=first.device)
    index = (first_stop - max_length)[:, None] + offset
    inside = (index >= rows.start[first, None]) & (index < len(rows.log))
    tokens = torch.zeros_like(index)
    if len(rows.log):
        tokens = rows.log[torch.where(inside, index, 0)] * inside
    window = block * block_size + stop - first_stop[block]
    length = (stop - rows.start[row]).clamp(max=max_length)
    return UserBatch(user, features, tokens, window, length, max_length, block)


def is_constant_in_blocks(column: FeatureTensor, is_first: np.ndarray) -> bool:
    """Return whether each row that is not a block's first has the value of the row before."""
    follows = ~is_first[1:]
    if isinstance(column, RaggedTensor):
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
