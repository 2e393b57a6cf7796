"""How a `MatchEncoder` learns from events that come in pieces."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd

from skmatch._columns import FIRST_KNOWN, Column, Columns, Vocabulary
from skmatch._files import collect
from skmatch._schema import Feature, Schema
from skmatch._validation import (
    Roles,
    check_columns,
    check_weights,
    read_times,
    require_column,
    require_rows,
)
from skmatch.preprocessing._event_features import EventFeatureLearner
from skmatch.preprocessing._features import (
    NUMBERS,
    FeatureValues,
    Rows,
    encode,
    is_present,
    kind_of,
    learn,
    standardise,
    with_scale,
)
from skmatch.preprocessing._time_order import in_blocks
from skmatch.preprocessing._timeline import Timeline, UserRows
from skmatch.preprocessing._vectors import with_transformer

MISSING_FEATURE = "Add the column, or name only features that exist"


class SchemaLearner:
    """Learns roles, ids and features from pieces of events, and encodes their ids.

    `head` is a table with the columns of the events; `features` and `tables` hold the features and
    the tables of each side, "user" and "item".
    """

    def __init__(
        self,
        head: pd.DataFrame,
        roles: Roles,
        features: dict[str, list],
        tables: dict[str, Any],
        kinds: dict | None,
        delimiter: str,
    ):
        self.roles = roles
        self.time_kind = "order"
        self.time_dtype: np.dtype | None = None
        self.user = _UserLearner(
            "users", roles.user, features["user"], tables["user"], kinds or {}, delimiter
        )
        self.item = _ItemLearner(
            "items", roles.item, features["item"], tables["item"], kinds or {}, delimiter
        )
        self.event = EventFeatureLearner(features["event"], kinds or {}, delimiter)
        for name, role in zip(roles._fields, roles, strict=True):
            if role is not None:
                require_column(head, role, name)
        for name in features["event"]:
            require_column(head, name, "feature", f"{MISSING_FEATURE}.")
        self.user.check(head)
        self.item.check(head)

    def columns(self) -> list[Hashable]:
        """Return the columns of the events that are read."""
        roles = [role for role in self.roles if role is not None]
        return roles + self.user.from_events + self.item.from_events + self.event.names

    def learn(self, piece: pd.DataFrame, rows: slice) -> Columns:
        """Learn from a piece; return the codes of its users and items, and its times."""
        user_column, item_column, times, self.time_kind = read_events(piece, self.roles)
        user_codes, item_codes = self.user.learn_ids(user_column), self.item.learn_ids(item_column)
        self.user.learn_categories(piece)
        if self.item.from_events:
            self.item.learn_features(piece, Rows.of_events(item_codes, times))
        codes: Columns = {"user": user_codes, "item": item_codes, **self.event.learn(piece)}
        if self.roles.weight is not None:
            codes["weight"] = read_weights(piece, self.roles.weight)
        if times is None:
            return codes
        if self.time_dtype not in (None, times.dtype):
            raise ValueError(
                f"The time column {self.roles.time!r} holds integers beyond int64 in some pieces: "
                "convert it to floats."
            )
        self.time_dtype = times.dtype
        return codes | {"time": times}

    def fitted(self, source: Any, codes: Columns) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fitted attributes of an encoder, and the columns of `Events`."""
        users, user_features, timelines, filled = self.user.fitted(
            source, cast(np.ndarray, codes["user"]), cast(Any, codes.get("time"))
        )
        items, values = self.item.fitted()
        event_features, event_columns = self.event.fitted(codes, source.on_disk)
        schema = Schema(
            user=self.roles.user,
            item=self.roles.item,
            time=self.roles.time,
            time_kind=self.time_kind,
            weight=self.roles.weight,
            event_features=event_features,
            users=users,
            items=items,
            user_features=tuple(user_features),
            user_table={name: timeline.latest() for name, timeline in timelines.items()},
            **item_tables(values),
        )
        times = {value.feature.name: value.times for value in values}
        attributes = {"schema_": schema, "feature_times_": times, "timelines_": timelines}
        plain = {name: column for name, column in codes.items() if isinstance(name, str)}
        return attributes, plain | {"features": filled, "event_features": event_columns}


