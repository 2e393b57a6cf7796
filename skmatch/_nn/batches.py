"""The rows of a fit on the device, and how an epoch reads them in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skmatch._columns import order_by_code
from skmatch._nn import distributed
from skmatch._nn.encoders import UserBatch
from skmatch._nn.features import FeatureSource, FeatureTensor, RaggedTensor

BLOCK_SIZE = 32  # events of a user that share their histories' tokens


@dataclass
class Rows:
    """Rows to train on or to encode; a row's history is ``log[start:stop]``.

    Rows may come twice: rows n ... 2n - 1 are rows 0 ... n - 1 with the history before their visit.
    """

    user: Tensor  # (n,) codes, int32
    start: Tensor  # (n,) or (2n,), int32 where that is enough
    stop: Tensor  # (n,) or (2n,)
    log: Tensor  # (n_events,) codes of items
    features: list[FeatureSource]
    max_length: int  # L, the number of events that a network reads of a history, at most
    recency: Tensor  # (n,) or (2n,): 0 where the history ends before the visit, else 1
    event_features: tuple[Tensor, ...] = ()  # (n_events,) each

    def __len__(self) -> int:
        return len(self.user)


@dataclass
class Targets:
    """The positive of each row and its weight, 1 on average; without weights all count alike."""

    item: Tensor  # (n,) codes
    weight: Tensor | None  # (n,)


class Batch(NamedTuple):
    """The rows that a step trains on: R rows in B blocks of neighbours."""

    users: UserBatch
    positive: Tensor  # (R,) codes of items
    weight: Tensor | None  # (R,)

    def of_history(self, values: Tensor) -> Tensor:
        """Turn values of tokens, (B, S), into the values of each row's history, (R, L)."""
        windows = values.unfold(1, self.users.max_length, 1)  # (B, C, L), a view
        n_windows = windows.shape[1]
        return windows[self.users.window // n_windows, self.users.window % n_windows]


class Batches:
    """Batches of rows that are sorted by their index in the log of events.

    Neighbouring events of a user form blocks that share the tokens of their histories (see
    `pooling.History`). An epoch draws the history of each event, up to the event or its visit,
    takes blocks in random order and cuts them where a batch is full. Processes that train together
    (see `distributed`) draw the same batches; each reads its part.
    """

    def __init__(
        self,
        rows: Rows,
        targets: Targets,
        batch_size: int,
        rng: np.random.Generator,
        gap_rate: float = 0.0,
    ):
        self.rows = rows
        self.targets = targets
        self.batch_size = min(batch_size, len(rows))
        self.rng = rng
        self.gap_rate = gap_rate
        self._cut_blocks()

    @property
    def n_steps(self) -> int:
        """Number of batches of an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def _cut_blocks(self) -> None:
        """Cut the rows into blocks: events of a user that lie within BLOCK_SIZE of the first.

        Rows share tokens only if each history is the previous row's, shifted by an event.
        """
        user, start, stop = (
            column.cpu().numpy() for column in (self.rows.user, self.rows.start, self.rows.stop)
        )
        n_rows, n_histories = len(user), len(stop)
        is_first = np.ones(n_histories, dtype=bool)
        for half in range(0, n_histories, n_rows):
            is_first[half + 1 : half + n_rows] = user[1:] != user[:-1]
        window_start = stop[1:] - self.rows.max_length
        is_first[1:] |= start[1:] != np.maximum(start[:-1], window_start, out=window_start)
        first_rows = np.flatnonzero(is_first)
        # A fit's memory peaks here: the grid is computed in place.
        grid = stop - np.repeat(stop[first_rows], np.diff(first_rows, append=n_histories))
        grid //= BLOCK_SIZE
        is_first[1:] |= grid[1:] != grid[:-1]
        self.block = np.cumsum(is_first, dtype=np.int32) - 1  # of each row
        # Rows that have another history before their visit.
        self.has_gap = np.zeros(0, dtype=bool)
        if n_histories > n_rows:
            self.has_gap = (stop[n_rows:] < stop[:n_rows]) & (start[n_rows:] < stop[n_rows:])
        # Features that do not change within a block are read once per block, as most are.
        self.is_of_block = [
            source.by_code
            or all(
                is_constant_in_blocks(source.column, is_first[half : half + n_rows])
                for half in range(0, n_histories, n_rows)
            )
            for source in self.rows.features
        ]

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the rows of an epoch in order, (n,), and whether each begins a part of a block."""
        rows = np.arange(len(self.rows), dtype=self.block.dtype)
        if self.gap_rate > 0 and len(self.has_gap):
            is_gap = self.has_gap & (self.rng.random(len(rows)) < self.gap_rate)
            rows = np.concatenate([rows[~is_gap], len(rows) + rows[is_gap]])
        key = self.rng.permutation(int(self.block[-1]) + 1)
        rows = rows[order_by_code(key[self.block[rows]], np.arange(len(rows)))]
        block = self.block[rows]
        is_first = np.ones(len(rows), dtype=bool)
        is_first[1:] = block[1:] != block[:-1]
        is_first[:: self.batch_size] = True
        return rows, is_first

    def epoch(self) -> Iterator[Batch]:
        """Read the batches of an epoch; a process without rows in a batch gets an empty batch."""
        rows, is_first = self.draw()
        part = np.cumsum(is_first) - 1
        batch = np.arange(len(rows)) // self.batch_size
        if distributed.size() > 1:
            in_batch = part - part[batch * self.batch_size]
            is_own = in_batch % distributed.size() == distributed.rank()
            rows, is_first, batch = rows[is_own], is_first[is_own], batch[is_own]
            part = np.cumsum(is_first) - 1
        bounds = np.searchsorted(batch, np.arange(self.n_steps + 1))
        # Copied to the device once per epoch: a copy per step would wait for the step before.
        firsts = rows[is_first]
        row, part_of_row, first_row = torch.as_tensor(
            np.concatenate([rows, part.astype(rows.dtype), firsts]), device=self.rows.user.device
        ).split([len(rows), len(rows), len(firsts)])
        n_parts = np.append(0, np.cumsum(is_first))[bounds]
        for (start, stop), (part_start, part_stop) in zip(
            pairwise(bounds), pairwise(n_parts), strict=True
        ):
            yield self._read(
                first_row[part_start:part_stop].long(),
                row[start:stop].long(),
                part_of_row[start:stop].long() - part_start,
            )

    def _read(self, first_row: Tensor, row: Tensor, block: Tensor) -> Batch:
        rows, n_rows = self.rows, len(self.rows)
        first_event, event = first_row % n_rows, row % n_rows
        user = rows.user[first_event].long()
        features = [
            source.gather(first_event if is_of_block else event, user)
            for source, is_of_block in zip(rows.features, self.is_of_block, strict=True)
        ]
        weight = self.targets.weight
        return Batch(
            read_users(rows, user, features, first_row, row, block, BLOCK_SIZE),
            self.targets.item[event].long(),
            None if weight is None else weight[event],
        )


def read_users(
    rows: Rows,
    user: Tensor,
    features: list[FeatureTensor],
    first_row: Tensor,  # (B,), the first row of each block
    row: Tensor,  # (R,)
    block: Tensor,  # (R,), the block of each row
    block_size: int,
) -> UserBatch:
    """Read the histories of rows as windows into the tokens of their blocks."""
    max_length = rows.max_length
    first_stop, stop = rows.stop[first_row], rows.stop[row]
    offset = torch.arange(max_length + block_size - 1, device=first_row.device)
    index = (first_stop - max_length)[:, None] + offset
    inside = (index >= rows.start[first_row, None]) & (index < len(rows.log))
    tokens = torch.zeros_like(index)
    if len(rows.log):
        index = torch.where(inside, index, 0)
        tokens = rows.log[index] * inside
    events = tuple(column[index] for column in rows.event_features if len(rows.log))
    window = block * block_size + stop - first_stop[block]
    length = (stop - rows.start[row]).clamp(max=max_length)
    recency = rows.recency[row].long()
    return UserBatch(user, features, tokens, window, length, max_length, block, recency, events)


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
    is_same = is_same if values.ndim == 1 else is_same.all(1)
    return bool(is_same[follows].all())
