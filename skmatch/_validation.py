"""Input checks shared by every part, and their messages."""

from __future__ import annotations

import os
import re
import reprlib
import sys
import warnings
from collections.abc import Collection, Hashable
from contextlib import suppress
from numbers import Real
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype, is_hashable
from sklearn.utils import check_array

DEFAULT_TIME = "timestamp"
LIKE_A_TIME = re.compile(
    r"((event|unix|review|order|purchase|click|view|visit|created|added|occurred|updated)[_ ]?)?"
    r"(ts|t|at|time|date|datetime|timestamp|time[_ ]?stamp)"
)


class Roles(NamedTuple):
    """Labels of the columns that hold user, item and time; `time` is None where there is none."""

    user: Hashable
    item: Hashable
    time: Hashable | None


def read_table(
    X: Any, *, user: Hashable, item: Hashable, time: Hashable | None, estimator: Any = None
) -> tuple[pd.DataFrame, Roles]:
    """Return events or queries as a pandas frame, with the labels of its role columns.

    The columns of a frame are read by name, whatever library it is of. The columns of an array or
    a list of rows are named: positions 0, 1 and 2 get the names of user, item and time, further
    ones keep their position as label. A role given as an integer that is no label of the frame is
    a position, as in ``ColumnTransformer``.
    """
    for parameter, role in (("user", user), ("item", item), ("time", time)):
        if not is_hashable(role):
            raise ValueError(
                f"{parameter}={role!r} labels no column: give one label, such as a string."
            )
    table = read_frame(X)
    if isinstance(table, pd.DataFrame):
        check_columns(table, "X")
        frame = table
        labels = [_label_at(frame, role) for role in (user, item, time)]
    else:
        values = read_array(X, estimator)
        names = [0, 1, 2]
        for position, role in enumerate((user, item, time)):
            if isinstance(role, str):
                names[position] = role  # type: ignore[call-overload]
        columns = (names + list(range(3, values.shape[1])))[: values.shape[1]]
        names_of_columns = pd.Index(columns, dtype=object)
        try:
            frame = pd.DataFrame(values, columns=names_of_columns, copy=False)
        except UnicodeEncodeError:  # pandas' own dtype of text holds no surrogates
            frame = pd.DataFrame(values, columns=names_of_columns, dtype=object)
        if isinstance(X, (list, tuple)):  # each column has a type of its own
            frame = frame.apply(infer_exactly)
        labels = [user, item, time if values.shape[1] > 2 else None]
    if time == DEFAULT_TIME and labels[2] not in frame.columns:
        labels[2] = None
    roles = Roles(*labels)
    for one, other in (("user", "item"), ("user", "time"), ("item", "time")):
        if getattr(roles, one) == getattr(roles, other):
            raise ValueError(
                f"{one} and {other} are both the column {getattr(roles, one)!r}: name a column "
                "for each."
            )
    return frame, roles


def check_columns(table: pd.DataFrame, name: str) -> None:
    """Raise where a label does not stand for one column."""
    if table.columns.nlevels > 1:
        raise ValueError(
            f"{name} has columns of {table.columns.nlevels} levels, such as "
            f"{table.columns[0]!r}: give each column one label."
        )
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"Column {twice!r} occurs more than once in {name}: rename or drop one.")


def warn_of_forgotten_time(
    frame: pd.DataFrame, roles: Roles, time: Hashable, features: Collection[Hashable] = ()
) -> None:
    """Warn where the default time column is absent and another column looks like the time."""
    if time != DEFAULT_TIME or roles.time is not None:
        return
    for name, dtype in frame.dtypes.items():
        if name in (roles.user, roles.item, *features):
            continue
        has_name = isinstance(name, str) and LIKE_A_TIME.fullmatch(name.lower())
        if has_name or pd.api.types.is_datetime64_any_dtype(dtype):
            warnings.warn(
                f"X has no column {DEFAULT_TIME!r}, so that the order of its rows is taken for "
                f"the order of time, although the column {name!r} looks like the time: say "
                f"time={name!r}, or time=None for the order of the rows.",
                UserWarning,
                stacklevel=4,
            )
            return


