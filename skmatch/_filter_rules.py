"""`candidates` and `exclude` as an `ItemFilter`, whatever looks the ids up: numpy alone."""

from __future__ import annotations

import reprlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from skmatch._arrays import FIRST_KNOWN, is_missing
from skmatch._item_filter import ItemFilter, ItemLists


class _Rule(NamedTuple):
    """A list of codes for all queries, or a list per query."""

    codes: np.ndarray
    lists: ItemLists | None = None  # None: the codes apply to all queries
    has_list: np.ndarray | None = None  # (n_queries,) bool

    def positions(self) -> np.ndarray:
        return self.codes[self.codes >= FIRST_KNOWN] - FIRST_KNOWN


class FilterReader(ABC):
    """Reads `candidates` and `exclude`; subclasses look up ids.

    Parameters
    ----------
    queries : list
        The ids of the queries, which are the keys of a mapping.
    column : str
        The name of their column, for messages.
    """

    def __init__(self, queries: list, column: Any):
        self.queries = queries
        self.column = column
        self._ignored: list[str] = []  # descriptions of unknown ids, for a warning

    @abstractmethod
    def find_items(self, ids: Any, parameter: str) -> tuple[np.ndarray, list]:
        """Return the codes of item ids, and the unknown ids that are not missing."""

    @abstractmethod
    def find_unknown_keys(self, keys: list, parameter: str) -> list:
        """Return the keys that are no ids of the column of the queries."""

    @abstractmethod
    def concatenate(self, lists: list) -> Any:
        """Return the ids of all lists."""

    def read(
        self,
        candidates: Any,
        exclude: Any,
        excluded: tuple[ItemLists, ...],
        n_items: int,
        stacklevel: int,
    ) -> ItemFilter:
        """Return the filter of each query: its candidates without `exclude` and `excluded`."""
        mask, lists, has_list = None, None, None
        if candidates is not None:
            rule = self._read_rule(candidates, "candidates")
            if rule.lists is None:
                mask = np.zeros(n_items, dtype=bool)
                mask[rule.positions()] = True
            lists, has_list = rule.lists, rule.has_list
        if exclude is not None:
            rule = self._read_rule(exclude, "exclude")
            if rule.lists is None:
                mask = np.ones(n_items, dtype=bool) if mask is None else mask
                mask[rule.positions()] = False
            else:
                excluded += (rule.lists,)
        if self._ignored:
            message = f"Ignored {' and '.join(self._ignored)}."
            warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)
        return ItemFilter(mask, lists, has_list, excluded)

    def _read_rule(self, values: Any, parameter: str) -> _Rule:
        if isinstance(values, Mapping):
            self._ignore_unknown_keys(values, parameter)
            return self._read_cells([values.get(query) for query in self.queries], parameter)
        if hasattr(values, "columns"):
            raise ValueError(
                f"{parameter} is a table, and not a list of item ids: pass its column of ids, such "
                f"as {parameter}=items['item_id']."
            )
        if not _is_list(values):
            raise ValueError(
                f"{parameter}={reprlib.repr(values)} is not a list of item ids; pass a list, also "
                "for a single id, a mapping from the ids of queries to lists, or a list or column "
                "of lists, one per query."
            )
        values = list(values) if isinstance(values, (set, frozenset)) else values
        if not len(values) and self.queries:
            _reject_empty(parameter, "")
        first_value = next((value for value in values if not is_missing(value)), None)
        if not len(values) or not (first_value is None or _is_cell(first_value)):
            return _Rule(self._read_ids(values, parameter))
        if len(values) != len(self.queries):
            raise ValueError(
                f"{parameter} holds {len(values):,} lists for {len(self.queries):,} queries; pass "
                "one per query, None for a query without a list."
            )
        return self._read_cells(list(values), parameter)

    def _read_cells(self, cells: list, parameter: str) -> _Rule:
        has_list = np.array([not is_missing(cell) for cell in cells], dtype=bool)
        for query, cell, has in zip(self.queries, cells, has_list, strict=True):
            if has and not _is_list(cell):
                raise ValueError(
                    f"{parameter} holds {reprlib.repr(cell)} for {query!r}, which is not a list of "
                    "item ids; pass a list, also for a single id, or None."
                )
            if has and not len(cell):
                _reject_empty(parameter, f" for {query!r}")
        lists = [cell for cell, has in zip(cells, has_list, strict=True) if has]
        codes = self._read_ids(self.concatenate(lists), parameter)
        lengths = np.zeros(len(cells), dtype=np.int64)
        lengths[has_list] = [len(cell) for cell in lists]
        stop = np.cumsum(lengths)
        return _Rule(codes, ItemLists(codes, stop - lengths, stop), has_list)

    def _read_ids(self, ids: Any, parameter: str) -> np.ndarray:
        if not len(ids):
            return np.empty(0, dtype=np.int32)
        codes, unknown = self.find_items(ids, parameter)
        first_id = next(iter(ids))
        if isinstance(first_id, (bool, np.bool_)) and (codes < FIRST_KNOWN).all():
            raise ValueError(
                f"{parameter} holds {first_id}: a mask of booleans does not say which items its "
                f"rows are. Pass the ids that it selects, such as {parameter}="
                "items.loc[items['stock'] > 0, 'item_id']."
            )
        if unknown:
            hint = ""
            if (codes < FIRST_KNOWN).all():
                hint = " (none is known: compare their type and leading zeros with the ids in fit)"
            self._ignored.append(
                f"{len(set(unknown)):,} id(s) in {parameter} that are not in the catalogue, such "
                f"as {unknown[0]!r}{hint}"
            )
        return codes

    def _ignore_unknown_keys(self, rule: Mapping, parameter: str) -> None:
        queries = set(self.queries)
        keys = [key for key in rule if key not in queries]
        unknown = self.find_unknown_keys(keys, parameter) if keys else []
        if unknown:
            self._ignored.append(
                f"{len(unknown):,} key(s) of {parameter} that are not in {self.column!r}, such as "
                f"{unknown[0]!r}"
            )


def _reject_empty(parameter: str, query: str) -> None:
    if parameter == "candidates":
        raise ValueError(
            f"candidates{query} is empty, so that no item can be recommended; pass at least one "
            "item id, or None for all items."
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) or getattr(value, "ndim", 0) == 1


def _is_cell(value: Any) -> bool:
    """Return whether a value is a list of ids; a tuple may be an id itself."""
    return _is_list(value) and not isinstance(value, (tuple, frozenset))
