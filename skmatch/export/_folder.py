"""`Folder`: a folder that appears only when it is complete, with a manifest of its files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from skmatch._arrays import Column, RaggedArray
from skmatch.runtime._files import MANIFEST, file_entry


class Folder:
    """A folder that is written under another name, and gets its own when it is complete.

    An older export of the same name is replaced.
    """

    def __init__(self, path: str | os.PathLike):
        self.target = Path(os.path.realpath(path))
        self.names: list[str] = []

    def __enter__(self) -> Self:
        target = self.target
        if not target.parent.is_dir():
            raise FileNotFoundError(
                f"There is no folder {str(target.parent)!r} to write {target.name!r} to: create it."
            )
        is_empty = target.is_dir() and not any(target.iterdir())
        if target.exists() and not is_empty and not (target / MANIFEST).is_file():
            raise FileExistsError(
                f"{str(target)!r} exists and is no exported folder: choose another folder."
            )
        self.path = self._sibling("tmp")
        self.path.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            shutil.rmtree(self.path, ignore_errors=True)

    def _sibling(self, ending: str) -> Path:
        return self.target.with_name(f".{self.target.name}.{secrets.token_hex(8)}.{ending}")

    def add(self, name: str) -> Path:
        """Return the path of a new file, to be written."""
        self.names.append(name)
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        return path

    def array(self, name: str, array: np.ndarray) -> str:
        """Write an array of numbers; return the name of its file."""
        name = f"{name}.npy"
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        np.save(self.add(name), np.ascontiguousarray(little), allow_pickle=False)
        return name

    def column(self, name: str, column: Column) -> dict[str, str]:
        """Write an array or a ragged array; return the names of its files."""
        if isinstance(column, RaggedArray):
            offsets = self.array(f"{name}_offsets", column.offsets)
            return {"values": self.array(name, column.values), "value_offsets": offsets}
        return {"values": self.array(name, column)}

    def json(self, name: str, content: Any) -> str:
        """Write a JSON file; return its name."""
        name = f"{name}.json"
        self.add(name).write_text(json.dumps(content), "utf-8")
        return name

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, and rename the folder to its own name."""
        entries = {name: file_entry(self.path / name) for name in sorted(self._files())}
        text = json.dumps(manifest | {"files": entries}, indent=1)
        (self.path / MANIFEST).write_text(text, "utf-8")
        for path in [*self.path.rglob("*"), self.path]:
            _sync(path)
        older = None
        if self.target.exists():
            older = self._sibling("old")
            os.replace(self.target, older)
        try:
            os.replace(self.path, self.target)
        except BaseException:
            if older is not None:
                os.replace(older, self.target)
            raise
        if older is not None:
            shutil.rmtree(older)

    def _files(self) -> list[str]:
        """Return the names of all files, also of the files that onnx wrote beside a graph."""
        files = (path for path in self.path.rglob("*") if path.is_file())
        return [path.relative_to(self.path).as_posix() for path in files]


def _sync(path: Path) -> None:
    """Flush a file or, where the system can open it, a folder to the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
