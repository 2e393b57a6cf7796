"""Visits: runs of a user's events that follow each other without a long pause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from skmatch._arrays import count_before
from skmatch._data import index_dtype
from skmatch._durations import read_duration
from skmatch._files import allocate, blocks
from skmatch.preprocessing._time_order import in_blocks

N_BINS = 256  # of the histogram of pauses
# By the number of groups, the share of the variance of the logarithms of pauses that they must
# explain: the share that they explain of a uniform distribution, which has no groups.
MIN_SEPARATION = {2: 3 / 4, 3: 8 / 9}


@dataclass(frozen=True, eq=False)
class Visits:
    """Where the visits of all events begin.

    Attributes
    ----------
    pause : float
        Shortest pause between two visits, in the unit of the times.
    starts : ndarray of shape (n_events,) or None
        Index of the first event of each event's visit; None where an event's visit is all that is
        less than `pause` before it.
    """

    pause: float
    starts: np.ndarray | None

    @classmethod
    def learn(
        cls, gap: Any, times: np.ndarray | None, offsets: np.ndarray, time_kind: str, on_disk: bool
    ) -> Visits | None:
        """Find the visits of the events of all users, sorted by time; None where there are none."""
        if gap is None:
            return None
        if not isinstance(gap, str) or gap != "visit":
            if times is None:
                raise ValueError(
                    f"gap={gap!r} needs times, and the events have none: name their column in "
                    "MatchEncoder(time=...), or set gap=None."
                )
            return cls(read_duration("gap", gap, is_datetime=time_kind.endswith("datetime")), None)
        if times is None or (pause := _find_pause(times, offsets)) is None:
            return None
        return cls(pause, _starts(times, offsets, pause, on_disk))

    def updated(self, times: np.ndarray, offsets: np.ndarray) -> Visits:
        """Return the visits of other events with the same pause."""
        if self.starts is None:
            return self
        return Visits(self.pause, _starts(times, offsets, self.pause, on_disk=False))

    def of_events(
        self, times: np.ndarray, first_event: np.ndarray, stop: np.ndarray, on_disk: bool
    ) -> np.ndarray:
        """Return where the visit of each stored event began, given its index `stop`."""
        starts = self.starts
        if starts is None:
            return count_before(times, first_event, stop, times[stop] - self.pause, or_equal=True)
        column = in_blocks(lambda rows: starts[stop[rows]], len(stop), on_disk)
        assert isinstance(column, np.ndarray)
        return column

    def of_queries(
        self, times: np.ndarray, first_event: np.ndarray, stop: np.ndarray, time: np.ndarray | None
    ) -> np.ndarray:
        """Return where the visit of each query began; a query without a time begins a visit."""
        if time is None or not len(times):
            return stop
        if self.starts is None:
            return count_before(times, first_event, stop, time - self.pause, or_equal=True)
        last_event = np.maximum(stop - 1, 0)
        is_same = (stop > first_event) & (times[last_event] > time - self.pause)
        return np.where(is_same, self.starts[last_event], stop)


def _find_pause(times: np.ndarray, offsets: np.ndarray) -> float | None:
    """Return the shortest pause between visits; None where pauses do not fall into groups.

    The logarithms of all pauses between neighbouring events of a user are separated into two groups
    of the least variance (Otsu, 1979), or else into three: clicks, pauses within a visit and few
    long ones between visits. Equal times count as the shortest pause that there is.
    """
    pauses = [_pauses(times, offsets, rows) for rows in blocks(len(times))]
    positive = [block[block > 0] for block in pauses if (block > 0).any()]
    if not positive:
        return None
    low = np.log(min(block.min() for block in positive))
    high = np.log(max(block.max() for block in positive))
    if low == high:
        return None
    bounds = np.linspace(low, high, N_BINS + 1)
    count = np.zeros(N_BINS)
    for block in pauses:
        log = np.log(np.maximum(block[block >= 0], np.exp(low)))
        count += np.histogram(np.clip(log, low, high), bounds)[0]
    center, share = (bounds[1:] + bounds[:-1]) / 2, count / count.sum()
    mean = float(share @ center)
    variance = float(share @ (center - mean) ** 2)
    weight = np.append(0, np.cumsum(share))
    deviation = np.append(0, np.cumsum(share * (center - mean)))

    def between(start: Any, stop: Any) -> np.ndarray:
        """Return the part of the group of bins `start` to `stop` - 1 in the explained variance."""
        group_weight = np.maximum(weight[stop] - weight[start], np.finfo(float).tiny)
        return (deviation[stop] - deviation[start]) ** 2 / group_weight

    last = np.arange(1, N_BINS)  # the longest pauses are the bins from `last` on
    for n_groups, least in MIN_SEPARATION.items():
        first = np.zeros((1, 1), dtype=int) if n_groups == 2 else last[:, None]
        explained = between(0, first) + between(first, last) + between(last, N_BINS)
        explained[first >= last] = 0
        if explained.max() >= least * variance:
            # The best bounds are several where no pause lies.
            _, best = np.nonzero(explained >= (1 - 1e-9) * explained.max())
            return float(np.exp(bounds[last[best]].mean()))
    return None


def _starts(times: np.ndarray, offsets: np.ndarray, pause: float, on_disk: bool) -> np.ndarray:
    """Return the index of the first event of each event's visit."""
    starts = allocate(len(times), index_dtype(len(times)), on_disk)
    visit_start = 0
    for rows in blocks(len(times)):
        pauses = _pauses(times, offsets, rows)
        index = np.arange(rows.start, rows.stop)
        is_first = (pauses < 0) | (pauses >= pause)
        starts[rows] = np.maximum.accumulate(np.where(is_first, index, visit_start))
        visit_start = int(starts[rows.stop - 1])
    return starts


def _pauses(times: np.ndarray, offsets: np.ndarray, rows: slice) -> np.ndarray:
    """Return the time since the user's event before, -1 for the first event of a user."""
    before = np.append(times[max(rows.start - 1, 0)], times[rows][:-1])
    pauses = (times[rows] - before).astype(float)
    first_event = offsets[:-1][np.diff(offsets) > 0]
    first_event = first_event[(first_event >= rows.start) & (first_event < rows.stop)]
    pauses[first_event - rows.start] = -1
    return pauses
