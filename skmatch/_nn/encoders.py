"""The item encoder, and the user encoder, which maps users and their histories to vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from skmatch._columns import PADDING
from skmatch._nn.device import seeded
from skmatch._nn.embedding import EmbeddingTable, gather
from skmatch._nn.features import (
    MAX_FEATURE_DIM,
    FeatureEncoder,
    FeatureSpec,
    FeatureTensor,
    IdDropout,
)
from skmatch._nn.layers import Dropout, Linear, Tower
from skmatch._nn.pooling import History, make_pooling

FEATURES = ("user_features", "item_features", "event_features")
MAX_COUNTED_LENGTH = (
    16  # each length below has an embedding; all longer histories share an embedding
)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and options of a network, saved with the weights.

    Where `item_dims` is None, items have no tower: their encodings are their vectors.
    """

    n_users: int
    n_items: int
    user_features: tuple[FeatureSpec, ...]
    item_features: tuple[FeatureSpec, ...]
    embedding_dim: int
    user_dims: tuple[int, ...]
    item_dims: tuple[int, ...] | None
    activation: str
    dropout: float
    batch_norm: bool
    pooling: str | Callable[[int, int], nn.Module]
    max_length: int
    id_dropout: float = 0.0
    skip_connection: bool = False
    n_estimators: int = 1
    event_features: tuple[FeatureSpec, ...] = ()

    @property
    def width(self) -> int:
        """Width of the vectors of users and items that are served."""
        return self.n_estimators * self.user_dims[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dict of plain values."""
        features = {side: [tuple(spec) for spec in getattr(self, side)] for side in FEATURES}
        return asdict(self) | features

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """Return the config of a dict that `to_dict` returned."""
        features = {side: tuple(FeatureSpec(*spec) for spec in values[side]) for side in FEATURES}
        return cls(**{**values, **features})

    def make_tower(self, width: int, dims: tuple[int, ...]) -> Tower:
        """Return a tower with the options that both sides share."""
        return Tower(
            width,
            dims,
            activation=self.activation,
            dropout=self.dropout,
            use_batch_norm=self.batch_norm,
            skip_connection=self.skip_connection,
        )


class UserBatch(NamedTuple):
    """Inputs of a user encoder: R rows in B blocks; users and features of blocks come once."""

    user: Tensor  # (B,) codes
    features: list[FeatureTensor]  # (B, ...) or (R, ...)
    tokens: Tensor  # (B, S) codes of items, as `History` explains them
    window: Tensor  # (R,)
    length: Tensor  # (R,)
    max_length: int
    block: Tensor  # (R,), the block of each row
    recency: Tensor  # (R,), 0 where the history ends before the visit, else 1
    events: tuple[Tensor, ...] = ()  # features of the tokens' events, (B, S) each


class ItemEncoder(nn.Module):
    """Encode items by the sum of an id embedding and a projection of their features."""

    def __init__(self, config: NetworkConfig, id_dropout: IdDropout):
        super().__init__()
        has_features = bool(config.item_features)
        self.id_dropout = id_dropout
        self.embedding = EmbeddingTable(
            config.n_items, config.embedding_dim, "item", is_sole_input=not has_features
        )
        self.projection: Linear | None = None
        if has_features:
            self.features = FeatureEncoder(config.item_features, config.embedding_dim, id_dropout)
            self.projection = Linear(self.features.width, config.embedding_dim, bias=False)

    def forward(self, items: Tensor, features: list[FeatureTensor]) -> Tensor:
        """Return encodings, (M, D), zeros for padding; without features, ids must not drop out."""
        if self.projection is None:
            return self.embedding(items)
        ids = self.embedding(self.id_dropout(items))
        content = self.projection(torch.cat(self.features(features), 1))
        return ids + content * (items != PADDING)[:, None]


class EventEncoder(nn.Module):
    """Scale and shift the encodings of items by the features of their events.

    FiLM (Perez et al., AAAI 2018): a low rating may turn an item's encoding around.
    """

    def __init__(self, config: NetworkConfig, id_dropout: IdDropout):
        super().__init__()
        self.features = FeatureEncoder(config.event_features, config.embedding_dim, id_dropout)
        shape = self.features.width, 2 * config.embedding_dim
        self.weight = nn.Parameter(torch.zeros(shape, dtype=torch.float32, device="cpu"))

    def forward(self, tokens: Tensor, batch: UserBatch) -> Tensor:
        """Return the encodings of tokens, (B, S, D); padding stays zero."""
        if not batch.events:  # no events at all
            return tokens
        features = torch.cat(self.features([column.flatten() for column in batch.events]), 1)
        scale, shift = (features @ self.weight).view(*tokens.shape[:2], -1).chunk(2, 2)
        return tokens * (1 + scale) + shift * (batch.tokens != PADDING)[:, :, None]


class UserEncoder(nn.Module):
    """Encode users by their pooled history, its length, their id and their features."""

    def __init__(self, config: NetworkConfig, id_dropout: IdDropout):
        super().__init__()
        dim = config.embedding_dim
        self.id_dropout = id_dropout
        self.embedding = EmbeddingTable(config.n_users, dim, "user")
        self.pooling, width = make_pooling(config.pooling, dim, config.max_length)
        self.features = FeatureEncoder(config.user_features, dim, id_dropout)
        self.events = EventEncoder(config, id_dropout) if config.event_features else None
        self.history_dropout = Dropout(config.dropout)
        # Mean pooling discards the history's length, which predicts the next item.
        shape = MAX_COUNTED_LENGTH + 1, min(dim, MAX_FEATURE_DIM)
        lengths = torch.zeros(shape, dtype=torch.float32, device="cpu")
        self.length_embedding = nn.Parameter(lengths)
        # The next event of a visit differs from the first event of the next visit.
        scales = torch.zeros((2, width), dtype=torch.float32, device="cpu")
        self.recency_scale = nn.Parameter(scales)
        recencies = torch.zeros((2, shape[1]), dtype=torch.float32, device="cpu")
        self.recency_embedding = nn.Parameter(recencies)
        width += 1 + 2 * shape[1] + dim + self.features.width
        self.tower = config.make_tower(width, config.user_dims)

    def forward(self, batch: UserBatch, tokens: Tensor) -> Tensor:
        """Return vectors of length 1, (R, V), given the encodings of the tokens, (B, S, D)."""
        if self.events is not None:
            tokens = self.events(tokens, batch)
        history = History(tokens, batch.window, batch.length, batch.max_length)
        pooled = self.history_dropout(self.pooling(history))
        pooled = pooled * (1 + gather(self.recency_scale, batch.recency))
        log_length = torch.log1p(batch.length.to(pooled.dtype))[:, None]
        counted = gather(self.length_embedding, batch.length.clamp(max=MAX_COUNTED_LENGTH))
        users = self.embedding(self.id_dropout(batch.user))
        recency = gather(self.recency_embedding, batch.recency)
        parts = [pooled, log_length, counted, recency, users, *self.features(batch.features)]
        return self.tower(parts, batch.block)


class TwoTower(nn.Module):
    """A user encoder and an item encoder whose vectors are compared by their cosine."""

    def __init__(self, config: NetworkConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.id_dropout = IdDropout(config.id_dropout)
        self.item_encoder = ItemEncoder(config, self.id_dropout)
        # Modules of the caller draw their weights from torch's global generator.
        with seeded(seed, is_needed=self.draws_globally):
            self.user_encoder = UserEncoder(config, self.id_dropout)
        self.item_tower: Tower | None = None
        if config.item_dims is not None:
            self.item_tower = config.make_tower(config.embedding_dim, config.item_dims)

    @property
    def draws_globally(self) -> bool:
        """Whether modules of the caller may draw from torch's global generator."""
        return not isinstance(self.config.pooling, str)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights anew, except the weights of the caller's modules."""
        for module in self.modules():
            if isinstance(module, (EmbeddingTable, Linear)):
                module.initialise(generator)

    def set_generator(self, generator: torch.Generator) -> None:
        """Set the generator of all dropout in training."""
        for module in self.modules():
            if isinstance(module, (Dropout, IdDropout)):
                module.generator = generator

    def item_vectors(self, encoded: Tensor) -> Tensor:
        """Return vectors of length 1, (M, V), of encoded items, (M, D)."""
        return normalize(encoded) if self.item_tower is None else self.item_tower([encoded])

    def encode_items(self, items: Tensor, features: list[FeatureTensor]) -> Tensor:
        """Return the vectors of items, (M, V)."""
        return self.item_vectors(self.item_encoder(items, features))

    def encode_users(self, batch: UserBatch, token_features: list[FeatureTensor]) -> Tensor:
        """Return the vectors of users, (R, V), given the item features of all tokens, (B * S,)."""
        encoded = self.item_encoder(batch.tokens.flatten(), token_features)
        return self.user_encoder(batch, encoded.view(*batch.tokens.shape, -1))
