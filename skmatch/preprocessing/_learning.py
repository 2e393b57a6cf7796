"""What a `MatchEncoder` learns of events that come in pieces; a frame is a single one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from skmatch._columns import Columns, Vocabulary
from skmatch._data import Schema
from skmatch._validation import Roles, check_columns, read_times, require_column, require_rows
from skmatch.preprocessing._features import FeatureValues, Rows, kind_of


class SchemaLearner:
    """Learns roles, ids and features from pieces of events, and codes their ids on the way.

    Parameters
    ----------
    head : DataFrame
        A table with the columns of the events.
    roles : Roles
        Labels of the columns of user, item and time.
    features : dict of str to list
        Labels of the features of either side, "user" and "item".
    tables : dict of str to DataFrame or None
        A table of either side.
    kinds, delimiter
        As in `MatchEncoder`.
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
        self.sides = {
            side: _SideLearner(
                side, getattr(roles, side), features[side], tables[side], kinds or {}, delimiter
            )
            for side in ("user", "item")
        }
        for name, role in zip(roles._fields, roles, strict=True):
            if role is not None:
                require_column(head, role, name)
        for side in self.sides.values():
            side.check(head)

    def columns(self) -> list[Hashable]:
        """Give the columns that are read of the events."""
        own = [name for side in self.sides.values() for name in side.from_events]
        return [role for role in self.roles if role is not None] + own

    def learn(self, piece: pd.DataFrame, rows: slice) -> Columns:
        """Learn the next events; give the codes of their users and items, and their times."""
        user_column, item_column, times, self.time_kind = read_events(piece, self.roles)
        user, item = self.sides["user"], self.sides["item"]
        user_codes, item_codes = user.learn_ids(user_column), item.learn_ids(item_column)
        if user.from_events or item.from_events:
            events = Rows.of_events(user_codes, times)
            user.learn_features(piece, events)
            item.learn_features(piece, events._replace(codes=item_codes))
        codes: Columns = {"user": user_codes, "item": item_codes}
        if times is None:
            return codes
        if self.time_dtype not in (None, times.dtype):
            raise ValueError(
                f"The time column {self.roles.time!r} holds integers beyond 64 bits with a sign, "
                "and did not before: convert it to floats."
            )
        self.time_dtype = times.dtype
        return codes | {"time": times}

    def learnt(self) -> tuple[Schema, dict[Hashable, np.ndarray]]:
        """Give what was learnt, and the times of the values of features."""
        user, item = self.sides["user"].learnt(), self.sides["item"].learnt()
        schema = Schema(
            user=self.roles.user,
            item=self.roles.item,
            time=self.roles.time,
            time_kind=self.time_kind,
            users=user[0],
            items=item[0],
            **feature_tables("user", user[1]),
            **feature_tables("item", item[1]),
        )
        return schema, {values.feature.name: values.times for values in user[1] + item[1]}


class _SideLearner:
    """Learns ids and features of one side: of users, or of items."""

    def __init__(
        self,
        side: str,
        role: Hashable,
        features: list,
        table: Any,
        kinds: dict,
        delimiter: str,
    ):
        self.parameter, self.role = f"{side}s", role
        self.features, self.table = features, table
        self.kinds, self.delimiter = kinds, delimiter
        in_table = () if table is None else getattr(table, "columns", ())
        self.from_events = [name for name in features if name not in in_table]
        self.ids: Vocabulary | None = None
        self.table_ids: pd.Series | None = None
        self.values: dict[Hashable, FeatureValues] = {}

    def check(self, head: pd.DataFrame) -> None:
        """Read the ids of the table, and raise where a feature is missing in the events."""
        if self.table is not None:
            self.table_ids = read_table_ids(self.table, self.role, self.parameter)
        for name in self.from_events:
            remedy = "Add the column, or name only features that are there."
            require_column(head, name, "feature", remedy)

    def learn_ids(self, column: pd.Series) -> np.ndarray:
        """Learn the ids of events; give their codes."""
        if self.table_ids is not None:
            if self.ids is None:
                ids = _in_dtype_of(column, self.table_ids, self.parameter)
                self.table_ids = ids.astype(pd.concat([column[:1], ids[:1]]).dtype)
            column = column.astype(self.table_ids.dtype)  # which holds the ids of both
        if self.ids is None:
            self.ids, codes = Vocabulary.learn(column)
        else:
            self.ids, codes = self.ids.extended(column)
        return codes

    def learn_features(self, piece: pd.DataFrame, rows: Rows) -> None:
        """Learn the features of events."""
        assert self.ids is not None
        for name in self.from_events:
            column, known = piece[name], self.values.get(name)
            if known is None or not known.has_values():  # only a value tells the kind
                known = FeatureValues.blank(name, self.kinds.get(name) or kind_of(column))
            self.values[name] = known.updated(column, rows, len(self.ids), self.delimiter)

    def learnt(self) -> tuple[Vocabulary, list[FeatureValues]]:
        """Give the ids, those of the table last, and the features in the order of their names."""
        assert self.ids is not None
        ids = self.ids
        if self.table_ids is not None:
            ids, codes = ids.extended(self.table_ids)
            rows = Rows.of_table(codes)
        values = []
        for name in self.features:
            if name in self.from_events:
                known = self.values[name].lengthened(len(ids))
            else:
                column = self.table[name]
                known = FeatureValues.blank(name, self.kinds.get(name) or kind_of(column))
                known = known.updated(column, rows, len(ids), self.delimiter)
            values.append(known.settled())
        return ids, values


