"""`Engine`: a network on its device, with arrays in and arrays out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array
from threadpoolctl import ThreadpoolController
from torch import Tensor

from skmatch._columns import FIRST_KNOWN, Column, RaggedArray, concatenate_ranges
from skmatch._data import Samples
from skmatch._nn import distributed
from skmatch._nn.batches import Batches, Rows, Targets, read_users
from skmatch._nn.candidates import CandidateSampler
from skmatch._nn.cooccurrence import cooccurrence_vectors
from skmatch._nn.device import isolated, resolve_device
from skmatch._nn.embedding import INITIAL_STD, EmbeddingTable
from skmatch._nn.encoders import NetworkConfig
from skmatch._nn.ensemble import Ensemble, EnsembleTrainer
from skmatch._nn.features import FeatureSource, FeatureTensor, RaggedTensor, unknown_like
from skmatch._nn.scorer import CosineScorer
from skmatch._nn.training import SCHEDULES, Objective, Trainer
from skmatch._schema import Schema

Weights = dict[str, np.ndarray]
_THREADS = ThreadpoolController()  # of the OpenMP that torch has loaded

CATALOGUE_BLOCK = 4096  # items encoded at a time; more take memory and are no faster
ROWS_BLOCK = 2**23  # numbers of the histories that are encoded at a time


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the fields are named as the retrievers' parameters."""

    loss: str
    temperature: float
    batch_size: int
    lr: float
    weight_decay: float
    max_epochs: int
    precision: str
    schedule: str  # of the learning rate, by its name in `SCHEDULES`


