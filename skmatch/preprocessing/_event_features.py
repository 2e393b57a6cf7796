"""Features of events, such as a rating: known of past events, never of the predicted event."""

from __future__ import annotations

from collections.abc import Container, Hashable
from typing import Any

import numpy as np
import pandas as pd

from skmatch._arrays import reject_sets
from skmatch._columns import UNKNOWN, Columns, RaggedArray
from skmatch._data import HISTORY, history_name
from skmatch._schema import Feature
from skmatch._typing import Label
from skmatch._validation import require_column
from skmatch.preprocessing._features import (
    encode,
    flatten,
    kind_of,
    learn,
    split_cells,
    standardise,
    with_scale,
)
from skmatch.preprocessing._time_order import in_blocks

Arrays = dict[Label, np.ndarray]


class EventFeatureLearner:
    """Learns the features of events from pieces of them."""

    def __init__(self, names: list[Label], kinds: dict[Label, Any], delimiter: str):
        self.names, self.kinds, self.delimiter = names, kinds, delimiter
        self.features: dict[Label, Feature] = {}

    def learn(self, piece: pd.DataFrame) -> Columns:
        """Learn the values of a piece, and return their codes or numbers."""
        columns: Columns = {}
        for name in self.names:
            column = require_column(piece, name, "feature")
            feature = self.features.get(name)
            if feature is None:
                feature = Feature(name, self.kinds.get(name) or kind_of(column))
                _check_kind(feature)
            self.features[name] = learn(feature, column, self.delimiter)
            columns["event", name] = encode(self.features[name], column, self.delimiter)
        return columns

    def fitted(self, columns: Columns, on_disk: bool) -> tuple[tuple[Feature, ...], Arrays]:
        """Return the features, and their codes or standardised numbers in all events."""
        arrays: Arrays = {}
        for name, feature in self.features.items():
            column: Any = columns["event", name]
            if feature.kind == "numeric":
                feature = self.features[name] = with_scale(feature, [column])
                column = _standardised(column, feature, on_disk)
            arrays[name] = column
        return tuple(self.features.values()), arrays


def _standardised(column: np.ndarray, feature: Feature, on_disk: bool) -> Any:
    return in_blocks(lambda rows: standardise(column[rows], feature), len(column), on_disk)


def _check_kind(feature: Feature) -> None:
    if feature.kind not in ("categorical", "numeric"):
        raise ValueError(
            f"The event feature {feature.name!r} is of kind {feature.kind!r}: event features are "
            "'categorical' or 'numeric'. Split it into columns, or set its kind in kinds."
        )


def extended(
    features: tuple[Feature, ...], frame: pd.DataFrame, delimiter: str
) -> tuple[tuple[Feature, ...], Arrays]:
    """Return features with the new categories of further events, and the events' values."""
    features = tuple(
        learn(feature, frame[feature.name], delimiter) if feature.name in frame.columns else feature
        for feature in features
    )
    return features, {
        feature.name: _encoded(feature, frame.get(feature.name), len(frame), delimiter)
        for feature in features
    }


def reject_unknown_features(
    features: tuple[Feature, ...], frame: pd.DataFrame, other_names: Container[Hashable]
) -> None:
    """Raise if queries provide features of histories that no event has, as by a wrong name."""
    names = [history_name(feature.name) for feature in features]
    for name in frame.columns:
        is_of_history = isinstance(name, str) and name.startswith(history_name(""))
        if is_of_history and name not in names and name not in other_names:
            known = f"the columns {', '.join(map(repr, names))}" if names else "no columns"
            raise ValueError(
                f"X has the column {name!r}, which the encoder does not know: for the event "
                f"features of histories, queries have {known}. Correct its name, or drop it."
            )


def reject_lone_features(features: tuple[Feature, ...], frame: pd.DataFrame) -> None:
    """Raise if queries provide features of histories, but no histories."""
    for name in (history_name(feature.name) for feature in features):
        if name in frame.columns and HISTORY not in frame.columns:
            raise ValueError(
                f"X has the column {name!r} without a column {HISTORY!r}, whose items it "
                f"describes: add {HISTORY!r}, or drop {name!r}."
            )


def of_histories(
    features: tuple[Feature, ...], frame: pd.DataFrame, history: RaggedArray, delimiter: str
) -> Arrays:
    """Return the features of the events in the histories that queries provide."""
    arrays: Arrays = {}
    for feature in features:
        name, values = history_name(feature.name), None
        if name in frame.columns:
            reject_sets(frame[name], name)
            values, offsets = flatten(split_cells(frame[name], delimiter), feature.name)
            differs = offsets[1:] - offsets[:-1] != history.offsets[1:] - history.offsets[:-1]
            if differs.any():
                raise ValueError(
                    f"The column {name!r} does not hold one value for each item of {HISTORY!r} in "
                    f"row {frame.index[differs].tolist()[0]!r}: pass lists of equal length, with "
                    "None for what is unknown."
                )
        arrays[feature.name] = _encoded(feature, values, len(history.values), delimiter)
    return arrays


def _encoded(feature: Feature, column: Any, n_values: int, delimiter: str) -> Any:
    if column is None:
        is_numeric = feature.kind == "numeric"
        return np.full(
            n_values, np.nan if is_numeric else UNKNOWN, np.float32 if is_numeric else np.int32
        )
    if feature.kind == "numeric" and not len(column):
        return np.empty(0, dtype=np.float32)
    values: Any = encode(feature, column, delimiter)
    return standardise(values, feature) if feature.kind == "numeric" else values
