"""Sorting events by user and time, in memory or in blocks of users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from skmatch._arrays import Column, Columns
from skmatch._columns import order_by_code, order_by_time
from skmatch._data import Events, index_dtype
from skmatch._files import allocate, blocks, collect


def in_blocks(function: Callable[[slice], Column], n_rows: int, on_disk: bool) -> Column:
    """Apply a function to blocks of rows and return the results as a single column."""
    rows = list(blocks(n_rows, on_disk)) or [slice(0, 0)]
    return collect(({"": function(block)} for block in rows), on_disk)[""]


def order_events(user: np.ndarray, time: np.ndarray | None) -> np.ndarray:
    """Return the order of events by user, then time, then row."""
    if time is None:
        return order_by_code(user, np.arange(len(user)))
    return order_by_code(user, order_by_time(time))


def user_blocks(offsets: np.ndarray, on_disk: bool) -> Iterator[tuple[int, int]]:
    """Split users into ranges of codes (start, stop) with a bounded number of events each."""
    stops = [block.stop for block in blocks(int(offsets[-1]), on_disk)][:-1]
    return pairwise(np.unique([0, *np.searchsorted(offsets, stops), len(offsets) - 1]).tolist())


def rows_of_users(user: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Return the rows of the users with codes first ... stop - 1."""
    if first == 0 and stop > user.max(initial=0):
        return np.arange(len(user))
    rows_by_block = [
        rows.start + np.flatnonzero((user[rows] >= first) & (user[rows] < stop))
        for rows in blocks(len(user))
    ]
    return np.concatenate(rows_by_block)


def order_in_blocks(
    user: np.ndarray, time: np.ndarray | None, offsets: np.ndarray, on_disk: bool
) -> np.ndarray:
    """Compute `order_events`, on disk in blocks of users, which bounds the memory of each sort."""
    order = allocate(len(user), np.int64, on_disk)
    for first, stop in user_blocks(offsets, on_disk):
        rows = rows_of_users(user, first, stop)
        block_order = order_events(user[rows], None if time is None else time[rows])
        order[offsets[first] : offsets[stop]] = rows[block_order]
    return order


def sorted_log(events: Events, offsets: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Return the columns of the log, sorted by user, then time, then row, and each row's rank.

    Events on disk are sorted in blocks of users, which bounds the memory of each sort.
    """
    rank = allocate(len(events), index_dtype(len(events)), events.on_disk)

    def sort(start: int, stop: int) -> Columns:
        """Sort the events of the users with codes start ... stop - 1."""
        rows = rows_of_users(events.user, start, stop)
        time = None if events.time is None else events.time[rows]
        order = order_events(events.user[rows], time)
        block_rank = np.empty(len(order), dtype=rank.dtype)
        block_rank[order] = np.arange(offsets[start], offsets[stop])
        rank[rows] = block_rank
        columns: Columns = {"item": events.item[rows][order]}
        for name, column in events.event_features.items():
            columns["feature", name] = column[rows][order]
        return columns if time is None else columns | {"time": time[order]}

    users = user_blocks(offsets, events.on_disk)
    return collect((sort(*block) for block in users), events.on_disk), rank
