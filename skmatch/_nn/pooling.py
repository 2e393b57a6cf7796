"""Pooling of histories: a window of item vectors becomes one vector.

Neighbouring events of a user have windows that overlap. A block holds up to C neighbours: their
tokens stand once in a row of S = L + C - 1, left-padded with zeros, and the window of the event at
offset c is ``tokens[c:c + L]``, oldest first. In serving C is 1. Shapes: B blocks, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from skmatch._nn.device import LEAST_EXPONENT
from skmatch._nn.linear import Linear
from skmatch._nn.tables import rows_of

POOLINGS = ("mean", "sum", "max", "concat", "decay", "attention")
N_DECAYS = {"decay": 4, "attention": 6}
MAX_HEADS = 4
HALF_LIVES = (0.3, 60.0)  # events, the shortest and longest at the start of training


class Pooling(nn.Module):
    """Pool windows by one of the names in `POOLINGS`; `width` is the size of what comes out."""

    def __init__(self, name: str, dim: int, max_length: int):
        super().__init__()
        self.name = name
        self.max_length = max_length
        n_parts = max_length if name == "concat" else N_DECAYS.get(name, 1)
        if name in N_DECAYS:
            self.log_half_life = nn.Parameter(torch.empty(n_parts))
        if name == "attention":
            self.attention = Attention(n_parts * dim, dim, max_length)
            n_parts += 1
        self.width = n_parts * dim

    def initialise(self) -> None:
        """Spread the half-lives evenly on a logarithmic scale; all lags start alike."""
        if self.name == "attention":
            nn.init.zeros_(self.attention.lag_bias)
        if self.name in N_DECAYS:
            shortest, longest = (math.log(events) for events in HALF_LIVES)
            with torch.no_grad():
                self.log_half_life.copy_(torch.linspace(shortest, longest, N_DECAYS[self.name]))

    def forward(self, tokens: Tensor, place: Tensor, length: Tensor) -> Tensor:
        """Pool the windows of R rows.

        `tokens` is (B, S, D); `place` (R,) says which of the B * C windows are wanted; `length`
        (R,) how many events each holds. The result is (R, width), zeros for an empty window.
        """
        if self.name in ("max", "concat"):
            windows = tokens.unfold(1, self.max_length, 1)  # (B, C, D, L), a view
            if self.name == "concat":
                return windows.flip(3).transpose(2, 3).flatten(2).flatten(0, 1)[place]
            return self._max(windows, place, length)
        pooled = self._weighted(tokens, place, length)
        if self.name != "attention":
            return pooled
        return torch.cat([pooled, self.attention(pooled, tokens, place, length)], 1)

    def _max(self, windows: Tensor, place: Tensor, length: Tensor) -> Tensor:
        newest_first = torch.arange(self.max_length - 1, -1, -1, device=place.device)
        n_windows = windows.shape[1]
        chosen = windows[place // n_windows, place % n_windows]  # (R, D, L)
        padding = newest_first >= length[:, None]  # (R, L)
        largest = chosen.masked_fill(padding[:, None], -torch.inf).amax(2)
        return torch.where(length[:, None] > 0, largest, 0.0)

    def _weighted(self, tokens: Tensor, place: Tensor, length: Tensor) -> Tensor:
        """Weigh an event that lies n events back by exp(-rate * n): one product for all windows."""
        device = tokens.device
        if self.name in N_DECAYS:
            rates = math.log(2) * torch.exp(-self.log_half_life)
        else:
            rates = torch.zeros(1, device=device)
        n_tokens = tokens.shape[1]
        n_windows = n_tokens - self.max_length + 1
        lag = lags_of(n_windows, n_tokens, device)
        inside = (lag >= 0) & (lag < self.max_length)
        exponent = (-rates[:, None] * lag[:, None]).clamp(min=LEAST_EXPONENT, max=0)
        weight = torch.exp(exponent) * inside[:, None]
        # torch.matmul would make one product of it, and copy tokens and result for that.
        weight = weight.flatten(0, 1).expand(len(tokens), -1, -1)  # (B, C * K, S), a view
        pooled = torch.bmm(weight, tokens)
        pooled = rows_of(pooled.view(-1, len(rates) * tokens.shape[2]), place)
        if self.name == "sum":
            return pooled
        lags = torch.arange(self.max_length, device=device)
        total = torch.exp(-rates * lags[:, None]).cumsum(0)  # (L, K): of windows of 1 ... L events
        # A product, whose gradient takes half the time of a division's.
        scale = rows_of(total.reciprocal(), (length - 1).clamp(min=0))  # (R, K)
        return (pooled.view(len(place), len(rates), -1) * scale[:, :, None]).flatten(1)


def lags_of(n_windows: int, n_tokens: int, device: torch.device) -> Tensor:
    """Give how many events each token lies before the newest of each window, (C, S)."""
    newest = torch.arange(n_tokens - n_windows, n_tokens, device=device)
    return newest[:, None] - torch.arange(n_tokens, device=device)


class Attention(nn.Module):
    """Attention by which the summary of a window asks for the events that matter to it now.

    Heads of scaled dot products (Vaswani et al., 2017), with a learned bias for each lag in place
    of vectors of positions: events are the same to all windows of a block but for their lag.
    """

    def __init__(self, query_dim: int, dim: int, max_length: int):
        super().__init__()
        self.n_heads = math.gcd(dim, MAX_HEADS)
        self.query = Linear(query_dim, dim)
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        self.lag_bias = nn.Parameter(torch.empty(self.n_heads, max_length))

    def forward(self, summary: Tensor, tokens: Tensor, place: Tensor, length: Tensor) -> Tensor:
        """Give the answer of each window, (R, D), zeros for an empty one; as in `Pooling`."""
        n_blocks, n_tokens, dim = tokens.shape
        max_length = self.lag_bias.shape[1]
        n_windows = n_tokens - max_length + 1
        n_places = n_blocks * n_windows
        lag = lags_of(n_windows, n_tokens, place.device)
        lengths = length.new_zeros(n_places).index_copy(0, place, length)
        inside = (lag >= 0) & (lag < lengths.view(n_blocks, 1, n_windows, 1))  # (B, 1, C, S)
        bias = torch.where(inside, self.lag_bias[:, lag.clamp(0, max_length - 1)], -1e9)
        query = self.query(summary)
        query = query.new_zeros(n_places, dim).index_copy(0, place, query)
        answer = scaled_dot_product_attention(
            self._by_head(query.view(n_blocks, n_windows, dim)),
            self._by_head(self.key(tokens)),
            self._by_head(self.value(tokens)),
            attn_mask=bias,
        )  # (B, H, C, D / H)
        answer = answer.transpose(1, 2).reshape(n_places, dim)[place]
        return answer * (length > 0)[:, None]

    def _by_head(self, vectors: Tensor) -> Tensor:
        """Turn (B, N, D) into (B, H, N, D / H)."""
        return vectors.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
