"""`NeuralRetriever`: what the retrievers with towers share, from samples to fitted vectors."""

from __future__ import annotations

import re
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skmatch._data import FIRST_KNOWN, CatalogueRows, Feature, Samples, Schema, place_dtype
from skmatch._nn import distributed
from skmatch._nn.engine import Engine, TrainingOptions, Weights
from skmatch._nn.ensemble import EnsembleTrainer
from skmatch._nn.losses import LOSSES
from skmatch._nn.pooling import POOLINGS
from skmatch._nn.towers import ACTIVATIONS, FeatureSpec, NetworkConfig
from skmatch._nn.training import PRECISIONS
from skmatch._validation import check_choice, check_weights
from skmatch.neighbors import METHODS, ItemFilter, ItemIndex
from skmatch.retrieval._base import BaseRetriever
from skmatch.retrieval._course import Course, setting_of
from skmatch.retrieval._progress import reporting
from skmatch.retrieval._search import POPULARITY, mean_ndcg, search, source_of

FULL_SOFTMAX_BYTES = 2**28  # of a step's scores; more than that is better sampled
STEP_EVENTS = 2**27  # of a step's histories; more than that is a slip
OUT_OF_MEMORY = re.compile("allocate memory|not enough memory|out of memory", re.IGNORECASE)
# An epoch of "auto" has about so many steps: with fewer, small sets stay unlearnt.
AUTO_STEPS, AUTO_BATCH = 400, (64, 2048)
# Share of the learning rate for further events: with all of it they undo what was learnt of others.
FURTHER_RATE = 0.15
INITS = ("cooccurrence", "random")
OF_THIS_PROCESS = ("_engine", "_unfinished")  # attributes that are not saved


