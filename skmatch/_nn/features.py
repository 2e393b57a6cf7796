"""Features of users and items as a network reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skmatch._columns import PADDING, UNKNOWN
from skmatch._nn.device import is_async
from skmatch._nn.embedding import EmbeddingTable

MAX_FEATURE_DIM = 16
NUMBERS = ("numeric", "vector")  # kinds without codes


class FeatureSpec(NamedTuple):
    """Kind of a feature and its number of codes, or of the numbers of a vector (numeric: 0)."""

    kind: str
    size: int


class RaggedTensor(NamedTuple):
    """Codes of a multi-valued feature: row `i` holds ``values[offsets[i]:offsets[i + 1]]``."""

    values: Tensor
    offsets: Tensor
    longest: int  # number of codes of the longest row


FeatureTensor = Tensor | RaggedTensor  # on a GPU, ragged rows also as a padded matrix


@dataclass
class FeatureSource:
    """The values of a feature: one per row of the data, or one per code of a user or item."""

    column: FeatureTensor
    by_code: bool

    def gather(self, rows: Tensor, codes: Tensor) -> FeatureTensor:
        """Return the values of some rows, whose users or items have these codes."""
        return gather_column(self.column, codes if self.by_code else rows)


def gather_column(column: FeatureTensor, rows: Tensor) -> FeatureTensor:
    """Return some rows of a column."""
    if not isinstance(column, RaggedTensor):
        return column[rows]
    start, stop = column.offsets[rows], column.offsets[rows + 1]
    if is_async(rows.device):  # the number of values would have to be read from the device
        index = start[:, None] + torch.arange(column.longest, device=rows.device)
        outside = index >= stop[:, None]
        return column.values[index.masked_fill_(outside, 0)].masked_fill_(outside, PADDING)
    index, offsets = concatenate_ranges(start, stop - start)
    return RaggedTensor(column.values[index], offsets, column.longest)


def unknown_like(column: FeatureTensor) -> FeatureTensor:
    """Return an unknown value for each row: an unknown code, missing numbers, or no codes."""
    if isinstance(column, RaggedTensor):
        return column._replace(values=column.values[:0], offsets=torch.zeros_like(column.offsets))
    return torch.full_like(column, torch.nan if column.is_floating_point() else UNKNOWN)


def concatenate_ranges(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return the concatenated integers of all ranges, and their offsets; synchronises."""
    offsets = torch.zeros(len(length) + 1, dtype=torch.int64, device=start.device)
    torch.cumsum(length, 0, out=offsets[1:])
    shift = torch.repeat_interleave(start - offsets[:-1], length)
    return torch.arange(len(shift), device=start.device) + shift, offsets


class IdDropout(nn.Module):
    """Replace values by "unknown" in training (DropoutNet; Volkovs et al., NeurIPS 2017).

    The vectors of unknown users, items and values would otherwise never be trained.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, values: Any) -> Any:
        """Return codes or numbers, in a tensor or ragged, with some replaced; padding stays."""
        if not self.training or self.rate == 0:
            return values
        if isinstance(values, RaggedTensor):
            return values._replace(values=self(values.values))
        shape = values.shape[:1] if values.is_floating_point() else values.shape
        uniform = torch.rand(
            shape, generator=self.generator, device=values.device, dtype=torch.float32
        )
        if values.is_floating_point():  # numbers, or whole vectors
            is_dropped = (uniform < self.rate).view(-1, *[1] * (values.dim() - 1))
            return values.masked_fill(is_dropped, torch.nan)
        return values.masked_fill((uniform < self.rate) & (values != PADDING), UNKNOWN)


class FeatureEncoder(nn.Module):
    """Encode the features of users or of items: embeddings, and numbers with a flag if missing.

    The linear map that reads the encodings projects vectors.
    """

    def __init__(self, specs: tuple[FeatureSpec, ...], embedding_dim: int, dropout: IdDropout):
        super().__init__()
        self.specs = specs
        self.dropout = dropout
        dim = min(embedding_dim, MAX_FEATURE_DIM)
        self.tables = nn.ModuleList(
            EmbeddingTable(spec.size, dim) for spec in specs if spec.kind not in NUMBERS
        )
        self.width = sum(max(spec.size, 1) + 1 if spec.kind in NUMBERS else dim for spec in specs)

    def forward(self, columns: list[FeatureTensor]) -> list[Tensor]:
        """Return one matrix (R, ...) per feature; all of them have `width` columns."""
        tables = iter(self.tables)
        parts = []
        for spec, values in zip(self.specs, columns, strict=True):
            column = self.dropout(values)
            if isinstance(column, RaggedTensor):
                parts.append(next(tables)(column.values, column.offsets))
            elif spec.kind not in NUMBERS:
                vectors = next(tables)(column)
                if column.dim() == 2:  # padded
                    n_codes = (column != PADDING).sum(1, keepdim=True)
                    vectors = vectors.sum(1) / n_codes.clamp(min=1)
                parts.append(vectors)
            else:
                numbers = column if column.dim() == 2 else column[:, None]
                missing = torch.isnan(numbers[:, :1])
                parts.append(
                    torch.cat([numbers.masked_fill(missing, 0.0), missing.to(column.dtype)], 1)
                )
        return parts
