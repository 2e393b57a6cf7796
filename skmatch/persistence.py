"""Saving and loading: what a file holds, and which way of saving to use when.

Whatever is fitted, or not, is saved as any scikit-learn estimator is: transformers, retrievers,
pipelines and searches over them. A loaded one recommends as the saved one did, bit for bit, also
where it was trained on a GPU and there is none.

joblib
    ``save(pipe, "pipe.joblib")``, then `load`. For your own files: the fastest, and it takes ids of
    every type. The file is one of joblib with a checksum at its end, which `load` compares, so that
    no damaged file is loaded. Loading such a file runs code that the file names, so never load one
    from elsewhere. `load` also reads what ``joblib.dump``, ``pickle`` and ``cloudpickle`` save.
    Their files have no checksum, unless compressed: one with a changed byte may load without an
    error and recommend other items.
skops
    ``skops.io.dump(pipe, "pipe.skops")``, then
    ``skops.io.load("pipe.skops", trusted=skmatch.persistence.TRUSTED_TYPES)``. For files from
    elsewhere: nothing in the file is executed, and a type that `TRUSTED_TYPES` does not list is
    refused. Somewhat slower and larger. What it cannot hold, use joblib for:

    - Ids and categories may be strings, bytes, numbers, booleans, datetimes, timedeltas,
      `uuid.UUID`, `datetime.date`, `decimal.Decimal` and tuples of them. Others, such as intervals,
      periods and frozensets, are refused at loading, unless you add their types to the list.
    - `pandas.Timestamp` and `pandas.Timedelta` objects cannot be loaded. Give a column of ids a
      datetime dtype, and write parameters such as ``cutoffs`` as strings.
    - A `pandas.Index` or a callback is refused, as is a `joblib.Memory`, for which the name of its
      folder will do. ``set_callbacks()`` takes callbacks away, such as the one that stays on what a
      `Checkpoint` saved: it names a file to write.
    - Labels of feature columns have to be strings or integers.

A file holds the ids of users and items, the values of their features and the times of those,
the items (and times) of all events in the order of users, which are the histories, the weights of
the network and the vectors of the items. It holds no state of the optimizer (but that of a
`Checkpoint` does, until its fit is through), no training rows or batches, no hash tables, and of an
approximate index nothing but the vectors: its graph is built anew by the first search, and is the
same where as many threads build it.

Each file carries the version of skmatch that made it; another version warns when it loads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import warnings
from pathlib import Path
from typing import IO, Any

import joblib
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning

from skmatch._version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TRUSTED_TYPES = [
    "skmatch._columns.RaggedArray",
    "skmatch._columns.Vocabulary",
    "skmatch._data.EventLog",
    "skmatch._data.NegativeSampling",
    "skmatch._schema.Feature",
    "skmatch._schema.Schema",
    "skmatch.metrics._scorer.TopKScorer",
    "skmatch.model_selection.LeaveLastOut",
    "skmatch.model_selection.TemporalSplit",
    "skmatch.neighbors.ItemIndex",
    "skmatch.pipeline.MatchPipeline",
    "skmatch.preprocessing._match_encoder.MatchEncoder",
    "skmatch.preprocessing._sequence_sampler.SequenceSampler",
    "skmatch.preprocessing._timeline.Timeline",
    "skmatch.retrieval._dssm.DSSMRetriever",
    "skmatch.retrieval._popularity.PopularityRetriever",
    "skmatch.retrieval._youtube_dnn.YoutubeDNNRetriever",
    # ids of these types: values without behaviour
    "datetime.date",
    "datetime.datetime",
    "decimal.Decimal",
    "uuid.UUID",
]

# How files begin: a pickle of protocol 2 or later, or one of joblib's compressors.
_PICKLE = b"\x80"
_COMPRESSED = (
    *(b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"),  # zlib
    b"\x1f\x8b",  # gzip
    b"BZh",
    b"\xfd7zXZ\x00",
    b"]\x00\x00",  # lzma
    b"\x04\x22M\x18",  # lz4
)
_ZIP = b"PK\x03\x04"
# What `save` appends: these bytes, then the SHA-256 of all before them. Unpickling stops earlier.
_MARK = b"\nskmatch sha256:"
_FOOTER_SIZE = len(_MARK) + 32
_COPY_OR_SAVE = (
    "Copy it again from where it was saved, or save it again with skmatch.persistence.save."
)


class SkmatchVersionWarning(InconsistentVersionWarning):
    """Warning that a file was saved by another version of skmatch.

    Parameters
    ----------
    estimator_name : str
        Class of the estimator in the file.
    original_version : str
        Version of skmatch that saved the file.

    Examples
    --------
    >>> from skmatch.persistence import SkmatchVersionWarning
    >>> warning = SkmatchVersionWarning(estimator_name="MatchEncoder", original_version="0.0.1")
    >>> warning.original_version
    '0.0.1'
    """

    def __init__(self, *, estimator_name: str, original_version: str):
        self.estimator_name = estimator_name
        self.original_version = original_version

    def __str__(self) -> str:
        return (
            f"{self.estimator_name} was saved by skmatch {self.original_version} and is loaded by "
            f"skmatch {__version__}: its answers may differ or fail. Install "
            f"skmatch=={self.original_version}, or fit and save it again with this version."
        )


class _MissingParameterError(ValueError):
    """Error of a saved estimator that lacks a parameter of this version of skmatch."""


class VersionedMixin:
    """State of an estimator with the version of skmatch that saved it.

    Before `sklearn.base.BaseEstimator` among the base classes, which does the same for the
    estimators of scikit-learn only.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_skmatch_version": __version__}  # type: ignore[dict-item]

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skmatch_version", "unknown")
        if version != __version__:
            warnings.warn(
                SkmatchVersionWarning(estimator_name=type(self).__name__, original_version=version),
                stacklevel=2,
            )
        missing = [name for name in self._get_param_names() if name not in state]  # type: ignore[attr-defined]
        if missing:
            raise _MissingParameterError(
                f"{type(self).__name__} was saved by skmatch {version} without the parameters "
                f"{', '.join(missing)} of skmatch {__version__}. Install skmatch=={version}, or "
                "fit and save it again with this version."
            )
        super().__setstate__(state)  # type: ignore[misc]


