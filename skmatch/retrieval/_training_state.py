"""The state of a fit between two epochs, and whether a later fit may continue it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import joblib
import numpy as np

from skmatch._data import Samples
from skmatch._nn.engine import TrainingOptions, Weights


@dataclass
class TrainingState:
    """Progress of a fit: all that its next epochs depend on besides the weights.

    `training_state_` holds its fields; no value is changed in place.
    """

    seed: int  # of weights, of draws and of the choice of held-out events
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # of the held-out events
    n_epochs: int = 0  # of this fit; under `warm_start` the curves hold earlier fits, too
    best_score: float = -1.0
    best_epoch: int = 0
    best_weights: Weights | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    trainer: list[dict[str, Any]] | None = None  # its state, if the fit is interrupted

    def check(self, settings: dict[str, Any]) -> None:
        """Raise if the settings differ from the interrupted fit's; store them."""
        for name, value in settings.items():
            before = self.settings.get(name, value)
            if before == value:
                continue
            if name == "events":
                raise ValueError(
                    "warm_start=True continues an interrupted fit, which had other events, "
                    "features or sample weights: fit the same, in the same order, or set "
                    "warm_start=False to start again."
                )
            raise ValueError(
                f"warm_start=True continues an interrupted fit, which had {name}={before!r} and "
                f"not {value!r}: set it back, or set warm_start=False to start again."
            )
        self.settings = settings

    def add_epoch(self, loss: float) -> None:
        self.losses = [*self.losses, loss]
        self.n_epochs += 1

    def add_score(self, score: float) -> None:
        """Record the score of the last epoch."""
        self.scores = [*self.scores, score]

    def keep_best(self, weights: Callable[[], Weights], tolerance: float = 0.0) -> None:
        """Keep the weights of the last epoch if it is the best, up to a relative tolerance."""
        score = self.scores[-1]
        if self.best_weights is None or score > self.best_score * (1 - tolerance):
            self.best_score, self.best_epoch = max(score, self.best_score), self.n_epochs
            self.best_weights = weights()

    def has_stalled(self, n_iter_no_change: int) -> bool:
        """Return whether this many epochs have not improved the score."""
        is_validated = self.best_weights is not None
        return is_validated and self.n_epochs - self.best_epoch >= n_iter_no_change


def settings_of(
    options: TrainingOptions,
    samples: Samples,
    training: np.ndarray,
    weight: np.ndarray | None,
    **parameters: Any,
) -> dict[str, Any]:
    """Return all that determines a fit, as plain values; events are hashed."""
    schema, sampling = samples.schema, samples.sampling
    rows = (samples.user, samples.item, samples.start, samples.stop, samples.features)
    tables = (schema.user_table, schema.item_table, sampling.counts)
    return {
        **asdict(options),
        "negatives": sampling.negatives,
        "neg_ratio": sampling.neg_ratio,
        "exclude_history": sampling.exclude_history,
        **parameters,
        "events": joblib.hash((rows, samples.log.items, tables, training, weight)),
    }
