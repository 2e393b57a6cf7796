"""Saving and loading: file formats, their content and when to use which.

Transformers, retrievers, pipelines and searches, fitted or not, are saved like any scikit-learn
estimator. A loaded estimator returns bit-identical recommendations, also on a machine without the
GPU that it was trained on.

joblib
    ``save(pipe, "pipe.joblib")``, then `load`. For your own files: it is the fastest and takes ids
    of every type. The file is a joblib file with a checksum at its end, which `load` verifies.
    Loading it can run code, so never load files from untrusted sources. `load` also reads files of
    ``joblib.dump``, ``pickle`` and ``cloudpickle``. Unless compressed, these have no checksum: a
    damaged file may load without an error and recommend other items.
skops
    ``skops.io.dump(pipe, "pipe.skops")``, then
    ``skops.io.load("pipe.skops", trusted=skmatch.persistence.TRUSTED_TYPES)``. For files from
    others: loading runs no code and refuses types that `TRUSTED_TYPES` does not list. It is
    somewhat slower and larger, and has limits:

    - Ids and categories may be strings, bytes, numbers, booleans, datetimes, timedeltas,
      `uuid.UUID`, `datetime.date`, `decimal.Decimal` and tuples of them. Other types, such as
      intervals, periods and frozensets, cannot be loaded unless you add them to the list.
    - `pandas.Timestamp` and `pandas.Timedelta` objects cannot be loaded. Convert id columns to
      a datetime dtype, and write parameters such as ``cutoffs`` as strings.
    - A `pandas.Index`, a callback and a `joblib.Memory` cannot be loaded. Pass a folder as memory.
      ``set_callbacks()`` removes callbacks, such as the `Checkpoint` of a file that it saved.
    - Labels of feature columns must be strings or integers.

A file holds the ids of users and items, their feature values with their times, the histories
(items and times of all events by user), the weights of the network and the item vectors. It holds
no optimizer state (except the file of a `Checkpoint`, until the fit is complete), no training rows,
no hash tables and no graph of an approximate index: the first search builds it again, identically
with the same number of threads.

Each file holds the version of skmatch that saved it; loading it with another version warns.
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

from skmatch._sklearn import parameter_names
from skmatch._version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TRUSTED_TYPES = [
    "skmatch._arrays.RaggedArray",
    "skmatch._columns.Vocabulary",
    "skmatch._event_log.EventLog",
    "skmatch._event_log.NegativeSampling",
    "skmatch._over_time.CountsOverTime",
    "skmatch._schema.Feature",
    "skmatch._schema.Schema",
    "skmatch.metrics._scorer.TopKScorer",
    "skmatch.model_selection.LeaveLastOut",
    "skmatch.model_selection.TemporalSplit",
    "skmatch.neighbors.ItemIndex",
    "skmatch.pipeline.MatchPipeline",
    "skmatch.preprocessing._match_encoder.MatchEncoder",
    "skmatch.preprocessing._sequence_sampler.SequenceSampler",
    "skmatch.preprocessing._visits.Visits",
    "skmatch.preprocessing._timeline.Timeline",
    "skmatch.retrieval._dssm.DSSMRetriever",
    "skmatch.retrieval._fusion.FusionRetriever",
    "skmatch.retrieval._item_to_item.ItemToItemRetriever",
    "skmatch.retrieval._popularity.PopularityRetriever",
    "skmatch.retrieval._youtube_dnn.YoutubeDNNRetriever",
    "scipy.sparse._csr.csr_array",
    "sklearn.utils._bunch.Bunch",
    # types of ids
    "datetime.date",
    "datetime.datetime",
    "decimal.Decimal",
    "uuid.UUID",
]

# First bytes of a pickle of protocol 2 or later, and of joblib's compressors.
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
# `save` appends these bytes and the SHA-256 of the content; unpickling stops before them.
_MARK = b"\nskmatch sha256:"
_FOOTER_SIZE = len(_MARK) + 32
_COPY_OR_SAVE = "Copy it again from its source, or save it again with skmatch.persistence.save."


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
            f"skmatch {__version__}: its recommendations may differ or fail. Install "
            f"skmatch=={self.original_version}, or fit and save it again with this version."
        )


class _MissingParameterError(ValueError):
    """Error of a saved estimator that lacks a parameter of this version of skmatch."""


class VersionedMixin:
    """Mixin that stores the version of skmatch in the state of an estimator.

    `sklearn.base.BaseEstimator`, which must come after it, does this for scikit-learn only.
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
        missing = [name for name in parameter_names(self) if name not in state]
        if missing:
            raise _MissingParameterError(
                f"{type(self).__name__} was saved by skmatch {version} without the parameters "
                f"{', '.join(missing)} of skmatch {__version__}. Install skmatch=={version}, or "
                "fit and save it again with this version."
            )
        super().__setstate__(state)  # type: ignore[misc]


