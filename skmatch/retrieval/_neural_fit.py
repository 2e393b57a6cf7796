"""`NeuralFit`: a fit of a neural retriever, from samples to fitted attributes."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import check_random_state

from skmatch._data import FIRST_KNOWN, Samples
from skmatch._growth import replaced
from skmatch._nn import distributed
from skmatch._nn.encoders import NetworkConfig
from skmatch._nn.engine import Engine, TrainingOptions, Weights
from skmatch._nn.features import FeatureSpec
from skmatch._nn.training import RESTARTS
from skmatch._schema import Feature, Schema
from skmatch.neighbors import ItemIndex
from skmatch.retrieval._base import count_items, popularity_of
from skmatch.retrieval._progress import epoch_bar
from skmatch.retrieval._similar_content import weights_of_similar
from skmatch.retrieval._training_rows import (
    last_of_users,
    normalised,
    questions,
    rows_to_train,
    rows_to_validate,
    sampling_counts,
)
from skmatch.retrieval._training_state import TrainingState, settings_of

# batch_size="auto": with fewer steps per epoch, small data sets are underfitted; more steps take
# longer and gain little.
AUTO_BATCH, AUTO_STEPS, AUTO_BATCHES = 512, (400, 2000), (64, 2048)
AUTO_ID_DROPOUT = (0.02, 0.1)  # without and with item features
# Share of `lr` at which `partial_fit` trains: the full rate overwrites the earlier training.
UPDATE_RATE = 0.15
# Larger than `k`: retrieval hands candidates on, and a score at few items is noisier.
VALIDATION_K = 100
TOLERANCE = 0.01  # of max_epochs="auto": smaller differences of scores are noise
FULL_SOFTMAX_BYTES = 2**28  # scores of a step; negatives="all" warns above
MAX_STEP_EVENTS = 2**27  # in the histories of a step; more raise an error


class NeuralFit:
    """A fit: the rows to train on, the network, and the state between two epochs.

    The parameters of `estimator`, which is not changed, set the fit; `encoding` holds fitted
    attributes that the encoding of plain events has set.
    """

    def __init__(
        self, estimator: Any, samples: Samples, weight: np.ndarray | None, encoding: dict[str, Any]
    ):
        self.estimator, self.samples, self.encoding = estimator, samples, encoding
        self.state = self._first_state()
        self.state.seed = distributed.broadcast(self.state.seed)
        self.training, held_out = self._split(weight)
        self.held_out = questions(samples.gather(held_out), estimator.validation)
        self.counts = count_items(samples, weight)
        self.trend = estimator._learn_trend(samples, weight, self.counts)
        options = make_options(estimator, len(self.training))
        self.max_epochs, self.is_auto = options.max_epochs, estimator.max_epochs == "auto"
        self._check_cost(options.batch_size)
        config = self._config()
        weights = self._first_weights(config)
        self.engine = Engine(config, estimator.device, self.state.seed, weights)
        drawn_by = sampling_counts(samples, self.training, self.counts, weight)
        weight = normalised(weight, self.training)
        if weights is None and estimator.init == "cooccurrence":
            self.engine.init_item_embeddings(samples, self.training, weight)
        self.trainer = self.engine.trainer(samples, self.training, weight, drawn_by, options)
        if estimator.warm_start or distributed.size() > 1:
            stopping = (
                *("early_stopping", "validation", "validation_fraction"),
                "n_iter_no_change",
            )
            parameters = {name: getattr(estimator, name) for name in stopping}
            parameters["device"] = self.engine.device.type
            settings = settings_of(options, samples, self.training, weight, **parameters)
            self.state.check(settings)
            parameters = {"network": config, "epoch": self.state.n_epochs}
            distributed.check_same(settings | parameters)
        if self.state.trainer is not None:
            self.trainer.load(self.state.trainer)
            self.state.trainer = None

    def run(self) -> None:
        """Run the epochs; the network ends with its best weights where they are validated."""
        estimator, state = self.estimator, self.state
        # Each user's last event, for callbacks: first events, without history, score alike.
        scored = self.samples.gather(self.training[last_of_users(self.samples.user[self.training])])
        data = {"estimator": estimator, "X": scored, "y": scored.item}
        n_epochs = self.max_epochs - state.n_epochs
        context = estimator._init_callback_context(max_subtasks=n_epochs)
        context.call_on_fit_task_begin(**data)
        stop = False
        with epoch_bar(estimator, n_epochs) as advance:
            while not stop and state.n_epochs < self.max_epochs and not self._has_stalled():
                subcontext = context.subcontext(task_name="epoch")
                subcontext.call_on_fit_task_begin(**data)
                self._run_epoch()
                stop = distributed.broadcast(
                    subcontext.call_on_fit_task_end(
                        **data, reconstruction_attributes=self.attributes
                    )
                )
                advance()
        self.trainer.close()
        if state.best_weights is not None:
            self.engine.load(state.best_weights)
        self._fill_untrained(self.engine)
        check_vectors(estimator, self.engine, self.samples)
        context.call_on_fit_task_end(**data, reconstruction_attributes=self.attributes)

    def _run_epoch(self) -> None:
        """Train for an epoch and validate; raise if the loss is not finite."""
        loss, state = self.trainer.run_epoch(), self.state
        if not np.isfinite(loss):
            epoch = state.n_epochs + 1
            raise divergence(self.estimator, f"The loss became {loss} in epoch {epoch}")
        state.add_epoch(loss)
        if self.held_out:
            state.add_score(self.validate())
            if not self.is_auto:
                state.keep_best(self.engine.weights)
            elif state.n_epochs in RESTARTS:
                state.keep_best(self.engine.weights, TOLERANCE)

    def _has_stalled(self) -> bool:
        """Return whether the last epochs have not improved the score of the held-out events."""
        state, estimator = self.state, self.estimator
        if not self.held_out:
            return False
        if estimator.early_stopping and state.has_stalled(estimator.n_iter_no_change):
            return True
        return self.is_auto and state.n_epochs in RESTARTS and state.best_epoch < state.n_epochs

    def validate(self) -> float:
        """Compute NDCG@100 of the held-out events by the `score` of the retriever as of now."""
        engine = Engine(self.engine.network.config, weights=self.engine.weights(), shared=True)
        self._fill_untrained(engine)
        fitted = self.attributes(engine, exact=True, copy=False) | {"_engine": engine}
        fitted_now = replaced(self.estimator, **fitted, k=VALIDATION_K)
        scores = [fitted_now.score(rows) for rows in self.held_out]
        sizes = [len(rows) for rows in self.held_out]
        return distributed.broadcast(float(np.average(scores, weights=sizes)))

    def attributes(
        self, engine: Engine | None = None, *, exact: bool = False, copy: bool = True
    ) -> dict[str, Any]:
        """Return the current fitted attributes; without a copy, later steps change the weights."""
        engine = engine or self.engine
        item_index = ItemIndex("exact" if exact else self.estimator.index, self.state.seed)
        return {
            **self.encoding,
            **fitted_attributes(
                engine, self.samples, self.counts, self.state.losses, item_index, copy
            ),
            "validation_curve_": self.state.scores or None,
            **self.trend,
            "temperature_": float(self.estimator.temperature),
            "schema_": self.samples.schema,
            "_engine": None,
        }

    def unfinished(self) -> dict[str, Any]:
        """Return the fitted attributes of a fit that a later fit can continue."""
        state = vars(self.state) | {"trainer": self.trainer.state()}
        return self.attributes(exact=True, copy=False) | {"training_state_": state}

    def _first_state(self) -> TrainingState:
        """Start a fit; under `warm_start`, continue an interrupted fit or follow the last."""
        estimator = self.estimator
        continues = estimator.warm_start and hasattr(estimator, "weights_")
        if continues and estimator.training_state_ is not None:
            return TrainingState(**estimator.training_state_)
        seed = int(check_random_state(estimator.random_state).randint(2**31))
        if continues:
            return TrainingState(seed, estimator.loss_curve_, estimator.validation_curve_ or [])
        return TrainingState(seed)

    def _first_weights(self, config: NetworkConfig) -> Weights | None:
        """Return the weights of the last fit under `warm_start`."""
        estimator = self.estimator
        if not (estimator.warm_start and hasattr(estimator, "weights_")):
            return None
        is_same = estimator.schema_.agrees_with(self.samples.schema)
        if not is_same or config != NetworkConfig.from_dict(estimator.network_config_):
            raise ValueError(
                "warm_start=True continues from the last fit, but ids, features or the sizes of "
                "the network differ from it; fit the same events and parameters, or set "
                "warm_start=False."
            )
        return estimator.weights_

    def _split(self, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and the rows to validate on, in the order of the log."""
        samples = self.samples
        training, have_history = rows_to_train(samples, weight, self.estimator.exclude_seen)
        if not len(training):
            raise ValueError(
                "No event has a known item and a positive sample_weight: nothing to train on."
            )
        if not have_history:
            warnings.warn(
                f"No event has min_history={samples.min_history} events of its user before it: "
                "training on all events. Set min_history=0 in SequenceSampler if that is intended.",
                UserWarning,
                stacklevel=6,
            )
        estimator = self.estimator
        if not estimator.early_stopping and estimator.max_epochs != "auto":
            return training, training[:0]
        # Held-out events are their users' last: no history of a training row holds them.
        held_out = rows_to_validate(samples, training, estimator.validation_fraction)
        if len(held_out) >= len(training):
            raise ValueError(
                f"validation_fraction={estimator.validation_fraction!r} holds out {len(held_out)} "
                f"of {len(training)} events and leaves none to train on; lower it or pass more "
                "events."
            )
        return training[~np.isin(training, held_out)], held_out

    def _config(self) -> NetworkConfig:
        estimator, samples = self.estimator, self.samples
        user_dims, item_dims = estimator._tower_dims(tuple(int(dim) for dim in estimator.dims))
        return NetworkConfig(
            **network_sizes(samples.schema),
            embedding_dim=int(estimator.embedding_dim),
            user_dims=user_dims,
            item_dims=item_dims,
            activation=estimator.activation,
            dropout=float(estimator.dropout),
            batch_norm=bool(estimator.batch_norm),
            skip_connection=bool(estimator.skip_connection),
            pooling=estimator.pooling,
            max_length=samples.max_length,
            id_dropout=_id_dropout(estimator, samples.schema),
            n_estimators=int(estimator.n_estimators),
        )

    def _check_cost(self, batch_size: int) -> None:
        """Raise if the histories of a step are too large, warn if the scores of all items are."""
        samples, n_rows = self.samples, min(batch_size, len(self.training))
        longest = int((samples.stop - samples.start).max())
        n_events = n_rows * longest
        if n_events > MAX_STEP_EVENTS:
            raise ValueError(
                f"max_length={samples.max_length:,} makes a step hold up to {n_events:,} events "
                f"of histories, and the longest here has {longest:,}. Lower max_length in "
                "SequenceSampler, or else batch_size."
            )
        n_items = len(samples.schema.items.values)
        n_bytes = 4 * batch_size * n_items
        if samples.sampling.negatives == "all" and n_bytes > FULL_SOFTMAX_BYTES:
            warnings.warn(
                f"negatives='all' scores {batch_size:,} rows against {n_items:,} items in "
                f"each step, {n_bytes / 2**30:.1f} GiB at a time; set negatives='popularity' in "
                "SequenceSampler, whose cost does not grow with the catalogue, or lower "
                "batch_size.",
                UserWarning,
                stacklevel=6,
            )

    def _fill_untrained(self, engine: Engine) -> None:
        """Set the embeddings of users and items without training events.

        Users get that of the unknown code, items a mean of items with similar features.
        """
        if engine.network.config.id_dropout > 0:
            users = np.arange(FIRST_KNOWN, len(self.samples.schema.users))
            engine.reset_users(np.setdiff1d(users, self.samples.user[self.training]))
        if self.samples.schema.item_features:
            engine.impute_item_embeddings(*self._imputed_items)

    @cached_property
    def _imputed_items(self) -> tuple[np.ndarray, csr_array]:
        """Return the codes of items without events, and the weights of the items like them."""
        codes = FIRST_KNOWN + np.flatnonzero(self.counts == 0)
        return codes, weights_of_similar(self.samples.schema, codes, self.counts)


