"""Groups of users that are scored apart."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from skmatch._validation import read_frame, require_column
from skmatch.metrics._content import by_id
from skmatch.metrics._held_out import HeldOut

ACTIVITY = "activity"
LEVELS = ("new", "light", "heavy")
COLUMNS = ("metric", "k", "value", "low", "high", "n_queries", "n_unknown_users", "n_unknown_items")


def groups_of(by: Any, X: Any, held_out: HeldOut) -> tuple[Hashable, dict[Any, np.ndarray]]:
    """Return the name of the groups, and the indices of the queries of each."""
    if not isinstance(by, (pd.Series, Hashable)):
        raise ValueError(
            f"by is a {type(by).__name__}: pass the label of a column of the held-out events, or a "
            "Series of groups indexed by user ids."
        )
    if isinstance(by, pd.Series):
        name = "group" if by.name is None else by.name
        values = by_id(by, "by", held_out.users, "user")
    else:
        name, table = by, read_frame(X)
        if by == ACTIVITY and by not in getattr(table, "columns", ()):
            return name, _by_activity(held_out.queries)
        if not isinstance(table, pd.DataFrame):
            raise ValueError(
                f"by={by!r} names a column, and X is a {type(X).__name__}: pass a frame, or a "
                "Series of groups indexed by user ids."
            )
        remedy = "Pass the label of a column of the held-out events, or a Series by user."
        values = require_column(table, by, "by", remedy).iloc[held_out.row]
    if name in COLUMNS:
        raise ValueError(
            f"by has the name {name!r}, which is also a column that evaluate adds: rename it."
        )
    try:
        code, groups = pd.factorize(values, use_na_sentinel=False)
    except TypeError as error:
        raise ValueError(
            f"The groups {name!r} cannot be told apart ({error}): use strings or numbers."
        ) from None
    return name, {group: np.flatnonzero(code == i) for i, group in enumerate(groups)}


def _by_activity(queries: Any) -> dict[Any, np.ndarray]:
    if not hasattr(queries, "seen"):
        raise TypeError(
            f"by={ACTIVITY!r} needs a retriever of skmatch, which has stored the users' events: "
            "pass a column of X or a Series of groups indexed by user ids."
        )
    n_events = queries.stop - queries.seen
    positive = n_events[n_events > 0]
    median = np.median(positive) if len(positive) else 0
    level = (n_events > 0).astype(int) + (n_events > median)
    return {name: np.flatnonzero(level == i) for i, name in enumerate(LEVELS) if (level == i).any()}