def save(estimator: BaseEstimator, path: str | os.PathLike) -> None:
    """Save an estimator like ``joblib.dump``, with a checksum that `load` verifies.

    The file is replaced atomically: if writing fails or the process dies, the old file remains. A
    symbolic link is followed. ``joblib.load`` reads the file, too, without verifying it.

    Parameters
    ----------
    estimator : estimator instance
        A transformer, retriever, pipeline or search, fitted or not.
    path : str or path-like
        File to write, in an existing folder.

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
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder {str(target.parent)!r} does not exist: create it.")
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
            file.close()  # Windows cannot rename an open file; elsewhere closing unlocks it
        os.replace(file.name, target)
    except BaseException:
        file.close()
        Path(file.name).unlink(missing_ok=True)
        raise
    finally:
        file.close()


def _open_temporary(target: Path) -> IO[bytes]:
    """Open a new file next to the target, locked while it is open."""
    while True:
        file = open(f"{target}.{secrets.token_hex(8)}.tmp", "x+b")  # noqa: SIM115
        _lock(file)
        if os.path.exists(
            file.name
        ):  # otherwise another process removed it as stale before the lock
            return file
        file.close()


def _remove_stale(target: Path) -> None:
    """Remove temporary files of processes that died while they wrote the target."""
    name = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if name.fullmatch(path.name):
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    if _lock(file, wait=False):
                        path.unlink()


def _lock(file: IO[bytes], wait: bool = True) -> bool:
    """Lock an open file; return whether it is locked, which not every system supports."""
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
    """Load an estimator from a file of `save` or ``joblib.dump``, and verify its checksum.

    Parameters
    ----------
    path : str or path-like
        A trusted file, since loading can run code; for other files use skops, as described in the
        documentation of this module.

    Returns
    -------
    estimator : estimator instance
        A transformer, retriever, pipeline or search, fitted if the saved one was.

    Raises
    ------
    ValueError
        If the file is damaged, is not a joblib file, needs packages that are not installed, lacks a
        parameter of this version of skmatch, or holds no estimator of skmatch. Any damage to a file
        of `save` is found; to a file of ``joblib.dump`` only if it cannot be loaded.

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
    if os.path.isdir(path):
        raise IsADirectoryError(
            f"{path!r} is a folder: pass a file of skmatch.persistence.save, or read a folder of "
            "skmatch.export.to_onnx with skmatch.runtime.load."
        )
    with open(path, "rb") as file:
        head = file.read(8)
        is_whole = _is_whole(file)
    if not head.startswith((_PICKLE, *_COMPRESSED)):
        raise ValueError(f"{path!r} {_describe(head)}")
    if not is_whole:
        raise ValueError(
            f"{path!r} is damaged: its checksum does not match its content. {_COPY_OR_SAVE}"
        )
    try:
        loaded = joblib.load(path)
    except MemoryError:
        raise
    except _MissingParameterError as error:
        raise ValueError(f"{path!r} cannot be loaded: {error}") from error
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path!r} needs a missing package or version ({type(error).__name__}: {error}). "
            "Install the packages and the version of skmatch that it was saved with; if they are "
            "installed, the file is damaged."
        ) from error
    except Exception as error:  # a damaged pickle can raise any error
        raise ValueError(
            f"{path!r} is truncated or damaged: reading it failed with {type(error).__name__} "
            f"({error}). {_COPY_OR_SAVE}"
        ) from error
    if not _is_of_skmatch(loaded):
        kind = type(loaded)
        raise ValueError(
            f"{path!r} holds a {kind.__module__}.{kind.__qualname__}, which is neither an "
            "estimator of skmatch nor a pipeline or search with one. Check the path, or load the "
            "file with joblib.load."
        )
    return loaded


def _is_whole(file: IO[bytes]) -> bool:
    """Return whether the checksum of an open file matches; True for a file without checksum."""
    size = file.seek(0, os.SEEK_END) - _FOOTER_SIZE
    if size < 0:
        return True
    file.seek(size)
    footer = file.read()
    file.seek(0)
    return not footer.startswith(_MARK) or footer == _MARK + _sha256(file, size)


def _describe(head: bytes) -> str:
    """Describe a file that is not a joblib file, with the remedy."""
    if not head:
        return f"is empty. {_COPY_OR_SAVE}"
    if head.startswith(_ZIP):
        return (
            "is a zip archive, like the files of skops; load it with "
            "skops.io.load(path, trusted=skmatch.persistence.TRUSTED_TYPES)."
        )
    return f"is not a joblib or pickle file: it begins with {head!r}. Check the path."


def _is_of_skmatch(value: Any) -> bool:
    if not isinstance(value, BaseEstimator):
        return False
    parts = [value, *value.get_params().values()]
    return any(isinstance(part, VersionedMixin) for part in parts)
