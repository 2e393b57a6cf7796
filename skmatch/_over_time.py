"""Counts of items as of any time, with a half-life: numpy alone, shared with the runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

PERIODS_PER_HALF_LIFE = 8
MIN_PERIODS = 16  # that events span, so that counts as of an earlier time have most events before
NEGLIGIBLE = 100  # half-lives after which an event no longer counts
# Chosen by the worst of the validation splits in benchmarks/NOTES.md.
# Powers of the ratio of shares by which scores change: within a visit what the user does in it
# decides, at its start what is popular now.
WITHIN_VISIT, NEXT_VISIT, WITHOUT_VISITS = 0.25, 0.75, 0.5
PRIOR = 0.5  # of the mean share, added to both shares
FEW = 0.1  # of the usual counts, added to counts by popularity: a single event makes no trend
HARDLY_ANY = 0.01  # of the usual counts: fewer are no evidence of what is popular now


@dataclass(frozen=True, eq=False)
class CountsOverTime:
    """Counts of items with a half-life, as of any time.

    Period `i` has the items ``items[a:b]`` and their ``counts[a:b]``, with ``a = offsets[i]`` and
    ``b = offsets[i + 1]``.

    Attributes
    ----------
    half_life : float
        Length of time after which an event counts half.
    latest : float
        Time of the latest event.
    n_items : int
        Number of items of the catalogue.
    end : ndarray of shape (n_periods,), float64
        When the periods that hold events end, ascending.
    offsets : ndarray of shape (n_periods + 1,), int64
    items : ndarray of shape (n_counts,), int32
        Positions of items.
    counts : ndarray of shape (n_counts,), float64
        Counts of the events of a period, as of its end.
    """

    half_life: float
    latest: float
    n_items: int
    end: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    counts: np.ndarray

    @classmethod
    def learn(
        cls,
        time: np.ndarray,
        item: np.ndarray,
        weight: np.ndarray,
        half_life: float,
        width: float,
        n_items: int,
    ) -> Self:
        """Count events, given the positions of their items, in periods of a width."""
        end, period = np.unique(np.ceil(time / width) * width, return_inverse=True)
        decayed = weight * 0.5 ** ((end[period] - time) / half_life)
        latest = float(time.max(initial=-np.inf))
        return cls(half_life, latest, n_items, end, *_summed(period, item, decayed, len(end)))

    @classmethod
    def merged(cls, parts: list[CountsOverTime]) -> Self:
        """Return the counts of all events of parts with the same half-life."""
        end = np.unique(np.concatenate([one.end for one in parts]))
        periods = [np.searchsorted(end, one.end) for one in parts]
        lengths = [np.diff(one.offsets) for one in parts]
        period = np.concatenate([np.repeat(*own) for own in zip(periods, lengths, strict=True)])
        items = np.concatenate([one.items for one in parts])
        counts = np.concatenate([one.counts for one in parts])
        latest = max(one.latest for one in parts)
        n_items = max(one.n_items for one in parts)
        summed = _summed(period, items, counts, len(end))
        return cls(parts[0].half_life, latest, n_items, end, *summed)

    def resized(self, n_items: int) -> Self:
        """Return the counts with further items, which have no events."""
        return replace(self, n_items=n_items)

    def n_ended(self, time: np.ndarray) -> np.ndarray:
        """Return how many periods have ended before each time: all, after the latest event."""
        n_ended = np.searchsorted(self.end, time, side="left")
        return np.where(time > self.latest, len(self.end), n_ended)

    def by_time(self, time: np.ndarray) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
        """Yield the counts as of each distinct time, None for now, and the rows of that time."""
        n_ended = self.n_ended(time)
        for number in np.unique(n_ended):
            counts = None if number == len(self.end) else self.after(number)
            yield counts, np.flatnonzero(n_ended == number)

    def after(self, n_ended: int) -> np.ndarray:
        """Return the counts of items once so many periods have ended, (n_items,)."""
        if n_ended == 0:
            return np.zeros(self.n_items)
        age = (self.end[n_ended - 1] - self.end[:n_ended]) / self.half_life
        first = int(np.searchsorted(-age, -NEGLIGIBLE))
        factor = np.repeat(0.5 ** age[first:], np.diff(self.offsets[first : n_ended + 1]))
        own = slice(self.offsets[first], self.offsets[n_ended])
        return np.bincount(self.items[own], factor * self.counts[own], minlength=self.n_items)

    def now(self) -> np.ndarray:
        """Return the counts of items as of the latest event, (n_items,).

        A few events long after all others, such as one with a wrong date, are ignored.
        """
        counts = self.after(len(self.end))
        if len(self.end):
            counts *= 0.5 ** ((self.latest - self.end[-1]) / self.half_life)
        for n_ended in range(len(self.end) - 1, 0, -1):
            if counts.sum() >= HARDLY_ANY * self._usual_count:
                break
            counts = self.after(n_ended)
        return counts

    def trend(self, counts: np.ndarray, popularity: np.ndarray) -> np.ndarray:
        """Return the logarithm of shares of counts over popularity, (n_items,), float32.

        Times with hardly any events, such as after a wrong date, have no trend.
        """
        few = FEW * self._usual_count
        share = (counts + few * popularity) / max(counts.sum() + few, np.finfo(float).tiny)
        prior = PRIOR / len(counts)
        return np.log((share + prior) / (popularity + prior)).astype(np.float32)

    @cached_property
    def _usual_count(self) -> float:
        """The mean of summed counts over time, without the first and last hundredth of events."""
        if not len(self.end):
            return 1.0
        counts = np.add.reduceat(self.counts, self.offsets[:-1], dtype=float)
        total = counts.sum()
        first, last = np.searchsorted(np.cumsum(counts), [0.01 * total, 0.99 * total])
        span = self.end[min(last, len(self.end) - 1)] - self.end[first]
        return total * min(1.0, self.half_life / np.log(2) / max(span, np.finfo(float).tiny))


class Moment(NamedTuple):
    """What scores of queries with a trend depend on, besides the query."""

    counts: np.ndarray | None  # of late; None: as of now
    power: float  # of the ratio of shares by which scores change


def moments(
    over_time: CountsOverTime | None,
    time: np.ndarray | None,
    begins_visit: np.ndarray | None,
    n_queries: int,
) -> Iterator[tuple[Moment, np.ndarray]]:
    """Yield each moment of queries, and the queries of that moment.

    Queries without counts over time are all of one moment, which changes no score.
    """
    power = np.full(n_queries, WITHOUT_VISITS)
    if over_time is not None and begins_visit is not None:
        power = np.where(begins_visit, NEXT_VISIT, WITHIN_VISIT)
    if over_time is None or time is None:
        by_time: Iterable = [(None, np.arange(n_queries))]
    else:
        by_time = over_time.by_time(time)
    for counts, rows in by_time:
        for own in np.unique(power[rows]):
            yield Moment(counts, float(own)), rows[power[rows] == own]


def period_width(half_life: float, span: float) -> float:
    """Return the width of the periods in which events that span a length of time are counted."""
    width = half_life / PERIODS_PER_HALF_LIFE
    return min(width, span / MIN_PERIODS) if span else width


def _summed(
    period: np.ndarray, item: np.ndarray, count: np.ndarray, n_periods: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets, items and counts by period, of equal items of a period summed."""
    n_items = int(item.max(initial=0)) + 1
    keys, index = np.unique(period * n_items + item, return_inverse=True)
    period, item = np.divmod(keys, n_items)
    offsets = np.searchsorted(period, np.arange(n_periods + 1))
    counts = np.bincount(index, count, minlength=len(keys))
    return offsets, item.astype(np.int32), counts


def shares_of(counts: np.ndarray) -> np.ndarray:
    """Return counts as shares of their sum, float32."""
    return (counts / max(counts.sum(), np.finfo(float).tiny)).astype(np.float32)
