"""Input checks and conversions that all parts share."""

from __future__ import annotations

import os
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Collection, Hashable
from contextlib import suppress
from itertools import combinations
from typing import Any, NamedTuple, TypeVar, cast

import narwhals as nw
import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype, is_hashable
from sklearn.utils import check_array

from skmatch._sklearn import fit_context, with_callbacks

Method = TypeVar("Method", bound=Callable[..., Any])

DEFAULT_TIME = "timestamp"
WEIGHT_OF_KINDS = (
    "For kinds of event add a column of numbers, such as "
    "X.assign(weight=X['kind'].map({'view': 0.1, 'purchase': 1.0}))"
)
MAX_WEIGHT = 1e30  # the sum of a billion such weights is a finite float32
LIKE_A_TIME = re.compile(
    r"((event|unix|review|order|purchase|click|view|visit|created|added|occurred|updated)[_ ]?)?"
    r"(ts|t|at|time|date|datetime|timestamp|time[_ ]?stamp)"
)


class Roles(NamedTuple):
    """Labels of the columns of user, item, time and weight; None without times or weights."""

    user: Hashable
    item: Hashable
    time: Hashable | None
    weight: Hashable | None = None


def checked_fit(method: Method) -> Method:
    """Decorate a `fit` method: validate the estimator's parameters, call its callbacks."""
    # scikit-learn's decorators are untyped; the cast keeps the signature for type checkers.
    return cast(Method, with_callbacks(fit_context(prefer_skip_nested_validation=True)(method)))


def read_table(
    X: Any, *, user: Hashable, item: Hashable, time: Hashable | None, estimator: Any = None
) -> tuple[pd.DataFrame, Roles]:
    """Return events or queries as a pandas DataFrame, and the labels of its roles.

    The columns of a DataFrame of any library are read by name. The first three columns of an array
    or a list of rows are labelled as user, item and time; further columns keep their position. An
    integer role that is not a label is a position, as in ``ColumnTransformer``.
    """
    for parameter, role in (("user", user), ("item", item), ("time", time)):
        if not is_hashable(role):
            raise ValueError(
                f"{parameter}={role!r} is not a column label: use one label, such as a string."
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
        except UnicodeEncodeError:  # pandas' str dtype cannot hold surrogates
            frame = pd.DataFrame(values, columns=names_of_columns, dtype=object)
        if isinstance(X, (list, tuple)):  # columns may have different dtypes
            frame = frame.apply(infer_exactly)
        labels = [user, item, time if values.shape[1] > 2 else None]
    if time == DEFAULT_TIME and labels[2] not in frame.columns:
        labels[2] = None
    roles = Roles(*labels)
    for role_name, other_name in combinations(Roles._fields, 2):
        label = getattr(roles, role_name)
        if label is not None and label == getattr(roles, other_name):
            raise ValueError(
                f"{role_name} and {other_name} are both the column {label!r}: name a column for "
                "each."
            )
    return frame, roles


def check_columns(table: pd.DataFrame, name: str) -> None:
    """Raise if a DataFrame has several columns of a label, or several levels of labels."""
    if table.columns.nlevels > 1:
        raise ValueError(
            f"{name} has columns of {table.columns.nlevels} levels, such as "
            f"{table.columns[0]!r}: use one label per column."
        )
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"Column {twice!r} occurs more than once in {name}: rename or drop one.")


def warn_of_forgotten_time(
    frame: pd.DataFrame, roles: Roles, time: Hashable, features: Collection[Hashable] = ()
) -> None:
    """Warn if the default time column is absent and another column looks like the time."""
    if time != DEFAULT_TIME or roles.time is not None:
        return
    for name, dtype in frame.dtypes.items():
        if name in (roles.user, roles.item, *features):
            continue
        has_name = isinstance(name, str) and LIKE_A_TIME.fullmatch(name.lower())
        if has_name or pd.api.types.is_datetime64_any_dtype(dtype):
            warnings.warn(
                f"X has no column {DEFAULT_TIME!r}, so events are in the order of the rows, but "
                f"the column {name!r} looks like the time: set time={name!r}, or time=None for "
                "the order of the rows.",
                UserWarning,
                stacklevel=4,
            )
            return


def read_frame(table: Any) -> Any:
    """Return a DataFrame of any library as a clean pandas DataFrame; other values unchanged."""
    table = as_pandas(table)
    return _plain(table) if isinstance(table, pd.DataFrame) else table


def read_stream(table: Any) -> Any:
    """Return a stream of Arrow batches, which can be read only once, as a table."""
    is_stream = hasattr(table, "__arrow_c_stream__") and hasattr(table, "read_all")
    return table.read_all() if is_stream else table