def read_frame(table: Any) -> Any:
    """Return a frame of any library as a pandas frame that pandas computes with; else `table`."""
    table = as_pandas(table)
    return _plain(table) if isinstance(table, pd.DataFrame) else table


def as_pandas(table: Any) -> Any:
    """Return a frame or column of another library as that of pandas; anything else as it is.

    The columns are found by name. Lazy frames are collected, integers beside nulls stay integers.
    """
    table = nw.to_native(table, pass_through=True)
    if isinstance(table, (pd.DataFrame, pd.Series)):
        return table
    if isinstance(table, np.ndarray) and table.dtype.names:
        return pd.DataFrame(table.ravel())
    if _libraries(table) & {"dask"} and hasattr(table, "compute"):
        return table.compute()  # narwhals is about to hand dask over to a package of its own
    native: Any = nw.from_native(table, pass_through=True, allow_series=True)
    if hasattr(table, "__arrow_c_stream__") and native is table:
        native = nw.from_arrow(table, backend="pyarrow")
    if isinstance(native, nw.LazyFrame):
        native = native.collect()
    if isinstance(native, nw.Series):
        return as_pandas(native.to_frame().to_native()).iloc[:, 0]
    if isinstance(native, nw.DataFrame):
        return native.to_pandas() if native.implementation.is_pandas_like() else _of_arrow(native)
    if hasattr(table, "columns") or hasattr(table, "__dataframe__"):
        raise TypeError(
            f"The columns of a {type(table).__module__}.{type(table).__qualname__} cannot be read "
            "by their names: convert it to a pandas DataFrame."
        )
    return table


def _of_arrow(frame: nw.DataFrame) -> pd.DataFrame:
    table = frame.to_arrow()
    # Without the metadata, by which a column would become the index.
    result: pd.DataFrame = table.to_pandas(
        integer_object_nulls=True, date_as_object=False, ignore_metadata=True
    )
    for place, field in enumerate(table.schema):
        column = result.iloc[:, place]
        if column.dtype == object and re.fullmatch(r"u?int\d+", str(field.type)):
            name = str(field.type).replace("u", "U").replace("i", "I")  # that of pandas, as "Int64"
            exact: Any = column.astype(pd.api.types.pandas_dtype(name))
            result.isetitem(place, exact)
    return result


def in_frame_of(answer: pd.DataFrame, query: Any) -> Any:
    """Return an answer as the kind of frame that the query had: polars, pyarrow, else pandas."""
    libraries = _libraries(query)
    if "polars" in libraries:
        return nw.from_native(answer).to_polars()
    if libraries & {"pyarrow", "duckdb"}:
        return nw.from_native(answer).to_arrow()
    return answer


def _libraries(table: Any) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(table).__mro__}


def _plain(table: Any) -> Any:
    """Return a frame or column without what makes pandas fail: flags, attributes, byte orders."""
    if table.attrs or not table.flags.allows_duplicate_labels:
        table = table.copy(deep=False)
        table.attrs = {}
        table.flags.allows_duplicate_labels = True
    if isinstance(table, pd.Series):
        foreign = getattr(table.dtype, "isnative", True) is False
        return table.astype(table.dtype.newbyteorder("=")) if foreign else table  # type: ignore[union-attr]
    for place, dtype in enumerate(table.dtypes):
        if getattr(dtype, "isnative", True) is False:
            table = table.copy(deep=False)
            table.isetitem(place, _plain(table.iloc[:, place]))
    return table


def as_series(values: Any, name: Hashable = None) -> pd.Series:
    """Return values as a column that holds each of them as it is."""
    values = as_pandas(values)
    if isinstance(values, pd.Series):
        return _plain(values)
    try:
        if hasattr(values, "dtype"):
            return _plain(pd.Series(values, name=name))
        return infer_exactly(pd.Series(values, name=name, dtype=object))
    except UnicodeEncodeError:  # pandas' own dtype of text holds no surrogates
        return pd.Series(values, name=name, dtype=object)


def infer_exactly(column: pd.Series) -> pd.Series:
    """Return a column of objects in the dtype of its values, but integers never as floats."""
    inferred = column.infer_objects()
    if pd.api.types.is_float_dtype(inferred.dtype) and "integer" in infer_dtype(column):
        return column
    return inferred


