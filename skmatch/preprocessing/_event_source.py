"""Sources of events: a DataFrame, read as a single piece, or Parquet, read in pieces."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pandas as pd

from skmatch._columns import Columns
from skmatch._validation import require_rows

PIECE_SIZE = 2**20  # rows

Function = Callable[[pd.DataFrame, slice], Columns]  # of a piece, and its range of rows


class WholeFrame:
    """Events in memory, as a DataFrame."""

    on_disk = False

    def __init__(self, frame: pd.DataFrame):
        self.head = frame

    def read(self, function: Function, columns: list[Hashable]) -> Iterator[Columns]:
        yield function(self.head, slice(0, len(self.head)))


class ParquetEvents:
    """Events in Parquet, read in pieces with the dtypes that `pandas.read_parquet` returns."""

    on_disk = True

    def __init__(self, X: Any):
        self.dataset = _open(X)
        if next(iter(self.dataset.get_fragments()), None) is None:
            raise ValueError(f"{X!r} holds no Parquet file: pass the path of a file or a folder.")
        self.dataset = _with_columns_of_all(self.dataset)
        self.head = _frame(self.dataset.schema.empty_table())  # the columns, without rows
        self._dtype_of: dict[str, Any] = {}  # None: as in each piece

    def read(self, function: Function, columns: list[Hashable]) -> Iterator[Columns]:
        """Yield the result of a function of each piece of some columns."""
        names = [str(name) for name in columns]  # as Arrow labels them
        self._check(names)
        dtypes = self._dtypes(names)
        n_rows = 0
        for origin, table in self._tables(names):
            piece = _frame(table).astype(dtypes)
            try:
                result = function(piece, slice(n_rows, n_rows + len(piece)))
            except ValueError as error:
                raise ValueError(f"{origin}: {error}") from error
            yield result
            n_rows += len(piece)
        require_rows(n_rows)

    def _check(self, names: list[str]) -> None:
        """Raise if a file lacks a column, or has it in another type than the first file."""
        import pyarrow.dataset as ds

        for fragment in self.dataset.get_fragments():
            schema = fragment.physical_schema
            in_path = ds.get_partition_keys(fragment.partition_expression)
            for name in names:
                if name in in_path:
                    continue
                if name not in schema.names:
                    raise ValueError(
                        f"The column {name!r} is missing in {_path(fragment)}, but in other files: "
                        "add it, or leave the file out."
                    )
                kind, expected = schema.field(name).type, self.dataset.schema.field(name).type
                if _plain(kind) != _plain(expected):
                    raise ValueError(
                        f"The column {name!r} has type {kind} in {_path(fragment)}, and {expected} "
                        "in earlier files: write it with the same type in all files."
                    )

    def _dtypes(self, names: list[str]) -> dict[Hashable, Any]:
        """Return the dtypes of whole columns, where the dtypes of a piece may differ."""
        import pyarrow as pa

        schema = pa.schema([self.dataset.schema.field(name) for name in names])
        schema = schema.with_metadata(self.dataset.schema.metadata)
        full = _frame(schema.empty_table()).dtypes
        nulls = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
        for field, dtype, with_null in zip(schema, full, _frame(nulls).dtypes, strict=True):
            if field.name in self._dtype_of:
                continue
            differs = dtype != with_null and self._has_null(field.name)
            self._dtype_of[field.name] = with_null if differs else None
            if pa.types.is_dictionary(field.type):
                self._dtype_of[field.name] = self._category(field)
        dtypes = zip(full.index, map(self._dtype_of.get, names), strict=True)
        return {label: dtype for label, dtype in dtypes if dtype is not None}

    def _category(self, field: Any) -> Any:
        """Return the dtype of a column with the categories of all pieces, in their order."""
        import pyarrow as pa

        categories = pa.array([], type=field.type.value_type)
        for batch, _ in self._scan([field.name]):
            dictionary = batch.column(0).dictionary
            if not dictionary.equals(categories[: len(dictionary)]):
                categories = pa.chunked_array([categories, dictionary]).unique()
        codes = pa.array([], type=pa.int32())
        column = pa.DictionaryArray.from_arrays(codes, categories, ordered=field.type.ordered)
        return _frame(pa.table({"": column}))[""].dtype

    def _has_null(self, name: str) -> bool:
        import pyarrow.dataset as ds

        if any("view" in str(kind) for kind in self.dataset.schema.types):  # no filters on views
            return any(batch.column(0).null_count for batch, _ in self._scan([name]))
        return self.dataset.head(1, columns=[name], filter=ds.field(name).is_null()).num_rows > 0

    def _scan(self, names: list[str]) -> Iterator[tuple[Any, Any]]:
        """Yield batches of some columns, in order, each with its file."""
        for fragment in self.dataset.get_fragments():
            # Read single row groups: of a whole file, Arrow reads a gigabyte ahead.
            can_split = hasattr(fragment, "split_by_row_group")
            for group in fragment.split_by_row_group() if can_split else [fragment]:
                for batch in group.to_batches(
                    schema=self.dataset.schema, columns=names, batch_size=PIECE_SIZE
                ):
                    yield batch, fragment

    def _tables(self, names: list[str]) -> Iterator[tuple[str, Any]]:
        """Yield tables of about equal size, and the file and row where each begins."""
        import pyarrow as pa

        path, row = "", 0  # of the next batch
        batches: list[Any] = []
        n_rows, origin = 0, ""
        for batch, fragment in self._scan(names):
            if _path(fragment) != path:
                path, row = _path(fragment), 0
            if not batches:
                origin = f"{path}, counted from row {row:,}"
            batches.append(batch)
            n_rows, row = n_rows + len(batch), row + len(batch)
            if n_rows >= PIECE_SIZE:
                yield origin, pa.Table.from_batches(batches)
                batches, n_rows = [], 0
        if n_rows:
            yield origin, pa.Table.from_batches(batches)


def _open(X: Any) -> Any:
    """Return a path, paths or a dataset as a `pyarrow.dataset.Dataset`."""
    try:
        import pyarrow as pa
        import pyarrow.dataset as ds
    except ImportError as error:
        raise ImportError(
            f"X={X!r} is read as Parquet, which needs pyarrow ({error}): pip install pyarrow, "
            "or pass a DataFrame."
        ) from error
    if isinstance(X, ds.Dataset):
        return X
    paths = [os.fspath(path) for path in X] if isinstance(X, (list, tuple)) else os.fspath(X)
    try:
        dataset = ds.dataset(paths, format="parquet", partitioning="hive")
        # Files of few categories have a small code dtype, too small for other files.
        wide = [
            field.with_type(pa.dictionary(pa.int32(), field.type.value_type, field.type.ordered))
            if pa.types.is_dictionary(field.type)
            else field
            for field in dataset.schema
        ]
        schema = pa.schema(wide, metadata=dataset.schema.metadata)
        return ds.dataset(paths, schema=schema, format="parquet", partitioning="hive")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no file {str(error)!r}: X={X!r} is read as the path of Parquet. Check it, "
            "or pass a DataFrame."
        ) from error


def _with_columns_of_all(dataset: Any) -> Any:
    """Return the dataset with the columns of all files; pyarrow takes the first file's columns."""
    schema = dataset.schema
    for fragment in dataset.get_fragments():
        for field in fragment.physical_schema:
            if field.name not in schema.names:
                schema = schema.append(field)
    return dataset if schema is dataset.schema else dataset.replace_schema(schema)


def _frame(table: Any) -> pd.DataFrame:
    """Convert an Arrow table as `pandas.read_parquet` does."""
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _path(fragment: Any) -> str:
    """Return the path of a fragment, or its type if it is not a file."""
    return repr(getattr(fragment, "path", type(fragment).__name__))


def _plain(kind: Any) -> Any:
    """Return the type of the values, whether dictionary-coded or not."""
    return getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind
