"""Pooling of histories: windows [start, stop) of a packed array of tokens become one vector each.

``tokens`` is (T, D), oldest first; ``start`` and ``stop`` are (R,). Windows overlap freely, so
that all events of a user share their tokens, and padding does not exist. An empty window pools to
zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad


def pool_sum(tokens: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Sum of each window, as a difference of running sums: the cost does not grow with length."""
    running = pad(tokens.double().cumsum(0), (0, 0, 1, 0))  # (T + 1, D); double: no cancellation
    return (embedding(stop, running) - embedding(start, running)).to(tokens.dtype)


def pool_mean(tokens: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Mean of each window."""
    return pool_sum(tokens, start, stop) / (stop - start).clamp(min=1)[:, None]


def pool_max(tokens: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Maximum of each window, from the maxima of all spans of 1, 2, 4, ... tokens."""
    length = stop - start
    longest = int(length.max()) if len(length) else 0
    pooled = tokens.new_zeros(len(start), tokens.shape[1])
    spans, width = tokens, 1  # row t of spans is the maximum of tokens [t, t + width)
    while width <= longest:
        rows = torch.nonzero((length >= width) & (length < 2 * width)).squeeze(1)
        # Two spans, one at either end, cover a window.
        ends = embedding(start[rows], spans), embedding(stop[rows] - width, spans)
        pooled = pooled.index_copy(0, rows, torch.maximum(*ends))
        spans = torch.maximum(spans[:-width], spans[width:])
        width *= 2
    return pooled


def pool_concat(tokens: Tensor, start: Tensor, stop: Tensor, max_length: int) -> Tensor:
    """The newest `max_length` tokens of each window side by side, the newest first."""
    back = torch.arange(1, max_length + 1, device=tokens.device)
    positions = stop[:, None] - back  # (R, max_length)
    padded = pad(tokens, (0, 0, 1, 0))  # row 0 stands for "before the window"
    inside = positions >= start[:, None]
    return embedding(torch.where(inside, positions + 1, 0), padded).flatten(1)


def pool_decay(
    tokens: Tensor, start: Tensor, stop: Tensor, rates: Tensor, rows_per_block: int
) -> Tensor:
    """Weighted means of each window: decay k weighs an event that lies n events back exp(-n r_k).

    Blocks of neighbouring rows, whose windows overlap, share one gather of tokens and one product.
    """
    n_rows, n_rates = len(start), len(rates)
    n_blocks = -(-n_rows // rows_per_block)
    surplus = n_blocks * rows_per_block - n_rows
    start = pad(start, (0, surplus), value=0).view(n_blocks, -1)  # (B, C)
    stop = pad(stop, (0, surplus), value=0).view(n_blocks, -1)
    is_empty = stop <= start
    first = torch.where(is_empty, len(tokens), start).amin(1)
    span = max(0, int((torch.where(is_empty, 0, stop).amax(1) - first).max()))
    position = first[:, None] + torch.arange(span, device=tokens.device)  # (B, S)
    gathered = embedding(position.clamp(max=len(tokens) - 1), tokens)  # (B, S, D)
    lag = stop[:, :, None] - 1 - position[:, None]  # (B, C, S)
    inside = (lag >= 0) & (position[:, None] >= start[:, :, None])
    weight = torch.exp(-rates[:, None] * lag.clamp(min=0)[:, :, None].float())  # (B, C, K, S)
    weight = weight * inside[:, :, None]
    total = weight.sum(3, keepdim=True)
    weight = (weight / total.clamp(min=1e-9)).flatten(1, 2)  # (B, C * K, S)
    pooled = torch.bmm(weight, gathered)
    return pooled.view(n_blocks * rows_per_block, -1)[:n_rows]


class Pooling(nn.Module):
    """Pool windows by one of the names in `POOLINGS`; `width` is the size of what comes out."""

    def __init__(self, name: str, dim: int, max_length: int):
        super().__init__()
        self.name = name
        self.max_length = max_length
        self.width = dim * {"concat": max_length, "decay": N_DECAYS}.get(name, 1)
        if name == "decay":
            self.log_half_life = nn.Parameter(torch.empty(N_DECAYS))

    def initialise(self) -> None:
        """Spread the half-lives evenly on a logarithmic scale."""
        if self.name == "decay":
            shortest, longest = (math.log(events) for events in HALF_LIVES)
            with torch.no_grad():
                self.log_half_life.copy_(torch.linspace(shortest, longest, N_DECAYS))

    def forward(self, tokens: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        if self.name == "concat":
            return pool_concat(tokens, start, stop, self.max_length)
        if self.name == "decay":
            rates = math.log(2) * torch.exp(-self.log_half_life)
            # In training, rows lie in the order of the log and overlap; in serving they do not.
            return pool_decay(tokens, start, stop, rates, 32 if self.training else 1)
        return {"mean": pool_mean, "sum": pool_sum, "max": pool_max}[self.name](
            tokens, start, stop
        )


POOLINGS = ("mean", "sum", "max", "concat", "decay")
N_DECAYS = 4
HALF_LIVES = (0.3, 60.0)  # events, at the start of training
