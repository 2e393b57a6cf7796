"""What `verbose` shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.callback import ProgressBar


@contextmanager
def progress_bar(estimator: Any) -> Iterator[None]:
    """Show the epochs of a fit where the estimator is verbose and somebody is there to see it.

    A bar that the user or an outer estimator has set is left alone.
    """
    callbacks = list(getattr(estimator, "_skl_callbacks", []))
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    is_inner = hasattr(estimator, "_parent_callback_ctx")
    if not estimator.verbose or has_bar or is_inner or not _is_interactive():
        yield
        return
    estimator.set_callbacks(*callbacks, ProgressBar())
    try:
        yield
    finally:
        estimator.set_callbacks(*callbacks)


def _is_interactive() -> bool:
    is_notebook = "ipykernel" in sys.modules
    return is_notebook or sys.stdout.isatty()
