"""`NeuralRetriever`: the base class of the retrievers with towers."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from skmatch._arrays import gather_rows, is_known
from skmatch._data import FIRST_KNOWN, CatalogueRows, Samples
from skmatch._nn.device import isolated
from skmatch._nn.encoders import NetworkConfig
from skmatch._nn.engine import Engine
from skmatch._nn.layers import ACTIVATIONS
from skmatch._nn.losses import LOSSES
from skmatch._nn.pooling import POOLINGS
from skmatch._nn.training import PRECISIONS
from skmatch._ranking import softmax_shares
from skmatch._sklearn import Interval, StrOptions
from skmatch._typing import Duration, SampleTable, Table
from skmatch._validation import check_choice, checked_fit
from skmatch.neighbors import METHODS, ItemFilter, ItemIndex
from skmatch.retrieval._base import BaseRetriever
from skmatch.retrieval._explain import Reasons, batches, joined, reasons_without_label
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._neural_fit import NeuralFit, update
from skmatch.retrieval._progress import callbacks_in_first_process
from skmatch.retrieval._shared_docs import with_shared_docs
from skmatch.retrieval._similar_content import weights_of_similar
from skmatch.retrieval._trend import TrendMixin
from skmatch.retrieval._vectors import VectorsMixin

OUT_OF_MEMORY = re.compile("allocate memory|not enough memory|out of memory", re.IGNORECASE)
Pooling = Literal["mean", "sum", "max", "concat", "decay", "attention"]
INITS = ("cooccurrence", "random")
OF_THIS_PROCESS = ("_engine", "_unfinished")  # attributes that are not saved


class NeuralRetriever(TrendMixin, GrowthMixin, VectorsMixin, BaseRetriever):
    """Base class of retrievers with a user tower."""

    _parameter_constraints: dict = {
        "embedding_dim": [Interval(Integral, 1, None, closed="left")],
        "dims": [list, tuple, np.ndarray],
        "activation": [str],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "id_dropout": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "batch_norm": ["boolean"],
        "skip_connection": ["boolean"],
        "init": [str],
        "pooling": [str, callable],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "loss": [str],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation": [StrOptions({"both", "next", "visit"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="right"), StrOptions({"auto"})],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str],
        "precision": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "index": [str],
        "trend": "no_validation",
        "k": [Interval(Integral, 1, None, closed="left")],
        "exclude_seen": ["boolean"],
    }

    def __init__(
        self,
        embedding_dim: int = 64,
        dims: Sequence[int] | np.ndarray = (256, 64),
        *,
        activation: Literal["relu", "prelu", "gelu", "tanh"] = "gelu",
        dropout: float = 0.1,
        id_dropout: float | Literal["auto"] = "auto",
        batch_norm: bool = False,
        skip_connection: bool = True,
        init: Literal["cooccurrence", "random"] = "cooccurrence",
        pooling: Pooling | Callable[[int, int], Any] = "decay",
        n_estimators: int = 1,
        temperature: float = 0.05,
        loss: Literal["softmax", "bce", "bpr"] = "softmax",
        max_epochs: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        lr: float = 6e-3,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation: Literal["both", "next", "visit"] = "both",
        validation_fraction: float | Literal["auto"] = "auto",
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        device: str = "auto",
        precision: Literal["float32", "bfloat16"] = "float32",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
        index: Literal["exact", "int8", "auto", "pynndescent"] = "exact",
        trend: Duration | Literal["auto"] | None = "auto",
        k: int = 10,
        exclude_seen: bool = True,
    ):
        self.embedding_dim = embedding_dim
        self.dims = dims
        self.activation = activation
        self.dropout = dropout
        self.id_dropout = id_dropout
        self.batch_norm = batch_norm
        self.skip_connection = skip_connection
        self.init = init
        self.pooling = pooling
        self.n_estimators = n_estimators
        self.temperature = temperature
        self.loss = loss
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation = validation
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose
        self.index = index
        self.trend = trend
        self.k = k
        self.exclude_seen = exclude_seen

    @abstractmethod
    def _tower_dims(self, dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Return the layers of the user tower and of the item tower (None: items have none)."""

    @checked_fit
    @with_shared_docs
    def fit(
        self,
        X: SampleTable,
        y: None = None,
        *,
        sample_weight: ArrayLike | None = None,
        users: Table | None = None,
        items: Table | None = None,
    ) -> Self:
        """Train the towers on events.

        {fit}

        Raises
        ------
        FloatingPointError
            If training diverges. What was fitted before stays.

        Notes
        -----
        scikit-learn's callbacks see each epoch, and may stop the fit after it. The data that they
        get are `Samples`: each user's last training event with the history before it.
        """
        with callbacks_in_first_process(self), isolated(), self._naming_memory_parameters():
            self._check_names()
            samples, weight, encoding = self._read_training(X, users, items, sample_weight)
            schema = samples.schema
            if len(schema.items.values) < 2:
                raise ValueError(
                    f"The item column {schema.item!r} holds a single item, "
                    f"{schema.items.values.tolist()[0]!r}, in {len(samples):,} sample(s); a "
                    "retriever needs at least 2 items to compare."
                )
            fit = NeuralFit(self, samples, weight, encoding)
            self._unfinished = fit.unfinished  # for the callback Checkpoint
            try:
                fit.run()
            finally:
                del self._unfinished
            self._set_fitted(fit.attributes(copy=False))
            self._serving_engine()
        return self

    def _learn_more(self, samples: Samples, weight: np.ndarray | None) -> dict[str, Any]:
        self._check_names()
        with isolated():
            return update(self, samples, weight)

    def _learn_items(self, rows: CatalogueRows) -> dict[str, Any]:
        if not rows.schema.item_features:
            raise ValueError(
                f"{type(self).__name__} cannot add items: its MatchEncoder has no item_features, "
                "without which their vectors come from training only. Call partial_fit with events "
                "of the new items, or fit with MatchEncoder(item_features=...)."
            )
        n_new = len(rows.schema.items.values) - len(self.item_vectors_)
        counts = np.pad(self.counts_, (0, n_new))
        sizes = self.network_config_ | {"n_items": len(rows.schema.items)}
        engine = Engine(NetworkConfig.from_dict(sizes), weights=self.weights_)
        untrained = rows.codes[counts[rows.codes - FIRST_KNOWN] == 0]
        similar = weights_of_similar(rows.schema, untrained, counts)
        engine.impute_item_embeddings(untrained, similar)
        vectors = np.pad(self.item_vectors_, ((0, n_new), (0, 0)))
        vectors[rows.codes - FIRST_KNOWN] = engine.item_vectors(rows.schema, rows.codes)
        return {
            "network_config_": sizes,
            "weights_": engine.weights(copy=False),
            "_engine": engine,
            "item_vectors_": vectors,
            "index_": ItemIndex(self.index_.method, self.index_.random_state).fit(vectors),
            **self._resize_trend(counts),
        }

    @contextmanager
    def _naming_memory_parameters(self) -> Iterator[None]:
        """Re-raise out-of-memory errors with the parameters to reduce."""
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

    def _check_names(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        if isinstance(self.pooling, str):
            check_choice("pooling", self.pooling, tuple(POOLINGS))
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

    def _top_k(
        self, samples: Samples, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        vectors, k = self._encode(samples), min(k, len(self.item_vectors_))
        positions = np.empty((len(samples), k), dtype=np.int64)
        scores = np.empty((len(samples), k), dtype=np.float32)
        for trend, rows in self._trends(samples):
            search_args = vectors[rows], k, allowed.gather(rows), self._bias(trend)
            positions[rows], scores[rows] = self.index_.search(*search_args)
        return positions, scores

    def _scores_of(self, samples: Samples, positions: np.ndarray) -> np.ndarray:
        return super()._scores_of(samples, positions) + self._trend_part(samples, positions)

    def _trend_part(self, samples: Samples, positions: np.ndarray) -> np.ndarray:
        """Return the trend's part of the scores of items, (n_queries, n_wanted)."""
        added = np.zeros(positions.shape, dtype=np.float32)
        for trend, rows in self._trends(samples):
            bias = self._bias(trend)
            if bias is not None:
                added[rows] = bias[positions[rows]]
        return added

    def _reasons(self, samples: Samples, positions: np.ndarray) -> Reasons:
        reasons = super()._reasons(samples, positions)
        if self.schema_.item_features:
            reasons = joined(reasons, self._item_feature_reasons(samples, positions))
        if self.trend_ is None:
            return reasons
        added = self._trend_part(samples, positions)
        return joined(reasons, reasons_without_label("trend", added, np.arange(len(samples))))

    def _item_feature_reasons(self, samples: Samples, positions: np.ndarray) -> Reasons:
        """Return how much each feature of the items adds to their scores."""
        schema, engine = self.schema_, self._serving_engine()
        items, index = np.unique(positions, return_inverse=True)
        index, codes = index.reshape(positions.shape), items + FIRST_KNOWN
        users = self._encode(samples)
        parts = []
        for number, feature in enumerate(schema.item_features):
            without = engine.item_vectors(schema, codes, left_out=(feature.name,))
            change = self.item_vectors_[items] - without
            has_value = is_known(gather_rows(schema.item_table[feature.name], codes))
            for rows in batches(len(samples), positions.shape[1]):
                item = index[rows]
                query, column = np.nonzero(has_value[item])
                contribution = np.einsum("qd,qid->qi", users[rows], change[item])[query, column]
                reason = np.full(len(query), -1 - number)
                parts.append((rows[query], column, reason, contribution))
        labels = [("item feature", feature.name) for feature in schema.item_features]
        query, column, reason, contribution = map(np.concatenate, zip(*parts, strict=True))
        return Reasons(query, column, reason, contribution, labels)

    def _bias(self, trend: np.ndarray | None) -> np.ndarray | None:
        """Return the trend in units of cosines, which the temperature divides to logits."""
        return None if trend is None else np.float32(self.temperature_) * trend

    def _shares(self, scores: np.ndarray) -> np.ndarray:
        return softmax_shares(scores / self.temperature_)

    def _encode(self, samples: Samples) -> np.ndarray:
        if not len(samples):
            return np.empty((0, self.item_vectors_.shape[1]), dtype=np.float32)
        return self._serving_engine().user_vectors(samples)

    def _serving_engine(self) -> Engine:
        if getattr(self, "_engine", None) is None:
            # Serving stays on the CPU: a model trained on a GPU recommends anywhere.
            config = NetworkConfig.from_dict(self.network_config_)
            self._engine = Engine(config, weights=self.weights_, shared=True)
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # The weights are saved as plain arrays, from which loading builds the network.
        return {name: value for name, value in state.items() if name not in OF_THIS_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "weights_"):  # now, since queries read copies that would each build it
            self._serving_engine()
