"""`PipelineModel`: a saved pipeline or retriever."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skmatch import persistence
from skmatch._columns import FIRST_KNOWN
from skmatch._schema import Feature
from skmatch._validation import unwrap_searches
from skmatch.serve._model import CodedQueries, Model, feature_columns
from skmatch.serve._requests import Event, Query
from skmatch.serve._values import FeatureReader, TimeReader, ValueReader


class PipelineModel(Model):
    """A fitted pipeline or retriever.

    `observe` may change the estimator in another thread: a batch reads one state of it.
    """

    def __init__(self, estimator: Any, version: str):
        estimator = unwrap_searches(estimator)
        if not hasattr(estimator, "recommend"):
            raise ValueError(
                f"The model is a {type(estimator).__name__}, which has no recommend: save a fitted "
                "MatchPipeline or retriever."
            )
        check_is_fitted(estimator)
        first_step = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
        if not hasattr(first_step, "schema_"):
            raise ValueError(
                f"The pipeline begins with a {type(first_step).__name__}: only pipelines that "
                "begin with a MatchEncoder are served. Transform the events before fit, or pass a "
                "transformer of a feature to MatchEncoder."
            )
        self.estimator, self.version = estimator, version
        retriever = estimator._final_retriever()
        self.k, self.exclude_seen = retriever.k, retriever.exclude_seen
        self.can_observe = hasattr(estimator, "observe")
        schema = estimator.schema_
        self.users, self.items = (
            ValueReader(vocabulary.values) for vocabulary in (schema.users, schema.items)
        )
        self.time = TimeReader(None if schema.time is None else schema.time_kind)
        self.features = {str(feature.name): _reader(feature) for feature in schema.user_features}
        self.event_features = {
            str(feature.name): _reader(feature) for feature in schema.event_features
        }
        self._try_out(schema.users.values[:1].tolist())

    @classmethod
    def load(cls, path: Path) -> PipelineModel:
        """Load a file of `persistence.save`."""
        with open(path, "rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        return cls(persistence.load(path), version)

    def _read(self, queries: list[Query], exclude_seen: bool) -> CodedQueries:
        name = self.estimator.schema_.time
        columns = {self.estimator.schema_.user: _ids(self.users, [q.user for q in queries])}
        if queries[0].time is not None:
            columns[name] = self._times([query.time for query in queries])
        for label, values in self._columns(queries).items():
            columns[label] = self._series(label, values)
        retriever, samples = self.estimator._read(pd.DataFrame(columns))
        schema = retriever.schema_
        return CodedQueries(
            lambda ids: schema.items.lookup(_ids(self.items, ids)),
            retriever._read_filter(samples, exclude_seen),
            lambda k, allowed: retriever._search(samples, k, allowed),
            lambda positions: schema.items.decode(positions + FIRST_KNOWN).tolist(),
        )

    def _observe(self, events: list[Event]) -> None:
        schema, readers = self.estimator.schema_, self.features | self.event_features
        columns = {
            schema.user: _ids(self.users, [event.user for event in events]),
            schema.item: _ids(self.items, [event.item for event in events]),
        }
        if self.time.kind is not None:
            columns[schema.time] = self._times([event.time for event in events])
        for label, values in feature_columns([event.features for event in events], readers).items():
            columns[label] = self._series(label, values)
        self.estimator.observe(pd.DataFrame(columns))

    def _series(self, label: Any, values: list[Any]) -> pd.Series:
        reader = (self.features | self.event_features).get(str(label))
        if reader is not None and reader.kind == "numeric":
            return pd.Series(values, dtype=float)
        if reader is not None and reader.kind == "categorical" and reader.values is not None:
            return _ids(reader.values, values)
        return pd.Series(values, dtype=object)

    def _times(self, values: list[Any]) -> pd.Series:
        moments = [self.time.read("time", value) for value in values]
        if self.time.kind != "number":
            return pd.Series(pd.DatetimeIndex(moments))
        are_integers = all(isinstance(moment, int) for moment in moments)
        return pd.Series(moments, dtype=np.int64 if are_integers else float)


def _reader(feature: Feature) -> FeatureReader:
    if feature.transformer is not None:
        return FeatureReader(feature.name, None, None, 0)
    values = None if feature.vocabulary is None else feature.vocabulary.values
    return FeatureReader(feature.name, feature.kind, values, feature.length)


def _ids(reader: ValueReader, values: list[Any]) -> pd.Series:
    """Return checked values as a column; None and values out of the type's range are missing."""
    exact = reader.exact(values)
    if reader.kind == "numbers":
        return pd.Series(exact, dtype=float)
    if reader.kind != "integers":
        return pd.Series(exact, dtype=object)
    missing = np.array([value is None for value in exact], dtype=bool)
    dtype = np.int64 if reader.bounds[0] < 0 else np.uint64
    numbers = np.array([value or 0 for value in exact], dtype=dtype)
    return pd.Series(pd.arrays.IntegerArray(numbers, missing) if missing.any() else numbers)
