"""Counts of items as of any time, with a half-life: numpy alone, shared with the runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

PERIODS_PER_HALF_LIFE = 8
MIN_PERIODS = 16  # periods that events span: counts as of a time lack the events of its period
NEGLIGIBLE = 100  # half-lives after which an event no longer counts
# Chosen by the worst of the validation splits in benchmarks/NOTES.md.
# Powers of the ratio of shares by which scores change: within a visit the user's own events decide,
# at its start the popularity of the moment.
WITHIN_VISIT, NEXT_VISIT, WITHOUT_VISITS = 0.25, 0.75, 0.5
PRIOR = 0.5  # of the mean share, added to both shares
FEW = 0.1  # of the usual counts, added to counts by popularity: a single event makes no trend
HARDLY_ANY = 0.01  # of the usual counts: fewer events are no evidence of a trend


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
        end = np.unique(np.concatenate([part.end for part in parts]))
        periods = [np.searchsorted(end, part.end) for part in parts]
        lengths = [np.diff(part.offsets) for part in parts]
        period = np.concatenate([np.repeat(*pair) for pair in zip(periods, lengths, strict=True)])
        items = np.concatenate([part.items for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        latest = max(part.latest for part in parts)
        n_items = max(part.n_items for part in parts)
        summed = _summed(period, items, counts, len(end))
        return cls(parts[0].half_life, latest, n_items, end, *summed)

    def resized(self, n_items: int) -> Self:
        """Return the counts with further items, which have no events."""
        return replace(self, n_items=n_items)

    def n_ended(self, time: np.ndarray) -> np.ndarray:
        """Return the number of periods that end before each time: all, after the latest event."""
        n_ended = np.searchsorted(self.end, time, side="left")
        return np.where(time > self.latest, len(self.end), n_ended)

    def by_time(self, time: np.ndarray) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
        """Yield the counts as of each distinct time, None for now, and the rows of that time."""
        n_ended = self.n_ended(time)
        for number in np.unique(n_ended):
            counts = None if number == len(self.end) else self.after(number)
            yield counts, np.flatnonzero(n_ended == number)

    def after(self, n_ended: int) -> np.ndarray:
        """Return the counts of items as of the end of period `n_ended` - 1, (n_items,)."""
        if n_ended == 0:
            return np.zeros(self.n_items)
        age = (self.end[n_ended - 1] - self.end[:n_ended]) / self.half_life
        first_period = int(np.searchsorted(-age, -NEGLIGIBLE))
        offsets = self.offsets[first_period : n_ended + 1]
        factor = np.repeat(0.5 ** age[first_period:], np.diff(offsets))
        rows = slice(offsets[0], offsets[-1])
        return np.bincount(self.items[rows], factor * self.counts[rows], minlength=self.n_items)

    def now(self) -> np.ndarray:
        """Return the counts of items as of the latest event, (n_items,).

        A few events long after all other events, such as an event with a wrong date, are ignored.
        """
        if not len(self.end):
            return self.after(0)
        until_latest = 0.5 ** ((self.latest - self.end[-1]) / self.half_life)
        decay = 0.5 ** (np.diff(self.end, prepend=self.end[0]) / self.half_life)
        totals, total = [], 0.0  # of `after` each period
        for factor, of_period in zip(decay, self._period_counts, strict=True):
            total = total * factor + of_period
            totals.append(total)
        totals[-1] *= until_latest
        enough = np.flatnonzero(np.array(totals) >= HARDLY_ANY * self._usual_count)
        n_ended = int(enough.max(initial=0)) + 1
        counts = self.after(n_ended)
        return counts * until_latest if n_ended == len(self.end) else counts

    def trend(self, counts: np.ndarray, popularity: np.ndarray) -> np.ndarray:
        """Return the logarithm of shares of counts over popularity, (n_items,), float32.

        Times with hardly any events, as around an event with a wrong date, have no trend.
        """
        smoothing = FEW * self._usual_count
        total = max(counts.sum() + smoothing, np.finfo(float).tiny)
        share = (counts + smoothing * popularity) / total
        prior = PRIOR / len(counts)
        return np.log((share + prior) / (popularity + prior)).astype(np.float32)

    @cached_property
    def _period_counts(self) -> np.ndarray:
        return np.add.reduceat(self.counts, self.offsets[:-1], dtype=float)

    @cached_property
    def _usual_count(self) -> float:
        """The mean of summed counts over time, without the first and last hundredth of events."""
        if not len(self.end):
            return 1.0
        total = self._period_counts.sum()
        low, high = np.searchsorted(np.cumsum(self._period_counts), [0.01 * total, 0.99 * total])
        span = self.end[min(high, len(self.end) - 1)] - self.end[low]
        mean_life = self.half_life / np.log(2)
        return total * mean_life / max(span, mean_life)


class Moment(NamedTuple):
    """The time and the kind of queries with a trend, on which their scores depend."""

    counts: np.ndarray | None  # of late; None: as of now
    power: float  # of the ratio of shares by which scores change

    def trend(
        self, over_time: CountsOverTime | None, trend_now: np.ndarray | None, popularity: np.ndarray
    ) -> np.ndarray | None:
        """Return the logarithms of the factors of scores, (n_items,); None without a trend."""
        if over_time is None or self.counts is None:
            trend = trend_now
        else:
            trend = over_time.trend(self.counts, popularity)
        return None if trend is None else self.power * trend


def moments(
    over_time: CountsOverTime | None,
    time: np.ndarray | None,
    begins_visit: np.ndarray | None,
    n_queries: int,
) -> Iterator[tuple[Moment, np.ndarray]]:
    """Yield each moment of queries, and the queries of that moment.

    Without counts over time, all queries have the same moment, which changes no score.
    """
    power = np.full(n_queries, WITHOUT_VISITS)
    if over_time is not None and begins_visit is not None:
        power = np.where(begins_visit, NEXT_VISIT, WITHIN_VISIT)
    if over_time is None or time is None:
        by_time: Iterable = [(None, np.arange(n_queries))]
    else:
        by_time = over_time.by_time(time)
    for counts, rows in by_time:
        for value in np.unique(power[rows]):
            yield Moment(counts, float(value)), rows[power[rows] == value]


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
    offsets = np.searchsorted(keys, np.arange(n_periods + 1) * n_items)
    counts = np.bincount(index, count, minlength=len(keys))
    return offsets, (keys % n_items).astype(np.int32), counts


def shares_of(counts: np.ndarray) -> np.ndarray:
    """Return counts as shares of their sum, float32."""
    return (counts / max(counts.sum(), np.finfo(float).tiny)).astype(np.float32)