class _SideLearner:
    """Learns the ids of users or of items."""

    def __init__(
        self,
        parameter: str,
        role: Hashable,
        features: list,
        table: Any,
        kinds: dict,
        delimiter: str,
    ):
        self.parameter, self.role = parameter, role
        self.features, self.table = features, table
        self.kinds, self.delimiter = kinds, delimiter
        self.transformers = {
            name: kind for name, kind in kinds.items() if not isinstance(kind, str)
        }
        in_table = getattr(table, "columns", ())
        self.in_table = [name for name in features if name in in_table]
        self.from_events = [name for name in features if name not in in_table]
        self.ids: Vocabulary | None = None
        self.table_ids: pd.Series | None = None
        self.n_events = 0

    def check(self, head: pd.DataFrame) -> None:
        """Read the ids of the table, and raise if a feature is missing in the events."""
        if self.table is not None:
            self.table_ids = read_table_ids(self.table, self.role, self.parameter)
        remedy = (
            f"{MISSING_FEATURE}. A table with the column goes to fit as {self.parameter}=..., in a "
            f"pipeline as matchencoder__{self.parameter}=...."
        )
        for name in self.from_events:
            require_column(head, name, "feature", remedy)

    def learn_ids(self, column: pd.Series) -> np.ndarray:
        """Learn the ids of events; return their codes."""
        self.n_events += len(column)
        if self.table_ids is not None:
            if self.ids is None:
                ids = _in_dtype_of(column, self.table_ids, self.parameter)
                reject_unused(self.table, self.role, self.parameter, self.features)
                common = pd.concat([column[:1], ids[:1]]).dtype
                is_rounded = common.kind == "f" and "f" not in (column.dtype.kind, ids.dtype.kind)
                self.table_ids = ids.astype(object if is_rounded else common)
            column = column.astype(self.table_ids.dtype)  # can hold the ids of both
        if self.ids is None:
            self.ids, codes = Vocabulary.learn(column)
        else:
            self.ids, codes = self.ids.extended(column)
        return codes

    def _ids_with_table(self) -> tuple[Vocabulary, np.ndarray]:
        """Return the ids of events and table, and the codes of the table's rows."""
        assert self.ids is not None
        if self.table_ids is None:
            return self.ids, np.empty(0, dtype=np.int32)
        ids, codes = self.ids.extended(self.table_ids)
        self._reject_sliced(codes)
        return ids, codes

    def _reject_sliced(self, codes: np.ndarray) -> None:
        """Raise if scikit-learn has cut a table as long as the events to the rows of a fold."""
        assert self.ids is not None
        lacking = np.setdiff1d(np.arange(FIRST_KNOWN, len(self.ids)), codes)
        # A small table with an intact index may have the length of X by chance.
        is_cut = len(codes) >= 100 or not self.table.index.equals(pd.RangeIndex(len(codes)))
        if len(codes) == self.n_events and len(lacking) and is_cut:
            example = self.ids.decode(lacking[:1]).tolist()[0]
            raise ValueError(
                f"{self.parameter} has as many rows as X, {self.n_events:,}, and lacks ids of X, "
                f"such as {example!r}: cross_validate and searches cut tables as long as X to the "
                f"rows of a fold. Pass {self.parameter} of another length, such as without rows "
                "that have no events, or merge the table into X."
            )

    def _feature(self, name: Hashable, column: pd.Series) -> Feature:
        if name in self.transformers:
            return Feature(name, "categorical")  # until all values are known
        return Feature(name, self.kinds.get(name) or kind_of(column))


