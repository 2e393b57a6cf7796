"""`EncoderGrowthMixin`: how a `MatchEncoder` learns further events and items."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skmatch._columns import UNKNOWN, Column, Columns, Vocabulary
from skmatch._data import CatalogueRows, Events
from skmatch._growth import replaced
from skmatch._schema import Feature, Schema
from skmatch._typing import Label
from skmatch._validation import Roles, read_frame
from skmatch.preprocessing._encoder_checks import check_time_kind, warn_of_history
from skmatch.preprocessing._event_features import extended
from skmatch.preprocessing._features import FeatureValues, Rows, learn
from skmatch.preprocessing._learning import (
    item_tables,
    read_events,
    read_table_ids,
    read_weights,
    reject_unused,
)
from skmatch.preprocessing._timeline import Timeline, UserRows


class EncoderGrowthMixin:
    """`_partial_fit` and `_add_items`, which return updated copies (see `skmatch._growth`)."""

    schema_: Schema
    timelines_: dict[Label, Timeline]
    feature_times_: dict[Label, np.ndarray]
    delimiter: str

    @abstractmethod
    def _read(self, X: Any) -> tuple[pd.DataFrame, Roles]: ...

    @abstractmethod
    def _encode_feature(
        self, feature: Feature, frame: pd.DataFrame
    ) -> tuple[Column, np.ndarray]: ...

    @abstractmethod
    def _output(self, rows: Events) -> Events: ...

    def _partial_fit(self, X: Any, train: bool) -> tuple[Self, Events]:
        """Return a copy that has learned new events, and the encoded events.

        New users become known. New items join the catalogue if they are trained on; otherwise
        they are pending, with negative codes. Known users and items keep their codes.
        """
        frame, roles = self._read(X)
        warn_of_history(frame)
        schema = self.schema_
        roles = Roles(roles.user, roles.item, schema.time)
        user_column, item_column, times, time_kind = read_events(frame, roles)
        check_time_kind(schema, time_kind)
        users, user = schema.users.extended(user_column)
        updated, features = self._with_users(frame, user, times, users)
        if train:
            items, item = schema.items.extended(item_column)
            updated = updated._with_item_values(frame, Rows.of_events(item, times), items)
        else:
            item = schema.items.lookup(item_column)
            is_new = item == UNKNOWN
            pending = schema.pending or schema.items.emptied()
            pending, codes = pending.extended(item_column[is_new])
            item[is_new] = -codes
            updated = replaced(updated, schema_=replace(updated.schema_, pending=pending))
        weight = None
        if train and schema.weight is not None:
            weight = read_weights(frame, schema.weight)
        event_features, of_events = extended(schema.event_features, frame, self.delimiter)
        schema = replace(updated.schema_, event_features=event_features)
        updated = replaced(updated, schema_=schema)
        events = Events(
            schema,
            user,
            item,
            times,
            features,
            user_column,
            weight=weight,
            event_features=of_events,
        )
        return updated, self._output(events)

    def _add_items(self, X: Any) -> tuple[Self, CatalogueRows]:
        """Return a copy with the items of a table and their features, and their codes."""
        check_is_fitted(self)
        X = read_frame(X)
        ids = read_table_ids(X, self.schema_.item, "items")
        features = [feature.name for feature in self.schema_.item_features]
        reject_unused(X, self.schema_.item, "items", features)
        items, codes = self.schema_.items.extended(ids)
        updated = self._with_item_values(X, Rows.of_table(codes), items)
        return updated, CatalogueRows(updated.schema_, codes)

    def _with_users(
        self, frame: pd.DataFrame, user: np.ndarray, time: np.ndarray | None, ids: Vocabulary
    ) -> tuple[Self, Columns]:
        """Return a copy with new users and user features, and the features of the rows."""
        features: list[Feature] = []
        timelines: dict[Label, Timeline] = {}
        filled: Columns = {}
        rows = UserRows(user, time, len(ids))
        for feature in self.schema_.user_features:
            name = feature.name
            if name in frame.columns:
                feature = learn(feature, frame[name], self.delimiter)
            values, present = self._encode_feature(feature, frame)
            filled[name], timelines[name] = self.timelines_[name].extended(rows, values, present)
            features.append(feature)
        table = {name: timeline.latest() for name, timeline in timelines.items()}
        schema = replace(self.schema_, users=ids, user_features=tuple(features), user_table=table)
        return replaced(self, schema_=schema, timelines_=timelines), filled

    def _with_item_values(self, frame: pd.DataFrame, rows: Rows, ids: Vocabulary) -> Self:
        """Return a copy with new items and the item features of a table."""
        schema, values = self.schema_, []
        for feature in schema.item_features:
            name = feature.name
            feature_values = FeatureValues(
                feature, schema.item_table[name], self.feature_times_[name]
            )
            if name in frame.columns:
                values.append(feature_values.updated(frame[name], rows, len(ids), self.delimiter))
            else:
                values.append(feature_values.lengthened(len(ids)))
        return replaced(
            self,
            schema_=replace(schema, items=ids, **item_tables(values)),
            feature_times_={value.feature.name: value.times for value in values},
        )
