"""Callbacks for the fit of a retriever, alone or as the last step of a pipeline."""

from __future__ import annotations

import os
from copy import copy
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from skmatch._validation import check_k
from skmatch.persistence import save

# What scikit-learn's callbacks put on an estimator while it is fitted.
_OF_A_RUNNING_FIT = (
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
    "_callback_fit_ctx",
    "_parent_callback_ctx",
)


class Checkpoint:
    """Callback that saves a fit between its epochs, so that one that dies can go on.

    The file holds the retriever, or the whole pipeline that the callback is set on, as it stands.
    Loaded and fitted on the same events, it goes on with the next epoch and ends, on the same
    machine, with the same weights as a fit that nothing had stopped, bit for bit.

    Parameters
    ----------
    path : str or path-like
        File to write, in a folder that exists. It is replaced as a whole, as by
        `skmatch.persistence.save`: whenever the fit dies, and whatever else writes to the same
        path, the file is that of the last epoch that was saved.
    every : int, default=1
        Number of epochs from one saving to the next.

    See Also
    --------
    skmatch.persistence.load : Loads the file.

    Notes
    -----
    It needs ``warm_start=True``, which is what lets `fit` go on. Whatever the training depends on,
    such as the events, ``lr`` or ``max_epochs``, has to stay as it was; else `fit` says what
    differs. The seed is that of the interrupted fit, whatever ``random_state`` says.

    What the file holds can recommend as well, as of that epoch. Of the callbacks it keeps this one
    only: set others anew. The file of the last epoch stays when the fit is through; fitted, it
    gives the same result again at once.

    A search fits many models, and cannot have one.

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

    # On a pipeline, which hands it on to the retriever, and no further out.
    max_propagation_depth = 1

    def __init__(self, path: str | os.PathLike, every: int = 1):
        self.path = path
        self.every = check_k(every, "every", "epochs")

    def setup(self, estimator: Any, context: Any) -> None:
        """Check that the fit can be saved, and gone on with."""
        retriever = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
        if not hasattr(retriever, "warm_start"):
            raise TypeError(
                f"Checkpoint saves the epochs of a DSSMRetriever or YoutubeDNNRetriever, and "
                f"{type(retriever).__name__} has none: set it on such a retriever, or on a "
                "pipeline that ends with one."
            )
        if not retriever.warm_start:
            raise ValueError(
                "Checkpoint needs a retriever with warm_start=True: fit would begin anew with "
                "what it saves."
            )
        folder = Path(self.path).absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Checkpoint cannot write {os.fspath(self.path)!r}: there is no folder "
                f"{os.fspath(folder)!r}; make it first."
            )
        self._fitted_one = estimator

    def teardown(self, estimator: Any, context: Any) -> None:
        """Let go of the estimator."""
        self._fitted_one = None

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing: an epoch is saved when it ends."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Save the fit if an epoch has ended that is to be saved."""
        if context.task_name != "epoch" or (context.task_id + 1) % self.every:
            return
        # Not the `fitted_estimator` of the callbacks: that is a copy, and made in every epoch.
        saved = _at_rest(estimator)
        saved._set_learnt(estimator._unfinished())
        if isinstance(self._fitted_one, Pipeline):
            pipeline = _at_rest(self._fitted_one)
            *steps, (name, _) = pipeline.steps
            pipeline.steps = [*steps, (name, saved)]
            saved = pipeline
        save(saved.set_callbacks(Checkpoint(self.path, self.every)), self.path)


def _at_rest(estimator: Any) -> Any:
    """Return a shallow copy of an estimator without the traces of its running fit."""
    at_rest = copy(estimator)
    for name in _OF_A_RUNNING_FIT:
        vars(at_rest).pop(name, None)
    return at_rest
