"""Scores that follow the popularity of items at the time of the query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from skmatch._data import FIRST_KNOWN, Samples
from skmatch._durations import read_duration
from skmatch._over_time import CountsOverTime, moments, period_width, shares_of
from skmatch._ranking import top_k
from skmatch._typing import Duration
from skmatch.retrieval._base import count_items

BLOCK_ROWS = 2**18  # events that are counted at a time
N_PERIODS = 512  # periods in which half-lives are compared
N_HALF_LIVES = 8
N_ITEMS = 20_000  # the most frequent items, by which half-lives are compared
N_RANKED = 100
OUTLIERS = 0.005, 0.995  # quantiles of times beyond which events may have wrong dates


class TrendMixin:
    """Scores that follow the popularity of items at the time of the query.

    The score of an item, as a likelihood, is multiplied by the ratio of its share of the events of
    late to its share of all events, to a power that depends on the query: see
    `skmatch._over_time.moments`. A subclass has the parameter `trend`, includes
    `_learn_trend`, `_update_trend` and `_resize_trend` in what it learns, and applies `_trends`.
    """

    trend: Duration | Literal["auto"] | None
    popularity_: np.ndarray
    trend_: np.ndarray | None
    counts_over_time_: CountsOverTime | None

    def _learn_trend(
        self, samples: Samples, weight: np.ndarray | None, counts: np.ndarray
    ) -> dict[str, Any]:
        return _trend_attributes(count_over_time("trend", self.trend, samples, weight), counts)

    def _update_trend(
        self, samples: Samples, weight: np.ndarray | None, counts: np.ndarray
    ) -> dict[str, Any]:
        return _trend_attributes(count_further(self.counts_over_time_, samples, weight), counts)

    def _resize_trend(self, counts: np.ndarray) -> dict[str, Any]:
        over_time = self.counts_over_time_
        return _trend_attributes(over_time and over_time.resized(len(counts)), counts)

    def _trends(self, samples: Samples) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
        """Yield the logarithms of the items' trends, (n_items,), and the queries they apply to."""
        over_time = self.counts_over_time_
        for moment, rows in moments(over_time, samples.time, samples.begins_visit, len(samples)):
            yield moment.trend(over_time, self.trend_, self.popularity_), rows

    def _popularity_over_time(self, samples: Samples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for trend, rows in self._trends(samples):
            yield self.popularity_ if trend is None else self.popularity_ * np.exp(trend), rows


def _trend_attributes(over_time: CountsOverTime | None, counts: np.ndarray) -> dict[str, Any]:
    trend = None if over_time is None else over_time.trend(over_time.now(), shares_of(counts))
    return {"counts_over_time_": over_time, "trend_": trend}


def count_over_time(
    name: str,
    half_life: Duration | Literal["auto"] | None,
    samples: Samples,
    weight: np.ndarray | None,
) -> CountsOverTime | None:
    """Count the events of items over time; None where all events count alike."""
    is_auto = isinstance(half_life, str) and half_life == "auto"
    if half_life is None or (is_auto and samples.time is None):
        return None
    if samples.time is None:
        raise ValueError(
            f"{name}={half_life!r} needs times, and the events have none: name their column in "
            f"MatchEncoder(time=...), or set {name}=None."
        )
    if is_auto:
        length = find_half_life(samples, weight)
        return None if length is None else _count(samples, weight, length)
    is_datetime = samples.schema.time_kind.endswith("datetime")
    return _count(samples, weight, read_duration(name, half_life, is_datetime))


def count_further(
    counts: CountsOverTime | None, samples: Samples, weight: np.ndarray | None
) -> CountsOverTime | None:
    """Return the counts with further events."""
    if counts is None:
        return None
    further = _count(samples, weight, counts.half_life, counts.end)
    return CountsOverTime.merged([counts, further])


def _count(
    samples: Samples, weight: np.ndarray | None, half_life: float, known_times: ArrayLike = ()
) -> CountsOverTime:
    """Count events over time, in periods that fit `known_times`, too."""
    times = np.append(_first_and_last(samples, weight), known_times)
    width = period_width(half_life, float(np.ptp(times)) if len(times) else 0.0)
    n_items = len(samples.schema.items.values)
    blocks = _blocks(samples, weight)
    return CountsOverTime.merged(
        [CountsOverTime.learn(*events, half_life, width, n_items) for events in blocks]
    )


def _blocks(
    samples: Samples, weight: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the times, positions of items and weights of the events that count, in blocks."""
    assert samples.time is not None
    for start in range(0, max(len(samples), 1), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        item = samples.item[rows] - FIRST_KNOWN
        values = np.ones(len(item)) if weight is None else np.asarray(weight[rows], dtype=float)
        is_counted = (item >= 0) & (values > 0)
        yield samples.time[rows][is_counted].astype(float), item[is_counted], values[is_counted]


def _first_and_last(samples: Samples, weight: np.ndarray | None) -> np.ndarray:
    """Return the times of the first and of the last event of each block that count."""
    times = [time for time, _, _ in _blocks(samples, weight) if len(time)]
    return np.array([bound for time in times for bound in (time.min(), time.max())])


def find_half_life(samples: Samples, weight: np.ndarray | None) -> float | None:
    """Return the half-life whose counts rank the events of the next period best, or None.

    The candidates are None, which counts all events alike, and 1/2, 1/4, ... of the time that the
    events span. Each is judged by the mean discounted gain of the events among its first 100 items.
    """
    step = max(1, len(samples) // BLOCK_ROWS)
    times = np.concatenate([time[::step] for time, _, _ in _blocks(samples, weight)])
    if not len(times):
        return None
    start, stop = np.quantile(times, OUTLIERS)  # a wrong date would stretch the time
    span = float(stop - start)
    if span == 0:
        return None
    frequent = np.argsort(-count_items(samples, weight), kind="stable")[:N_ITEMS]
    column = np.full(len(samples.schema.items.values), -1)
    column[frequent] = np.arange(len(frequent))
    counts = np.zeros((N_PERIODS, len(frequent)))
    for time, item, weights in _blocks(samples, weight):
        period = np.clip((time - start) / span * N_PERIODS, 0, N_PERIODS - 1).astype(int)
        is_frequent = column[item] >= 0
        index = period[is_frequent] * len(frequent) + column[item[is_frequent]]
        np.add.at(counts.ravel(), index, weights[is_frequent])

    half_lives = [None, *(span / 2.0 ** np.arange(1, N_HALF_LIVES + 1))]
    widths = np.array(
        [0.0 if length is None else span / N_PERIODS / length for length in half_lives]
    )
    gain = 1 / np.log2(np.arange(min(N_RANKED, len(frequent))) + 2)
    score = np.zeros(len(half_lives))
    decayed_counts = np.zeros((len(half_lives), len(frequent)))
    last_period = 0
    for period_number in np.flatnonzero(counts.any(axis=1)).tolist():
        decayed_counts *= 0.5 ** (widths * (period_number - last_period))[:, None]
        period_counts = counts[period_number]
        ranked, _ = top_k(decayed_counts, len(gain))
        score += period_counts[ranked] @ gain
        decayed_counts += period_counts
        last_period = period_number
    return half_lives[int(np.argmax(score))]
