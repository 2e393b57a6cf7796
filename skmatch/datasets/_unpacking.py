"""Safe reading of compressed and damaged files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Tables of events unpack to about 10 times their size; 100 times is suspicious.
_MAX_RATIO = 100
_ALWAYS_ALLOWED = 2**24  # bytes
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@contextmanager
def as_value_error(problem: str, remedy: str) -> Iterator[None]:
    """Re-raise the errors of a damaged file as a ValueError with a remedy."""
    try:
        yield
    except (MemoryError, ImportError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damaged archives raise errors of many types
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{problem}: {reason}. {remedy}") from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file; raise if it declares far more content than its size."""
    archive = zipfile.ZipFile(path)
    # zipfile never reads more than the archive declares.
    _check_size(sum(entry.file_size for entry in archive.infolist()), path)
    return archive


def read_unpacked(path: Path) -> io.BytesIO:
    """Read a file, decompressed by the suffix of its name."""
    if path.suffix == ".zip":
        with open_zip(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".csv")]
            return io.BytesIO(archive.read(name))
    with _OPENERS.get(path.suffix, open)(path, "rb") as file:
        content = io.BytesIO(file.read(_limit(path) + 1))
    _check_size(content.getbuffer().nbytes, path)
    return content


def _limit(path: Path) -> int:
    return max(_ALWAYS_ALLOWED, _MAX_RATIO * path.stat().st_size)


def _check_size(n_bytes: int, path: Path) -> None:
    if n_bytes > _limit(path):
        raise ValueError(
            f"it unpacks to more than {_MAX_RATIO} times its {path.stat().st_size:,} bytes, which "
            "is not a table of events"
        )