def as_pandas(table: Any) -> Any:
    """Return a DataFrame or Series of any library as a pandas object; other values unchanged.

    Lazy frames are collected. Integers with nulls stay integers.
    """
    table = nw.to_native(table, pass_through=True)
    if isinstance(table, (pd.DataFrame, pd.Series)):
        return table
    if isinstance(table, np.ndarray) and table.dtype.names:
        return pd.DataFrame(table.ravel())
    if _libraries(table) & {"dask"} and hasattr(table, "compute"):
        return table.compute()  # narwhals is moving dask to a separate package
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
            "by name: convert it to a pandas DataFrame."
        )
    return table


def _of_arrow(frame: nw.DataFrame) -> pd.DataFrame:
    table = frame.to_arrow()
    coded = [i for i, field in enumerate(table.schema) if "indices=uint" in str(field.type)]
    for i in coded:  # as polars codes them; pyarrow before 23 cannot convert them
        column = table.column(i)
        table = table.set_column(i, table.schema[i].name, column.cast(column.type.value_type))
    # The metadata would make a column the index.
    result: pd.DataFrame = table.to_pandas(
        integer_object_nulls=True, date_as_object=False, ignore_metadata=True
    )
    for position, field in enumerate(table.schema):
        column = result.iloc[:, position]
        if position in coded:
            result.isetitem(position, column.astype("category").array)
        elif column.dtype == object and re.fullmatch(r"u?int\d+", str(field.type)):
            name = str(field.type).replace("u", "U").replace("i", "I")  # of pandas, such as "Int64"
            exact: Any = column.astype(pd.api.types.pandas_dtype(name))
            result.isetitem(position, exact)
    return result


def in_frame_of(result: pd.DataFrame, query: Any) -> Any:
    """Return a result as the kind of DataFrame of the query: polars, pyarrow, else pandas."""
    libraries = _libraries(query)
    if "polars" in libraries:
        return nw.from_native(result).to_polars()
    if libraries & {"pyarrow", "duckdb"}:
        return nw.from_native(result).to_arrow()
    return result


def _libraries(table: Any) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(table).__mro__}


def _plain(table: Any) -> Any:
    """Return a DataFrame or Series without attrs, flags and foreign byte orders."""
    if table.attrs or not table.flags.allows_duplicate_labels:
        table = table.copy(deep=False)
        table.attrs = {}
        table.flags.allows_duplicate_labels = True
    if isinstance(table, pd.Series):
        foreign = getattr(table.dtype, "isnative", True) is False
        return table.astype(table.dtype.newbyteorder("=")) if foreign else table  # type: ignore[union-attr]
    for position, dtype in enumerate(table.dtypes):
        if getattr(dtype, "isnative", True) is False:
            table = table.copy(deep=False)
            table.isetitem(position, _plain(table.iloc[:, position]))
    return table


def as_series(values: Any, name: Hashable = None) -> pd.Series:
    """Return values as a Series without changing any."""
    values = as_pandas(values)
    if isinstance(values, pd.Series):
        return _plain(values)
    try:
        if hasattr(values, "dtype"):
            return _plain(pd.Series(values, name=name))
        return infer_exactly(pd.Series(values, name=name, dtype=object))
    except UnicodeEncodeError:  # pandas' str dtype cannot hold surrogates
        return pd.Series(values, name=name, dtype=object)


def infer_exactly(column: pd.Series) -> pd.Series:
    """Infer the dtype of a column of objects, but never convert integers to floats."""
    inferred = column.infer_objects()
    if pd.api.types.is_float_dtype(inferred.dtype) and "integer" in infer_dtype(column):
        return column
    return inferred


def read_array(X: Any, estimator: Any = None) -> np.ndarray:
    """Return an array-like as an array of two dimensions."""
    try:
        # Without dtype=object numpy would convert numbers next to text to text.
        rows = np.array(X, dtype=object) if isinstance(X, (list, tuple)) else X
        values = check_array(
            rows, dtype=None, ensure_all_finite=False, ensure_min_samples=0, estimator=estimator
        )
        return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
    except (TypeError, ValueError) as error:
        shape = getattr(X, "shape", None)
        description = reprlib.repr(X) if shape is None else f"of shape {shape}"
        reason = str(error).splitlines()[0].rstrip(":")
        kind = TypeError if isinstance(error, TypeError) else ValueError
        parquet = " Only fit reads Parquet: pass the result of pandas.read_parquet(...)."
        raise kind(
            f"X is not a table of events but a {type(X).__name__} {description} ({reason}). Pass a "
            "DataFrame. Reshape your data if it is an array: it has two dimensions, and its "
            f"columns are user, item and time.{parquet if is_parquet(X) else ''}"
        ) from None


