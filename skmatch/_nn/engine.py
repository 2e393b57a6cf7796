"""`Engine`: a network on its device, with arrays in and arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skmatch._data import FIRST_KNOWN, UNKNOWN, Bag, Column, Samples, Schema, concatenate_ranges
from skmatch._nn import distributed
from skmatch._nn.cooccurrence import cooccurrence_vectors
from skmatch._nn.device import resolve_device
from skmatch._nn.ensemble import Ensemble, EnsembleTrainer
from skmatch._nn.negatives import NegativeSampler
from skmatch._nn.tables import INITIAL_STD
from skmatch._nn.towers import BagTensor, FeatureTensor, NetworkConfig
from skmatch._nn.training import (
    FeatureSource,
    Rows,
    Targets,
    Trainer,
    encode_catalogue,
    encode_rows,
)

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the names are those of the retrievers' parameters."""

    loss: str
    temperature: float
    batch_size: int
    lr: float
    weight_decay: float
    max_epochs: int
    precision: str


class Engine:
    """A network on its device; the estimators know torch only through this class.

    Parameters
    ----------
    config : NetworkConfig
        What to build.
    device : str
        Name of the device.
    seed : int
        Seeds weights, negatives and dropout.
    weights : dict of str to ndarray or None
        Weights to start from; None draws them.
    shared : bool
        Whether to serve from these very arrays: a copy could be trained.
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
        self.network = Ensemble(config)
        if weights is None:
            # Drawn on the CPU, so that every device starts alike.
            self.network.initialise(torch.Generator().manual_seed(seed))
        else:
            self.load(weights, shared)
        self.network.to(self.device)

    @torch.no_grad()
    def place_items(self, samples: Samples, training: np.ndarray) -> None:
        """Let items begin near those that stand near them in the sequences of rows to train on."""
        dim = self.network.config.embedding_dim
        codes, vectors = cooccurrence_vectors(
            samples.user[training], samples.item[training], dim, self.seed
        )
        rows, values = self._on_device(codes), self._on_device(INITIAL_STD * vectors)
        tables = [member.item_embedding.weight for member in self.network.members]
        for table in tables:
            table[rows, : vectors.shape[1]] = values
        distributed.copy_of_first(tables)  # sums may differ in their last bit

    def trainer(
        self,
        samples: Samples,
        training: np.ndarray,
        weight: np.ndarray | None,
        options: TrainingOptions,
    ) -> EnsembleTrainer:
        """Bring the rows to train on to the device."""
        sampling = samples.sampling
        # Neighbouring rows share their histories: cut out row by row they would not.
        rows = self._rows(samples, training, cut=False)
        targets = Targets(
            self._on_device(samples.item[training]),
            None if weight is None else self._on_device(weight[training]),
        )
        item_sources = self._item_sources(samples.schema)
        trainers = []
        for number, member in enumerate(self.network.members):  # with orders and draws of their own
            generator = draws = torch.Generator(self.device).manual_seed(self.seed + number)
            if sampling.seed is not None:
                draws = torch.Generator(self.device).manual_seed(sampling.seed + number)
            trainers.append(
                Trainer(
                    member,
                    rows,
                    targets,
                    item_sources,
                    NegativeSampler(sampling.negatives, sampling.counts, draws),
                    neg_ratio=sampling.neg_ratio,
                    exclude_history=sampling.exclude_history,
                    rng=np.random.default_rng(self.seed + number),
                    generator=generator,
                    **vars(options),
                )
            )
        return EnsembleTrainer(trainers)

    def user_vectors(self, samples: Samples) -> np.ndarray:
        """Give the vectors of the users of rows."""
        return encode_rows(self.network, self._rows(samples, np.arange(len(samples)))).cpu().numpy()

    def item_vectors(self, schema: Schema, codes: np.ndarray | None = None) -> np.ndarray:
        """Give the vectors of items, of the whole catalogue where no codes are given."""
        return self._encode_items(schema, codes).cpu().numpy()

    def weights(self, copy: bool = True) -> Weights:
        """Give the weights; without a copy, they change with the next step."""
        state = self.network.state_dict()
        arrays = {name: value.cpu().numpy() for name, value in state.items()}
        return {name: array.copy() for name, array in arrays.items()} if copy else arrays

    def load(self, weights: Weights, shared: bool = False) -> None:
        """Take weights that `weights` gave; new rows of tables start as that of "unknown"."""
        state = {}
        for name, weight in self.network.state_dict().items():
            # Arrays read through a memory map cannot be written to, which torch warns of: copied.
            value = np.require(weights[name], requirements="W")
            n_new = len(weight) - len(value) if weight.ndim == 2 else 0
            if n_new > 0:
                rows = np.repeat(value[[UNKNOWN]], n_new, axis=0)
                is_item = name.endswith("item_embedding.weight")
                if is_item and not self.network.config.item_features:
                    # Nothing else tells such an item from others.
                    rng = np.random.default_rng(self.seed)
                    rows += rng.normal(0, INITIAL_STD, rows.shape).astype(rows.dtype)
                value = np.concatenate([value, rows])
            state[name] = torch.from_numpy(value)
        self.network.load_state_dict(state, assign=shared)

    def unmet(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the codes of users and items whose rows are still those of "unknown"."""
        member = self.network.members[0]  # all members meet the same
        tables = (member.user_embedding.weight, member.item_embedding.weight)
        users, items = (
            FIRST_KNOWN + np.flatnonzero((rows[FIRST_KNOWN:] == rows[UNKNOWN]).all(1).cpu())
            for rows in tables
        )
        return users, items

    @torch.no_grad()
    def make_unknown(self, users: np.ndarray, items: np.ndarray) -> None:
        """Give users and items that training never met the rows of "unknown".

        An item without features keeps its own: nothing else tells it from others.
        """
        unmet = [(member.user_embedding, users) for member in self.network.members]
        if self.network.config.item_features:
            unmet += [(member.item_embedding, items) for member in self.network.members]
        for table, codes in unmet:
            table.weight[self._on_device(codes)] = table.weight[UNKNOWN].clone()

    def _encode_items(self, schema: Schema, codes: np.ndarray | None = None) -> Tensor:
        if codes is None:
            codes = np.arange(FIRST_KNOWN, len(schema.items))
        sources = self._item_sources(schema)
        return encode_catalogue(self.network, sources, self._on_device(codes))

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, device=self.device)

    def _column(self, column: Column) -> FeatureTensor:
        if isinstance(column, Bag):
            values, offsets = self._on_device(column.values), self._on_device(column.offsets)
            return BagTensor(values, offsets, column.longest)
        return self._on_device(column)

    def _item_sources(self, schema: Schema) -> list[FeatureSource]:
        if self.network.config.item_dims is None:
            return []
        columns = (schema.item_table[feature.name] for feature in schema.item_features)
        return [FeatureSource(self._column(column), by_code=True) for column in columns]

    def _rows(self, samples: Samples, rows: np.ndarray, cut: bool = True) -> Rows:
        """Bring rows to the device, with the log, or what they need of it where that is less."""
        start, stop, log = samples.start[rows], samples.stop[rows], samples.log.items
        if cut and len(rows) * 4 < len(log):
            positions, offsets = concatenate_ranges(start, stop)
            log, start, stop = log[positions], offsets[:-1], offsets[1:]
        features = []
        for feature in samples.schema.user_features:
            own = samples.features.get(feature.name)
            if own is None:
                source = self._column(samples.schema.user_table[feature.name])
            else:
                source = self._column(own.take(rows) if isinstance(own, Bag) else own[rows])
            features.append(FeatureSource(source, by_code=own is None))
        return Rows(
            user=self._on_device(samples.user[rows]),
            start=self._on_device(start),
            stop=self._on_device(stop),
            log=self._on_device(log),
            features=features,
        )
