"""`CodedRows`: encoded rows that look like a table, the base of `Events` and `Samples`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from skmatch._columns import PADDING, UNKNOWN, Columns, RaggedArray, gather_rows
from skmatch._schema import Schema


@dataclass(frozen=True, eq=False, repr=False)
class CodedRows:
    """Coded rows that look like a table, the base of `Events` and `Samples`."""

    schema: Schema
    user: np.ndarray  # (n,) int32
    item: np.ndarray  # (n,) int32; PADDING in rows without an item
    time: np.ndarray | None = None  # (n,) int64 or float64; None: the order of the rows
    features: Columns = field(default_factory=dict)  # user features of the rows
    user_ids: pd.Series | None = None  # as the caller wrote them, to return
    item_ids: pd.Series | None = None  # as the caller wrote them, to distinguish unknown items
    weight: np.ndarray | None = None  # (n,) float64, of events to train on

    _SCHEMA_KEY: ClassVar[str] = "skmatch_schema"
    _USER_KEY: ClassVar[str] = "user_as_given"
    _ITEM_KEY: ClassVar[str] = "item_as_given"

    def __len__(self) -> int:
        return len(self.user)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns of `to_frame`."""
        return len(self), len(self._own_names())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.to_frame(), dtype=dtype)

    def __getitem__(self, rows: Any) -> Self:
        return self.gather(np.arange(len(self))[rows])

    def gather(self, rows: np.ndarray) -> Self:
        """Return some of the rows."""
        return replace(self, **self._gathered(rows))

    def _gathered(self, rows: np.ndarray) -> dict[str, Any]:
        return {
            "user": self.user[rows],
            "item": self.item[rows],
            "time": None if self.time is None else self.time[rows],
            "features": {name: gather_rows(col, rows) for name, col in self.features.items()},
            "user_ids": None if self.user_ids is None else self.user_ids.iloc[rows],
            "item_ids": None if self.item_ids is None else self.item_ids.iloc[rows],
            "weight": None if self.weight is None else self.weight[rows],
        }

    @staticmethod
    def column_names(schema: Schema, features: tuple) -> list:
        """Return the column names of `to_frame` for training rows."""
        time = [] if schema.time is None else [schema.time]
        weight = [] if schema.weight is None else [schema.weight]
        return [schema.user, schema.item, *time, *weight, *features]

    def _own_names(self) -> list:
        """Return the column names of `to_frame` for these rows, which may be queries."""
        names = self.column_names(self.schema, tuple(f.name for f in self.schema.user_features))
        if self.time is None and self.schema.time is not None:
            names.remove(self.schema.time)
        if self.weight is None and self.schema.weight is not None:
            names.remove(self.schema.weight)
        return [*names, *self._unknown_ids()]

    def _unknown_ids(self) -> dict[str, pd.Series]:
        """Return the columns of ids that the codes of these rows do not hold."""
        users, items = (self.user, self.user_ids), (self.item, self.item_ids)
        columns = {self._USER_KEY: users, self._ITEM_KEY: items}.items()
        return {
            key: ids
            for key, (codes, ids) in columns
            if ids is not None and (codes == UNKNOWN).any()
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the codes as a DataFrame that the next step can read.

        Queries without times lack their column. Rows with unknown users or items have the
        additional columns ``user_as_given`` or ``item_as_given``.
        """
        columns: dict[Hashable, Any] = {self.schema.user: self.user, self.schema.item: self.item}
        if self.time is not None:
            columns[self.schema.time] = self.time
        if self.weight is not None:
            columns[self.schema.weight] = self.weight
        for name, column in self.user_columns().items():
            if isinstance(column, RaggedArray):
                columns[name] = column.to_lists()
            else:
                columns[name] = column if column.ndim == 1 else list(column)
        frame = pd.DataFrame(columns)
        if self.user_ids is not None:
            frame.index = self.user_ids.index
        for key, ids in self._unknown_ids().items():
            frame[key] = ids.array
        frame.attrs[self._SCHEMA_KEY] = self.schema
        return frame

    @classmethod
    def _from_frame(cls, frame: pd.DataFrame) -> dict[str, Any]:
        schema = frame.attrs[cls._SCHEMA_KEY]
        for name in (schema.user, schema.item):
            if name not in frame.columns:
                raise ValueError(
                    f"The frame of codes lacks the column {name!r}: pass on all columns of the "
                    "previous step's output."
                )
        features: Columns = {}
        for feature in schema.user_features:
            if feature.name in frame.columns:
                column = frame[feature.name]
                if feature.kind == "multi_valued":
                    features[feature.name] = RaggedArray.from_lists(column.tolist())
                elif feature.kind == "vector":
                    vectors = np.array(column.tolist(), dtype=np.float32)
                    features[feature.name] = vectors.reshape(-1, feature.length)
                else:
                    features[feature.name] = column.to_numpy()
        return {
            "schema": schema,
            "user": frame[schema.user].to_numpy(),
            "item": frame[schema.item].to_numpy(),
            "time": frame[schema.time].to_numpy() if schema.time in frame.columns else None,
            "weight": frame[schema.weight].to_numpy() if schema.weight in frame.columns else None,
            "features": features,
            "user_ids": frame.get(cls._USER_KEY),
            "item_ids": frame.get(cls._ITEM_KEY),
        }

    def user_columns(self) -> Columns:
        """Return all user features of the rows; absent features have the users' latest values."""
        return {
            feature.name: self.features[feature.name]
            if feature.name in self.features
            else gather_rows(self.schema.user_table[feature.name], self.user)
            for feature in self.schema.user_features
        }

    def original_users(self) -> pd.Series:
        """Return the users as they were passed in, unknown users included."""
        return self.schema.users.decode(self.user) if self.user_ids is None else self.user_ids

    def decode(self) -> pd.DataFrame:
        """Return the original ids of users and, if the rows have any, of items."""
        users = self.original_users().reset_index(drop=True)
        frame = pd.DataFrame({self.schema.user: users})
        if (self.item != PADDING).any():
            frame[self.schema.item] = self.schema.items.decode(self.item)
        return frame
