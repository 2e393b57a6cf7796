"""Convert `candidates` and `exclude` to an `ItemFilter`."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from skmatch._columns import FIRST_KNOWN, Vocabulary
from skmatch._filter_rules import FilterReader
from skmatch._validation import as_pandas, as_series
from skmatch.neighbors import ItemFilter, ItemLists


def read_filter(
    candidates: Any,
    exclude: Any,
    excluded: tuple[ItemLists, ...],
    queries: pd.Series,
    known_ids: Vocabulary,
    items: Vocabulary,
) -> ItemFilter:
    """Return the filter of each query: its candidates without `exclude` and `excluded`.

    `queries` holds the ids that are the keys of a mapping, `known_ids` all ids that may be keys.
    """
    reader = _Reader(queries, known_ids, items)
    rules = as_pandas(candidates), as_pandas(exclude)
    return reader.read(*rules, excluded, len(items.values), stacklevel=4)


class _Reader(FilterReader):
    """Looks up ids in columns of any kind."""

    def __init__(self, queries: pd.Series, known_ids: Vocabulary, items: Vocabulary):
        super().__init__(list(queries), queries.name)
        self.known_ids, self.items = known_ids, items

    def find_items(self, ids: Any, parameter: str) -> tuple[np.ndarray, list]:
        is_plain = not hasattr(ids, "dtype") or ids.dtype == object
        if is_plain and self.items.index.dtype == object:
            # Faster than pandas' string dtype, from which each id would be converted back.
            column = pd.Series(ids, name=parameter, dtype=object)
        else:
            column = as_series(ids, parameter).rename(parameter)
        codes = self.items.lookup(column)
        self.items.warn_of_another_dtype(column, codes)
        return codes, column[codes < FIRST_KNOWN].dropna().tolist()

    def find_unknown_keys(self, keys: list, parameter: str) -> list:
        column = as_series(keys)
        return column[self.known_ids.lookup(column) < FIRST_KNOWN].tolist()

    def concatenate(self, lists: list) -> Any:
        dtypes = {ids.dtype if isinstance(ids, np.ndarray) else None for ids in lists}
        if len(dtypes) == 1 and None not in dtypes:
            return np.concatenate(lists)  # several times faster than id by id
        return list(chain.from_iterable(lists))
