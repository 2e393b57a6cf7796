"""Columns in temporary files, for tables that do not fit into memory.

The files have no name, or lose it when they are closed, so none are left behind after a crash.
They are in the folder of Python's `tempfile`, which the variable ``TMPDIR`` sets.
"""

from __future__ import annotations

import errno
import mmap
import tempfile
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from skmatch._columns import Columns, RaggedArray

BLOCK_SIZE = 2**22  # rows of a long column that are processed at a time


def blocks(n_rows: int, on_disk: bool = True, width: int = 1) -> Iterator[slice]:
    """Yield blocks of rows: of bounded size on disk, a single block in memory, which is faster."""
    size = max(1, BLOCK_SIZE // width) if on_disk else max(n_rows, 1)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def collect(parts: Iterable[Columns], on_disk: bool) -> Columns:
    """Return the columns of concatenated parts in temporary files, or of a single part in memory.

    All parts have the same columns. Arrays are writable, as torch requires, but copy on write.
    """
    if on_disk:
        files: dict[Hashable, Any] = {}
        with ExitStack() as stack:
            for part in parts:
                for name, column in part.items():
                    if name not in files:
                        file = _RaggedFile() if isinstance(column, RaggedArray) else _ArrayFile()
                        files[name] = stack.enter_context(closing(file))
                    files[name].append(column)
            return {name: file.mapped() for name, file in files.items()}
    (part,) = parts
    return part


def allocate(n_rows: int, dtype: np.dtype | type, on_disk: bool) -> np.ndarray:
    """Return an uninitialised array in memory or in a temporary file."""
    if not on_disk:
        return np.empty(n_rows, dtype=dtype)
    with closing(_ArrayFile()) as file:
        for block in blocks(n_rows):
            # Reserve the space: a full disk raises here, but would crash the process later.
            file.append(np.zeros(block.stop - block.start, dtype=dtype))
        return file.mapped(mmap.ACCESS_WRITE)


class _ArrayFile:
    """An array that is written in parts, then read through a memory map."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="skmatch-")  # noqa: SIM115
        self.dtype: np.dtype = np.dtype(np.int32)
        self.shape: tuple[int, ...] = ()  # of a row

    def append(self, part: np.ndarray) -> None:
        """Write the next rows."""
        self.dtype, self.shape = part.dtype, part.shape[1:]
        try:
            self.file.write(np.ascontiguousarray(part))
            self.file.flush()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                error.add_note(
                    f"Columns of events are kept in {tempfile.gettempdir()!r}: set TMPDIR to a "
                    "folder on a disk with more room."
                )
            raise

    def mapped(self, access: int = mmap.ACCESS_COPY) -> np.ndarray:
        """Return the array; its file is deleted with it."""
        n_bytes = self.file.tell()
        if not n_bytes:
            return np.empty((0, *self.shape), dtype=self.dtype)
        # Through a memoryview, joblib copies the array to other processes as an ordinary array:
        # they could not open a file without a name.
        view = memoryview(mmap.mmap(self.file.fileno(), n_bytes, access=access))
        return np.frombuffer(view, dtype=self.dtype).reshape(-1, *self.shape)

    def close(self) -> None:
        """Close the file; mapped arrays stay valid."""
        self.file.close()


class _RaggedFile:
    """A `RaggedArray` that is written in parts, then read through memory maps."""

    def __init__(self) -> None:
        self.values, self.offsets, self.n_values = _ArrayFile(), _ArrayFile(), 0
        self.offsets.append(np.zeros(1, dtype=np.int64))

    def append(self, part: RaggedArray) -> None:
        """Write the next rows."""
        self.values.append(part.values)
        self.offsets.append(self.n_values + part.offsets[1:])
        self.n_values += len(part.values)

    def mapped(self) -> RaggedArray:
        """Return the ragged array; its files are deleted with it."""
        return RaggedArray(self.values.mapped(), self.offsets.mapped())

    def close(self) -> None:
        """Close the files; mapped arrays stay valid."""
        self.values.close()
        self.offsets.close()
