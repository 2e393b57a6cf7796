"""Convert `candidates` and `exclude` to an `ItemFilter`, as retrievers do."""

from __future__ import annotations

from typing import Any

import numpy as np

from skmatch._arrays import FIRST_KNOWN, UNKNOWN, is_missing
from skmatch._filter_rules import FilterReader
from skmatch._item_filter import ItemFilter, ItemLists
from skmatch.runtime._queries import Queries, QueryReader


def read_filter(
    candidates: Any, exclude: Any, exclude_seen: bool, queries: Queries, reader: QueryReader
) -> ItemFilter:
    """Return the filter of each query: its candidates without `exclude` and seen items."""
    seen = (ItemLists(queries.log, queries.seen, queries.stop),) if exclude_seen else ()
    n_items = len(reader.items.values)
    return _Reader(queries, reader).read(candidates, exclude, seen, n_items, stacklevel=3)


class _Reader(FilterReader):
    """Looks up ids in lists and arrays."""

    def __init__(self, queries: Queries, reader: QueryReader):
        super().__init__(queries.users.tolist(), reader.columns["user"])
        self.users, self.items = reader.users, reader.items

    def find_items(self, ids: Any, parameter: str) -> tuple[np.ndarray, list]:
        values = _plain(ids)
        if isinstance(values[0], (bool, np.bool_)) and self.items.type != "bool":
            return np.full(len(values), UNKNOWN, dtype=np.int32), values  # True would be found as 1
        codes = self.items.lookup(values, parameter)
        unknown = [values[row] for row in np.flatnonzero(codes < FIRST_KNOWN)]
        return codes, [value for value in unknown if not is_missing(value)]

    def find_unknown_keys(self, keys: list, parameter: str) -> list:
        codes = self.users.lookup(keys, parameter)
        return [key for key, code in zip(keys, codes, strict=True) if code < FIRST_KNOWN]

    def concatenate(self, lists: list) -> list:
        return [value for ids in lists for value in _plain(ids)]


def _plain(ids: Any) -> list:
    """Return ids as a list of Python objects."""
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
