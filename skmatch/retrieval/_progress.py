"""Callbacks of a running fit, and the progress bar of `verbose`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from threading import current_thread, main_thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from skmatch._nn import distributed
from skmatch._sklearn import callbacks_of, has_progress_bar


@contextmanager
def epoch_bar(estimator: Any, n_epochs: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar over epochs if `verbose`; yield the function that advances it.

    There is no second bar if the user has set scikit-learn's, which shows the epochs of the
    outermost estimator only.
    """
    is_first = distributed.rank() == 0
    if not (estimator.verbose and is_first and _is_interactive()) or has_progress_bar(estimator):
        yield lambda: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(TextColumn("{task.description}"), *columns, console=Console()) as progress:
        task = progress.add_task(f"{type(estimator).__name__}, epochs", total=n_epochs)
        yield lambda: progress.advance(task)


@contextmanager
def callbacks_in_first_process(estimator: Any) -> Iterator[None]:
    """Remove the callbacks of a fit in all but the first process of distributed training."""
    callbacks = callbacks_of(estimator)
    if distributed.rank() > 0:
        estimator.set_callbacks()
    try:
        yield
    finally:
        estimator.set_callbacks(*callbacks)


def _is_interactive() -> bool:
    # Workers of a search share a terminal, where their bars would overwrite each other.
    is_worker = parent_process() is not None or current_thread() is not main_thread()
    is_notebook = "ipykernel" in sys.modules
    return not is_worker and (is_notebook or sys.stdout.isatty())
