"""`PlainEventsMixin`: plain events where an encoder might stand before, and does not."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
from sklearn.utils.validation import validate_data

from skmatch._data import Events, is_coded_frame
from skmatch.preprocessing._event_table import EventTableMixin
from skmatch.preprocessing._match_encoder import MatchEncoder


class PlainEventsMixin(EventTableMixin):
    """Encode plain events with a default `MatchEncoder`, where no encoder stands before."""

    # Fitted attributes that only a fit on plain events has.
    _OF_ENCODING: tuple[str, ...] = ("encoder_", "n_features_in_", "feature_names_in_")

    def _encode_training(
        self, X: Any, users: Any = None, items: Any = None
    ) -> tuple[Events, dict[str, Any]]:
        """Give coded events, and the attributes that a fit on plain ones sets."""
        if isinstance(X, Events):
            return X, {}
        if is_coded_frame(X, Events):
            return Events.from_frame(X), {}
        encoder = MatchEncoder().set_output(transform="default")
        events = cast(Events, encoder.fit_transform(X, users=users, items=items))
        learnt = {
            name: getattr(encoder, name) for name in vars(encoder) if name in self._OF_ENCODING
        }
        return events, learnt | {"encoder_": encoder}

    def _encode_queries(self, X: Any) -> Events:
        """Give coded queries."""
        if isinstance(X, Events):
            return X
        if is_coded_frame(X, Events):
            return Events.from_frame(X)
        if not hasattr(self, "encoder_"):
            raise ValueError(
                f"{type(self).__name__} was fitted on Events; got a {type(X).__name__}. Pass it "
                "through the same MatchEncoder first."
            )
        if not isinstance(X, pd.DataFrame):
            validate_data(
                self, X, reset=False, dtype=None, ensure_all_finite=False, ensure_min_samples=0
            )
        return cast(Events, self.encoder_.transform(X))

    def _set_learnt(self, learnt: dict[str, Any]) -> None:
        """Set fitted attributes all at once, so that a failed fit leaves the old ones whole."""
        for name in self._OF_ENCODING:
            if name not in learnt and hasattr(self, name):
                delattr(self, name)
        for name, value in learnt.items():
            setattr(self, name, value)
