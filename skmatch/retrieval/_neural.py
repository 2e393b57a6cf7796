"""`NeuralRetriever`: what the retrievers with towers share, from samples to fitted vectors."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight

from skmatch._data import FIRST_KNOWN, Bag, Column, Columns, Feature, Samples, concatenate_ranges
from skmatch._nn.device import resolve_device
from skmatch._nn.losses import LOSSES
from skmatch._nn.negatives import NegativeSampler
from skmatch._nn.pooling import POOLINGS
from skmatch._nn.towers import (
    ACTIVATIONS,
    BagTensor,
    FeatureSpec,
    FeatureTensor,
    NetworkConfig,
    TwoTowers,
)
from skmatch._nn.training import (
    FeatureSource,
    Rows,
    Targets,
    Trainer,
    encode_catalogue,
    encode_rows,
    mean_ndcg,
)
from skmatch._validation import check_choice
from skmatch.neighbors import METHODS, ItemIndex, SeenItems
from skmatch.retrieval._base import BaseRetriever


class NeuralRetriever(BaseRetriever):
    """Base class of retrievers with a user tower."""

    _parameter_constraints: dict = {
        "embedding_dim": [Interval(Integral, 1, None, closed="left")],
        "dims": ["array-like", tuple],
        "activation": [str],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "batch_norm": ["boolean"],
        "pooling": [str],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "loss": [str],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="right")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "index": [str],
        "k": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        embedding_dim: int = 64,
        dims: Any = (256, 64),
        activation: str = "gelu",
        dropout: float = 0.2,
        batch_norm: bool = False,
        pooling: str = "mean",
        temperature: float = 0.05,
        loss: str = "softmax",
        max_epochs: int = 20,
        batch_size: int = 2048,
        lr: float = 3e-3,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
        index: str = "exact",
        k: int = 10,
    ):
        self.embedding_dim = embedding_dim
        self.dims = dims
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.pooling = pooling
        self.temperature = temperature
        self.loss = loss
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.index = index
        self.k = k

    @abstractmethod
    def _tower_dims(self, dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Give the layers of the user tower and of the item tower (None: a table)."""

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
        X : Samples, DataFrame or array-like of shape (n_events, n_columns)
            What the `fit_transform` of a `SequenceSampler` gave. Plain events are encoded and
            sampled with the defaults of `MatchEncoder` and `SequenceSampler`.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_events,) or None, default=None
            How much each event counts as a target.
        users, items : DataFrame or None, default=None
            Tables for the `MatchEncoder`, where `X` holds plain events.

        Returns
        -------
        self : estimator instance
        """
        dims = self._check_names()
        samples, learnt = self._read_training(X, users, items)
        schema = samples.schema
        if len(schema.items.values) < 2:
            raise ValueError(
                f"The item column {schema.item!r} holds a single item, "
                f"{schema.items.values[0]!r}; a retriever needs at least 2 items to tell apart."
            )
        weight = _check_sample_weight(
            sample_weight, np.empty(len(samples)), dtype=np.float32, ensure_non_negative=True
        )
        device = resolve_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31))
        rng = np.random.default_rng(seed)
        generator = torch.Generator(device).manual_seed(seed)
        sampling = samples.sampling
        negatives_generator = generator
        if sampling.seed is not None:
            negatives_generator = torch.Generator(device).manual_seed(sampling.seed)

        training, validation = self._split(samples, weight, rng)
        user_dims, item_dims = self._tower_dims(dims)
        config = NetworkConfig(
            n_users=len(schema.users),
            n_items=len(schema.items),
            user_features=_specs(schema.user_features),
            item_features=_specs(schema.item_features) if item_dims else (),
            embedding_dim=int(self.embedding_dim),
            user_dims=user_dims,
            item_dims=item_dims,
            activation=self.activation,
            dropout=float(self.dropout),
            batch_norm=bool(self.batch_norm),
            pooling=self.pooling,
            max_length=int((samples.stop - samples.start).max(initial=1)),
        )
        network = TwoTowers(config)
        network.initialise(torch.Generator().manual_seed(seed))
        network.set_generator(generator)
        network.to(device)
        item_features = _item_sources(schema, config, device)
        trainer = Trainer(
            network,
            _rows(samples, training, device),
            Targets(
                torch.as_tensor(samples.item[training], device=device).long(),
                torch.as_tensor(weight[training], device=device),
            ),
            item_features,
            NegativeSampler(sampling.negatives, sampling.counts, negatives_generator),
            loss=self.loss,
            neg_ratio=sampling.neg_ratio,
            temperature=float(self.temperature),
            batch_size=int(self.batch_size),
            lr=float(self.lr),
            weight_decay=float(self.weight_decay),
            max_epochs=int(self.max_epochs),
            rng=rng,
        )
        codes = torch.arange(FIRST_KNOWN, len(schema.items), device=device)

        def validate() -> float:
            vectors = encode_catalogue(network, item_features, codes)
            return self._validate(network, vectors, samples.take(validation), device)

        curves = self._train(trainer, validate if len(validation) else None)
        vectors = encode_catalogue(network, item_features, codes).cpu().numpy()
        counts = sampling.counts.astype(np.float32)
        index = ItemIndex(self.index, random_state=seed).fit(vectors)
        self._set_learnt(
            learnt
            | curves
            | {
                "schema_": schema,
                "network_config_": config.to_dict(),
                "weights_": {
                    name: value.cpu().numpy() for name, value in network.state_dict().items()
                },
                "item_vectors_": vectors,
                "popularity_": counts / max(counts.sum(), 1),
                "index_": index,
                "_network": None,
            }
        )
        return self

    def _check_names(self) -> tuple[int, ...]:
        check_choice("loss", self.loss, tuple(LOSSES))
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("index", self.index, METHODS)
        dims = tuple(np.atleast_1d(np.asarray(self.dims)).tolist())
        if not dims or not all(isinstance(dim, int) and dim >= 1 for dim in dims):
            raise ValueError(
                f"dims={self.dims!r} must hold at least one layer size, each an integer of at "
                "least 1, as in dims=(256, 64)."
            )
        return dims

    def _split(
        self, samples: Samples, weight: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows to train on, in the order of the log, and those to validate on."""
        usable = (samples.item >= FIRST_KNOWN) & (weight > 0)
        enough = usable & (samples.stop - samples.seen >= samples.min_history)
        if not enough.any():
            enough = usable
            if not usable.any():
                raise ValueError(
                    "No event has a known item and a positive sample_weight: nothing to train on."
                )
            warnings.warn(
                f"No event has min_history={samples.min_history} events of its user before it: "
                "training on all events. Say min_history=0 in SequenceSampler if that is meant.",
                UserWarning,
                stacklevel=4,
            )
        training = np.flatnonzero(enough)
        training = training[np.argsort(samples.stop[training], kind="stable")]
        if not self.early_stopping:
            return training, training[:0]
        # The last event of some users is held out; earlier ones do not know of it.
        user = samples.user[training]
        last = np.flatnonzero(np.append(user[1:] != user[:-1], True))
        n_held_out = int(np.ceil(self.validation_fraction * len(last)))
        if n_held_out >= len(training):
            raise ValueError(
                f"early_stopping holds out {n_held_out} of {len(training)} events and leaves none "
                "to train on; lower validation_fraction or give more events."
            )
        held_out = rng.choice(last, n_held_out, replace=False)
        return np.delete(training, held_out), training[np.sort(held_out)]

    def _validate(
        self, network: TwoTowers, items: torch.Tensor, samples: Samples, device: torch.device
    ) -> float:
        users = encode_rows(network, _rows(samples, np.arange(len(samples)), device))
        seen = SeenItems(samples.log.items, samples.seen, samples.stop)

        def pairs(a: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:
            rows, positions = seen.pairs(a, b)
            return torch.as_tensor(rows, device=device), torch.as_tensor(positions, device=device)

        target = torch.as_tensor(samples.item, device=device).long() - FIRST_KNOWN
        return mean_ndcg(users, items, target, pairs)

    def _train(self, trainer: Trainer, validate: Any) -> dict[str, Any]:
        """Run the epochs; the network ends with its best weights where they are validated."""
        losses: list[float] = []
        scores: list[float] = []
        best_state: dict[str, torch.Tensor] = {}
        best_epoch = 0
        for epoch in range(self.max_epochs):
            loss = trainer.run_epoch()
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"The loss became {loss} in epoch {epoch + 1}: training diverged. Lower "
                    f"lr={self.lr} or raise temperature={self.temperature}."
                )
            losses.append(loss)
            if validate is not None:
                scores.append(validate())
                if scores[-1] > max(scores[:-1], default=-1.0):
                    best_epoch = epoch
                    best_state = {
                        name: value.clone() for name, value in trainer.network.state_dict().items()
                    }
            if self.verbose:
                at = f", validation NDCG@10 {scores[-1]:.4f}" if scores else ""
                print(f"Epoch {epoch + 1}/{self.max_epochs}: loss {loss:.4f}{at}")
            if validate is not None and epoch - best_epoch >= self.n_iter_no_change:
                break
        if best_state:
            trainer.network.load_state_dict(best_state)
        curves: dict[str, Any] = {"n_iter_": len(losses), "loss_curve_": losses}
        return curves | {"validation_curve_": scores if validate is not None else None}

    def _encode(self, samples: Samples) -> np.ndarray:
        # Serving stays on the CPU: a model trained on a GPU answers anywhere.
        device = torch.device("cpu")
        rows = _rows(samples, np.arange(len(samples)), device)
        if not len(rows):
            return np.empty((0, self.item_vectors_.shape[1]), dtype=np.float32)
        return encode_rows(self._loaded_network(), rows).numpy()

    def _loaded_network(self) -> TwoTowers:
        if getattr(self, "_network", None) is None:
            network = TwoTowers(NetworkConfig.from_dict(self.network_config_))
            state = {name: torch.from_numpy(np.array(v)) for name, v in self.weights_.items()}
            network.load_state_dict(state)
            self._network = network.eval()
        return self._network

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # The weights are saved as plain arrays; the network is built from them where needed.
        return {name: value for name, value in state.items() if name != "_network"}