def feature_tables(side: str, values: list[FeatureValues]) -> dict[str, Any]:
    """Give what a `Schema` holds of the features of a side."""
    return {
        f"{side}_features": tuple(one.feature for one in values),
        f"{side}_table": {one.feature.name: one.column for one in values},
    }


def read_events(
    frame: pd.DataFrame, roles: Roles
) -> tuple[pd.Series, pd.Series, np.ndarray | None, str]:
    """Give the columns of users and items, and the times with their kind; all complete."""
    user_column = require_column(frame, roles.user, "user")
    item_column = require_column(frame, roles.item, "item")
    times, time_kind = None, "order"
    if roles.time is not None:
        time_column = require_column(frame, roles.time, "time")
        _check_complete(time_column, "time", "use time=None for the row order")
        times, time_kind = read_times(time_column)
        _check_finite(times, time_column)
    require_rows(len(frame))
    _check_complete(user_column, "user", "give them an id")
    _check_complete(item_column, "item", "give them an id")
    return user_column, item_column, times, time_kind


def _check_finite(times: np.ndarray, column: pd.Series) -> None:
    infinite = ~np.isfinite(times)
    if infinite.any():
        row = int(infinite.argmax())
        raise ValueError(
            f"The time column {column.name!r} holds {times[row]} at row {row}: give finite times."
        )


def _check_complete(column: pd.Series, role: str, alternative: str) -> None:
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"The {role} column {column.name!r} has {missing.sum():,} missing values, the first "
            f"at row {int(missing.argmax())}. Drop those rows, or {alternative}."
        )


def read_table_ids(table: Any, role: Hashable, parameter: str) -> pd.Series:
    """Give the ids of a table of users or items; each has one row."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"{parameter} is a {type(table).__name__}; give a DataFrame with a column {role!r}."
        )
    check_columns(table, parameter)
    remedy = f"Name the column of its ids {role!r}, as in the events."
    ids = require_column(table, role, f"{parameter} table's id", remedy, table=parameter)
    _check_complete(ids, f"{parameter} table's id", "give them an id")
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].tolist()[0]
        raise ValueError(f"{parameter} has several rows for {role!r} = {twice!r}; keep one.")
    return ids


def _in_dtype_of(column: pd.Series, ids: pd.Series, parameter: str) -> pd.Series:
    """Give a table's ids in the dtype of the events, so that those come back in theirs."""
    if ids.empty:
        return column[:0]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return ids  # whose values need not be among the categories
    try:
        same = ids.astype(column.dtype)
        if (same == ids).all():
            return same
    except (TypeError, ValueError, OverflowError):
        pass
    if pd.concat([column[:1], ids[:1]]).dtype == object and column.dtype != object:
        raise ValueError(
            f"{parameter} has {ids.dtype} in {ids.name!r}, such as {ids.tolist()[0]!r}, and the "
            f"events have {column.dtype}, such as {column.tolist()[0]!r}: convert one of them."
        )
    return ids
