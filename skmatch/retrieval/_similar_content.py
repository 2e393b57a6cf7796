"""Weights to impute the id embeddings of items without events from trained items like them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.preprocessing import normalize

from skmatch._columns import FIRST_KNOWN, UNKNOWN, Column, RaggedArray, gather_rows
from skmatch._ranking import top_k
from skmatch._schema import Feature, Schema

# Chosen on the validation splits of three tables: see benchmarks/NOTES.md.
N_NEIGHBOURS = 20
POWER = 4  # of the cosines
N_PRIOR_EVENTS = 5  # halve the weight of an item with 5 events: rare items have learned little
MAX_CANDIDATES = 20_000  # evenly spaced items with events, which bounds the time
BLOCK_SIZE = 2**24  # cosines that are computed at a time


def weights_of_similar(schema: Schema, codes: np.ndarray, counts: np.ndarray) -> csr_array:
    """Return the weights of trained items in the imputed id embeddings of items, (n, n_codes).

    An item's mean is over the 20 items with events nearest to it by the cosine of their features,
    with weights proportional to cosine^4 * n_events / (n_events + 5). Where no such item is alike,
    the unknown code has the whole weight.
    """
    trained = np.flatnonzero(counts)
    n_candidates = min(MAX_CANDIDATES, len(trained))
    trained = trained[np.linspace(0, len(trained) - 1, n_candidates).astype(int)]
    candidates, n_events = FIRST_KNOWN + trained, counts[trained]
    confidence = n_events / (n_events + N_PRIOR_EVENTS)
    content = _unit_rows(schema, candidates)
    k = min(N_NEIGHBOURS, n_candidates)
    nearest = np.zeros((len(codes), k), dtype=np.int32)
    weights = np.zeros((len(codes), k), dtype=np.float32)
    size = BLOCK_SIZE // n_candidates
    for start in range(0, len(codes), size):
        rows = slice(start, start + size)
        cosines = np.zeros((len(codes[rows]), n_candidates), dtype=np.float32)
        for own, other in zip(_unit_rows(schema, codes[rows]), content, strict=True):
            cosines += _dense(own @ other.T)
        best, best_cosines = top_k(cosines, k)
        nearest[rows] = candidates[best]
        weights[rows] = np.maximum(best_cosines, 0) ** POWER * confidence[best]
    is_alone = ~weights.any(axis=1)
    nearest[is_alone, 0], weights[is_alone, 0] = UNKNOWN, 1
    weights /= weights.sum(axis=1, keepdims=True)
    offsets = np.arange(len(codes) + 1, dtype=np.int32) * k
    shape = len(codes), len(schema.items)
    return csr_array((weights.ravel(), nearest.ravel(), offsets), shape)


def _unit_rows(schema: Schema, codes: np.ndarray) -> list[Any]:
    """Return a matrix per feature, whose rows side by side have length 1, or 0 if all is missing.

    Each known feature of an item has the same length.
    """
    numbers = [
        _numbers(feature, gather_rows(schema.item_table[feature.name], codes))
        for feature in schema.item_features
    ]
    parts = [normalize(part) for part in numbers if part.shape[1]]  # not without known values
    lengths = [np.sqrt(_dense((part * part).sum(axis=1))) for part in parts]
    scale = 1 / np.sqrt(np.maximum(sum(lengths), 1))
    return [part * scale[:, None] for part in parts]


def _numbers(feature: Feature, column: Column) -> np.ndarray | csr_array:
    """Return a row of numbers per item, zeros where the value is missing or unknown."""
    if isinstance(column, RaggedArray):
        values, offsets = column.values, column.offsets
    elif feature.kind == "vector":
        return np.nan_to_num(column)
    elif feature.kind == "numeric":  # as a direction
        return np.where(np.isnan(column), 0, [np.ones_like(column), column]).T
    else:
        values, offsets = column, np.arange(len(column) + 1)
    ones, shape = np.ones(len(values), dtype=np.float32), (len(offsets) - 1, feature.size)
    return csr_array((ones, values, offsets), shape)[:, FIRST_KNOWN:]


def _dense(values: Any) -> np.ndarray:
    return values.toarray() if issparse(values) else np.asarray(values)
