"""Callbacks of a running fit, and the progress bar of `verbose`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from threading import current_thread, main_thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.callback import ProgressBar

from skmatch._nn import distributed


class EpochBar:
    """Progress bar over epochs, also inside a Pipeline.

    scikit-learn's own `ProgressBar` starts at the outermost estimator only.
    """

    def setup(self, estimator: Any, context: Any) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(),
        )
        self._task = self._progress.add_task(
            f"{type(estimator).__name__}, epochs", total=context.max_subtasks
        )
        self._progress.start()

    def teardown(self, estimator: Any, context: Any) -> None:
        self._progress.stop()

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing: the bar advances when an epoch ends."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        if context.task_name == "epoch":
            self._progress.advance(self._task)


@contextmanager
def reporting(estimator: Any) -> Iterator[None]:
    """Set the callbacks of a fit: the user's, and with `verbose` a progress bar.

    There is no second bar if the user has set one on this or an outer estimator. In distributed
    training only the first process has callbacks.
    """
    callbacks = list(getattr(estimator, "_skl_callbacks", []))
    active = callbacks
    if distributed.rank() > 0:
        active = []
    elif estimator.verbose and not _has_bar(estimator) and _is_interactive():
        active = [*callbacks, EpochBar()]
    estimator.set_callbacks(*active)
    try:
        yield
    finally:
        estimator.set_callbacks(*callbacks)


def _has_bar(estimator: Any) -> bool:
    callbacks = list(getattr(estimator, "_skl_callbacks", []))
    context = getattr(estimator, "_parent_callback_ctx", None)
    while context is not None:
        callbacks += context._callbacks
        context = context.parent
    return any(isinstance(callback, ProgressBar) for callback in callbacks)


def _is_interactive() -> bool:
    # Workers of a search share one terminal, where their bars would overwrite one another.
    is_worker = parent_process() is not None or current_thread() is not main_thread()
    is_notebook = "ipykernel" in sys.modules
    return not is_worker and (is_notebook or sys.stdout.isatty())
