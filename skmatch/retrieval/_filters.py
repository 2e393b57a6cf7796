"""What callers say may be answered: `candidates` and `exclude` become an `ItemFilter`."""

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
    """A list of codes for all queries, or lists of some queries' own."""

    codes: np.ndarray
    lists: ItemLists | None  # None: the codes hold for all queries
    has_list: np.ndarray | None  # (n_queries,) bool
    ignored: tuple[str, ...]  # what a warning should say

    def positions(self) -> np.ndarray:
        return self.codes[self.codes >= FIRST_KNOWN] - FIRST_KNOWN


def read_filter(
    candidates: Any,
    exclude: Any,
    never: tuple[ItemLists, ...],
    queries: pd.Series,
    names: Vocabulary,
    items: Vocabulary,
) -> ItemFilter:
    """Give what may answer each query: candidates, less what is excluded, less `never`.

    `queries` holds the ids by which a mapping names the queries, `names` those that are known.
    """
    anyone, only, limited = None, None, None
    ignored: tuple[str, ...] = ()
    if candidates is not None:
        rule = _read_rule(candidates, "candidates", queries, names, items)
        ignored += rule.ignored
        if rule.lists is None:
            anyone = np.zeros(len(items.values), dtype=bool)
            anyone[rule.positions()] = True
        only, limited = rule.lists, rule.has_list
    if exclude is not None:
        rule = _read_rule(exclude, "exclude", queries, names, items)
        ignored += rule.ignored
        if rule.lists is None:
            anyone = np.ones(len(items.values), dtype=bool) if anyone is None else anyone
            anyone[rule.positions()] = False
        else:
            never += (rule.lists,)
    if ignored:
        warnings.warn(f"Ignored {' and '.join(ignored)}.", UserWarning, stacklevel=4)
    return ItemFilter(anyone, only, limited, never)


def _read_rule(
    values: Any, parameter: str, queries: pd.Series, names: Vocabulary, items: Vocabulary
) -> _Rule:
    if isinstance(values, Mapping):
        foreign = _foreign_keys(values, parameter, queries, names)
        cells = [values.get(query) for query in queries]
        return _rule_of_cells(cells, parameter, queries, items, foreign)
    values = as_pandas(values)
    if not _is_list(values):
        raise ValueError(
            f"{parameter}={reprlib.repr(values)} is no list of item ids; give a list, also for a "
            "single one, a mapping from the ids of queries to lists, or a column of lists, one a "
            "query."
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
            f"{parameter} holds {len(values):,} lists for {len(queries):,} queries; give one a "
            "query, None where there is none."
        )
    return _rule_of_cells(list(values), parameter, queries, items)


def _rule_of_cells(
    cells: list, parameter: str, queries: pd.Series, items: Vocabulary, ignored: tuple = ()
) -> _Rule:
    has_list = np.array([not _is_missing(cell) for cell in cells], dtype=bool)
    for query, cell, has in zip(queries, cells, has_list, strict=True):
        if has and not _is_list(cell):
            raise ValueError(
                f"{parameter} holds {reprlib.repr(cell)} for {query!r}, which is no list of item "
                "ids; give a list, also for a single one, and None for none."
            )
        if has and not len(cell):
            _reject_empty(parameter, f" for {query!r}")
    lists = [cell for cell, has in zip(cells, has_list, strict=True) if has]
    codes, unknown = _read_codes(_concatenate(lists), parameter, items)
    lengths = np.zeros(len(cells), dtype=np.int64)
    lengths[has_list] = [len(one) for one in lists]
    stop = np.cumsum(lengths)
    return _Rule(codes, ItemLists(codes, stop - lengths, stop), has_list, ignored + unknown)


def _read_codes(ids: Any, parameter: str, items: Vocabulary) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give the codes of item ids, and what is to be said of unknown ones."""
    if not len(ids):
        return np.empty(0, dtype=np.int32), ()
    is_plain = not hasattr(ids, "dtype") or ids.dtype == object
    if is_plain and items.index.dtype == object:
        # pandas would make text a dtype of its own, out of which each id had to be unpacked again.
        column = pd.Series(ids, name=parameter, dtype=object)
    else:
        column = as_series(ids, parameter)
    codes = items.lookup(column)
    items.warn_of_another_dtype(column.rename(parameter), codes)
    unknown = column[codes < FIRST_KNOWN].dropna()
    if unknown.empty:
        return codes, ()
    return codes, (
        f"{unknown.nunique():,} id(s) in {parameter} that are not in the catalogue, such as "
        f"{unknown.tolist()[0]!r}",
    )


def _concatenate(lists: list) -> Any:
    """Give the ids of all lists, one after another and each as it is."""
    dtypes = {one.dtype if isinstance(one, np.ndarray) else None for one in lists}
    if len(dtypes) == 1 and None not in dtypes:
        return np.concatenate(lists)  # several times as fast as id by id
    return list(chain.from_iterable(lists))


def _foreign_keys(
    rule: Mapping, parameter: str, queries: pd.Series, names: Vocabulary
) -> tuple[str, ...]:
    """Give what is to be said of keys that name neither a query nor anybody known."""
    asked = set(queries)
    keys = as_series([key for key in rule if key not in asked])
    if keys.empty:
        return ()
    foreign = keys[names.lookup(keys) < FIRST_KNOWN]
    if foreign.empty:
        return ()
    return (
        f"{len(foreign):,} key(s) of {parameter} that are no {queries.name!r}, such as "
        f"{foreign.tolist()[0]!r}",
    )


def _reject_empty(parameter: str, whose: str) -> None:
    if parameter == "candidates":
        raise ValueError(
            f"candidates{whose} is empty, so that nothing may be answered; give at least one item "
            "id, or None for every item."
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) or getattr(value, "ndim", 0) == 1


def _is_cell(value: Any) -> bool:
    """Tell whether a value is a list of ids; a tuple may be an id itself."""
    return _is_list(value) and not isinstance(value, (tuple, frozenset))


def _is_missing(value: Any) -> bool:
    return is_scalar(value) and bool(pd.isna(value))