def _specs(features: tuple[Feature, ...]) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(feature.kind, feature.size) for feature in features)


def _tensor(column: Column, device: torch.device) -> FeatureTensor:
    if isinstance(column, Bag):
        return BagTensor(
            torch.as_tensor(column.values, device=device),
            torch.as_tensor(column.offsets, device=device),
        )
    return torch.as_tensor(column, device=device)


def _item_sources(
    schema: Any, config: NetworkConfig, device: torch.device
) -> list[FeatureSource]:
    table: Columns = schema.item_table
    names = [feature.name for feature in schema.item_features] if config.item_features else []
    return [FeatureSource(_tensor(table[name], device), by_code=True) for name in names]


def _rows(samples: Samples, rows: np.ndarray, device: torch.device) -> Rows:
    """Bring rows to the device, with no more of the log than they need."""
    start, stop = samples.start[rows], samples.stop[rows]
    log = samples.log.items
    if len(rows) * 4 < len(log):
        positions, offsets = concatenate_ranges(start, stop)
        log, start, stop = log[positions], offsets[:-1], offsets[1:]
    features = []
    for feature in samples.schema.user_features:
        own = samples.features.get(feature.name)
        column = samples.schema.user_table[feature.name] if own is None else own
        if own is not None:
            column = own.take(rows) if isinstance(own, Bag) else own[rows]
        features.append(FeatureSource(_tensor(column, device), by_code=own is None))
    return Rows(
        user=torch.as_tensor(samples.user[rows], device=device).long(),
        start=torch.as_tensor(start, device=device),
        stop=torch.as_tensor(stop, device=device),
        log=torch.as_tensor(log, device=device),
        features=features,
    )