class Engine:
    """A network on its device; the estimators know torch only through this class.

    It starts from `weights`, or draws them from `seed`, which also seeds negatives and dropout. A
    `shared` network serves from the given arrays; a copy of them could be trained.
    """

    def __init__(
        self,
        config: NetworkConfig,
        device: str = "cpu",
        seed: int = 0,
        weights: Weights | None = None,
        shared: bool = False,
    ):
        self.device = resolve_device(device)
        self.seed = seed
        self._content: tuple[Schema, list[FeatureSource]] | None = None
        with isolated():
            self.network = Ensemble(config, seed)
            if weights is None:
                # Drawn on the CPU, so that every device starts alike.
                self.network.initialise(torch.Generator().manual_seed(seed))
            else:
                self.load(weights, shared)
            self.network.to(self.device)

    # Training

    @torch.no_grad()
    def init_item_embeddings(
        self, samples: Samples, training: np.ndarray, weight: np.ndarray | None
    ) -> None:
        """Initialise item embeddings from the co-occurrence of items in the training sequences."""
        dim = self.network.config.embedding_dim
        codes, vectors = cooccurrence_vectors(
            samples.user[training],
            samples.item[training],
            dim,
            self.seed,
            None if weight is None else weight[training],
        )
        rows, values = self._to_device(codes), self._to_device(INITIAL_STD * vectors)
        tables = [table.weight for _, table in self._tables("item")]
        for table in tables:
            table[rows, : vectors.shape[1]] = values
        distributed.broadcast_tensors(tables)  # sums may differ in their last bit

    def trainer(
        self,
        samples: Samples,
        training: np.ndarray,
        weight: np.ndarray | None,
        counts: np.ndarray,
        options: TrainingOptions,
    ) -> EnsembleTrainer:
        """Return a trainer, with the training rows on the device.

        `training` holds these rows in the order of the log, `weight` (n_samples,) their weights, 1
        on average; negatives are drawn by `counts` (n_items,).
        """
        sampling = samples.sampling
        # Not cut, since neighbouring rows share the events of their histories.
        rows = self._rows(samples, training, cut=False)
        if samples.visit is not None and samples.gap_rate > 0:
            rows = self._with_gaps(rows, samples, training)
        targets = Targets(
            self._to_device(samples.item[training]),
            None if weight is None else self._to_device(weight[training]),
        )
        item_features = self._item_features(samples.schema)
        trainers = []
        for number, member in enumerate(self.network.members):  # each with its own orders and draws
            generator = draws = torch.Generator(self.device).manual_seed(self.seed + number)
            if sampling.seed is not None:
                draws = torch.Generator(self.device).manual_seed(sampling.seed + number)
            sampler = CandidateSampler(
                sampling.negatives,
                counts,
                neg_ratio=sampling.neg_ratio,
                exclude_history=sampling.exclude_history,
                generator=draws,
            )
            scorer = CosineScorer(options.temperature, getattr(torch, options.precision))
            rng = np.random.default_rng(self.seed + number)
            trainers.append(
                Trainer(
                    member,
                    Batches(rows, targets, options.batch_size, rng, samples.gap_rate),
                    Objective(member, item_features, sampler, scorer, options.loss),
                    lr=options.lr,
                    weight_decay=options.weight_decay,
                    max_epochs=options.max_epochs,
                    schedule=SCHEDULES[options.schedule],
                    precision=options.precision,
                    generators=(generator, draws),
                )
            )
        return EnsembleTrainer(trainers)

    # Weights

    def weights(self, copy: bool = True) -> Weights:
        """Return the weights; without a copy, they change with the next step."""
        state = self.network.state_dict()
        arrays = {name: value.cpu().numpy() for name, value in state.items()}
        return {name: array.copy() for name, array in arrays.items()} if copy else arrays

    def load(self, weights: Weights, shared: bool = False) -> None:
        """Load weights; tables append rows for the codes that were added since."""
        # Arrays read through a memory map cannot be written to, which torch warns of: copied.
        arrays = {
            name: np.require(weights[name], requirements="W") for name in self.network.state_dict()
        }
        for name, table in self._tables():
            if len(arrays[name]) < len(table.weight):
                arrays[name] = table.extend(arrays[name], np.random.default_rng(self.seed))
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.network.load_state_dict(state, assign=shared)

    def untrained_users(self) -> np.ndarray:
        """Return the codes of users whose embeddings equal the unknown code's."""
        return next(self._tables("user"))[1].untrained()

    def reset_users(self, codes: np.ndarray) -> None:
        """Set the embeddings of untrained users to the embedding of the unknown code."""
        for _, table in self._tables("user"):
            table.reset_to_unknown(codes)

    def item_embeddings(self, codes: np.ndarray) -> list[np.ndarray]:
        """Return copies of the embeddings of items, one per network."""
        rows = self._to_device(codes)
        return [table.weight[rows].detach().cpu().numpy() for _, table in self._tables("item")]

    @torch.no_grad()
    def set_item_embeddings(self, codes: np.ndarray, embeddings: list[np.ndarray]) -> None:
        """Set the embeddings of items, one array per network."""
        rows = self._to_device(codes)
        for (_, table), values in zip(self._tables("item"), embeddings, strict=True):
            table.weight[rows] = self._to_device(values)

    def impute_item_embeddings(self, codes: np.ndarray, weights: csr_array) -> None:
        """Set the embeddings of items to weighted means of all codes' embeddings."""
        tables = [table.weight.detach().cpu().numpy() for _, table in self._tables("item")]
        self.set_item_embeddings(codes, [weights @ table for table in tables])

    def _tables(self, entity: str | None = None) -> Iterator[tuple[str, EmbeddingTable]]:
        """Yield embedding tables, of all entities or of `entity`, and their weights' names."""
        for name, module in self.network.named_modules():
            if isinstance(module, EmbeddingTable) and entity in (None, module.entity):
                yield f"{name}.weight", module

    # Serving

    @isolated()
    @torch.no_grad()
    def user_vectors(self, samples: Samples) -> np.ndarray:
        """Return the vectors of the users of rows, in blocks of bounded memory."""
        self.network.eval()
        rows = self._rows(samples, np.arange(len(samples)))
        item_features = self._item_features(samples.schema)
        size = max(1, ROWS_BLOCK // (rows.max_length * self.network.config.embedding_dim))
        vectors = []
        # A single query is too small for several threads, and threads of many callers compete.
        one_thread = _THREADS.limit(limits=1, user_api="openmp") if len(rows) == 1 else None
        with one_thread or nullcontext():
            for row in torch.arange(len(rows), device=self.device).split(size):
                user = rows.user[row].long()
                features = [source.gather(row, user) for source in rows.features]
                block = torch.arange(len(row), device=self.device)
                batch = read_users(rows, user, features, row, row, block, block_size=1)
                tokens = batch.tokens.flatten()
                token_features = [source.gather(tokens, tokens) for source in item_features]
                vectors.append(self.network.encode_users(batch, token_features))
            return torch.cat(vectors).cpu().numpy()

    @isolated()
    @torch.no_grad()
    def item_vectors(
        self,
        schema: Schema,
        codes: np.ndarray | None = None,
        left_out: tuple[Hashable, ...] = (),
    ) -> np.ndarray:
        """Return the vectors of items, of the whole catalogue where no codes are given.

        The values of features that are `left_out` are encoded as unknown.
        """
        if codes is None:
            codes = np.arange(FIRST_KNOWN, len(schema.items))
        width, encode = self.network.config.width, self.network.encode_items
        return self._encode_in_blocks(schema, codes, width, encode, left_out)

    @isolated()
    @torch.no_grad()
    def item_encodings(self, schema: Schema) -> list[np.ndarray]:
        """Return the encodings, (n_codes, D), of items in histories, for each network."""
        codes, dim = np.arange(len(schema.items)), self.network.config.embedding_dim
        return [
            self._encode_in_blocks(schema, codes, dim, member.item_encoder)
            for member in self.network.members
        ]

    def _encode_in_blocks(
        self,
        schema: Schema,
        codes: np.ndarray,
        width: int,
        encode: Callable[..., Tensor],
        left_out: tuple[Hashable, ...] = (),
    ) -> np.ndarray:
        """Return rows of items, (n_items, width), encoded in blocks."""
        self.network.eval()
        sources, items = self._item_features(schema), self._to_device(codes)
        unknown = [feature.name in left_out for feature in schema.item_features]
        vectors = torch.empty(len(items), width, dtype=torch.float32, device=self.device)
        blocks = zip(items.split(CATALOGUE_BLOCK), vectors.split(CATALOGUE_BLOCK), strict=True)
        for block, block_vectors in blocks:
            features = [source.gather(block, block) for source in sources]
            for number in np.flatnonzero(unknown):
                features[number] = unknown_like(features[number])
            block_vectors.copy_(encode(block, features))
        return vectors.cpu().numpy()

    # Data

    def _to_device(self, values: np.ndarray) -> Tensor:
        # Arrays read through a memory map cannot be written to, which torch warns of: copied.
        return torch.as_tensor(np.require(values, requirements="W"), device=self.device)

    def _column(self, column: Column) -> FeatureTensor:
        if isinstance(column, RaggedArray):
            values, offsets = self._to_device(column.values), self._to_device(column.offsets)
            return RaggedTensor(values, offsets, column.longest)
        return self._to_device(column)

    def _item_features(self, schema: Schema) -> list[FeatureSource]:
        content = self._content  # once, since a thread with another schema may replace it
        if content is None or content[0] is not schema:  # once for many queries
            columns = (schema.item_table[feature.name] for feature in schema.item_features)
            sources = [FeatureSource(self._column(column), by_code=True) for column in columns]
            self._content = content = schema, sources
        return content[1]

    def _rows(self, samples: Samples, rows: np.ndarray, cut: bool = True) -> Rows:
        """Copy rows to the device, with the log or, if `cut`, only the events that they need."""
        start, stop, log = samples.start[rows], samples.stop[rows], samples.log.items
        event_features = [
            samples.log.features[feature.name] for feature in samples.schema.event_features
        ]
        longest = int((stop - start).max(initial=1))
        if cut and len(rows) * 4 < len(log):
            index, offsets = concatenate_ranges(start, stop)
            log, start, stop = log[index], offsets[:-1], offsets[1:]
            event_features = [column[index] for column in event_features]
        features = []
        for feature in samples.schema.user_features:
            values = samples.features.get(feature.name)
            if values is None:
                source = self._column(samples.schema.user_table[feature.name])
            else:
                source = self._column(
                    values.gather(rows) if isinstance(values, RaggedArray) else values[rows]
                )
            features.append(FeatureSource(source, by_code=values is None))
        recency = np.ones(len(rows), dtype=np.int8)
        if samples.begins_visit is not None:
            recency[samples.begins_visit[rows]] = 0
        return Rows(
            user=self._to_device(samples.user[rows]),
            recency=self._to_device(recency),
            start=self._to_device(start),
            stop=self._to_device(stop),
            log=self._to_device(log),
            features=features,
            max_length=max(1, min(longest, self.network.config.max_length)),
            event_features=tuple(map(self._to_device, event_features)),
        )

    def _with_gaps(self, rows: Rows, samples: Samples, training: np.ndarray) -> Rows:
        """Append to the training rows their histories that end before the visit."""
        assert samples.visit is not None
        stop = samples.visit[training]
        start = np.maximum(samples.seen[training], stop - samples.max_length)
        return replace(
            rows,
            start=self._to_device(np.concatenate([samples.start[training], start])),
            stop=self._to_device(np.concatenate([samples.stop[training], stop])),
            recency=torch.cat([rows.recency, torch.zeros_like(rows.recency)]),
        )