def read_array(X: Any, estimator: Any = None) -> np.ndarray:
    """Return a table that is no frame as an array of two dimensions."""
    try:
        # Of numbers beside text, numpy would make text.
        rows = np.array(X, dtype=object) if isinstance(X, (list, tuple)) else X
        values = check_array(
            rows, dtype=None, ensure_all_finite=False, ensure_min_samples=0, estimator=estimator
        )
        return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
    except (TypeError, ValueError) as error:
        shape = getattr(X, "shape", None)
        what = reprlib.repr(X) if shape is None else f"of shape {shape}"
        reason = str(error).splitlines()[0].rstrip(":")
        kind = TypeError if isinstance(error, TypeError) else ValueError
        parquet = " Parquet is read by fit alone: give what pandas.read_parquet(...) makes of it."
        raise kind(
            f"X is no table of events but a {type(X).__name__} {what} ({reason}). Give a "
            "DataFrame. Reshape your data if it is an array: it has two dimensions, and its "
            f"columns are user, item and time.{parquet if is_parquet(X) else ''}"
        ) from None


def is_parquet(X: Any) -> bool:
    """Return whether events are Parquet: a path, paths or a `pyarrow.dataset.Dataset`."""
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and all(isinstance(path, (str, os.PathLike)) for path in X)
    arrow = sys.modules.get("pyarrow.dataset")  # imported wherever there is a dataset
    return isinstance(X, (str, os.PathLike)) or (arrow is not None and isinstance(X, arrow.Dataset))


def _label_at(frame: pd.DataFrame, role: Hashable) -> Hashable:
    is_position = isinstance(role, (int, np.integer)) and role not in frame.columns
    if is_position and 0 <= role < frame.shape[1]:  # type: ignore[operator]
        return frame.columns[role]  # type: ignore[call-overload]
    return role


def require_column(
    frame: pd.DataFrame, label: Hashable, role: str, remedy: str = "", table: str = "X"
) -> pd.Series:
    """Return the column of a role; raise if it is missing."""
    if label not in frame.columns:
        present = ", ".join(repr(name) for name in frame.columns[:12])
        remedy = remedy or f"Rename the column or say {role}=... where the roles are named."
        raise ValueError(
            f"The {role} column {label!r} is missing; {table} has {present or 'no columns'}. "
            f"{remedy}"
        )
    return frame[label]


def reject_missing(column: pd.Series, remedy: str) -> None:
    """Raise where a value is missing."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"Column {column.name!r} of X has no value in row "
            f"{column.index[missing].tolist()[0]!r} ({missing.sum():,} such rows): {remedy}"
        )


def as_times(column: pd.Series) -> pd.Series:
    """Return a column of objects in the dtype of the times that it holds."""
    if column.dtype != object:
        return column
    inferred = infer_exactly(column)
    exact: dict[str, Any] = {"integer": "Int64", "mixed-integer-float": float}
    if inferred.dtype == object and infer_dtype(column) in exact:
        with suppress(OverflowError):
            return column.astype(exact[infer_dtype(column)])
    return inferred


def read_times(column: pd.Series) -> tuple[np.ndarray, str]:
    """Return times as int64 or float64 and their kind: number, datetime, zoned datetime or none.

    Datetimes become nanoseconds (UTC where they have a zone). A missing time becomes the time
    after every event.
    """
    column = as_times(column)
    dtype = column.dtype
    missing = column.isna().to_numpy()
    if pd.api.types.is_datetime64_any_dtype(dtype):
        plain = pd.DatetimeIndex(column)
        kind = "datetime" if plain.tz is None else "zoned datetime"
        if plain.tz is not None:
            plain = plain.tz_convert("UTC").tz_localize(None)
        try:
            times = plain.as_unit("ns").asi8.copy()
        except pd.errors.OutOfBoundsDatetime as error:
            raise ValueError(
                f"The time column {column.name!r} holds a time that nanoseconds in 64 bits do not "
                f"reach ({error}). Use times from {pd.Timestamp.min.year + 1} to "
                f"{pd.Timestamp.max.year - 1}, or numbers."
            ) from None
        times[missing] = np.iinfo(np.int64).max
        return times, kind
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype):
        if missing.all():
            return np.full(len(column), np.inf), "none"
        by_type = {type(value): value for value in column[~missing].tolist()[::-1]}
        examples = " and ".join(repr(value) for value in list(by_type.values())[:-3:-1])
        raise ValueError(
            f"The time column {column.name!r} has dtype {dtype}, which has no order in time "
            f"(it holds {examples}). Convert it with pd.to_datetime, or to numbers of 64 bits."
        )
    if pd.api.types.is_complex_dtype(dtype):
        raise ValueError(f"The time column {column.name!r} is complex; give real numbers.")
    if pd.api.types.is_integer_dtype(dtype) and not (column > np.iinfo(np.int64).max).any():
        times = column.to_numpy(dtype=np.int64, na_value=np.iinfo(np.int64).max)
        return times, "number"
    return np.where(missing, np.inf, column.to_numpy(dtype=float, na_value=np.nan)), "number"


def check_choice(parameter: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise where a name is none of the choices."""
    if value not in choices:
        raise ValueError(
            f"{parameter}={value!r} is not known; choose one of {', '.join(map(repr, choices))}."
        )


