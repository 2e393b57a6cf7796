"""Convert `candidates` and `exclude` to an `ItemFilter`."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_scalar

from skmatch._columns import FIRST_KNOWN, Vocabulary
from skmatch._validation import as_pandas, as_series
from skmatch.neighbors import ItemFilter, ItemLists


class _Rule(NamedTuple):
    """One list of codes for all queries, or one list per query."""

    codes: np.ndarray
    lists: ItemLists | None  # None: the codes apply to all queries
    has_list: np.ndarray | None  # (n_queries,) bool
    ignored: tuple[str, ...]  # descriptions of the unknown ids, for a warning

    def positions(self) -> np.ndarray:
        return self.codes[self.codes >= FIRST_KNOWN] - FIRST_KNOWN


def read_filter(
    candidates: Any,
    exclude: Any,
    excluded: tuple[ItemLists, ...],
    queries: pd.Series,
    known: Vocabulary,
    items: Vocabulary,
) -> ItemFilter:
    """Return the filter of each query: its candidates without `exclude` and `excluded`.

    `queries` holds the ids that are the keys of a mapping, `known` all ids that may be.
    """
    mask, lists, has_list = None, None, None
    ignored: tuple[str, ...] = ()
    if candidates is not None:
        rule = _read_rule(candidates, "candidates", queries, known, items)
        ignored += rule.ignored
        if rule.lists is None:
            mask = np.zeros(len(items.values), dtype=bool)
            mask[rule.positions()] = True
        lists, has_list = rule.lists, rule.has_list
    if exclude is not None:
        rule = _read_rule(exclude, "exclude", queries, known, items)
        ignored += rule.ignored
        if rule.lists is None:
            mask = np.ones(len(items.values), dtype=bool) if mask is None else mask
            mask[rule.positions()] = False
        else:
            excluded += (rule.lists,)
    if ignored:
        warnings.warn(f"Ignored {' and '.join(ignored)}.", UserWarning, stacklevel=4)
    return ItemFilter(mask, lists, has_list, excluded)


def _read_rule(
    values: Any, parameter: str, queries: pd.Series, known: Vocabulary, items: Vocabulary
) -> _Rule:
    if isinstance(values, Mapping):
        unknown = _unknown_keys(values, parameter, queries, known)
        cells = [values.get(query) for query in queries]
        return _rule_of_cells(cells, parameter, queries, items, unknown)
    values = as_pandas(values)
    if not _is_list(values):
        raise ValueError(
            f"{parameter}={reprlib.repr(values)} is not a list of item ids; pass a list, also for "
            "a single id, a mapping from the ids of queries to lists, or a column of lists, one "
            "per query."
        )
    values = list(values) if isinstance(values, (set, frozenset)) else values
    if not len(values) and len(queries):
        _reject_empty(parameter, "")
    first = next((value for value in values if not _is_missing(value)), None)
    if not len(values) or not (first is None or _is_cell(first)):
        codes, ignored = _read_codes(values, parameter, items)
        return _Rule(codes, None, None, ignored)
    if len(values) != len(queries):
        raise ValueError(
            f"{parameter} holds {len(values):,} lists for {len(queries):,} queries; pass one per "
            "query, None for a query without a list."
        )
    return _rule_of_cells(list(values), parameter, queries, items)


def _rule_of_cells(
    cells: list, parameter: str, queries: pd.Series, items: Vocabulary, ignored: tuple = ()
) -> _Rule:
    has_list = np.array([not _is_missing(cell) for cell in cells], dtype=bool)
    for query, cell, has in zip(queries, cells, has_list, strict=True):
        if has and not _is_list(cell):
            raise ValueError(
                f"{parameter} holds {reprlib.repr(cell)} for {query!r}, which is not a list of "
                "item ids; pass a list, also for a single id, or None."
            )
        if has and not len(cell):
            _reject_empty(parameter, f" for {query!r}")
    lists = [cell for cell, has in zip(cells, has_list, strict=True) if has]
    codes, unknown = _read_codes(_concatenate(lists), parameter, items)
    lengths = np.zeros(len(cells), dtype=np.int64)
    lengths[has_list] = [len(cell) for cell in lists]
    stop = np.cumsum(lengths)
    return _Rule(codes, ItemLists(codes, stop - lengths, stop), has_list, ignored + unknown)


def _read_codes(ids: Any, parameter: str, items: Vocabulary) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the codes of item ids, and a description of the unknown ids."""
    if not len(ids):
        return np.empty(0, dtype=np.int32), ()
    is_plain = not hasattr(ids, "dtype") or ids.dtype == object
    if is_plain and items.index.dtype == object:
        # Faster than pandas' string dtype, from which each id would be converted back.
        column = pd.Series(ids, name=parameter, dtype=object)
    else:
        column = as_series(ids, parameter)
    codes = items.lookup(column)
    if isinstance(column.iloc[0], (bool, np.bool_)) and (codes < FIRST_KNOWN).all():
        raise ValueError(
            f"{parameter} holds {column.iloc[0]}: a mask of booleans does not say which items "
            f"its rows are. Pass the ids that it selects, such as {parameter}="
            "items.loc[items['stock'] > 0, 'item_id']."
        )
    items.warn_of_another_dtype(column.rename(parameter), codes)
    unknown = column[codes < FIRST_KNOWN].dropna()
    if unknown.empty:
        return codes, ()
    return codes, (
        f"{unknown.nunique():,} id(s) in {parameter} that are not in the catalogue, such as "
        f"{unknown.tolist()[0]!r}",
    )


def _concatenate(lists: list) -> Any:
    """Concatenate lists of ids without converting the ids."""
    dtypes = {ids.dtype if isinstance(ids, np.ndarray) else None for ids in lists}
    if len(dtypes) == 1 and None not in dtypes:
        return np.concatenate(lists)  # several times faster than id by id
    return list(chain.from_iterable(lists))


def _unknown_keys(
    rule: Mapping, parameter: str, queries: pd.Series, known: Vocabulary
) -> tuple[str, ...]:
    """Return a description of the keys that are neither queries nor known ids."""
    ids = set(queries)
    keys = as_series([key for key in rule if key not in ids])
    unknown = keys[known.lookup(keys) < FIRST_KNOWN] if len(keys) else keys
    if unknown.empty:
        return ()
    return (
        f"{len(unknown):,} key(s) of {parameter} that are not in {queries.name!r}, such as "
        f"{unknown.tolist()[0]!r}",
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


def _is_missing(value: Any) -> bool:
    return is_scalar(value) and bool(pd.isna(value))
