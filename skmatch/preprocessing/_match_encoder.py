"""`MatchEncoder`: raw columns to integer codes and back."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils.validation import check_is_fitted, validate_data

from skmatch._columns import PADDING, UNKNOWN, Column, Columns, RaggedArray, Vocabulary, where_rows
from skmatch._data import HISTORY, CatalogueRows, Events, Samples, is_coded_frame
from skmatch._files import collect
from skmatch._growth import replaced
from skmatch._schema import Feature
from skmatch._validation import (
    DEFAULT_TIME,
    Roles,
    is_parquet,
    read_array,
    read_frame,
    read_table,
    read_times,
    require_column,
    warn_of_forgotten_time,
)
from skmatch.persistence import VersionedMixin
from skmatch.preprocessing._event_source import ParquetEvents, WholeFrame
from skmatch.preprocessing._event_table import EventTableMixin
from skmatch.preprocessing._features import (
    KINDS,
    FeatureValues,
    Rows,
    encode,
    flatten,
    is_present,
    learn,
    split_cells,
    standardise,
)
from skmatch.preprocessing._learning import (
    SchemaLearner,
    item_tables,
    read_events,
    read_table_ids,
    reject_unused,
)
from skmatch.preprocessing._output import FrameOutputMixin
from skmatch.preprocessing._timeline import Timeline

OF_EVALUATION = ("unknown_user", "n_relevant", "n_unknown_items")
LABELS = [list, tuple, np.ndarray, pd.Index]  # no sets: the order of features must not be chance
NO_USER = (
    "Rename the column or say user=... where the roles are named; where a query is about nobody "
    "known, the column holds None or any new id."
)


class MatchEncoder(
    FrameOutputMixin, EventTableMixin, TransformerMixin, VersionedMixin, BaseEstimator
):
    """Encode a table of events: ids and features become integer codes that can be decoded.

    The columns are named here and nowhere else in a program: every later step reads their roles
    from what this encoder learnt. Code 0 is padding, 1 is unknown, known values start at 2. At
    transform, unseen and missing values become unknown, never an error.

    Parameters
    ----------
    user, item : label, default="user_id", "item_id"
        The columns of the ids. Any hashable value is an id; those that are equal in Python, as 1,
        1.0 and True, are the same one. An integer that is no label is a position. The columns of
        an array are user, item and time, in this order.
    time : label or None, default="timestamp"
        The column of the times: numbers or datetimes. With None the order of the rows is the
        order of time, and also where the column of the default name is absent.
    user_features, item_features : sequence of labels, default=()
        The columns of features of users and of items. A row has its own value of a user feature;
        where that is missing, the latest that the user had before, and where there is none, no
        value. An item has one value of each of its features, the latest that is not missing.
    kinds : dict or None, default=None
        The kind of features, by label: "categorical", "numeric" or "multi_valued". Features that
        it does not name go by their dtype: floats are numeric; cells that are lists, tuples, sets
        or arrays are multi-valued; everything else is categorical.
    delimiter : str, default="|"
        What separates the values in a string cell of a multi-valued feature.

    Attributes
    ----------
    schema_ : Schema
        The roles, ids and features, with the latest values. Print it to look at it.
    n_features_in_ : int
        Number of columns seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during fit, where all are strings.

    See Also
    --------
    SequenceSampler : The next step: the history before each event.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import MatchEncoder
    >>> events = pd.DataFrame({
    ...     "user_id": ["ann", "ann", "bob"],
    ...     "item_id": [10, 20, 10],
    ...     "timestamp": [1, 2, 3],
    ...     "country": ["NO", "NO", "PE"],
    ... })
    >>> encoder = MatchEncoder(user_features=["country"]).fit(events)
    >>> encoder.transform(events).to_frame()
       user_id  item_id  timestamp  country
    0        2        2          1        2
    1        2        3          2        2
    2        3        2          3        3
    >>> encoder.inverse_transform(encoder.transform(events))
      user_id  item_id
    0     ann       10
    1     ann       20
    2     bob       10
    """

    # With metadata routing, the tables reach the encoder through a Pipeline.
    __metadata_request__fit = {"users": True, "items": True}

    _parameter_constraints: dict = {
        "user": "no_validation",  # any hashable value may label a column
        "item": "no_validation",
        "time": "no_validation",
        "user_features": LABELS,
        "item_features": LABELS,
        "kinds": [dict, None],
        "delimiter": [str],
    }

    def __init__(
        self,
        user: Hashable = "user_id",
        item: Hashable = "item_id",
        time: Hashable | None = DEFAULT_TIME,
        user_features: Any = (),
        item_features: Any = (),
        *,
        kinds: dict | None = None,
        delimiter: str = "|",
    ):
        self.user = user
        self.item = item
        self.time = time
        self.user_features = user_features
        self.item_features = item_features
        self.kinds = kinds
        self.delimiter = delimiter

    def fit(self, X: Any, y: Any = None, *, users: Any = None, items: Any = None) -> MatchEncoder:
        """Learn ids and features from events.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_events, n_columns), or Parquet
            The events, in any order, with any index. Frames of polars, pyarrow and whatever
            narwhals reads are read by the names of their columns. Parquet is a path, a list of
            paths or a `pyarrow.dataset.Dataset`; it is read in pieces, as often as needed, and what
            is learnt is what is learnt of the frame that `pandas.read_parquet` gives.
        y : None
            Ignored.
        users, items : DataFrame or None, default=None
            Tables with one row a user or an item: the column of the id and columns of features.
            They may hold users and items that have no events. What a table of users says is known
            before all events; where events have the column, too, their values follow it, as do
            those that are observed later. What a table of items says holds whatever events say. A
            table with columns that are none of them features is an error.

        Returns
        -------
        self : MatchEncoder
        """
        self._fit(X, users, items)
        return self

    def fit_transform(
        self, X: Any, y: Any = None, *, users: Any = None, items: Any = None
    ) -> Events | pd.DataFrame:
        """Learn from events and encode them for training.

        A missing value of a user feature becomes the latest of the user before that row, in the
        order of time and, at the same time, of rows. `transform` differs for rows of one time: it
        takes them for queries, which know all values of their time.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_events, n_columns), or Parquet
            The events, as in `fit`. The codes of Parquet are kept in temporary files, which go
            with them.
        y : None
            Ignored.
        users, items : DataFrame or None, default=None
            As in `fit`.

        Returns
        -------
        events : Events
        """
        source, codes, features = self._fit(X, users, items)
        user_ids = None if source.on_disk else source.head[self.schema_.user]
        events = Events(
            self.schema_,
            **codes,
            features=features,
            user_ids=user_ids,
            on_disk=source.on_disk,
        )
        return self._output(events)

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(
        self, X: Any, users: Any, items: Any
    ) -> tuple[WholeFrame | ParquetEvents, Columns, Columns]:
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X)
        features = self._check_features()
        _reject_coded(X)
        parquet = ParquetEvents(X) if is_parquet(X) else None
        table = read_frame(X) if parquet is None else parquet.head
        frame, roles = read_table(
            table, user=self.user, item=self.item, time=self.time, estimator=self
        )
        _check_names(roles, features)
        _warn_of_history(frame)
        warn_of_forgotten_time(frame, roles, self.time, (*features["user"], *features["item"]))
        if not isinstance(table, pd.DataFrame) and frame.shape[1] < 2:
            raise ValueError(
                f"X has {frame.shape[1]} feature(s), but {type(self).__name__} requires at least "
                "2: the user in the first column and the item in the second."
            )
        tables = {"user": read_frame(users), "item": read_frame(items)}
        learner = SchemaLearner(
            frame, roles, features, tables, kinds=self.kinds, delimiter=self.delimiter
        )
        source = parquet or WholeFrame(frame)
        codes = collect(source.read(learner.learn, learner.columns()), source.on_disk)
        learnt, filled = learner.learnt(source, codes)
        # Only now: a fit that fails leaves what was fitted before.
        validate_data(self, table, skip_check_array=True)
        for name, value in learnt.items():
            setattr(self, name, value)
        context.call_on_fit_task_end(estimator=self, X=X)
        return source, codes, filled

    def _check_features(self) -> dict[str, list]:
        features = {"user": list(self.user_features), "item": list(self.item_features)}
        named = features["user"] + features["item"]
        for name in named:
            if not pd.api.types.is_hashable(name):
                raise ValueError(f"The feature {name!r} labels no column: name it by one label.")
        if not self.delimiter:
            raise ValueError("delimiter='' separates nothing: use at least one character.")
        for name, kind in (self.kinds or {}).items():
            if kind not in KINDS:
                raise ValueError(
                    f"kinds[{name!r}] is {kind!r}; choose one of {', '.join(map(repr, KINDS))}."
                )
            if name not in named:
                raise ValueError(
                    f"kinds names {name!r}, which is no feature; add it to user_features or "
                    "item_features, or leave it out of kinds."
                )
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"The feature {name!r} is named twice; name it once.")
        return features

    def _partial_fit(self, X: Any, train: bool) -> tuple[MatchEncoder, Events | pd.DataFrame]:
        """Return a copy that knows further events, and those events encoded by it.

        Users become known, and items where something is to be trained on them: they are the
        catalogue. Other items wait, under negative codes. Known ones keep their codes.
        """
        frame, roles = self._read(X)
        _warn_of_history(frame)
        schema = self.schema_
        roles = Roles(roles.user, roles.item, schema.time)
        user_column, item_column, times, time_kind = read_events(frame, roles)
        self._check_time_kind(time_kind)
        users, user = schema.users.extended(user_column)
        grown, features = self._with_users(frame, user, times, users)
        if train:
            items, item = schema.items.extended(item_column)
            grown = grown._with_item_values(frame, Rows.of_events(item, times), items)
        else:
            item = schema.items.lookup(item_column)
            waits = item == UNKNOWN
            pending, codes = (schema.pending or schema.items.emptied()).extended(item_column[waits])
            item[waits] = -codes
            grown = replaced(grown, schema_=replace(grown.schema_, pending=pending))
        events = Events(grown.schema_, user, item, times, features, user_column)
        return grown, self._output(events)

    def _read(self, X: Any) -> tuple[pd.DataFrame, Roles]:
        """Return events or queries as a frame, once fitted, with the roles of its columns."""
        check_is_fitted(self)
        _reject_coded(X)
        X = read_frame(X)
        schema = self.schema_
        frame, roles = read_table(
            X, user=schema.user, item=schema.item, time=schema.time, estimator=self
        )
        if not isinstance(X, pd.DataFrame):
            validate_data(self, X, skip_check_array=True, reset=False)
        return frame, roles

    def _add_items(self, X: Any) -> tuple[MatchEncoder, CatalogueRows]:
        """Give a copy whose catalogue has the items of a table, with their features."""
        check_is_fitted(self)
        X = read_frame(X)
        ids = read_table_ids(X, self.schema_.item, "items")
        features = [feature.name for feature in self.schema_.item_features]
        reject_unused(X, self.schema_.item, "items", features)
        items, codes = self.schema_.items.extended(ids)
        grown = self._with_item_values(X, Rows.of_table(codes), items)
        return grown, CatalogueRows(grown.schema_, codes)

    def _with_users(
        self, frame: pd.DataFrame, user: np.ndarray, time: np.ndarray | None, ids: Vocabulary
    ) -> tuple[MatchEncoder, Columns]:
        """Return a copy that knows users and their features, and those of the rows."""
        features: list[Feature] = []
        timelines: dict[Hashable, Timeline] = {}
        filled: Columns = {}
        for feature in self.schema_.user_features:
            name = feature.name
            if name in frame.columns:
                feature = learn(feature, frame[name], self.delimiter)
            values, present = self._encode_feature(feature, frame)
            filled[name], timelines[name] = self.timelines_[name].extended(
                user, time, values, present, len(ids)
            )
            features.append(feature)
        table = {name: timeline.latest() for name, timeline in timelines.items()}
        schema = replace(self.schema_, users=ids, user_features=tuple(features), user_table=table)
        return replaced(self, schema_=schema, timelines_=timelines), filled

    def _with_item_values(self, frame: pd.DataFrame, rows: Rows, ids: Vocabulary) -> MatchEncoder:
        """Return a copy with the ids of items and what a table says of their features."""
        schema, values = self.schema_, []
        for feature in schema.item_features:
            name = feature.name
            known = FeatureValues(feature, schema.item_table[name], self.feature_times_[name])
            if name in frame.columns:
                values.append(known.updated(frame[name], rows, len(ids), self.delimiter))
            else:
                values.append(known.lengthened(len(ids)))
        return replaced(
            self,
            schema_=replace(schema, items=ids, **item_tables(values)),
            feature_times_={value.feature.name: value.times for value in values},
        )

    def transform(self, X: Any) -> Events | pd.DataFrame:
        """Encode events or queries.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            Events, or queries: a frame needs no column but the user's. A column ``history`` of
            lists of item ids stands for the history of its row; where the cell is missing, the
            stored one counts. User features that are absent, or missing in a row, are those known
            of the user at the time of the query, or by now where it has none.

        Returns
        -------
        events : Events
            One row for one row of `X`.
        """
        frame, roles = self._read(X)
        schema = self.schema_
        users = require_column(frame, roles.user, "user", NO_USER)
        user = schema.users.lookup(users)
        schema.users.warn_of_another_dtype(users, user)
        item, item_ids = np.full(len(frame), PADDING, dtype=np.int32), None
        if roles.item in frame.columns:
            item_ids = frame[roles.item]
            item = schema.items.lookup(item_ids)
            schema.items.warn_of_another_dtype(item_ids, item)
        time = self._query_times(frame)
        features: Columns = {}
        for feature in schema.user_features:
            values, present = self._encode_feature(feature, frame)
            known = self.timelines_[feature.name].at(user, time)
            features[feature.name] = where_rows(present, values, known)
        events = Events(schema, user, item, time, features, users, item_ids)
        if HISTORY in frame.columns:
            column = frame[HISTORY]
            items, offsets = flatten(split_cells(column, self.delimiter), column.name)
            codes = schema.items.lookup(items)
            schema.items.warn_of_another_dtype(items, codes)
            events = replace(
                events, history=RaggedArray(codes, offsets), has_history=column.notna().to_numpy()
            )
        return self._output(events)

    def _query_times(self, frame: pd.DataFrame) -> np.ndarray | None:
        schema = self.schema_
        if schema.time is None or schema.time not in frame.columns:
            return None
        times, kind = read_times(frame[schema.time])
        if kind != "none":
            self._check_time_kind(kind)
        return times

    def _check_time_kind(self, kind: str) -> None:
        schema = self.schema_
        if kind != schema.time_kind:
            if {kind, schema.time_kind} == {"datetime", "zoned datetime"}:
                raise ValueError(
                    f"The time column {schema.time!r} holds a {kind} here and a "
                    f"{schema.time_kind} at fit, and cannot be compared: give both a time zone or "
                    "none, with Series.dt.tz_localize(...)."
                )
            raise ValueError(
                f"The time column {schema.time!r} holds a {kind} here and a {schema.time_kind} "
                "at fit; convert it to what it was at fit."
            )

    def _encode_feature(self, feature: Feature, frame: pd.DataFrame) -> tuple[Column, np.ndarray]:
        """Encode a user feature, and return which rows bring a value."""
        if feature.name not in frame.columns:
            return self.timelines_[feature.name].blank(len(frame)), np.zeros(len(frame), dtype=bool)
        column = frame[feature.name]
        values, present = encode(feature, column, self.delimiter), is_present(column, feature.kind)
        return standardise(values, feature) if feature.kind == "numeric" else values, present

    def inverse_transform(self, X: Any) -> pd.DataFrame:
        """Give the original ids of coded events.

        Parameters
        ----------
        X : Events, or DataFrame or array-like with the codes of users and items first
            What `transform` gave.

        Returns
        -------
        ids : DataFrame
            The user and item ids in their original dtypes; unknown ones are missing.
        """
        check_is_fitted(self)
        schema = self.schema_
        if isinstance(X, Events):
            user, item = X.user, X.item
        else:
            codes = read_array(X, self)
            try:
                user, item = codes[:, 0].astype(np.int64), codes[:, 1].astype(np.int64)
            except (IndexError, TypeError, ValueError) as error:
                raise ValueError(
                    f"X does not hold the codes of users and items in its first two columns "
                    f"({error}): give what transform gave."
                ) from None
        return pd.DataFrame(
            {schema.user: schema.users.decode(user), schema.item: schema.items.decode(item)}
        )

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Give the names of the columns of the encoded frame.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        features = tuple(feature.name for feature in self.schema_.user_features)
        return np.asarray(Events.column_names(self.schema_, features), dtype=object)


def _reject_coded(X: Any) -> None:
    is_coded = isinstance(X, (Events, Samples)) or any(
        is_coded_frame(X, kind) for kind in (Events, Samples)
    )
    if is_coded:
        raise ValueError(
            f"X is encoded already ({type(X).__name__} of an earlier step): give MatchEncoder "
            "plain events or queries."
        )


def _check_names(roles: Roles, features: dict[str, list]) -> None:
    """Raise where a feature is a role, too, or a name is that of a column of our own."""
    named = features["user"] + features["item"]
    for name in named:
        if name in roles:
            role = roles._fields[roles.index(name)]
            raise ValueError(
                f"The feature {name!r} is the {role} column, too: leave it out, or give a copy of "
                "the column another name."
            )
    if HISTORY in (*roles, *named):
        raise ValueError(
            f"The column {HISTORY!r} stands for the history that a query brings along, and can "
            "neither be a role nor a feature: rename it."
        )
    for names, reserved, of in (
        ([roles.user], {"score", "rank", "source", *OF_EVALUATION}, "recommend and evaluate"),
        ([roles.item], {"score", "rank", "source", "similar"}, "recommend and similar_items"),
        ([*roles, *features["user"]], {Samples._USER_KEY, *Samples.WINDOW}, "to_frame"),
    ):
        for name in names:
            is_score = of.endswith("evaluate") and isinstance(name, str) and "@" in name
            if name in reserved or is_score:
                raise ValueError(
                    f"The column {name!r} has the name of a column that {of} adds: rename it."
                )


def _warn_of_history(frame: pd.DataFrame) -> None:
    if HISTORY in frame.columns:
        warnings.warn(
            f"The column {HISTORY!r} of X is ignored: a query may bring one along, and the history "
            "of events are the events before them. Drop the column, or rename it: where X is given "
            "as queries, it has to hold lists of item ids.",
            UserWarning,
            stacklevel=4,
        )