class NeuralRetriever(BaseRetriever):
    """Base class of retrievers with a user tower."""

    _parameter_constraints: dict = {
        "embedding_dim": [Interval(Integral, 1, None, closed="left")],
        "dims": [list, tuple, np.ndarray],
        "activation": [str],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "unknown_rate": [Interval(Real, 0, 1, closed="left")],
        "batch_norm": ["boolean"],
        "skip_connection": ["boolean"],
        "init": [str],
        "pooling": [str],
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "loss": [str],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="right")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str],
        "precision": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "index": [str],
        "k": [Interval(Integral, 1, None, closed="left")],
        "exclude_seen": ["boolean"],
    }

    def __init__(
        self,
        embedding_dim: int = 64,
        dims: Any = (256, 64),
        activation: str = "gelu",
        dropout: float = 0.1,
        unknown_rate: float = 0.02,
        batch_norm: bool = False,
        skip_connection: bool = True,
        init: str = "cooccurrence",
        pooling: str = "decay",
        n_members: int = 1,
        temperature: float = 0.05,
        loss: str = "softmax",
        max_epochs: int = 6,
        batch_size: int | str = "auto",
        lr: float = 6e-3,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        device: str = "auto",
        precision: str = "float32",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
        index: str = "exact",
        k: int = 10,
        exclude_seen: bool = True,
    ):
        self.embedding_dim = embedding_dim
        self.dims = dims
        self.activation = activation
        self.dropout = dropout
        self.unknown_rate = unknown_rate
        self.batch_norm = batch_norm
        self.skip_connection = skip_connection
        self.init = init
        self.pooling = pooling
        self.n_members = n_members
        self.temperature = temperature
        self.loss = loss
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose
        self.index = index
        self.k = k
        self.exclude_seen = exclude_seen

    @abstractmethod
    def _tower_dims(self, dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Give the layers of the user tower and of the item tower (None: a table)."""

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        users: Any = None,
        items: Any = None,
    ) -> NeuralRetriever:
        """Train the towers on events.

        Parameters
        ----------
        X : Samples, DataFrame, array-like of shape (n_events, n_columns), or Parquet
            What the `fit_transform` of a `SequenceSampler` gave. Plain events, also in Parquet,
            are encoded and sampled with the defaults of `MatchEncoder` and `SequenceSampler`.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_events,) or None, default=None
            How much each event counts as a target.
        users, items : DataFrame or None, default=None
            Tables for the `MatchEncoder`, where `X` holds plain events.

        Returns
        -------
        self : estimator instance

        Raises
        ------
        FloatingPointError
            If training diverges. What was fitted before stays.

        Notes
        -----
        scikit-learn's callbacks see each epoch, and may stop the fit after it. The data that they
        get are `Samples`: each user's last training event with the history before it.
        """
        with reporting(self), self._saying_what_takes_memory():
            return self._fit(X, sample_weight, users, items)

    def _fit(self, X: Any, sample_weight: Any, users: Any, items: Any) -> NeuralRetriever:
        dims = self._check_names()
        samples, learnt = self._read_training(X, users, items)
        schema = samples.schema
        if len(schema.items.values) < 2:
            raise ValueError(
                f"The item column {schema.item!r} holds a single item, "
                f"{schema.items.values.tolist()[0]!r}, in {len(samples):,} sample(s); a retriever "
                "needs at least 2 items to tell apart."
            )
        weight = None
        if sample_weight is not None:
            weight = check_weights(sample_weight, len(samples))
            weight = (weight / weight.max()).astype(np.float32)  # only their proportions count
        course = self._first_course()
        course.seed = distributed.agreed(course.seed)
        training, validation = self._split(samples, weight, np.random.default_rng(course.seed))
        config = self._network_config(samples, dims)
        options = self._options(self.max_epochs, len(training))
        self._check_histories(samples, min(options.batch_size, len(training)))
        self._warn_of_full_softmax(samples, options.batch_size)
        weights = self._first_weights(samples, config)
        engine = Engine(config, self.device, course.seed, weights)
        if weights is None and self.init == "cooccurrence":
            engine.place_items(samples, training)
        trainer = engine.trainer(samples, training, weight, options)
        if self.warm_start or distributed.size() > 1:
            stopping = ("early_stopping", "validation_fraction", "n_iter_no_change")
            others = {name: getattr(self, name) for name in stopping}
            others["device"] = engine.device.type
            course.check(setting_of(options, samples, training, weight, **others))
            distributed.check_same(course.setting | {"network": config, "epoch": course.n_epochs})
        if course.trainer is not None:
            trainer.load(course.trainer)
            course.trainer = None

        def validate() -> float:
            return distributed.agreed(self._validate(engine, samples, validation, training))

        def fitted(index: str = self.index, copy: bool = True) -> dict[str, Any]:
            index_ = ItemIndex(index, course.seed)
            return {
                **learnt,
                **_fitted(engine, samples, course.losses, index_, copy),
                "validation_curve_": course.scores or None,
                "schema_": schema,
                "_engine": None,
            }

        def unfinished() -> dict[str, Any]:
            state = vars(course) | {"trainer": trainer.state()}
            return fitted(index="exact", copy=False) | {"training_state_": state}

        validator = validate if len(validation) else None
        self._unfinished = unfinished  # for the callback Checkpoint
        try:
            self._train(engine, trainer, validator, course, fitted, samples, training)
        finally:
            del self._unfinished
        self._set_learnt(fitted(copy=False))
        self._serving_engine()
        return self

    def _options(self, max_epochs: int, n_rows: int) -> TrainingOptions:
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = np.clip(n_rows // AUTO_STEPS, *AUTO_BATCH)
        return TrainingOptions(
            loss=self.loss,
            temperature=float(self.temperature),
            batch_size=int(batch_size),
            lr=float(self.lr),
            weight_decay=float(self.weight_decay),
            max_epochs=int(max_epochs),
            precision=self.precision,
        )

    def _learn_more(self, samples: Samples) -> dict[str, Any]:
        self._check_names()
        schema = samples.schema
        config = NetworkConfig.from_dict(self.network_config_)
        config = replace(
            config,
            **_sizes(schema, has_item_tower=config.item_dims is not None),
        )
        # Each call draws anew.
        seed = (int(check_random_state(self.random_state).randint(2**31)) + self.n_iter_) % 2**31
        seed = distributed.agreed(seed)
        engine = Engine(config, self.device, seed, self.weights_)
        training, _ = _rows_to_train(samples, None)
        unmet = engine.unmet() if self.unknown_rate > 0 else None
        options = self._options(1, len(training))
        options = replace(options, lr=options.lr * FURTHER_RATE)
        if distributed.size() > 1:
            setting = setting_of(options, samples, training, None)
            distributed.check_same(setting | {"network": config})
        loss = engine.trainer(samples, training, None, options).run_epoch()
        if not np.isfinite(loss):
            raise self._divergence(f"The loss became {loss}")
        if unmet is not None:
            # Who is not trained on now either stays unknown, as after fit.
            users, items = unmet
            engine.make_unknown(
                np.setdiff1d(users, samples.user[training]),
                np.setdiff1d(items, samples.item[training]),
            )
        self._check_vectors(engine, samples)
        learnt = _fitted(
            engine,
            samples,
            [*self.loss_curve_, loss],
            ItemIndex(self.index_.method, self.index_.random_state),
            copy=False,
        )
        return learnt | {"_engine": Engine(config, weights=learnt["weights_"], shared=True)}

    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        if self.network_config_["item_dims"] is None:
            raise ValueError(
                f"{type(self).__name__} cannot add items: it reads no features of items, and their "
                "vectors come from training only. Call partial_fit with events of the new items, "
                "or use DSSMRetriever, whose item tower gives vectors from features."
            )
        n_new = len(rows.schema.items.values) - len(self.item_vectors_)
        vectors = np.pad(self.item_vectors_, ((0, n_new), (0, 0)))
        vectors[rows.codes - FIRST_KNOWN] = self._serving_engine().item_vectors(
            rows.schema, rows.codes
        )
        return {
            "item_vectors_": vectors,
            "popularity_": np.pad(self.popularity_, (0, n_new)),
            "index_": ItemIndex(self.index_.method, self.index_.random_state).fit(vectors),
        }

    def _check_histories(self, samples: Samples, n_rows: int) -> None:
        """Raise where the histories of a step cannot be meant."""
        n_events = n_rows * samples.max_length
        if n_events > STEP_EVENTS:
            longest = int((samples.stop - samples.start).max())
            raise ValueError(
                f"max_length={samples.max_length:,} makes a step hold up to {n_events:,} events "
                f"of histories, and the longest here has {longest:,}. Lower max_length in "
                "SequenceSampler, or else batch_size."
            )

    @contextmanager
    def _saying_what_takes_memory(self) -> Iterator[None]:
        """Turn torch's errors of memory into one that names what to lower."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
                raise
            raise MemoryError(
                f"Training needs more memory than there is ({str(error).splitlines()[0]}). Lower "
                f"batch_size={self.batch_size!r}, embedding_dim={self.embedding_dim} or "
                f"dims={self.dims}, or max_length or neg_ratio in SequenceSampler; "
                "pooling='concat' and negatives='all' take most."
            ) from error

    def _warn_of_full_softmax(self, samples: Samples, batch_size: int) -> None:
        n_items = len(samples.schema.items.values)
        n_bytes = 4 * batch_size * n_items
        if samples.sampling.negatives == "all" and n_bytes > FULL_SOFTMAX_BYTES:
            warnings.warn(
                f"negatives='all' scores {batch_size:,} rows against {n_items:,} items in "
                f"each step, {n_bytes / 2**30:.1f} GiB at a time; say negatives='popularity' in "
                "SequenceSampler, whose cost does not grow with the catalogue, or lower "
                "batch_size.",
                UserWarning,
                stacklevel=5,
            )

    def _network_config(self, samples: Samples, dims: tuple[int, ...]) -> NetworkConfig:
        schema = samples.schema
        user_dims, item_dims = self._tower_dims(dims)
        return NetworkConfig(
            **_sizes(schema, has_item_tower=item_dims is not None),
            embedding_dim=int(self.embedding_dim),
            user_dims=user_dims,
            item_dims=item_dims,
            activation=self.activation,
            dropout=float(self.dropout),
            batch_norm=bool(self.batch_norm),
            skip_connection=bool(self.skip_connection),
            pooling=self.pooling,
            max_length=samples.max_length,
            unknown_rate=float(self.unknown_rate),
            n_members=int(self.n_members),
        )

    def _first_weights(self, samples: Samples, config: NetworkConfig) -> Weights | None:
        """Give the weights of the last fit under `warm_start`."""
        if not (self.warm_start and hasattr(self, "weights_")):
            return None
        is_same = self.schema_.agrees_with(samples.schema)
        if not is_same or config != NetworkConfig.from_dict(self.network_config_):
            raise ValueError(
                "warm_start=True continues from the last fit, but ids, features or the sizes of "
                "the network differ from it; fit the same events and parameters, or say "
                "warm_start=False."
            )
        return self.weights_

    def _first_course(self) -> Course:
        """Begin a fit; under `warm_start` go on with an interrupted one, or behind the last."""
        continues = self.warm_start and hasattr(self, "weights_")
        if continues and self.training_state_ is not None:
            return Course(**self.training_state_)
        seed = int(check_random_state(self.random_state).randint(2**31))
        if continues:
            return Course(seed, self.loss_curve_, self.validation_curve_ or [])
        return Course(seed)

    def _check_names(self) -> tuple[int, ...]:
        check_choice("loss", self.loss, tuple(LOSSES))
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("init", self.init, INITS)
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("index", self.index, METHODS)
        dims = tuple(self.dims)
        is_integer = [isinstance(d, (int, np.integer)) and not isinstance(d, bool) for d in dims]
        if not dims or not all(is_integer) or min(dims) < 1:
            raise ValueError(
                f"dims={self.dims!r} must hold at least one layer size, each an integer of at "
                "least 1, as in dims=(256, 64)."
            )
        return tuple(int(dim) for dim in dims)

    def _split(
        self, samples: Samples, weight: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows to train on, in the order of the log, and those to validate on."""
        training, have_history = _rows_to_train(samples, weight)
        if not have_history:
            warnings.warn(
                f"No event has min_history={samples.min_history} events of its user before it: "
                "training on all events. Say min_history=0 in SequenceSampler if that is meant.",
                UserWarning,
                stacklevel=4,
            )
        if not self.early_stopping:
            return training, training[:0]
        # The last event of some users is held out; earlier ones do not know of it.
        last = _last_of_users(samples.user[training])
        n_held_out = int(np.ceil(self.validation_fraction * len(last)))
        if n_held_out >= len(training):
            raise ValueError(
                f"early_stopping holds out {n_held_out} of {len(training)} events and leaves none "
                "to train on; lower validation_fraction or give more events."
            )
        held_out = rng.choice(last, n_held_out, replace=False)
        return np.delete(training, held_out), training[np.sort(held_out)]

    def _train(
        self,
        engine: Engine,
        trainer: EnsembleTrainer,
        validate: Callable[[], float] | None,
        course: Course,
        fitted: Callable[[], dict[str, Any]],
        samples: Samples,
        training: np.ndarray,
    ) -> None:
        """Run the epochs; the network ends with its best weights where they are validated."""
        # A user's first event has no history: scored by it, no epoch would differ from another.
        scored = samples.take(training[_last_of_users(samples.user[training])])
        data = {"estimator": self, "X": scored, "y": scored.item}
        context = self._init_callback_context(max_subtasks=self.max_epochs - course.n_epochs)
        context.call_on_fit_task_begin(**data)
        stop = False
        while not stop and course.n_epochs < self.max_epochs:
            if course.has_stalled(self.n_iter_no_change):
                break
            subcontext = context.subcontext(task_name="epoch")
            subcontext.call_on_fit_task_begin(**data)
            loss = trainer.run_epoch()
            if not np.isfinite(loss):
                raise self._divergence(f"The loss became {loss} in epoch {course.n_epochs + 1}")
            course.add_epoch(loss)
            if validate is not None:
                course.add_score(validate(), engine.weights)
            stop = distributed.agreed(
                subcontext.call_on_fit_task_end(**data, reconstruction_attributes=fitted)
            )
        trainer.end()
        if course.best_weights is not None:
            engine.load(course.best_weights)
        if self.unknown_rate > 0:
            engine.make_unknown(*_unmet(samples, training))
        self._check_vectors(engine, samples)
        context.call_on_fit_task_end(**data, reconstruction_attributes=fitted)

    def _validate(
        self, engine: Engine, samples: Samples, held_out: np.ndarray, training: np.ndarray
    ) -> float:
        """Return the mean NDCG@10 of held-out rows by the network as it would be served."""
        kept = None
        if self.unknown_rate > 0:
            unmet = _unmet(samples, training)
            kept = engine.weights() if any(map(len, unmet)) else None
            engine.make_unknown(*unmet)
        index = ItemIndex().fit(engine.item_vectors(samples.schema))
        popularity = _popularity(samples)

        def rank(queries: Samples) -> np.ndarray:
            allowed = ItemFilter.without_seen(queries, self.exclude_seen)
            is_unknown = source_of(queries) == POPULARITY
            return search(queries, 10, allowed, is_unknown, engine.user_vectors, index, popularity)[
                0
            ]

        score = mean_ndcg(samples.take(held_out), 10, rank)
        if kept is not None:
            engine.load(kept)
        return score

    def _check_vectors(self, engine: Engine, samples: Samples) -> None:
        # The loss of a step is that before its update: the last update can still diverge.
        last = samples.take(np.arange(len(samples))[-1000:])
        for vectors in (engine.item_vectors(samples.schema), engine.user_vectors(last)):
            if not np.isfinite([vectors.min(), vectors.max()]).all():
                raise self._divergence("Vectors are not finite after the last epoch")

    def _divergence(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what}: training diverged. Lower lr={self.lr} or raise "
            f"temperature={self.temperature}."
        )

    def _encode(self, samples: Samples) -> np.ndarray:
        if not len(samples):
            return np.empty((0, self.item_vectors_.shape[1]), dtype=np.float32)
        return self._serving_engine().user_vectors(samples)

    def _serving_engine(self) -> Engine:
        if getattr(self, "_engine", None) is None:
            # Serving stays on the CPU: a model trained on a GPU answers anywhere.
            config = NetworkConfig.from_dict(self.network_config_)
            self._engine = Engine(config, weights=self.weights_, shared=True)
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # The weights are saved as plain arrays; the network is built from them where needed.
        return {name: value for name, value in state.items() if name not in OF_THIS_PROCESS}


def _rows_to_train(samples: Samples, weight: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Give the rows that have enough history, else all, and whether any has; in log order."""
    usable = samples.item >= FIRST_KNOWN
    if weight is not None:
        usable &= weight > 0
    if not usable.any():
        raise ValueError(
            "No event has a known item and a positive sample_weight: nothing to train on."
        )
    enough = usable & (samples.stop - samples.seen >= samples.min_history)
    rows: np.ndarray = np.flatnonzero(enough if enough.any() else usable)
    rows = rows.astype(place_dtype(len(samples)))
    return rows[np.argsort(samples.stop[rows], kind="stable")], bool(enough.any())


def _fitted(
    engine: Engine,
    samples: Samples,
    losses: list[float],
    index: ItemIndex,
    copy: bool = True,
) -> dict[str, Any]:
    """Give the attributes that training sets."""
    vectors = engine.item_vectors(samples.schema)
    return {
        "loss_curve_": losses,
        "n_iter_": len(losses),
        "network_config_": engine.network.config.to_dict(),
        "weights_": engine.weights(copy),
        "training_state_": None,
        "item_vectors_": vectors,
        "popularity_": _popularity(samples),
        "index_": index.fit(vectors),
    }


def _popularity(samples: Samples) -> np.ndarray:
    """Return each item's share of the events."""
    counts = samples.sampling.counts.astype(np.float32)
    return counts / max(counts.sum(), 1)


def _unmet(samples: Samples, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of users and items that have no event to learn from."""
    users = np.setdiff1d(np.arange(FIRST_KNOWN, len(samples.schema.users)), samples.user[training])
    return users, np.flatnonzero(samples.sampling.counts == 0) + FIRST_KNOWN


def _last_of_users(user: np.ndarray) -> np.ndarray:
    """Give the last row of each user, of rows that are sorted by user."""
    return np.flatnonzero(np.append(user[1:] != user[:-1], True))


def _sizes(schema: Schema, has_item_tower: bool) -> dict[str, Any]:
    """Give what a network must know of a schema; only an item tower reads features of items."""
    return {
        "n_users": len(schema.users),
        "n_items": len(schema.items),
        "user_features": _specs(schema.user_features),
        "item_features": _specs(schema.item_features) if has_item_tower else (),
    }


def _specs(features: tuple[Feature, ...]) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(feature.kind, feature.size) for feature in features)
