"""`Schema`: the roles, ids and features of a table of events.

Codes everywhere: 0 is padding, 1 is unknown, known values start at 2.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from skmatch._columns import FIRST_KNOWN, Columns, Vocabulary, gather_rows

Kind = Literal["categorical", "numeric", "multi_valued", "vector"]


class SharedValue:
    """An immutable value that copies share: pandas copies the ``attrs`` of frames deeply."""

    def __deepcopy__(self, memo: dict) -> Self:
        return self


@dataclass(frozen=True, eq=False)
class Feature:
    """A feature's label and kind, and its vocabulary, or the mean and scale of its numbers."""

    name: Hashable
    kind: Kind
    vocabulary: Vocabulary | None = None
    mean: Any = 0.0  # of a vector, an array
    scale: float = 0.0  # 0 until it is learned
    length: int = 0  # of a vector
    transformer: Any = None  # fitted, where it makes vectors of the values

    def extends(self, other: Feature) -> bool:
        """Return whether all codes and numbers of `other` mean the same in this feature."""
        if self.vocabulary is None or other.vocabulary is None:
            is_same = self.scale == other.scale and np.array_equal(self.mean, other.mean)
        else:
            is_same = self.vocabulary.extends(other.vocabulary)
        return is_same and (self.name, self.kind) == (other.name, other.kind)

    @property
    def size(self) -> int:
        """Number of codes, or of the numbers of a vector; 0 for a numeric feature."""
        return self.length if self.vocabulary is None else len(self.vocabulary)


@dataclass(frozen=True, eq=False, repr=False)
class Schema(SharedValue):
    """The roles, ids and features that a `MatchEncoder` has learned, with their latest values.

    Do not construct it; it is the attribute ``schema_`` of fitted estimators. Printing it shows a
    summary. It is immutable.

    Attributes
    ----------
    user, item : label
        The columns of the ids.
    time : label or None
        The column of the times; None if the order of the rows is the order of time.
    weight : label or None
        The column of the weights; None without weights.
    time_kind : {"number", "datetime", "zoned datetime", "order"}
        The kind of the times, or "order" without times.
    users, items : Vocabulary
        The known ids: ``values`` holds them as an array, ``lookup(ids)`` returns their codes and
        ``decode(codes)`` the ids in their original dtype. The code of ``values[i]`` is ``i + 2``.
    user_features, item_features, event_features : tuple of Feature
        The features, each with a ``name``, a ``kind`` ("categorical", "numeric", "multi_valued" or
        "vector") and a ``size``: its number of codes, or of the numbers of a vector.
    user_table, item_table : dict
        The latest values of each feature, by label: one row per code of a user or an item.
    pending : Vocabulary or None
        Items that have been observed and are not in the catalogue yet.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import MatchEncoder
    >>> events = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": [10, 20], "size": [1.5, 2.5]})
    >>> schema = MatchEncoder(item_features=["size"]).fit(events).schema_
    >>> schema.items.values
    array([10, 20])
    >>> schema.item_values("size").tolist()
    [1.5, 2.5]
    >>> schema.to_frame()
        column          role     kind n_values
    0  user_id          user       id        2
    1  item_id          item       id        2
    2     size  item feature  numeric     <NA>
    """

    user: Hashable
    item: Hashable
    time: Hashable | None
    time_kind: str
    users: Vocabulary
    items: Vocabulary
    user_features: tuple[Feature, ...]
    item_features: tuple[Feature, ...]
    user_table: Columns
    item_table: Columns
    pending: Vocabulary | None = None
    weight: Hashable | None = None
    event_features: tuple[Feature, ...] = ()

    def __repr__(self) -> str:
        lines = [
            f"Schema: {len(self.users.values):,} users, {len(self.items.values):,} items",
            f"  user {self.user!r} ({self.users.dtype}), item {self.item!r} ({self.items.dtype}), "
            f"time {'is the order of the rows' if self.time is None else repr(self.time)}"
            + ("" if self.weight is None else f", weight {self.weight!r}"),
        ]
        sides = {side: getattr(self, f"{side}_features") for side in ("user", "item", "event")}
        for side, features in sides.items():
            for feature in features:
                size = f", {feature.size - FIRST_KNOWN:,} values" if feature.vocabulary else ""
                size = f" of {feature.length} numbers" if feature.kind == "vector" else size
                lines.append(f"  {side} feature {feature.name!r}: {feature.kind}{size}")
        return "\n".join(lines)

    def agrees_with(self, other: Schema) -> bool:
        """Return whether all codes mean the same in both."""
        return self is other or (self.extends(other) and other.extends(self))

    def extends(self, other: Schema) -> bool:
        """Return whether all codes of `other` mean the same in this schema."""
        return self is other or (
            self.users.extends(other.users)
            and self.items.extends(other.items)
            and len(self.user_features) == len(other.user_features)
            and len(self.item_features) == len(other.item_features)
            and len(self.event_features) == len(other.event_features)
            and all(map(Feature.extends, self.user_features, other.user_features))
            and all(map(Feature.extends, self.item_features, other.item_features))
            and all(map(Feature.extends, self.event_features, other.event_features))
        )

    def item_values(self, name: Hashable) -> pd.Series:
        """Return the latest value of a feature for each item.

        Parameters
        ----------
        name : label
            An item feature.

        Returns
        -------
        values : Series of shape (n_items,)
            In the order of ``items.values``; lists or arrays if the feature has several values.
        """
        feature = next((feature for feature in self.item_features if feature.name == name), None)
        if feature is None:
            names = ", ".join(repr(feature.name) for feature in self.item_features) or "none"
            raise ValueError(
                f"feature={name!r} is not an item feature of the MatchEncoder, which has {names}: "
                "name it in its item_features and fit again, or pass a Series of values indexed by "
                "item ids."
            )
        column = gather_rows(self.item_table[name], np.arange(FIRST_KNOWN, len(self.items)))
        if isinstance(column, np.ndarray):
            if feature.vocabulary is None:
                numbers = column * feature.scale + feature.mean
                return pd.Series(numbers if column.ndim == 1 else list(numbers), name=name)
            return pd.Series(feature.vocabulary.decode(column), name=name)
        assert feature.vocabulary is not None
        values = feature.vocabulary.decode(column.values).tolist()
        bounds = pairwise(column.offsets.tolist())
        return pd.Series([values[a:b] for a, b in bounds], name=name, dtype=object)

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with one row per column: its role, kind and number of values."""
        rows: list[tuple] = [
            (self.user, "user", "id", len(self.users.values)),
            (self.item, "item", "id", len(self.items.values)),
        ]
        if self.time is not None:
            rows.append((self.time, "time", self.time_kind, pd.NA))
        if self.weight is not None:
            rows.append((self.weight, "weight", "number", pd.NA))
        for role, features in (
            ("user feature", self.user_features),
            ("item feature", self.item_features),
            ("event feature", self.event_features),
        ):
            for feature in features:
                size = feature.size - FIRST_KNOWN if feature.vocabulary else pd.NA
                rows.append((feature.name, role, feature.kind, size))
        return pd.DataFrame(rows, columns=["column", "role", "kind", "n_values"])
