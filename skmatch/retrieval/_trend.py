"""Counts of items at any time, and scores that follow what is popular then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from scipy.sparse import csr_array, vstack

from skmatch._data import FIRST_KNOWN, Samples
from skmatch._typing import Duration
from skmatch._validation import read_duration
from skmatch._ranking import top_k
from skmatch.neighbors import ItemFilter
from skmatch.retrieval._base import rank_alike

PERIODS_PER_HALF_LIFE = 8
NEGLIGIBLE = 100  # half-lives after which an event no longer counts
BLOCK_ROWS = 2**20  # events that are counted at a time
N_PERIODS = 512  # in which half-lives are compared
N_HALF_LIVES = 8
N_ITEMS = 20_000  # the most frequent ones, by which half-lives are compared
N_RANKED = 100
# Both were chosen by the worst of 16 validation splits, see benchmarks/NOTES.md.
POWER = 0.5  # of the ratio of shares by which scores change
PRIOR = 0.5  # of the mean share, added to shares: a single event makes no trend


@dataclass(frozen=True, eq=False)
class CountsOverTime:
    """Counts of items with a half-life, as of any time.

    Attributes
    ----------
    half_life : float
        Length of time after which an event counts half.
    latest : float
        Time of the latest event.
    end : ndarray of shape (n_periods,), float64
        When the periods that hold events end, ascending; several may end at once.
    counts : csr_array of shape (n_periods, n_items)
        Counts of the events of each period, as of its end.
    """

    half_life: float
    latest: float
    end: np.ndarray
    counts: csr_array

    @classmethod
    def learn(
        cls, time: np.ndarray, item: np.ndarray, weight: np.ndarray, half_life: float, n_items: int
    ) -> Self:
        """Count events, given the positions of their items."""
        width = half_life / PERIODS_PER_HALF_LIFE
        end, period = np.unique(np.ceil(time / width) * width, return_inverse=True)
        counts = csr_array((len(end), n_items))
        for a in range(0, len(time), BLOCK_ROWS):
            rows = slice(a, a + BLOCK_ROWS)
            decayed = weight[rows] * 0.5 ** ((end[period[rows]] - time[rows]) / half_life)
            counts = counts + csr_array((decayed, (period[rows], item[rows])), shape=counts.shape)
        return cls(half_life, float(time.max(initial=-np.inf)), end, counts)

    def updated(self, further: CountsOverTime) -> CountsOverTime:
        """Return the counts with further events, of as many items or more."""
        own = self.resized(further.counts.shape[1]).counts
        end = np.concatenate([self.end, further.end])
        order = np.argsort(end, kind="stable")
        counts = vstack([own, further.counts], format="csr")[order]
        latest = max(self.latest, further.latest)
        return CountsOverTime(self.half_life, latest, end[order], counts)

    def resized(self, n_items: int) -> CountsOverTime:
        """Return the counts with further items, which have no events."""
        counts = self.counts.copy()
        counts.resize(len(self.end), n_items)
        return replace(self, counts=counts)

    def n_ended(self, time: np.ndarray) -> np.ndarray:
        """Return how many periods have ended at each time: all, from the latest event on."""
        n_ended = np.searchsorted(self.end, time, side="right")
        return np.where(time >= self.latest, len(self.end), n_ended)

    def after(self, n_ended: int) -> np.ndarray:
        """Return the counts of items once so many periods have ended, (n_items,)."""
        if n_ended == 0:
            return np.zeros(self.counts.shape[1])
        age = (self.end[n_ended - 1] - self.end[:n_ended]) / self.half_life
        first = int(np.searchsorted(-age, -NEGLIGIBLE))
        return 0.5 ** age[first:] @ self.counts[first:n_ended]

    def now(self) -> np.ndarray:
        """Return the counts of items as of the latest event, (n_items,)."""
        counts = self.after(len(self.end))
        if not len(self.end):
            return counts
        return counts * 0.5 ** ((self.latest - self.end[-1]) / self.half_life)


class TrendMixin:
    """Scores that follow what is popular at the time of the query.

    The popularity of an item at that time over its popularity among all events, to the power of
    0.5, is how much more likely than on average the item is. A subclass has the parameter `trend`
    and includes `_learn_trend`, `_update_trend` and `_resize_trend` in what it learns.
    """

    trend: Duration | Literal["auto"] | None
    counts_: np.ndarray
    popularity_: np.ndarray
    trend_: np.ndarray | None
    counts_over_time_: CountsOverTime | None

    def _learn_trend(
        self, samples: Samples, weight: np.ndarray | None, counts: np.ndarray
    ) -> dict[str, Any]:
        return _as_learnt(count_over_time("trend", self.trend, samples, weight), counts)

    def _update_trend(
        self, samples: Samples, weight: np.ndarray | None, counts: np.ndarray
    ) -> dict[str, Any]:
        over_time = self.counts_over_time_
        if over_time is not None:
            over_time = over_time.updated(count_further(over_time, samples, weight))
        return _as_learnt(over_time, counts)

    def _resize_trend(self, counts: np.ndarray) -> dict[str, Any]:
        over_time = self.counts_over_time_
        return _as_learnt(over_time and over_time.resized(len(counts)), counts)

    def _trends(self, samples: Samples) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
        """Return the trend at each time of queries, (n_items,), and the queries of that time."""
        over_time = self.counts_over_time_
        if over_time is None or samples.time is None:
            yield self.trend_, np.arange(len(samples))
            return
        n_ended = over_time.n_ended(samples.time)
        for number in np.unique(n_ended):
            is_now = number == len(over_time.end)
            trend = self.trend_ if is_now else trend_of(over_time.after(number), self.counts_)
            yield trend, np.flatnonzero(n_ended == number)

    def _most_popular(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        positions = np.empty((len(samples), k), dtype=np.int64)
        scores = np.empty((len(samples), k), dtype=np.float32)
        for trend, rows in self._trends(samples):
            own = self._popularity_with(trend), len(rows), k, allowed.gather(rows)
            positions[rows], scores[rows] = rank_alike(*own)
        return positions, scores

    def _popularity_of(self, samples: Samples, positions: np.ndarray) -> np.ndarray:
        scores = np.empty(positions.shape, dtype=np.float32)
        for trend, rows in self._trends(samples):
            scores[rows] = self._popularity_with(trend)[positions[rows]]
        return scores

    def _popularity_with(self, trend: np.ndarray | None) -> np.ndarray:
        return self.popularity_ if trend is None else self.popularity_ * np.exp(trend)


def _as_learnt(over_time: CountsOverTime | None, counts: np.ndarray) -> dict[str, Any]:
    trend = None if over_time is None else trend_of(over_time.now(), counts)
    return {"counts_over_time_": over_time, "trend_": trend}


def trend_of(counts: np.ndarray, all_counts: np.ndarray) -> np.ndarray:
    """Return the logarithm of what scores are multiplied by, (n_items,), float32."""
    prior = PRIOR / len(counts)
    now, overall = (
        own / max(own.sum(), np.finfo(float).tiny) + prior for own in (counts, all_counts)
    )
    return (POWER * np.log(now / overall)).astype(np.float32)


def count_over_time(
    name: str,
    half_life: Duration | Literal["auto"] | None,
    samples: Samples,
    weight: np.ndarray | None,
) -> CountsOverTime | None:
    """Count the events of items over time; None where the parameter counts all alike."""
    is_auto = isinstance(half_life, str) and half_life == "auto"
    if half_life is None or (is_auto and samples.time is None):
        return None
    if samples.time is None:
        raise ValueError(
            f"{name}={half_life!r} needs times, and the events have none: name their column in "
            f"MatchEncoder(time=...), or set {name}=None."
        )
    events = _events_of(samples, weight)
    if is_auto:
        length = find_half_life(*events)
        if length is None:
            return None
    else:
        is_datetime = samples.schema.time_kind.endswith("datetime")
        length = read_duration(name, half_life, is_datetime)
    return CountsOverTime.learn(*events, length, len(samples.schema.items.values))


def count_further(
    known: CountsOverTime, samples: Samples, weight: np.ndarray | None
) -> CountsOverTime:
    """Count further events with the half-life of known ones."""
    n_items = len(samples.schema.items.values)
    return CountsOverTime.learn(*_events_of(samples, weight), known.half_life, n_items)


def _events_of(
    samples: Samples, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the times, positions of items and weights of the events that count."""
    assert samples.time is not None
    counted = samples.item >= FIRST_KNOWN
    if weight is not None:
        counted &= weight > 0
    rows = np.flatnonzero(counted)
    weights = np.ones(len(rows)) if weight is None else np.asarray(weight, dtype=float)[rows]
    return samples.time[rows].astype(float), samples.item[rows] - FIRST_KNOWN, weights


