"""What every loader does about files that are compressed, damaged or far larger than they look."""

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

# Tables of events unpack to some ten times their size; a hundred times is no table of events.
_MAX_RATIO = 100
_ALWAYS_ALLOWED = 2**24  # bytes
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@contextmanager
def as_value_error(what: str, remedy: str) -> Iterator[None]:
    """Raise a ValueError with a remedy for whatever a damaged file makes its readers raise."""
    try:
        yield
    except (MemoryError, ImportError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damaged archives make zipfile, zlib and pandas fail in any way
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{what}: {reason}. {remedy}") from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file, unless what it declares to hold is far larger than it."""
    archive = zipfile.ZipFile(path)
    # zipfile never reads more of a file than the archive declares.
    _check_size(sum(entry.file_size for entry in archive.infolist()), path)
    return archive


def read_unpacked(path: Path) -> io.BytesIO:
    """Read a whole file, decompressed as its name says."""
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
            "no table of events does"
        )
