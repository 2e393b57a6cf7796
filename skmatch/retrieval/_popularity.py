"""`PopularityRetriever`: the most frequent items, the baseline of every table."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from skmatch._data import CatalogueRows, Samples
from skmatch._sklearn import Interval
from skmatch._typing import Duration
from skmatch._validation import read_duration
from skmatch.neighbors import ItemIndex
from skmatch.retrieval._base import BaseRetriever, count_items, popularity_of
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._queries import POPULARITY
from skmatch.retrieval._shared_docs import with_shared_docs
from skmatch.retrieval._vectors import VectorsMixin


@with_shared_docs
class PopularityRetriever(GrowthMixin, VectorsMixin, BaseRetriever):
    """Recommend to everyone the items with the most events.

    The baseline that every comparison needs; it has the interface of the other retrievers and
    does not need torch.

    Parameters
    ----------
    half_life : duration or None, default=None
        Length of time after which an event counts half, in the unit of the times or as a timedelta
        for datetimes: what is popular now, as of the latest event. None counts all events alike.
    {ranking}

    Attributes
    ----------
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
        half_life: Duration | None = None,
        *,
        k: int = 10,
        exclude_seen: bool = True,
    ):
        self.half_life = half_life
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        return self._counted(samples, weight, np.zeros(0), -np.inf)

    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        return self._counted(samples, weight, self.counts_, self.latest_)

    def _counted(
        self, samples: Samples, weight: np.ndarray | None, counts: np.ndarray, latest: float
    ) -> dict[str, Any]:
        """Return the fitted attributes with further events, given the counts as of `latest`."""
        if self.half_life is not None:
            if samples.time is None:
                raise ValueError(
                    f"half_life={self.half_life!r} needs times, and the events have none: name "
                    "their column in MatchEncoder(time=...), or set half_life=None."
                )
            is_datetime = samples.schema.time_kind.endswith("datetime")
            half_life = read_duration("half_life", self.half_life, is_datetime)
            time = samples.time.astype(float)
            before, latest = latest, max(latest, float(time.max()))
            counts = counts * 0.5 ** ((latest - before) / half_life)
            age = 0.5 ** ((latest - time) / half_life)
            weight = age if weight is None else weight * age
        total = count_items(samples, weight)
        total[: len(counts)] += counts
        return self._index(total) | {"latest_": latest}

    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        n_new = len(rows.schema.items.values) - len(self.counts_)
        return self._index(np.pad(self.counts_, (0, n_new)))

    def _index(self, counts: np.ndarray) -> dict[str, Any]:
        learnt = popularity_of(counts)
        vectors = learnt["popularity_"][:, None]
        return learnt | {"item_vectors_": vectors, "index_": ItemIndex().fit(vectors)}

    def _encode(self, samples: Samples) -> np.ndarray:
        return np.ones((len(samples), 1), dtype=np.float32)

    def _source_of(self, samples: Samples) -> np.ndarray:
        return np.full(len(samples), POPULARITY)
