"""`load`: read an exported folder."""

from __future__ import annotations

import os

from skmatch.runtime._files import Files, read_manifest
from skmatch.runtime._recommender import Recommender

ATTEMPTS = 3  # where another export replaces the folder in between


def load(folder: str | os.PathLike, *, n_threads: int = 1) -> Recommender:
    """Load a folder that `skmatch.export.to_onnx` wrote, and compare it with its manifest.

    Large arrays are read from the disk where they are used: keep the folder while it is in use.

    Parameters
    ----------
    folder : str or path-like
        The exported folder.
    n_threads : int, default=1
        Number of threads of the user tower, of which more help only with many queries per call.

    Returns
    -------
    recommender : Recommender

    Raises
    ------
    FileNotFoundError
        If the folder holds no manifest.
    ValueError
        If a file is missing or damaged, or the folder has a format of another version.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from skmatch import PopularityRetriever
    >>> from skmatch.export import to_onnx
    >>> from skmatch.runtime import load
    >>> events = pd.DataFrame({"user_id": [1, 2, 3], "item_id": ["tea", "tea", "jam"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_onnx(PopularityRetriever().fit(events), folder + "/model")
    ...     load(folder + "/model").item_ids_.tolist()
    ['tea', 'jam']
    """
    for _ in range(ATTEMPTS):
        before = read_manifest(folder)
        try:
            recommender = Recommender(Files(folder, before), n_threads)
        except (OSError, ValueError):
            if read_manifest(folder) == before:
                raise
        else:
            if read_manifest(folder) == before:
                return recommender
    raise ValueError(
        f"{str(folder)!r} was replaced {ATTEMPTS} times while it was loaded: load it when the "
        "export is complete."
    )