def is_parquet(X: Any) -> bool:
    """Return whether events are Parquet: a path, paths or a `pyarrow.dataset.Dataset`."""
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and all(isinstance(path, (str, os.PathLike)) for path in X)
    arrow = sys.modules.get("pyarrow.dataset")  # imported if there is a dataset
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
        columns = ", ".join(repr(name) for name in frame.columns[:12])
        remedy = remedy or f"Rename the column, or set {role}=... in MatchEncoder and in splits."
        raise ValueError(
            f"The {role} column {label!r} is missing; {table} has {columns or 'no columns'}. "
            f"{remedy}"
        )
    return frame[label]


def reject_missing(column: pd.Series, remedy: str) -> None:
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"Column {column.name!r} of X has no value in row "
            f"{column.index[missing].tolist()[0]!r} ({missing.sum():,} such rows): {remedy}"
        )


def as_times(column: pd.Series) -> pd.Series:
    """Infer the dtype of a column of objects that holds times."""
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

    Datetimes become nanoseconds, in UTC if zoned. A missing time becomes the latest possible.
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
                f"The time column {column.name!r} holds a time outside the range of nanoseconds "
                f"in 64 bits ({error}). Use times from {pd.Timestamp.min.year + 1} to "
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
        raise ValueError(f"The time column {column.name!r} is complex; pass real numbers.")
    if pd.api.types.is_integer_dtype(dtype) and not (column > np.iinfo(np.int64).max).any():
        times = column.to_numpy(dtype=np.int64, na_value=np.iinfo(np.int64).max)
        return times, "number"
    return np.where(missing, np.inf, column.to_numpy(dtype=float, na_value=np.nan)), "number"


def check_choice(parameter: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{parameter}={value!r} is not known; choose one of {', '.join(map(repr, choices))}."
        )


def check_k(k: Any, parameter: str = "k", of: str = "items") -> int:
    """Return an integer of at least 1; raise if `k` is anything else."""
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(
            f"{parameter}={k!r} must be an integer number of {of}: use an integer of at least 1."
        )
    return int(k)


def require_rows(n_rows: int) -> None:
    if not n_rows:
        raise ValueError(
            "X has 0 sample(s), but a minimum of 1 is required: pass at least one event."
        )


def check_weights(
    sample_weight: Any, n_rows: int, allow_zeros: bool = False, name: str = "sample_weight"
) -> np.ndarray:
    """Return the weight of each row, 1 by default; raise if a weight is invalid."""
    if sample_weight is None:
        return np.ones(n_rows)
    remedy = f"pass one number of at least 0 for each of the {n_rows:,} rows, not all of them 0."
    try:
        weight = np.asarray(sample_weight, dtype=float)
        dtype = np.asarray(sample_weight).dtype
        if dtype.kind in "mM":  # numpy converts times to numbers
            raise TypeError(f"{dtype} is a time")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} holds a value that is not a number ({error}): {remedy} {WEIGHT_OF_KINDS}."
        ) from None
    if weight.shape != (n_rows,):
        raise ValueError(f"{name} has shape {weight.shape}: {remedy}")
    wrong = ~((weight >= 0) & np.isfinite(weight))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{name} holds {weight[row]} in row {row}: {remedy}")
    if weight.max(initial=0) > MAX_WEIGHT:
        raise ValueError(
            f"{name} holds {weight.max()} in row {weight.argmax()}, too large to be added up: "
            f"divide the weights by their mean, so that they are at most {MAX_WEIGHT:g}."
        )
    if not weight.any() and not allow_zeros:
        raise ValueError(f"{name} is zero in every row: {remedy}")
    return weight


def unwrap_searches(estimator: Any) -> Any:
    """Return the best estimator of a search, whose own predict takes no k."""
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    return estimator


def last_step(estimator: Any) -> Any:
    """Return the last step of nested pipelines and searches."""
    inner = unwrap_searches(estimator)
    while hasattr(inner, "steps"):
        inner = unwrap_searches(inner.steps[-1][1])
    return inner


def transform_steps(estimator: Any, X: Any) -> Any:
    """Return X transformed by all but the last step of nested pipelines and searches."""
    inner = unwrap_searches(estimator)
    while hasattr(inner, "steps"):
        if len(inner.steps) > 1:
            X = inner[:-1].transform(X)
        inner = unwrap_searches(inner.steps[-1][1])
    return X


def fitted_retriever(estimator: Any, attribute: str) -> Any:
    """Return the last step; raise if it lacks a fitted attribute."""
    retriever = last_step(estimator)
    if not hasattr(retriever, attribute):
        raise TypeError(
            f"estimator={estimator!r} has no {attribute}: pass a fitted retriever that has it, a "
            "fitted pipeline that ends in one, or a fitted search over one with refit=True."
        )
    return retriever
