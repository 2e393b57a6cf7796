"""`PlainEventsMixin`: estimators that accept plain events, without an encoder before them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sklearn.utils.validation import validate_data

from skmatch._data import CatalogueRows, Events, as_coded
from skmatch._schema import Schema
from skmatch._validation import read_array, read_frame
from skmatch.preprocessing._event_table import EventTableMixin
from skmatch.preprocessing._match_encoder import MatchEncoder


class PlainEventsMixin(EventTableMixin):
    """Encode plain events with a default `MatchEncoder`; pass encoded events on."""

    schema_: Schema

    _CODED: Any = Events  # output of the previous step
    # Attributes of fitted steps that encode plain events, and the remedy without them.
    _STEPS: dict[str, str] = {"encoder_": "Pass it through the same MatchEncoder first."}

    # Fitted attributes that only a fit on plain events has.
    _OF_ENCODING: tuple[str, ...] = ("encoder_", "n_features_in_", "feature_names_in_")

    def _encode_training(
        self, X: Any, users: Any = None, items: Any = None
    ) -> tuple[Events, dict[str, Any]]:
        """Return encoded events, and the fitted attributes to set if `X` was plain."""
        events = as_coded(X, Events)
        if events is not None:
            self._reject_tables(users, items)
            return events, {}
        encoder = MatchEncoder().set_output(transform="default")
        events = encoder.fit_transform(X, users=users, items=items)
        fitted = {name: vars(encoder)[name] for name in self._OF_ENCODING if name in vars(encoder)}
        return events, fitted | {"encoder_": encoder}

    @staticmethod
    def _reject_tables(users: Any, items: Any) -> None:
        if users is not None or items is not None:
            raise ValueError(
                "users and items belong to the MatchEncoder where it is a step of its own; pass "
                "them to its fit (in a Pipeline: matchencoder__users=...)."
            )

    def _encode_queries(self, X: Any) -> Events:
        events = as_coded(X, Events)
        if events is not None:
            self._check_codes(events.schema)
            return events
        self._check_steps(X)
        X = read_frame(X)
        if not isinstance(X, pd.DataFrame):
            validate_data(self, read_array(X, self), reset=False, skip_check_array=True)
        encoder: MatchEncoder = self.encoder_
        return encoder.transform(X)

    def _propagated(self, verb: str, X: Any, *args: Any) -> tuple[Any, dict[str, Any]]:
        """Pass rows through this estimator's steps; return the output, and the updated steps."""
        if isinstance(X, CatalogueRows) or as_coded(X, self._CODED) is not None:
            return X, {}
        fitted = {}
        self._check_steps(X)
        for name in self._STEPS:
            fitted[name], X = getattr(getattr(self, name), verb)(X, *args)
        return X, fitted

    def _check_steps(self, X: Any) -> None:
        """Raise if this estimator has no steps for plain rows."""
        for name, remedy in reversed(self._STEPS.items()):
            if not hasattr(self, name):
                kind = "Samples" if name == "sampler_" else "Events"
                raise ValueError(
                    f"{type(self).__name__} was fitted on {kind}; got a {type(X).__name__}. "
                    f"{remedy}"
                )

    def _check_codes(self, schema: Schema, is_extended: bool = False) -> None:
        """Raise if rows come from an encoder whose codes have other meanings."""
        if not (schema.extends if is_extended else schema.agrees_with)(self.schema_):
            raise ValueError(
                f"X was encoded by another MatchEncoder than the training data of "
                f"{type(self).__name__}: their ids or features differ. Encode X with the same one."
            )

    def _set_fitted(self, fitted: dict[str, Any]) -> None:
        """Set all fitted attributes at the end of a fit: a failed fit keeps the old attributes."""
        for name in self._OF_ENCODING:
            if name not in fitted and hasattr(self, name):
                delattr(self, name)
        for name, value in fitted.items():
            setattr(self, name, value)
