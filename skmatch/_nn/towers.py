"""The two towers, and the layers they are made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, leaky_relu

from skmatch._data import PADDING, UNKNOWN
from skmatch._nn.device import is_waited_for
from skmatch._nn.linear import Linear
from skmatch._nn.pooling import Pooling
from skmatch._nn.tables import Table, rows_of


class PReLU(nn.PReLU):
    """nn.PReLU, which with its gradient takes less than half the time on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if is_waited_for(input.device):
            return super().forward(input)
        return _PReLU.apply(input, self.weight)


class _PReLU(torch.autograd.Function):
    """As a leaky ReLU, whose slope is a plain number: reading it is free on a CPU only."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(input, slope)
        return leaky_relu(input, slope.item())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        input, slope = ctx.saved_tensors
        to_input = torch.ops.aten.leaky_relu_backward(gradient, input, slope.item(), False)
        below = input.clamp(max=0).flatten().to(slope.dtype)
        to_slope = torch.dot(gradient.flatten().to(slope.dtype), below)
        return to_input, to_slope[None]


class _Normalize(torch.autograd.Function):
    """Vectors (R, V) to length 1: with the gradient in one, which autograd makes in ten parts."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_(min=1e-12)
        unit = vectors / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        unit, length = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, unit)[:, None]
        return torch.addcmul(gradient, unit, along, value=-1).div_(length)


def normalize(vectors: Tensor) -> Tensor:
    """Give vectors (R, V) of length 1."""
    return _Normalize.apply(vectors)


