"""`PopularityRetriever`: the most frequent items, the baseline of every table."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any, Literal

import numpy as np

from skmatch._data import CatalogueRows, Samples
from skmatch._over_time import CountsOverTime, moments, shares_of
from skmatch._sklearn import Interval
from skmatch._typing import Duration
from skmatch.neighbors import ItemIndex
from skmatch.retrieval._base import BaseRetriever, count_items, popularity_of
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._queries import POPULARITY
from skmatch.retrieval._shared_docs import with_shared_docs
from skmatch.retrieval._trend import count_further, count_over_time
from skmatch.retrieval._vectors import VectorsMixin


@with_shared_docs
class PopularityRetriever(GrowthMixin, VectorsMixin, BaseRetriever):
    """Recommend to everyone the items with the most events.

    The baseline that every comparison needs; it has the interface of the other retrievers and
    does not need torch.

    Parameters
    ----------
    half_life : duration, "auto" or None, default=None
        Length of time after which an event counts half, in the unit of the times or as a timedelta
        for datetimes. Recommendations are what is popular at the time of the query or, without one,
        at the latest event; a few events long after all others, such as one with a wrong date, are
        ignored then. "auto" chooses among 1/2, 1/4, ... 1/256 of the time that the events span, and
        None, what ranks the next events best. None counts all events alike.
    {ranking}

    Attributes
    ----------
    half_life_ : float or None
        The half-life, in the unit of the times (nanoseconds for datetimes).
    item_vectors_ : ndarray of shape (n_items, 1)
        `popularity_` as vectors of one dimension; every user's vector is 1.
    {catalogue}

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import PopularityRetriever
    >>> events = pd.DataFrame({
    ...     "user_id": ["ann", "ann", "bob", "bob", "cyd", "dan"],
    ...     "item_id": ["tea", "jam", "tea", "rye", "tea", "jam"],
    ... })
    >>> PopularityRetriever(k=2).fit(events).recommend(["cyd", "dee"])
      user_id item_id     score  rank      source
    0     cyd     jam  0.333333     1  popularity
    1     cyd     rye  0.166667     2  popularity
    2     dee     tea  0.500000     1  popularity
    3     dee     jam  0.333333     2  popularity
    """

    _parameter_constraints: dict = {
        "half_life": "no_validation",
        "k": [Interval(Integral, 1, None, closed="left")],
        "exclude_seen": ["boolean"],
    }

    def __init__(
        self,
        half_life: Duration | Literal["auto"] | None = None,
        *,
        k: int = 10,
        exclude_seen: bool = True,
    ):
        self.half_life = half_life
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        over_time = count_over_time("half_life", self.half_life, samples, weight)
        half_life = None if over_time is None else over_time.half_life
        return {"half_life_": half_life} | self._fitted_attributes(
            count_items(samples, weight), over_time
        )

    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        over_time = count_further(self.counts_over_time_, samples, weight)
        counts = count_items(samples, weight)
        counts[: len(self.counts_)] += self.counts_
        return self._fitted_attributes(counts, over_time)

    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        counts = np.pad(self.counts_, (0, len(rows.schema.items.values) - len(self.counts_)))
        over_time = self.counts_over_time_
        return self._fitted_attributes(counts, over_time and over_time.resized(len(counts)))

    def _fitted_attributes(
        self, counts: np.ndarray, over_time: CountsOverTime | None
    ) -> dict[str, Any]:
        attributes = popularity_of(counts if over_time is None else over_time.now())
        vectors = attributes["popularity_"][:, None]
        index = ItemIndex().fit(vectors)
        fitted = {"counts_over_time_": over_time, "item_vectors_": vectors, "index_": index}
        return attributes | fitted

    def _popularity_over_time(self, samples: Samples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for moment, rows in moments(self.counts_over_time_, samples.time, None, len(samples)):
            counts = moment.counts
            yield self.popularity_ if counts is None else shares_of(counts), rows

    def _encode(self, samples: Samples) -> np.ndarray:
        return np.ones((len(samples), 1), dtype=np.float32)

    def _source_of(self, samples: Samples) -> np.ndarray:
        return np.full(len(samples), POPULARITY)
