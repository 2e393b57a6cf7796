"""Held-out events as queries and relevant items."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skmatch._validation import (
    Roles,
    fitted_retriever,
    last_step,
    read_frame,
    read_table,
    reject_missing,
    require_column,
    require_rows,
    transform_steps,
)
from skmatch.metrics._ranking import check_gains


class HeldOut(NamedTuple):
    """Held-out events as queries, one per user, and relevant items."""

    queries: Any  # as `predict` takes them
    users: pd.Series  # (n_queries,) ids, named as in the events
    row: np.ndarray  # (n_queries,) index of the event as of which the query is
    query: np.ndarray  # (n_events,) index of each event's query
    item: Any  # (n_events,) ids, or positions in the catalogue; below -1 where unknown


def fitted_schema(estimator: Any) -> Any:
    """Return the schema of a fitted retriever, also inside a pipeline or a search."""
    return fitted_retriever(estimator, "schema_").schema_


def read_held_out(
    estimator: Any, X: Any, gain: Hashable | None
) -> tuple[HeldOut, np.ndarray | None]:
    schema, retriever = fitted_schema(estimator), last_step(estimator)
    is_coded = hasattr(X, "original_users") or "skmatch_schema" in getattr(X, "attrs", {})
    gains = None
    if is_coded and gain is not None:
        raise ValueError(
            f"gain={gain!r} names a column, and X holds {type(X).__name__} of an earlier step: "
            "pass plain events to the whole pipeline."
        )
    is_retriever = hasattr(retriever, "_rank")
    if is_coded and not is_retriever:
        raise TypeError(
            f"X holds {type(X).__name__} of an earlier step, which {type(retriever).__name__} "
            "cannot rank: pass plain events."
        )
    table = X if is_coded else read_frame(X)
    if not is_coded and "history" in getattr(table, "columns", ()):  # only queries have this column
        X = table = table.drop(columns="history")
    if is_retriever:
        held_out = _of_samples(retriever._read_queries(transform_steps(estimator, X)), schema)
    if not is_coded:
        frame, roles = read_table(table, user=schema.user, item=schema.item, time=schema.time)
        user = require_column(frame, roles.user, "user")
        item = require_column(frame, roles.item, "item")
        if frame.empty:
            raise ValueError("X has no rows: pass at least one held-out event.")
        for column in (user, item):
            reject_missing(
                column,
                "a held-out event needs a user and an item: drop these rows or fill them in.",
            )
        if gain is not None:
            remedy = "Pass the label of a column of the held-out events."
            column = require_column(frame, gain, "gain", remedy)
            gains = check_gains(column, f"Column {gain!r}")
    if not is_retriever:
        query, _ = pd.factorize(user)
        first_rows = np.unique(query, return_index=True)[1]
        as_array = not isinstance(table, pd.DataFrame)
        queries = _make_queries(frame.iloc[first_rows], roles, as_array=as_array)
        users = user.iloc[first_rows].reset_index(drop=True)
        held_out = HeldOut(queries, users, first_rows, query, item.reset_index(drop=True))
    if gains is not None:
        n_gaining = np.bincount(held_out.query, gains > 0, len(held_out.users))
        if not n_gaining.all():
            raise ValueError(
                f"The user {held_out.users.tolist()[int(n_gaining.argmin())]!r} has no gain above "
                f"0 in the column {gain!r} ({(n_gaining == 0).sum():,} such users): drop the "
                "events of users without a relevant item."
            )
    return held_out, gains


def _of_samples(samples: Any, schema: Any) -> HeldOut:
    require_rows(len(samples))
    if (samples.item == 0).any():
        raise ValueError(
            f"The item column {schema.item!r} is missing; score needs the held-out items."
        )
    queries, row, query, item = samples.by_user()
    users = queries.original_users().rename(schema.user).reset_index(drop=True)
    return HeldOut(queries, users, row, query, item)


def _make_queries(rows: pd.DataFrame, roles: Roles, *, as_array: bool) -> pd.DataFrame | np.ndarray:
    """Drop the item and the time, which a query may not know."""
    held_out = rows.columns.isin([roles.item, roles.time])
    if not as_array:
        return rows.loc[:, ~held_out]
    queries = rows.to_numpy(dtype=object, copy=True)
    queries[:, held_out] = None
    return queries