ACTIVATIONS = {"relu": nn.ReLU, "prelu": PReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
MAX_FEATURE_DIM = 16
MANY_EVENTS = 16  # shorter histories have a vector for each length, all others share one


class FeatureSpec(NamedTuple):
    """A feature as the network sees it: its kind and number of codes (0 where numeric)."""

    kind: str
    size: int


class BagTensor(NamedTuple):
    """Codes of a multi-valued feature, with the offset of each row and of the end."""

    values: Tensor
    offsets: Tensor
    longest: int  # number of codes of a row, at most


FeatureTensor = Tensor | BagTensor  # bags of few rows also as one matrix, padded


@dataclass(frozen=True)
class NetworkConfig:
    """All that it takes to build a network; plain values, so that it is saved beside the weights.

    Where `item_dims` is None the items' vectors are their rows in the table that histories share.
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
    pooling: str
    max_length: int
    unknown_rate: float = 0.0
    skip_connection: bool = False
    n_members: int = 1

    @property
    def width(self) -> int:
        """Of the vectors of users and of items that are served."""
        return self.n_members * self.user_dims[-1]

    def to_dict(self) -> dict[str, Any]:
        """Give the values as a dict of plain values."""
        features = {
            side: [tuple(spec) for spec in getattr(self, side)]
            for side in ("user_features", "item_features")
        }
        return asdict(self) | features

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """Read what `to_dict` gave."""
        features = {
            side: tuple(FeatureSpec(*spec) for spec in values[side])
            for side in ("user_features", "item_features")
        }
        return cls(**{**values, **features})


class Dropout(nn.Module):
    """Dropout from a generator of the network's own: torch's global one stays untouched."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        # One random byte an element: eight times cheaper than one random number each.
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        n_dropped = min(round(self.rate * 256), 255)  # of the 256 values of a byte
        drawn = words.view(torch.uint8)[: x.numel()].view(x.shape)
        # As floats at once: booleans take three times as long to make and to read.
        return x * drawn.to(x.dtype).ge_(n_dropped).mul_(1 / (1 - n_dropped / 256))


class RandomUnknown(nn.Module):
    """Replaces values by "unknown" in training, each with the same probability.

    What stands for the unknown would keep its first weights if training never met it.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, values: Any) -> Any:
        """Give codes or numbers, in a tensor or a bag, with some replaced; padding stays."""
        if not self.training or self.rate == 0:
            return values
        if isinstance(values, BagTensor):
            return values._replace(values=self(values.values))
        uniform = torch.rand(values.shape, generator=self.generator, device=values.device)
        if values.is_floating_point():
            return values.masked_fill(uniform < self.rate, torch.nan)
        return values.masked_fill((uniform < self.rate) & (values != PADDING), UNKNOWN)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one row, which has no variance, as in serving."""

    momentum: float  # a number: batches need no count

    def forward(self, input: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        is_batch = self.training and len(input) > 1
        return batch_norm(
            input, *statistics, self.weight, self.bias, is_batch, self.momentum, self.eps
        )


class Features(nn.Module):
    """The features of one side: embeddings and numbers, side by side."""

    def __init__(self, specs: tuple[FeatureSpec, ...], embedding_dim: int):
        super().__init__()
        self.specs = specs
        dim = min(embedding_dim, MAX_FEATURE_DIM)
        self.tables = nn.ModuleList(Table(spec.size, dim) for spec in specs if spec.size)
        # A number comes with a flag that says whether it is missing.
        self.width = sum(dim if spec.size else 2 for spec in specs)

    def forward(self, columns: list[FeatureTensor]) -> list[Tensor]:
        tables = iter(self.tables)
        parts = []
        for spec, column in zip(self.specs, columns, strict=True):
            if isinstance(column, BagTensor):
                parts.append(next(tables)(column.values, column.offsets))
            elif spec.size:
                vectors = next(tables)(column)
                if column.dim() == 2:  # padded bags
                    n_codes = (column != PADDING).sum(1, keepdim=True)
                    vectors = vectors.sum(1) / n_codes.clamp(min=1)
                parts.append(vectors)
            else:
                missing = torch.isnan(column)
                numbers = torch.stack([torch.where(missing, 0.0, column), missing.float()], 1)
                parts.append(numbers)
        return parts


class Tower(nn.Module):
    """Layers, the last of them linear, and where wanted a linear map that goes past them."""

    def __init__(self, width: int, dims: tuple[int, ...], config: NetworkConfig):
        super().__init__()
        self.first = Linear(width, dims[0])
        layers: list[nn.Module] = []
        for dim, following in pairwise(dims):
            if config.batch_norm:
                layers.append(BatchNorm(dim))
            layers += [ACTIVATIONS[config.activation](), Dropout(config.dropout)]
            layers.append(Linear(dim, following))
        self.others = nn.Sequential(*layers)
        # A single layer is a linear map itself.
        has_skip = config.skip_connection and len(dims) > 1
        self.skip = Linear(width, dims[-1]) if has_skip else None

    def forward(self, parts: list[Tensor], block: Tensor | None = None) -> Tensor:
        """Give vectors of length 1, (R, V), of the parts as `side_by_side` reads them."""
        if self.skip is None:
            vectors = self.others(side_by_side(parts, self.first.weight, self.first.bias, block))
            return normalize(vectors.float())
        # One product for both ways: of few columns, its bits would depend on a row's neighbours.
        weight = torch.cat([self.first.weight, self.skip.weight])
        bias = torch.cat([self.first.bias, self.skip.bias])
        both = side_by_side(parts, weight, bias, block)
        vectors, past = both.split([self.first.out_features, self.skip.out_features], 1)
        return normalize((self.others(vectors) + past).float())


def side_by_side(
    parts: list[Tensor],  # (R, ...) or, where `block` is given, (B, ...)
    weight: Tensor,
    bias: Tensor,
    block: Tensor | None,  # (R,), in which block a row lies
) -> Tensor:
    """Give a linear map of parts side by side, (R, ...); what a block shares is mapped once."""

    def is_shared(part: Tensor) -> bool:  # as many blocks as rows are the rows themselves
        return block is not None and len(part) < len(block)

    # Neighbouring parts in one product.
    runs = [(shared, torch.cat(list(run), 1)) for shared, run in groupby(parts, is_shared)]
    columns = weight.T.split([run.shape[1] for _, run in runs])
    of_block, own = (
        [(run, rows) for (shared, run), rows in zip(runs, columns, strict=True) if shared is which]
        for which in (True, False)
    )
    mapped = bias
    for run, rows in of_block:
        mapped = torch.addmm(mapped, run, rows)
    if block is not None and of_block:
        mapped = rows_of(mapped, block)
    for run, rows in own:
        mapped = torch.addmm(mapped, run, rows)
    return mapped


class TwoTowers(nn.Module):
    """A user tower and an item tower, or a user tower and an item table.

    Vectors are L2-normalised, in training and in serving alike.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        dim = config.embedding_dim
        self.config = config
        self.item_embedding = Table(config.n_items, dim)
        self.user_embedding = Table(config.n_users, dim)
        self.pooling = Pooling(config.pooling, dim, config.max_length)
        self.user_features = Features(config.user_features, dim)
        self.history_dropout = Dropout(config.dropout)
        self.random_unknown = RandomUnknown(config.unknown_rate)
        self.length_vectors = nn.Parameter(torch.empty(MANY_EVENTS + 1, min(dim, MAX_FEATURE_DIM)))
        width = self.pooling.width + 1 + self.length_vectors.shape[1]
        width += dim + self.user_features.width
        self.user_tower = Tower(width, config.user_dims, config)
        if config.item_dims is not None:
            self.item_features = Features(config.item_features, dim)
            width = dim + self.item_features.width
            self.item_tower = Tower(width, config.item_dims, config)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, Table):
                module.initialise(generator)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.length_vectors)
        self.pooling.initialise()

    def set_generator(self, generator: torch.Generator) -> None:
        """Give all that draws in training its generator."""
        for module in self.modules():
            if isinstance(module, (Dropout, RandomUnknown)):
                module.generator = generator

    def encode_users(
        self,
        users: Tensor,  # (R,) codes
        features: list[FeatureTensor],  # (R, ...)
        tokens: Tensor,  # (B, S) codes of items, as `Pooling` reads them
        place: Tensor,  # (R,)
        length: Tensor,  # (R,)
        block: Tensor | None = None,  # (R,)
    ) -> Tensor:
        """Give the users' vectors, (R, V).

        With `block`, which says in which block a row lies, users and features may be given once a
        block.
        """
        users, tokens = self.random_unknown(users), self.random_unknown(tokens)
        history = self.pooling(self.item_embedding(tokens), place, length)
        # Means hide how many events they are of; a newcomer's next one is another than a regular's.
        n_events = torch.log1p(length.to(history.dtype))[:, None]
        own_length = rows_of(self.length_vectors, length.clamp(max=MANY_EVENTS))
        parts = [self.history_dropout(history), n_events, own_length, self.user_embedding(users)]
        parts += self.user_features([self.random_unknown(column) for column in features])
        return self.user_tower(parts, block)

    def encode_items(self, items: Tensor, features: list[FeatureTensor]) -> Tensor:
        """Give the items' vectors, (M, V)."""
        if self.config.item_dims is None:
            return normalize(self.item_embedding(items))
        if features:  # which must do for an item that is unknown
            items = self.random_unknown(items)
        parts = [self.item_embedding(items)]
        parts += self.item_features([self.random_unknown(column) for column in features])
        return self.item_tower(parts)