def check_k(k: Any, parameter: str = "k", of: str = "items") -> int:
    """Give a number of items a query, or of something else, at least 1."""
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(
            f"{parameter}={k!r} must be an integer number of {of}: use an integer of at least 1."
        )
    return int(k)


def require_rows(n_rows: int) -> None:
    """Raise where a table has no rows."""
    if not n_rows:
        raise ValueError(
            "X has 0 sample(s), but a minimum of 1 is required: give at least one event."
        )


def check_weights(sample_weight: Any, n_rows: int, allow_zeros: bool = False) -> np.ndarray:
    """Return the weight of each row, 1 where none is given."""
    if sample_weight is None:
        return np.ones(n_rows)
    remedy = f"give one number of at least 0 for each of the {n_rows:,} rows, not all of them 0."
    try:
        weight = np.asarray(sample_weight, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight holds what is no number ({error}): {remedy}") from None
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight has shape {weight.shape}: {remedy}")
    wrong = ~((weight >= 0) & np.isfinite(weight))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"sample_weight holds {weight[row]} in row {row}: {remedy}")
    if not weight.any() and not allow_zeros:
        raise ValueError(f"sample_weight is zero in every row: {remedy}")
    return weight


def unwrap_searches(estimator: Any) -> Any:
    """Give the estimator that a search has chosen: the search's own predict takes no k."""
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    return estimator


def last_step(estimator: Any) -> Any:
    """Give the estimator that stands at the end of pipelines and searches."""
    inner = unwrap_searches(estimator)
    while hasattr(inner, "steps"):
        inner = unwrap_searches(inner.steps[-1][1])
    return inner


def transform_steps(estimator: Any, X: Any) -> Any:
    """Return X as the estimator at the end of pipelines and searches gets it."""
    inner = unwrap_searches(estimator)
    while hasattr(inner, "steps"):
        if len(inner.steps) > 1:
            X = inner[:-1].transform(X)
        inner = unwrap_searches(inner.steps[-1][1])
    return X


def fitted_retriever(estimator: Any, attribute: str) -> Any:
    """Give the retriever at the end of pipelines and searches, if it has a fitted attribute."""
    retriever = last_step(estimator)
    if not hasattr(retriever, attribute):
        raise TypeError(
            f"estimator={estimator!r} has no {attribute}: give a fitted retriever with one, a "
            "fitted pipeline that ends in one, or a fitted search over one with refit on."
        )
    return retriever


def read_duration(name: str, value: Any, is_datetime: bool) -> float:
    """Return a length of time as `read_times` counts it: nanoseconds where times are datetimes."""
    is_number = isinstance(value, Real) and not isinstance(value, np.timedelta64)
    length: float = np.nan
    if is_datetime and not is_number:  # a number would be read as nanoseconds
        with suppress(TypeError, ValueError):
            length = float(pd.Timedelta(value).value)
    elif is_number and not is_datetime:
        length = float(value)
    if not length > 0:
        kind = "a pandas.Timedelta or text such as '7D'" if is_datetime else "a number"
        raise ValueError(f"{name}={value!r} is not a length of time above 0: use {kind}.")
    return length