class _UserLearner(_SideLearner):
    """Learns the values of user features over time; a table's values precede all events."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.feature_of: dict[Hashable, Feature] = {}
        self.with_values: set[Hashable] = set()

    def check(self, head: pd.DataFrame) -> None:
        """Read the table, and raise if a feature is missing in the events."""
        super().check(head)
        self.from_events += [name for name in self.in_table if name in head.columns]
        if self.table is not None:
            self._learn(self.table, self.in_table)

    def learn_categories(self, piece: pd.DataFrame) -> None:
        """Learn the kinds and categories of a piece's features."""
        self._learn(piece, self.from_events)

    def _learn(self, table: pd.DataFrame, names: list[Hashable]) -> None:
        for name in names:
            column, feature = table[name], self.feature_of.get(name)
            if name not in self.with_values or feature is None:  # the kind needs a value
                feature = self._feature(name, column)
            if column.notna().any():
                self.with_values.add(name)
            self.feature_of[name] = learn(feature, column, self.delimiter)

    def fitted(
        self, source: Any, user: np.ndarray, time: np.ndarray | None
    ) -> tuple[Vocabulary, list[Feature], dict[Hashable, Timeline], Columns]:
        """Return the ids, the features, their timelines, and their filled values in all events."""
        ids, table_codes = self._ids_with_table()
        for name in self.transformers.keys() & self.feature_of.keys():
            feature = with_transformer(self.feature_of[name], self.transformers[name])
            self.feature_of[name] = feature
        names, on_disk = self.from_events, source.on_disk
        read: Any = collect(source.read(self._encode, names), on_disk) if names else {}
        before_all = np.full(len(table_codes), np.iinfo(np.int64).min)
        table_rows = UserRows(table_codes, before_all, len(ids))
        event_rows = UserRows(user, time, len(ids), on_disk)
        features, timelines = [], {}
        filled: Columns = {}
        for name in self.features:
            feature, numbers = self.feature_of[name], []
            timeline = Timeline.empty(feature)
            if name in self.in_table:
                column, present = self._encode_column(name, self.table)
                _, timeline = timeline.extended(table_rows, column, present)
                numbers.append(column)
            if name in names:
                column, present = read.pop((name, "values")), read.pop((name, "present"))
                numbers.append(column)
                filled[name], timeline = timeline.extended(event_rows, column, present)
            elif feature.kind != "vector":  # read by the user's code: copies per event are large
                filled[name] = _by_now(timeline, user, on_disk)
            if feature.kind in NUMBERS:
                feature = with_scale(feature, numbers)
                timeline = replace(timeline, column=standardise(timeline.column, feature))
                if name in filled:
                    filled[name] = _standardised(filled[name], feature, on_disk)
            features.append(feature)
            timelines[name] = timeline
        return ids, features, timelines, filled

    def _encode(self, piece: pd.DataFrame, rows: slice) -> Columns:
        columns: Columns = {}
        for name in self.from_events:
            columns[name, "values"], columns[name, "present"] = self._encode_column(name, piece)
        return columns

    def _encode_column(self, name: Hashable, table: pd.DataFrame) -> tuple[Column, np.ndarray]:
        feature, column = self.feature_of[name], table[name]
        return encode(feature, column, self.delimiter), is_present(column, feature.kind)


def _by_now(timeline: Timeline, user: np.ndarray, on_disk: bool) -> Column:
    return in_blocks(lambda rows: timeline.at(user[rows]), len(user), on_disk)


def _standardised(numbers: Any, feature: Feature, on_disk: bool) -> Column:
    return in_blocks(lambda rows: standardise(numbers[rows], feature), len(numbers), on_disk)


