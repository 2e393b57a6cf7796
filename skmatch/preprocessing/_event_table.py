"""`EventTableMixin`: tags and callbacks of estimators that read a table of events."""

from __future__ import annotations

from typing import Any

from skmatch._sklearn import CallbackSupportMixin


class EventTableMixin(CallbackSupportMixin):
    """Tags and callbacks of an estimator whose `X` is a table of events."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = []
        return tags