def update(estimator: Any, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
    """Train a fitted retriever for an epoch on further rows; return the new fitted attributes."""
    config = NetworkConfig.from_dict(estimator.network_config_)
    config = NetworkConfig(**vars(config) | network_sizes(samples.schema))
    # A new seed per call.
    seed = int(check_random_state(estimator.random_state).randint(2**31))
    seed = distributed.broadcast((seed + estimator.n_iter_) % 2**31)
    engine = Engine(config, estimator.device, seed, estimator.weights_)
    training, _ = rows_to_train(samples, weight, estimator.exclude_seen)
    counts = count_items(samples, weight)
    n_new = len(counts) - len(estimator.counts_)
    counts_before = np.pad(estimator.counts_, (0, n_new))
    counts += counts_before
    trend = estimator._update_trend(samples, weight, counts)
    losses = estimator.loss_curve_
    has_features = bool(samples.schema.item_features)
    if has_features:
        new = np.arange(estimator.network_config_["n_items"], config.n_items)
        similar = weights_of_similar(samples.schema, new, counts_before)
        engine.impute_item_embeddings(new, similar)
    if len(training):
        untrained_users = engine.untrained_users() if config.id_dropout > 0 else None
        if has_features:
            untrained_items = FIRST_KNOWN + np.flatnonzero(counts == 0)
            embeddings = engine.item_embeddings(untrained_items)
        options = make_options(estimator, len(training), is_update=True)
        drawn_by = sampling_counts(samples, training, counts, weight)
        weight = normalised(weight, training)
        if distributed.size() > 1:
            settings = settings_of(options, samples, training, weight)
            distributed.check_same(settings | {"network": config})
        loss = engine.trainer(samples, training, weight, drawn_by, options).run_epoch()
        if not np.isfinite(loss):
            raise divergence(estimator, f"The loss became {loss}")
        losses = [*losses, loss]
        # Users and items that still have no events keep what they had.
        if untrained_users is not None:
            engine.reset_users(np.setdiff1d(untrained_users, samples.user[training]))
        if has_features:
            engine.set_item_embeddings(untrained_items, embeddings)
    check_vectors(estimator, engine, samples)
    index = ItemIndex(estimator.index_.method, estimator.index_.random_state)
    fitted = fitted_attributes(engine, samples, counts, losses, index, copy=False)
    return {
        **fitted,
        **trend,
        "temperature_": float(estimator.temperature),
        "_engine": Engine(config, weights=fitted["weights_"], shared=True),
    }


def make_options(estimator: Any, n_rows: int, is_update: bool = False) -> TrainingOptions:
    """Return the options of training on `n_rows` rows.

    An update takes one step per row, at most 400: the result hardly depends on how events are split
    into calls.
    """
    batch_size, max_epochs = estimator.batch_size, estimator.max_epochs
    schedule = "one_cycle"
    if max_epochs == "auto":
        max_epochs, schedule = RESTARTS[-1], "warm_restarts"
    (fewest, most), (smallest, largest) = AUTO_STEPS, AUTO_BATCHES
    if is_update:
        max_epochs, schedule = 1, "constant"
        largest = largest if batch_size == "auto" else batch_size
        batch_size = min(-(-n_rows // fewest), largest)
    elif batch_size == "auto":
        batch_size = np.clip(AUTO_BATCH, n_rows // most, n_rows // fewest)
        batch_size = np.clip(batch_size, smallest, largest)
    return TrainingOptions(
        loss=estimator.loss,
        temperature=float(estimator.temperature),
        batch_size=int(batch_size),
        lr=float(estimator.lr) * (UPDATE_RATE if is_update else 1.0),
        weight_decay=float(estimator.weight_decay),
        max_epochs=int(max_epochs),
        precision=estimator.precision,
        schedule=schedule,
    )


def fitted_attributes(
    engine: Engine,
    samples: Samples,
    counts: np.ndarray,
    losses: list[float],
    index: ItemIndex,
    copy: bool = True,
) -> dict[str, Any]:
    vectors = engine.item_vectors(samples.schema)
    return {
        "loss_curve_": losses,
        "n_iter_": len(losses),
        "network_config_": engine.network.config.to_dict(),
        "weights_": engine.weights(copy),
        "training_state_": None,
        "item_vectors_": vectors,
        **popularity_of(counts),
        "index_": index.fit(vectors),
    }


def check_vectors(estimator: Any, engine: Engine, samples: Samples) -> None:
    """Raise if vectors are not finite or all zero, which the loss before the last step misses."""
    last_rows = samples.gather(np.arange(len(samples))[-1000:])
    for vectors in (engine.item_vectors(samples.schema), engine.user_vectors(last_rows)):
        if not np.isfinite([vectors.min(), vectors.max()]).all() or not vectors.any():
            raise divergence(estimator, "Vectors are not finite or all zero after the last epoch")


def _id_dropout(estimator: Any, schema: Schema) -> float:
    if estimator.id_dropout != "auto":
        return float(estimator.id_dropout)
    return AUTO_ID_DROPOUT[bool(schema.item_features)]


def divergence(estimator: Any, symptom: str) -> FloatingPointError:
    return FloatingPointError(
        f"{symptom}: training diverged. Lower lr={estimator.lr} or raise "
        f"temperature={estimator.temperature}."
    )


def network_sizes(schema: Schema) -> dict[str, Any]:
    return {
        "n_users": len(schema.users),
        "n_items": len(schema.items),
        "user_features": _specs(schema.user_features),
        "item_features": _specs(schema.item_features),
        "event_features": _specs(schema.event_features),
    }


def _specs(features: tuple[Feature, ...]) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(feature.kind, feature.size) for feature in features)
