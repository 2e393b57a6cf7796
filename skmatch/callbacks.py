"""Callbacks of the fit of a retriever, alone or in a pipeline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from skmatch._sklearn import require_callbacks, without_callback_context
from skmatch._validation import check_k
from skmatch.persistence import save


class Checkpoint:
    """Callback that saves a fit after its epochs, so that an interrupted fit can continue.

    The file holds the retriever, or the pipeline that the callback is set on. Loaded and fitted on
    the same events, it continues with the next epoch and ends, on the same machine, with weights
    that are bit-identical to those of an uninterrupted fit.

    Parameters
    ----------
    path : str or path-like
        File to write, in an existing folder. It is replaced atomically, as by
        `skmatch.persistence.save`, so that it always holds the last saved epoch.
    every : int, default=1
        Number of epochs from one save to the next.

    See Also
    --------
    skmatch.persistence.load : Loads the file.

    Notes
    -----
    It needs ``warm_start=True``, which lets `fit` continue. Events and parameters such as ``lr`` or
    ``max_epochs`` must be those of the interrupted fit; otherwise `fit` raises an error that names
    the difference. The seed is that of the interrupted fit, regardless of ``random_state``.

    Callbacks need scikit-learn 1.9.

    The saved estimator can recommend, too. Other callbacks are not saved: set them again. After a
    complete fit the file of the last epoch remains; fitting it again returns the same result at
    once.

    A search fits many models and cannot have a checkpoint.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmatch import Checkpoint, DSSMRetriever
    >>> from skmatch.datasets import make_events
    >>> from skmatch.persistence import load
    >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "fit.joblib"
    >>> retriever = DSSMRetriever(max_epochs=3, warm_start=True, random_state=0)
    >>> _ = retriever.set_callbacks(Checkpoint(path, every=2)).fit(events)
    >>> saved = load(path)
    >>> saved.n_iter_
    2
    >>> saved.fit(events).loss_curve_ == retriever.loss_curve_  # the third epoch
    True
    >>> folder.cleanup()
    """

    # From a pipeline to its retriever, but not from a search.
    max_propagation_depth = 1

    def __init__(self, path: str | os.PathLike, every: int = 1):
        require_callbacks("Checkpoint")
        self.path = path
        self.every = check_k(every, "every", "epochs")

    def setup(self, estimator: Any, context: Any) -> None:
        """Raise if the fit cannot be saved and continued."""
        retriever = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
        if not hasattr(retriever, "warm_start"):
            raise TypeError(
                "Checkpoint saves the epochs of a DSSMRetriever or YoutubeDNNRetriever, and "
                f"{type(retriever).__name__} has none: set it on a neural retriever, or on a "
                "pipeline that ends with one."
            )
        if not retriever.warm_start:
            raise ValueError(
                "Checkpoint needs a retriever with warm_start=True: otherwise fit cannot continue "
                "from the file."
            )
        folder = Path(self.path).absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Checkpoint cannot write {os.fspath(self.path)!r}: the folder "
                f"{os.fspath(folder)!r} does not exist; create it first."
            )
        self._outer = estimator

    def teardown(self, estimator: Any, context: Any) -> None:
        """Release the estimator."""
        self._outer = None

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing: epochs are saved when they end."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Save the fit after every `every` epochs."""
        if context.task_name != "epoch" or (context.task_id + 1) % self.every:
            return
        # The `fitted_estimator` of the callbacks would be copied in every epoch.
        saved = without_callback_context(estimator)
        saved._set_fitted(estimator._unfinished())
        if isinstance(self._outer, Pipeline):
            pipeline = without_callback_context(self._outer)
            *steps, (name, _) = pipeline.steps
            pipeline.steps = [*steps, (name, saved)]
            saved = pipeline
        save(saved.set_callbacks(Checkpoint(self.path, self.every)), self.path)
