"""Checks of the columns, features and times that a `MatchEncoder` gets."""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Hashable
from typing import Any

import pandas as pd
from pandas.api.types import is_hashable

from skmatch._data import HISTORY, Events, Samples, history_name, is_coded_frame
from skmatch._schema import Schema
from skmatch._typing import Label
from skmatch._validation import DEFAULT_TIME, WEIGHT_OF_KINDS, Roles
from skmatch.preprocessing._features import KINDS

RECOMMENDATION_COLUMNS = ("score", "rank", "source", "retrievers", "similar")
EXPLANATION_COLUMNS = ("reason", "kind", "contribution", "outcome")
EVALUATION_COLUMNS = ("unknown_user", "n_relevant", "n_unknown_items")
# Ages and years have fewer values, and work as categories.
MANY_INTEGERS = 200


def check_features(
    features: dict[str, list[Label]], kinds: dict[Label, Any], delimiter: str
) -> None:
    """Raise if the features of a side, "user", "item" or "event", or their kinds are invalid."""
    named = [name for names in features.values() for name in names]
    for name in named:
        if not pd.api.types.is_hashable(name):
            raise ValueError(f"The feature {name!r} is not a column label: use one label.")
    if not delimiter:
        raise ValueError("delimiter='' separates nothing: use at least one character.")
    for name, kind in kinds.items():
        is_transformer = hasattr(kind, "transform") and not isinstance(kind, type)
        if not is_transformer and kind not in KINDS:
            raise ValueError(
                f"kinds[{name!r}] is {kind!r}; choose one of {', '.join(map(repr, KINDS))}, or a "
                "transformer that makes vectors of the values."
            )
        if name not in named:
            raise ValueError(
                f"kinds names {name!r}, which is not a feature; add it to user_features, "
                "item_features or event_features, or remove it from kinds."
            )
    for name in named:
        if named.count(name) > 1:
            raise ValueError(f"The feature {name!r} is named twice; name it once.")


def check_names(roles: Roles, features: dict[str, list[Label]]) -> None:
    """Raise if a feature is also a role, or a name is reserved for an output column."""
    named = [name for names in features.values() for name in names]
    if not is_hashable(roles.weight):
        raise TypeError(
            f"weight={roles.weight!r} is not the name of a column. {WEIGHT_OF_KINDS}, and pass its "
            "name."
        )
    if roles.weight is not None and roles.weight in roles[:3]:
        raise ValueError(f"The weight column {roles.weight!r} has another role, too: name another.")
    for name in named:
        if name in roles:
            role = roles._fields[roles.index(name)]
            raise ValueError(
                f"The feature {name!r} is also the {role} column: remove it from the features, or "
                "add a copy of the column under another name."
            )
    reserved_names = {HISTORY, *map(history_name, features["event"])}
    clashes = reserved_names.intersection((*roles, *named))
    if clashes:
        raise ValueError(
            f"The column name {min(clashes)!r} is reserved for the histories that queries provide, "
            "and cannot be a role or a feature: rename the column."
        )
    for names, reserved, of in (
        (roles[:2], {*RECOMMENDATION_COLUMNS}, "recommend, similar_items or similar_users"),
        (roles[:2], {*EXPLANATION_COLUMNS}, "explain or trace"),
        ([roles.user], {*EVALUATION_COLUMNS}, "evaluate"),
        ([*roles, *features["user"]], {Samples._USER_KEY, *Samples.WINDOW, "visit"}, "to_frame"),
    ):
        for name in names:
            is_score = of == "evaluate" and re.search(r"_at_\d+$", str(name))
            if name in reserved or is_score:
                raise ValueError(
                    f"The column {name!r} has the name of a column that {of} adds: rename it."
                )


def warn_of_amounts(schema: Schema, kinds: dict[Label, Any]) -> None:
    """Warn if integers with many distinct values, perhaps amounts, were taken as categories."""
    for feature in (*schema.user_features, *schema.item_features, *schema.event_features):
        if feature.name in kinds or feature.kind != "categorical" or feature.vocabulary is None:
            continue
        name, vocabulary = feature.name, feature.vocabulary
        is_integer = vocabulary.categories is None and vocabulary.values.dtype.kind in "iu"
        if is_integer and len(vocabulary.values) >= MANY_INTEGERS:
            warnings.warn(
                f"The feature {name!r} holds {len(vocabulary.values):,} distinct integers, read as "
                f"categories. Set kinds={{{name!r}: 'numeric'}} if they are amounts, "
                f"such as prices, or kinds={{{name!r}: 'categorical'}} if they are codes.",
                UserWarning,
                stacklevel=4,
            )


def check_time_kind(schema: Schema, kind: str) -> None:
    if kind == schema.time_kind:
        return
    message = f"The time column {schema.time!r} holds a {kind} here and a {schema.time_kind} at fit"
    if {kind, schema.time_kind} == {"datetime", "zoned datetime"}:
        raise ValueError(
            f"{message}, and these cannot be compared: use a time zone in both or in neither, with "
            "Series.dt.tz_localize(...)."
        )
    raise ValueError(f"{message}; convert it to the kind at fit.")


def reject_coded(X: Any) -> None:
    kinds = (Events, Samples)
    if isinstance(X, kinds) or any(is_coded_frame(X, kind) for kind in kinds):
        raise ValueError(
            f"X is already encoded (a {type(X).__name__} of an earlier step): pass plain events or "
            "queries to MatchEncoder."
        )


def warn_of_history(frame: pd.DataFrame) -> None:
    """Warn if events have a column of histories, which only queries may provide."""
    if HISTORY in frame.columns:
        warnings.warn(
            f"The column {HISTORY!r} of X is ignored: only queries may provide a history; that of "
            "an event is the events before it. Drop or rename the column; if X also serves as "
            "queries, the column must hold lists of item ids.",
            UserWarning,
            stacklevel=4,
        )


def reject_other_time(
    time: Hashable, frame: pd.DataFrame, other_names: Container[Hashable]
) -> None:
    """Raise if queries have the default column of times, and the events had another."""
    if time is not None and DEFAULT_TIME in frame.columns and DEFAULT_TIME not in other_names:
        raise ValueError(
            f"X has the column {DEFAULT_TIME!r}, which the encoder does not know: times are in "
            f"{time!r}, as in the events. Rename the column, or drop it."
        )
