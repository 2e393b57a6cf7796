"""Types that public signatures share."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from narwhals.typing import IntoDataFrame

from skmatch._data import Events, Samples

Label = Hashable  # of a column
Table = pd.DataFrame | IntoDataFrame  # of any library that narwhals reads


class Dataset(Protocol):
    """A `pyarrow.dataset.Dataset`."""

    def get_fragments(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Return the files of the dataset."""


Path = str | os.PathLike[str]
Parquet = Path | Sequence[Path] | Dataset
PlainEvents = Table | np.ndarray | Sequence[Sequence[Any]]
EventTable = PlainEvents | Parquet | Events
SampleTable = EventTable | Samples
