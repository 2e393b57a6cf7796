"""Types that public signatures share."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Any, Protocol, Union

import numpy as np
import pandas as pd
from narwhals.typing import IntoDataFrame, IntoSeries

from skmatch._data import Events, Samples

Label = Hashable  # of a column
# Of any library that narwhals reads; some of its versions write types as strings, hence `Union`.
Table = Union[pd.DataFrame, IntoDataFrame]  # noqa: UP007
Column = Union[pd.Series, IntoSeries]  # noqa: UP007


class Dataset(Protocol):
    """A `pyarrow.dataset.Dataset`."""

    def get_fragments(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Return the files of the dataset."""


Path = str | os.PathLike[str]
Parquet = Path | Sequence[Path] | Dataset
PlainEvents = Table | np.ndarray | Sequence[Sequence[Any]]
EventTable = PlainEvents | Parquet | Events
SampleTable = EventTable | Samples
Duration = float | str | timedelta | np.timedelta64
Ids = Sequence[Any] | AbstractSet[Any] | np.ndarray | pd.Index | Column
ItemRule = Ids | Mapping[Any, Ids]  # for all queries, or by query
