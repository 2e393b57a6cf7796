"""`MatchEncoder`: raw columns to integer codes and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skmatch._arrays import reject_sets
from skmatch._columns import PADDING, Column, Columns, RaggedArray, where_rows
from skmatch._data import HISTORY, Events
from skmatch._files import collect
from skmatch._schema import Feature
from skmatch._typing import Label, Parquet, PlainEvents, Table
from skmatch._validation import (
    DEFAULT_TIME,
    Roles,
    checked_fit,
    is_parquet,
    read_array,
    read_frame,
    read_table,
    read_times,
    require_column,
    warn_of_forgotten_time,
)
from skmatch.persistence import VersionedMixin
from skmatch.preprocessing._encoder_checks import (
    check_features,
    check_names,
    check_time_kind,
    reject_coded,
    reject_other_time,
    warn_of_amounts,
    warn_of_history,
)
from skmatch.preprocessing._encoder_growth import EncoderGrowthMixin
from skmatch.preprocessing._event_features import (
    of_histories,
    reject_lone_features,
    reject_unknown_features,
)
from skmatch.preprocessing._event_source import ParquetEvents, WholeFrame
from skmatch.preprocessing._event_table import EventTableMixin
from skmatch.preprocessing._features import (
    NUMBERS,
    encode,
    flatten,
    is_present,
    split_cells,
    standardise,
)
from skmatch.preprocessing._learning import (
    SchemaLearner,
)
from skmatch.preprocessing._output import FrameOutputMixin

LABELS = [list, tuple, np.ndarray, pd.Index]  # not sets: features need a fixed order
NO_USER = (
    "Rename the column, or set user=... in MatchEncoder. In a query of an unknown user, the column "
    "holds None or any new id."
)


class MatchEncoder(
    FrameOutputMixin,
    EncoderGrowthMixin,
    EventTableMixin,
    TransformerMixin,
    VersionedMixin,
    BaseEstimator,
):
    """Encode a table of events: ids and features become integer codes.

    Columns are named only here: later steps read their roles from the schema. Code 0 is
    padding, 1 is unknown, known values start at 2. In `transform`, unseen and missing values
    become unknown.

    Parameters
    ----------
    user, item : label, default="user_id", "item_id"
        Columns of the ids, which are hashable; 1, 1.0 and True are the same id. An integer that is
        no label is the position of a column. The columns of an array are user, item, time.
    time : label or None, default="timestamp"
        The column of the times: numbers or datetimes. With None, or if the column of the default
        name is absent, events are in the order of the rows.
    weight : label or None, default=None
        Column of the weights. An event of weight 2 trains as two events; an event of weight 0 is in
        the history and seen, but no target. Weights are multiplied by a retriever's
        `sample_weight`. `fit` and `partial_fit` need the column, queries do not.
    user_features, item_features : sequence of labels, default=()
        The columns of features of users and of items. A missing value of a user feature becomes
        the user's latest earlier value, if any. An item has one value of each item feature, the
        latest that is not missing.
    event_features : sequence of labels, default=()
        The columns of features of events, categorical or numeric, such as a rating or the kind of
        event. Neural retrievers read those of past events, never that of the event to predict.
    kinds : dict or None, default=None
        The kind of features, by label: "categorical", "numeric", "multi_valued" or "vector". By
        default the dtype decides: floats and decimals are numeric; cells that are lists, tuples or
        arrays of floats are vectors, all of one length; other such cells, and sets, are
        multi-valued; everything else is categorical; 200 or more distinct integers warn, as they
        may be amounts. A scikit-learn transformer as the kind makes vectors of the values: a copy
        is fitted on the Series of the distinct values.
    delimiter : str, default="|"
        Separator of the values in a string cell of a multi-valued feature.

    Attributes
    ----------
    schema_ : Schema
        The roles, ids and features, with the latest values; printing it shows a summary.
    n_features_in_ : int
        Number of columns seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during fit, if all are strings.

    See Also
    --------
    SequenceSampler : The next step: adds the history before each event.

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
        "weight": "no_validation",
        "user_features": LABELS,
        "item_features": LABELS,
        "event_features": LABELS,
        "kinds": [dict, None],
        "delimiter": [str],
    }

    def __init__(
        self,
        user: Label = "user_id",
        item: Label = "item_id",
        *,
        time: Label | None = DEFAULT_TIME,
        weight: Label | None = None,
        user_features: Sequence[Label] | np.ndarray | pd.Index = (),
        item_features: Sequence[Label] | np.ndarray | pd.Index = (),
        event_features: Sequence[Label] | np.ndarray | pd.Index = (),
        kinds: dict[Label, Any] | None = None,
        delimiter: str = "|",
    ):
        self.user = user
        self.item = item
        self.time = time
        self.weight = weight
        self.user_features = user_features
        self.item_features = item_features
        self.event_features = event_features
        self.kinds = kinds
        self.delimiter = delimiter

    def fit(
        self,
        X: PlainEvents | Parquet,
        y: None = None,
        *,
        users: Table | None = None,
        items: Table | None = None,
    ) -> MatchEncoder:
        """Learn ids and features from events.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_events, n_columns), or Parquet
            The events, in any order, with any index. DataFrames of polars, pyarrow and other
            libraries that narwhals supports are read by column name. Parquet is a path, a list of
            paths or a `pyarrow.dataset.Dataset`; it is read in pieces, several times, and the
            result is the same as for the DataFrame that `pandas.read_parquet` returns.
        y : None
            Ignored.
        users, items : DataFrame or None, default=None
            Tables with one row per user or item: the column of the id and columns of features.
            They may hold users and items without events. Values in the table of users precede all
            events; those in events, and those observed later, follow them. Values in the table of
            items override those in events. A table with other columns, but no feature, is an
            error.

        Returns
        -------
        self : MatchEncoder
        """
        self._fit(X, users, items)
        return self

    def fit_transform(
        self,
        X: PlainEvents | Parquet,
        y: None = None,
        *,
        users: Table | None = None,
        items: Table | None = None,
    ) -> Events:
        """Learn from events and encode them for training.

        A missing value of a user feature becomes the user's latest value before that row, in the
        order of time, then rows. `transform` differs for rows of equal time: there each row
        is a query, which has all values of its time.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_events, n_columns), or Parquet
            The events, as in `fit`. The codes of Parquet are kept in temporary files, which are
            deleted with them.
        y : None
            Ignored.
        users, items : DataFrame or None, default=None
            As in `fit`.

        Returns
        -------
        events : Events
            One row per row of `X`; a DataFrame after ``set_output(transform="pandas")``.
        """
        source, columns = self._fit(X, users, items)
        user_ids = None if source.on_disk else source.head[self.schema_.user]
        events = Events(self.schema_, **columns, user_ids=user_ids, on_disk=source.on_disk)
        return self._output(events)

    @checked_fit
    def _fit(
        self, X: Any, users: Any, items: Any
    ) -> tuple[WholeFrame | ParquetEvents, dict[str, Any]]:
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X)
        features: dict[str, list[Label]] = {
            "user": list(self.user_features),
            "item": list(self.item_features),
            "event": list(self.event_features),
        }
        check_features(features, self.kinds or {}, self.delimiter)
        reject_coded(X)
        parquet = ParquetEvents(X) if is_parquet(X) else None
        table = read_frame(X) if parquet is None else parquet.head
        frame, roles = read_table(
            table, user=self.user, item=self.item, time=self.time, estimator=self
        )
        roles = roles._replace(weight=self.weight)
        check_names(roles, features)
        warn_of_history(frame)
        warn_of_forgotten_time(frame, roles, self.time, [*chain(*features.values())])
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
        attributes, columns = learner.fitted(source, codes)
        warn_of_amounts(attributes["schema_"], self.kinds or {})
        # Set attributes last, so that a failed fit keeps the previous attributes.
        validate_data(self, table, skip_check_array=True)
        for name, value in attributes.items():
            setattr(self, name, value)
        context.call_on_fit_task_end(estimator=self, X=X)
        return source, columns

    def _read(self, X: Any) -> tuple[pd.DataFrame, Roles]:
        """Return events or queries as a DataFrame, and its roles; raise if not fitted."""
        check_is_fitted(self)
        reject_coded(X)
        X = read_frame(X)
        schema = self.schema_
        frame, roles = read_table(
            X, user=schema.user, item=schema.item, time=schema.time, estimator=self
        )
        if not isinstance(X, pd.DataFrame):
            validate_data(self, X, skip_check_array=True, reset=False)
        return frame, roles

    def transform(self, X: PlainEvents) -> Events:
        """Encode events or queries.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            Events, or queries, whose DataFrame needs only the users' column. In a column
            ``history`` of lists of item ids, a list replaces the stored history of its row;
            ``history_rating`` holds the event feature ``rating`` of these items, as lists. User
            features that are absent, or missing in a row, have the user's latest values at the
            time of the query; without a time, the latest of all.

        Returns
        -------
        events : Events
            One row per row of `X`; a DataFrame after ``set_output(transform="pandas")``.
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
            stored = self.timelines_[feature.name].at(user, time)
            features[feature.name] = where_rows(present, values, stored)
        events = Events(schema, user, item, time, features, users, item_ids)
        features_of_all = (*schema.user_features, *schema.item_features, *schema.event_features)
        named = {*roles, schema.weight, *(feature.name for feature in features_of_all)}
        named.update(getattr(self, "feature_names_in_", ()))
        reject_unknown_features(schema.event_features, frame, named)
        reject_other_time(schema.time, frame, named)
        reject_lone_features(schema.event_features, frame)
        if HISTORY in frame.columns:
            column = frame[HISTORY]
            reject_sets(column, HISTORY)
            items, offsets = flatten(split_cells(column, self.delimiter), column.name)
            codes = schema.items.lookup(items)
            schema.items.warn_of_another_dtype(items, codes)
            history = RaggedArray(codes, offsets)
            events = replace(
                events,
                history=history,
                has_history=column.notna().to_numpy(),
                history_features=of_histories(
                    schema.event_features, frame, history, self.delimiter
                ),
            )
        return self._output(events)

    def _query_times(self, frame: pd.DataFrame) -> np.ndarray | None:
        schema = self.schema_
        if schema.time is None or schema.time not in frame.columns:
            return None
        times, kind = read_times(frame[schema.time])
        if kind != "none":
            check_time_kind(schema, kind)
        return times

    def _encode_feature(self, feature: Feature, frame: pd.DataFrame) -> tuple[Column, np.ndarray]:
        """Return the codes of a user feature, and which rows have a value."""
        if feature.name not in frame.columns:
            return self.timelines_[feature.name].blank(len(frame)), np.zeros(len(frame), dtype=bool)
        column = frame[feature.name]
        values, present = encode(feature, column, self.delimiter), is_present(column, feature.kind)
        return standardise(values, feature) if feature.kind in NUMBERS else values, present

    def inverse_transform(self, X: Events | pd.DataFrame | np.ndarray) -> pd.DataFrame:
        """Return the original ids of encoded events.

        Parameters
        ----------
        X : Events, or DataFrame or array-like with the codes of users and items first
            Output of `transform`.

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
                    f"({error}): pass the output of transform."
                ) from None
        return pd.DataFrame(
            {schema.user: schema.users.decode(user), schema.item: schema.items.decode(item)}
        )
