"""Convert `candidates` and `exclude` to an `ItemFilter`, as retrievers do."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from skmatch._arrays import FIRST_KNOWN
from skmatch._item_filter import ItemFilter, ItemLists
from skmatch.runtime._queries import Queries
from skmatch.runtime._vocabulary import Vocabulary, is_missing

LISTS = (list, tuple, set, frozenset, np.ndarray)


def read_filter(
    candidates: Any,
    exclude: Any,
    exclude_seen: bool,
    queries: Queries,
    users: Vocabulary,
    items: Vocabulary,
) -> ItemFilter:
    """Return the filter of each query: its candidates without `exclude` and seen items."""
    excluded: tuple[ItemLists, ...] = ()
    if exclude_seen:
        excluded = (ItemLists(queries.log, queries.seen, queries.stop),)
    mask, lists, has_list = None, None, None
    if candidates is not None:
        codes, lists, has_list = _read_rule(candidates, "candidates", queries, users, items)
        if lists is None:
            mask = np.zeros(len(items.values), dtype=bool)
            mask[_positions(codes)] = True
    if exclude is not None:
        codes, own, _ = _read_rule(exclude, "exclude", queries, users, items)
        if own is None:
            mask = np.ones(len(items.values), dtype=bool) if mask is None else mask
            mask[_positions(codes)] = False
        else:
            excluded += (own,)
    return ItemFilter(mask, lists, has_list, excluded)


def _positions(codes: np.ndarray) -> np.ndarray:
    return codes[codes >= FIRST_KNOWN] - FIRST_KNOWN


def _read_rule(
    values: Any, parameter: str, queries: Queries, users: Vocabulary, items: Vocabulary
) -> tuple[np.ndarray, ItemLists | None, np.ndarray | None]:
    """Return item codes for all queries, or lists of them per query and which queries have one."""
    ids = queries.users.tolist()
    if isinstance(values, Mapping):
        _warn_of_unknown_keys(values, parameter, ids, users)
        return _of_cells([values.get(one) for one in ids], parameter, ids, items)
    if not isinstance(values, LISTS):
        raise ValueError(
            f"{parameter}={reprlib.repr(values)} is not a list of item ids; pass a list, also for "
            "a single id, a mapping from the ids of queries to lists, or a list of lists, one per "
            "query."
        )
    cells = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if not cells and ids:
        _reject_empty(parameter, "")
    first = next((cell for cell in cells if not is_missing(cell)), None)
    if not cells or not (first is None or isinstance(first, (list, set, np.ndarray))):
        return _codes(cells, parameter, items), None, None
    if len(cells) != len(ids):
        raise ValueError(
            f"{parameter} holds {len(cells):,} lists for {len(ids):,} queries; pass one per query, "
            "None for a query without a list."
        )
    return _of_cells(cells, parameter, ids, items)


def _of_cells(
    cells: list, parameter: str, ids: list, items: Vocabulary
) -> tuple[np.ndarray, ItemLists, np.ndarray]:
    has_list = np.array([not is_missing(cell) for cell in cells], dtype=bool)
    lengths = np.zeros(len(cells), dtype=np.int64)
    values: list = []
    for row in np.flatnonzero(has_list):
        cell = cells[row]
        if not isinstance(cell, LISTS):
            raise ValueError(
                f"{parameter} holds {reprlib.repr(cell)} for {ids[row]!r}, which is not a list of "
                "item ids; pass a list, also for a single id, or None."
            )
        if not len(cell):
            _reject_empty(parameter, f" for {ids[row]!r}")
        lengths[row] = len(cell)
        values += cell.tolist() if isinstance(cell, np.ndarray) else list(cell)
    codes, stop = _codes(values, parameter, items), np.cumsum(lengths)
    return codes, ItemLists(codes, stop - lengths, stop), has_list


def _codes(values: list, parameter: str, items: Vocabulary) -> np.ndarray:
    """Return the codes of item ids; warn of those that are not in the catalogue."""
    codes = items.lookup(values, parameter)
    unknown = {values[row] for row in np.flatnonzero(codes < FIRST_KNOWN)}
    unknown = {value for value in unknown if not is_missing(value)}
    if unknown:
        _warn(
            f"Ignored {len(unknown):,} id(s) in {parameter} that are not in the catalogue, such as "
            f"{next(iter(unknown))!r}."
        )
    return codes


def _warn_of_unknown_keys(rule: Mapping, parameter: str, ids: list, users: Vocabulary) -> None:
    asked = set(ids)
    keys = [key for key in rule if key not in asked]
    unknown = [
        key
        for key, code in zip(keys, users.lookup(keys, parameter), strict=True)
        if code < FIRST_KNOWN
    ]
    if unknown:
        _warn(
            f"Ignored {len(unknown):,} key(s) of {parameter} that are no users, such as "
            f"{unknown[0]!r}."
        )


def _reject_empty(parameter: str, query: str) -> None:
    if parameter == "candidates":
        raise ValueError(
            f"candidates{query} is empty, so that no item can be recommended; pass at least one "
            "item id, or None for all items."
        )


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=6)