def find_half_life(time: np.ndarray, item: np.ndarray, weight: np.ndarray) -> float | None:
    """Return the half-life whose counts rank the events of the next period best, or None.

    The candidates are None, which counts all events alike, and 1/2, 1/4, ... of the time that the
    events span. Each is judged by the mean discounted gain of the events among its first 100 items.
    """
    span = float(np.ptp(time)) if len(time) else 0.0
    if span == 0:
        return None
    counts = np.bincount(item, weight)
    frequent = np.argsort(-counts, kind="stable")[:N_ITEMS]
    column = np.full(len(counts), -1)
    column[frequent] = np.arange(len(frequent))
    kept = column[item] >= 0
    period = np.minimum((time - time.min()) / span * N_PERIODS, N_PERIODS - 1).astype(int)
    index = period[kept], column[item[kept]]
    events = csr_array((weight[kept], index), shape=(N_PERIODS, len(frequent)))

    half_lives = [None, *(span / 2.0 ** np.arange(1, N_HALF_LIVES + 1))]
    widths = [0.0 if length is None else span / N_PERIODS / length for length in half_lives]
    gain = 1 / np.log2(np.arange(min(N_RANKED, len(frequent))) + 2)
    score = np.zeros(len(half_lives))
    so_far = np.zeros((len(half_lives), len(frequent)))
    last = 0
    for own in np.flatnonzero(np.diff(events.indptr)).tolist():
        so_far *= 0.5 ** (np.array(widths) * (own - last))[:, None]
        now = events[[own]].toarray()[0]
        ranked, _ = top_k(so_far, len(gain))
        score += now[ranked] @ gain
        so_far += now
        last = own
    return half_lives[int(np.argmax(score))]