class _ItemLearner(_SideLearner):
    """Learns the latest values of item features; a table's values override events."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.values: dict[Hashable, FeatureValues] = {}

    def learn_features(self, piece: pd.DataFrame, rows: Rows) -> None:
        assert self.ids is not None
        for name in self.from_events:
            column, feature_values = piece[name], self.values.get(name)
            if feature_values is None or not feature_values.has_values():  # the kind needs a value
                feature_values = FeatureValues.blank(self._feature(name, column))
            self.values[name] = feature_values.updated(column, rows, len(self.ids), self.delimiter)

    def fitted(self) -> tuple[Vocabulary, list[FeatureValues]]:
        """Return the ids, and the features in the order of the parameter."""
        ids, table_codes = self._ids_with_table()
        rows = Rows.of_table(table_codes)
        values = []
        for name in self.features:
            if name in self.from_events:
                feature_values = self.values[name].lengthened(len(ids))
            else:
                column = self.table[name]
                feature_values = FeatureValues.blank(self._feature(name, column))
                feature_values = feature_values.updated(column, rows, len(ids), self.delimiter)
            if name in self.transformers:
                feature_values = feature_values.with_transformer(self.transformers[name])
            values.append(feature_values.settled())
        return ids, values


def item_tables(values: list[FeatureValues]) -> dict[str, Any]:
    """Return the attributes of a `Schema` that describe item features."""
    return {
        "item_features": tuple(value.feature for value in values),
        "item_table": {value.feature.name: value.column for value in values},
    }


def read_events(
    frame: pd.DataFrame, roles: Roles
) -> tuple[pd.Series, pd.Series, np.ndarray | None, str]:
    """Return the columns of users and items, and the times and their kind; raise if incomplete."""
    user_column = require_column(frame, roles.user, "user")
    item_column = require_column(frame, roles.item, "item")
    times, time_kind = None, "order"
    if roles.time is not None:
        time_column = require_column(frame, roles.time, "time")
        _check_complete(time_column, "time", "use time=None for the row order")
        times, time_kind = read_times(time_column)
        _check_finite(times, time_column)
    require_rows(len(frame))
    _check_complete(user_column, "user", "fill in an id")
    _check_complete(item_column, "item", "fill in an id")
    return user_column, item_column, times, time_kind


def read_weights(frame: pd.DataFrame, label: Hashable) -> np.ndarray:
    """Return the column of weights; raise if a weight is missing or negative."""
    column, name = require_column(frame, label, "weight"), f"The weight column {label!r}"
    return check_weights(column, len(frame), allow_zeros=True, name=name)


def _check_finite(times: np.ndarray, column: pd.Series) -> None:
    is_infinite = ~np.isfinite(times)
    if is_infinite.any():
        row = int(is_infinite.argmax())
        raise ValueError(
            f"The time column {column.name!r} holds {times[row]} in row {row}: use finite times."
        )


def _check_complete(column: pd.Series, role: str, alternative: str) -> None:
    is_missing = column.isna().to_numpy()
    if is_missing.any():
        raise ValueError(
            f"The {role} column {column.name!r} has {is_missing.sum():,} missing values, the first "
            f"in row {int(is_missing.argmax())}. Drop those rows, or {alternative}."
        )


def read_table_ids(table: Any, role: Hashable, parameter: str) -> pd.Series:
    """Return the ids of a table of users or items; each has one row."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"{parameter} is a {type(table).__name__}; pass a DataFrame with a column {role!r}."
        )
    check_columns(table, parameter)
    remedy = f"Name the column of its ids {role!r}, as in the events."
    if role in table.index.names:
        remedy = f"Its index has that name: pass {parameter}.reset_index()."
    ids = require_column(table, role, f"{parameter} table's id", remedy, table=parameter)
    _check_complete(ids, f"{parameter} table's id", "fill in an id")
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].tolist()[0]
        raise ValueError(
            f"{parameter} has several rows for {role!r} = {twice!r}; keep one, as "
            f"{parameter}.drop_duplicates({role!r}, keep='last') does."
        )
    return ids


def reject_unused(
    table: pd.DataFrame, role: Hashable, parameter: str, features: Collection[Hashable]
) -> None:
    """Raise if a table has columns other than the ids, and none of them is a feature."""
    further_columns = [name for name in table.columns if name != role]
    if further_columns and not set(further_columns) & set(features):
        argument = f"{parameter[:-1]}_features={further_columns[:5]!r}"
        raise ValueError(
            f"{parameter} has the columns {further_columns[:5]!r}, but none is a feature of the "
            f"MatchEncoder. Name the features: make_match_pipeline(MatchEncoder({argument}), "
            f"SequenceSampler(), DSSMRetriever()), or pass only the column {role!r}."
        )


def _in_dtype_of(column: pd.Series, ids: pd.Series, parameter: str) -> pd.Series:
    """Return a table's ids in the dtype of the events, which decoded ids have."""
    if ids.empty:
        return column[:0]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return ids  # their values need not be among the categories
    # Strings are objects before pandas 3, and any id can become an object.
    is_text = column.dtype == object and pd.api.types.infer_dtype(column) == "string"
    differs = is_text and not any(isinstance(value, str) for value in ids)
    try:
        converted = ids.astype(column.dtype)
        if not differs and (converted == ids).all():
            return converted
    except (TypeError, ValueError, OverflowError):
        pass
    is_mixed = pd.concat([column[:1], ids[:1]]).dtype == object
    if differs or (is_mixed and column.dtype != object):
        fitted = "str" if is_text else column.dtype
        raise ValueError(
            f"{parameter} has {ids.dtype} in {ids.name!r}, such as {ids.tolist()[0]!r}, and the "
            f"events have {fitted}, such as {column.tolist()[0]!r}: convert one of them."
        )
    return ids
