"""The files of an exported folder, compared with its manifest."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

FORMAT = 1  # of the folder; a change that older runtimes cannot read raises it
MANIFEST = "manifest.json"
_AGAIN = "Copy the folder again from its source, or export it again."


class Files:
    """The files of a folder, after a check of their sizes and hashes against its manifest."""

    def __init__(self, folder: str | os.PathLike, manifest: bytes):
        self.folder = Path(folder)
        self.manifest = self._parsed(manifest)
        for name, expected in self.manifest["files"].items():
            self._check(name, expected)

    def _parsed(self, content: bytes) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(content)
            version = manifest["format"]
            if version == FORMAT:
                manifest["files"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged ({type(error).__name__}: {error}). {_AGAIN}"
            ) from error
        if version != FORMAT:
            raise ValueError(
                f"{str(path)!r} has format {version!r}, and this version of skmatch reads format "
                f"{FORMAT}: load the folder with skmatch {manifest.get('skmatch')}, or export it "
                "again with this version."
            )
        return manifest

    def _check(self, name: str, expected: dict[str, Any]) -> None:
        """Raise if a file is missing or differs from the manifest."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"The manifest names {name!r}, which is outside the folder. {_AGAIN}")
        if not self.path(name).is_file():
            raise ValueError(f"{str(self.folder)!r} lacks the file {name!r}. {_AGAIN}")
        if file_entry(self.path(name)) != expected:
            raise ValueError(
                f"{str(self.path(name))!r} is damaged: its size or hash is not that of the "
                f"manifest. {_AGAIN}"
            )

    def path(self, name: str) -> Path:
        return self.folder / PurePosixPath(name)

    def array(self, name: str) -> np.ndarray:
        """Return an array that is read from the disk where it is used."""
        # Views of plain type: indexing a np.memmap takes several times longer.
        return np.asarray(np.load(self.path(name), mmap_mode="r", allow_pickle=False))

    def text(self, name: str) -> Any:
        return json.loads(self.path(name).read_text("utf-8"))


def read_manifest(folder: str | os.PathLike) -> bytes:
    """Return the bytes of a folder's manifest."""
    try:
        return (Path(folder) / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} holds no {MANIFEST}: pass a folder that skmatch.export.to_onnx "
            "wrote."
        ) from None


def file_entry(path: Path) -> dict[str, Any]:
    """Return the entry of a file in the manifest."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