def save(estimator: Any, path: str | os.PathLike) -> None:
    """Save an estimator as ``joblib.dump`` does, with a checksum that `load` compares.

    The file is replaced as a whole: should writing fail or the process die, the one that was there
    stays. Where `path` is a symbolic link, the file that it points to is replaced. ``joblib.load``
    reads the file, too, and does not compare the checksum.

    Parameters
    ----------
    estimator : estimator instance
        A transformer, retriever, pipeline or search, fitted or not.
    path : str or path-like
        File to write, in a folder that exists.

    See Also
    --------
    load : Loads the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmatch import PopularityRetriever
    >>> from skmatch.persistence import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "popularity.joblib"
    ...     save(PopularityRetriever(k=3), path)
    ...     load(path)
    PopularityRetriever(k=3)
    """
    target = Path(os.path.realpath(path))
    _remove_stale(target)
    file = _open_temporary(target)
    try:
        joblib.dump(estimator, file)
        size = file.tell()
        file.seek(0)
        digest = _sha256(file, size)
        file.write(_MARK + digest)
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # Windows renames no open file; elsewhere closing ends the lock
        os.replace(file.name, target)
    except BaseException:
        file.close()
        Path(file.name).unlink(missing_ok=True)
        raise
    finally:
        file.close()


def _open_temporary(target: Path) -> IO[bytes]:
    """Open a new file beside a target, locked for as long as it is open."""
    while True:
        file = open(f"{target}.{secrets.token_hex(8)}.tmp", "x+b")  # noqa: SIM115
        _lock(file)
        if os.path.exists(file.name):  # else another process took it for stale before the lock
            return file
        file.close()


