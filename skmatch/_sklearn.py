"""Parts of scikit-learn beyond the public names of every supported version.

No other module imports a private name of scikit-learn; `tests/test_architecture.py` holds it.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import sklearn

# scikit-learn's own estimators validate parameters by this decorator; it documents no other way.
from sklearn.base import _fit_context as fit_context

# Respects both OMP_NUM_THREADS and threadpoolctl; `os.cpu_count` respects neither.
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads as n_threads

# The constraints that `fit_context` reads.
from sklearn.utils._param_validation import Interval, StrOptions

# Base class of estimators with named parts, such as VotingClassifier; there is no public class.
from sklearn.utils.metaestimators import _BaseComposition as BaseComposition

__all__ = [
    "OUTPUT_CONFIG",
    "BaseComposition",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "callbacks_of",
    "fit_context",
    "has_progress_bar",
    "n_threads",
    "parameter_names",
    "require_callbacks",
    "with_callbacks",
    "without_callback_context",
]

# Attribute of skmatch's `set_output`: `clone` copies it.
OUTPUT_CONFIG = "_sklearn_output_config"

try:
    from sklearn.callback import CallbackSupportMixin, ProgressBar, with_callbacks
except ImportError:  # before scikit-learn 1.9
    ProgressBar = None

    def with_callbacks(method: Any) -> Any:
        """Return the method."""
        return method

    class _NoCallbacks:
        """Context of a fit that has no callbacks."""

        def subcontext(self, **_: Any) -> _NoCallbacks:
            return self

        def call_on_fit_task_begin(self, **_: Any) -> _NoCallbacks:
            return self

        def call_on_fit_task_end(self, **_: Any) -> bool:
            return False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Refuse callbacks; fits without them run."""

        def set_callbacks(self, *callbacks: Any) -> Any:
            """Raise if there is a callback."""
            if callbacks:
                require_callbacks(type(callbacks[0]).__name__)
            return self

        def _init_callback_context(self, **_: Any) -> _NoCallbacks:
            return _NoCallbacks()


def require_callbacks(name: str) -> None:
    """Raise if scikit-learn has no callbacks."""
    if ProgressBar is None:
        raise ImportError(
            f"The callback {name} needs scikit-learn 1.9 or newer; {sklearn.__version__} is "
            "installed. Upgrade it: pip install 'scikit-learn>=1.9'."
        )


def callbacks_of(estimator: Any) -> list[Any]:
    """Return the callbacks that `set_callbacks` has set."""
    return list(getattr(estimator, "_skl_callbacks", []))


def has_progress_bar(estimator: Any) -> bool:
    """Return whether scikit-learn's progress bar is set on an estimator or around it."""
    callbacks = callbacks_of(estimator)
    context = getattr(estimator, "_parent_callback_ctx", None)
    while context is not None:
        callbacks += context._callbacks
        context = context.parent
    return any(isinstance(callback, ProgressBar) for callback in callbacks)


def without_callback_context(estimator: Any) -> Any:
    """Return a shallow copy without the callbacks and contexts that `fit` sets."""
    names = (
        "_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx"
    )  # fmt: skip
    copied = copy(estimator)
    for name in names:
        vars(copied).pop(name, None)
    return copied


def parameter_names(estimator: Any) -> list[str]:
    """Return the names of the parameters; `get_params` fails where a parameter has no value."""
    names: list[str] = estimator._get_param_names()
    return names
