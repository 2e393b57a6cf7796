"""Where a fit stands between two epochs, and whether a later fit may go on from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import joblib
import numpy as np

from skmatch._data import Samples
from skmatch._nn.engine import TrainingOptions, Weights


@dataclass
class Course:
    """How far a fit has come: all that its next epochs depend on, beside the weights.

    Its fields are what `training_state_` holds; none is ever changed in place.
    """

    seed: int  # of weights, of draws and of the choice of held-out events
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # NDCG@10 on the held-out events
    n_epochs: int = 0  # of this fit; under `warm_start` the curves hold earlier ones, too
    best_score: float = -1.0
    best_epoch: int = 0
    best_weights: Weights | None = None
    setting: dict[str, Any] = field(default_factory=dict)
    trainer: list[dict[str, Any]] | None = None  # its state, where this is an interrupted fit

    def check(self, setting: dict[str, Any]) -> None:
        """Refuse to go on with another setting than that of the interrupted fit."""
        for name, value in setting.items():
            then = self.setting.get(name, value)
            if then == value:
                continue
            if name == "events":
                raise ValueError(
                    "warm_start=True goes on with an interrupted fit, which had other events, "
                    "features or sample weights: fit the same, in the same order, or say "
                    "warm_start=False to begin anew."
                )
            raise ValueError(
                f"warm_start=True goes on with an interrupted fit, which had {name}={then!r} and "
                f"not {value!r}: set it back, or say warm_start=False to begin anew."
            )
        self.setting = setting

    def add_epoch(self, loss: float) -> None:
        """Count an epoch."""
        self.losses = [*self.losses, loss]
        self.n_epochs += 1

    def add_score(self, score: float, weights: Callable[[], Weights]) -> None:
        """Judge the epoch that was counted last; keep its weights if it is the best."""
        self.scores = [*self.scores, score]
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.n_epochs
            self.best_weights = weights()

    def has_stalled(self, n_iter_no_change: int) -> bool:
        """Tell whether so many epochs have brought no better score."""
        is_judged = self.best_weights is not None
        return is_judged and self.n_epochs - self.best_epoch >= n_iter_no_change


def setting_of(
    options: TrainingOptions,
    samples: Samples,
    training: np.ndarray,
    weight: np.ndarray | None,
    **others: Any,
) -> dict[str, Any]:
    """Give all that sets the course of a fit, as plain values; the events as a hash of them."""
    schema, sampling = samples.schema, samples.sampling
    rows = (samples.user, samples.item, samples.start, samples.stop, samples.features)
    tables = (schema.user_table, schema.item_table, sampling.counts)
    return {
        **asdict(options),
        "negatives": sampling.negatives,
        "neg_ratio": sampling.neg_ratio,
        "exclude_history": sampling.exclude_history,
        **others,
        "events": joblib.hash((rows, samples.log.items, tables, training, weight)),
    }