def _remove_stale(target: Path) -> None:
    """Remove the temporary files that processes left which died while they wrote a target."""
    name = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if name.fullmatch(path.name):
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    if _lock(file, wait=False):
                        path.unlink()


def _lock(file: IO[bytes], wait: bool = True) -> bool:
    """Lock an open file; return whether it is locked, which not every system can do."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sha256(file: IO[bytes], size: int) -> bytes:
    """Compute the checksum of the next `size` bytes."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 2**20))):
        digest.update(block)
        size -= len(block)
    return digest.digest()


def load(path: str | os.PathLike) -> Any:
    """Load what `save` or ``joblib.dump`` saved, with an error that says what is wrong with a file.

    Parameters
    ----------
    path : str or path-like
        A file of your own. Loading one runs code that it names: for files from elsewhere use
        skops, as the documentation of this module says.

    Returns
    -------
    estimator : estimator instance
        A transformer, retriever, pipeline or search, fitted if the saved one was.

    Raises
    ------
    ValueError
        If the file is damaged, is no file of joblib, needs what is not installed, lacks a parameter
        of this version of skmatch, or holds something that has no part of skmatch. Any damage is
        found in a file of `save`; in one of ``joblib.dump``, where it keeps the file from loading.

    Warns
    -----
    SkmatchVersionWarning
        If another version of skmatch saved the file.

    See Also
    --------
    save : Saves an estimator with a checksum.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmatch import PopularityRetriever
    >>> from skmatch.persistence import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "popularity.joblib"
    ...     save(PopularityRetriever(k=3), path)
    ...     load(path)
    PopularityRetriever(k=3)
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        head = file.read(8)
        is_whole = _is_whole(file)
    if not head.startswith((_PICKLE, *_COMPRESSED)):
        raise ValueError(f"{path!r} {_describe(head)}")
    if not is_whole:
        raise ValueError(
            f"{path!r} is damaged: its checksum is not that of its content. {_COPY_OR_SAVE}"
        )
    try:
        loaded = joblib.load(path)
    except MemoryError:
        raise
    except _MissingParameterError as error:
        raise ValueError(f"{path!r} cannot be loaded: {error}") from error
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path!r} needs what is not here ({type(error).__name__}: {error}). Install the "
            "packages and the version of skmatch that it was saved with; with those in place, the "
            "file is damaged."
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(
            f"{path!r} is truncated or damaged: reading it failed with {type(error).__name__} "
            f"({error}). {_COPY_OR_SAVE}"
        ) from error
    if not _is_of_skmatch(loaded):
        kind = type(loaded)
        raise ValueError(
            f"{path!r} holds a {kind.__module__}.{kind.__qualname__}, which is neither an "
            "estimator of skmatch nor a pipeline or search with one. Check the path, or load it "
            "with joblib.load."
        )
    return loaded


def _is_whole(file: IO[bytes]) -> bool:
    """Compare the checksum at the end of an open file; True for a file without one."""
    size = file.seek(0, os.SEEK_END) - _FOOTER_SIZE
    if size < 0:
        return True
    file.seek(size)
    footer = file.read()
    file.seek(0)
    return not footer.startswith(_MARK) or footer == _MARK + _sha256(file, size)


def _describe(head: bytes) -> str:
    """Say what a file is that joblib did not make, and what to do."""
    if not head:
        return f"is empty. {_COPY_OR_SAVE}"
    if head.startswith(_ZIP):
        return (
            "is a zip archive, as skops makes them; load it with "
            "skops.io.load(path, trusted=skmatch.persistence.TRUSTED_TYPES)."
        )
    return f"is no file of joblib or pickle: it begins with {head!r}. Check the path."


def _is_of_skmatch(value: Any) -> bool:
    if not isinstance(value, BaseEstimator):
        return False
    parts = [value, *value.get_params().values()]
    return any(isinstance(part, VersionedMixin) for part in parts)
