"""Layers of the towers."""

from __future__ import annotations

from itertools import groupby, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, normalize

from skmatch._nn.embedding import gather

ACTIVATIONS = {"relu": nn.ReLU, "prelu": nn.PReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Linear(nn.Linear):
    """nn.Linear without draws from torch's global generator: `initialise` draws the weights."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias, device="cpu", dtype=torch.float32)

    def reset_parameters(self) -> None:
        """Leave the weights to `initialise`."""

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights (Glorot and Bengio, 2010); biases start at zero."""
        nn.init.xavier_uniform_(self.weight, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Dropout(nn.Module):
    """Dropout from its own generator: torch's global generator stays untouched."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return values of any shape, some set to zero and all other values scaled up."""
        if not self.training or self.rate == 0:
            return x
        # A random byte per element is eight times cheaper than a random float.
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        n_dropped = min(round(self.rate * 256), 255)  # of the 256 values of a byte
        drawn = words.view(torch.uint8)[: x.numel()].view(x.shape)
        return x * drawn.to(x.dtype).ge_(n_dropped).mul_(1 / (1 - n_dropped / 256))


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that reads a batch of one row, which has no variance, as in serving."""

    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """Return normalised rows, (R, D)."""
        statistics = self.running_mean, self.running_var
        is_batch = self.training and len(input) > 1
        return batch_norm(
            input, *statistics, self.weight, self.bias, is_batch, self.momentum, self.eps
        )


class Tower(nn.Module):
    """Layers, the last of them linear, and where wanted a linear skip connection past them."""

    def __init__(
        self,
        width: int,
        dims: tuple[int, ...],
        *,
        activation: str,
        dropout: float,
        use_batch_norm: bool,
        skip_connection: bool,
    ):
        super().__init__()
        self.first = Linear(width, dims[0])
        layers: list[nn.Module] = []
        for dim, following in pairwise(dims):
            if use_batch_norm:
                layers.append(BatchNorm(dim, device="cpu", dtype=torch.float32))
            layers.append(ACTIVATIONS[activation]())
            layers += [Dropout(dropout), Linear(dim, following)]
        self.others = nn.Sequential(*layers).to(device="cpu", dtype=torch.float32)
        has_skip = skip_connection and len(dims) > 1  # a single layer is a linear map itself
        self.skip = Linear(width, dims[-1]) if has_skip else None

    def forward(self, parts: list[Tensor], block: Tensor | None = None) -> Tensor:
        """Return vectors of length 1, (R, V), of the concatenated parts (see `linear`)."""
        if self.skip is None:
            vectors = self.others(linear(parts, self.first.weight, self.first.bias, block))
            return normalize(vectors.float())
        # A single product for both maps.
        weight = torch.cat([self.first.weight, self.skip.weight])
        bias = torch.cat([self.first.bias, self.skip.bias])
        hidden, skipped = linear(parts, weight, bias, block).split(
            [self.first.out_features, self.skip.out_features], 1
        )
        return normalize((self.others(hidden) + skipped).float())


def linear(
    parts: list[Tensor],  # (R, ...) or, where `block` is given, (B, ...)
    weight: Tensor,
    bias: Tensor,
    block: Tensor | None,  # (R,), the block of each row
) -> Tensor:
    """Return a linear map of concatenated parts, (R, ...); parts of blocks are mapped once each."""

    def is_of_blocks(part: Tensor) -> bool:
        return block is not None and len(part) < len(block)

    # A single product for neighbouring parts.
    runs = [(of_block, torch.cat(list(run), 1)) for of_block, run in groupby(parts, is_of_blocks)]
    columns = weight.T.split([run.shape[1] for _, run in runs])
    block_runs, row_runs = (
        [
            (run, rows)
            for (of_block, run), rows in zip(runs, columns, strict=True)
            if of_block is is_shared
        ]
        for is_shared in (True, False)
    )
    mapped = bias
    for run, rows in block_runs:
        mapped = torch.addmm(mapped, run, rows)
    if block is not None and block_runs:
        mapped = gather(mapped, block)
    for run, rows in row_runs:
        mapped = torch.addmm(mapped, run, rows)
    return mapped
