"""Pooling of histories: a window of item vectors becomes one vector.

A pooling is a module that maps a `History` of R rows to a matrix (R, width); rows without events
should return zeros. Built-in poolings are chosen by name; others are passed as a callable
``(dim, max_length) -> module``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from skmatch._nn.embedding import gather
from skmatch._nn.layers import Linear

N_DECAYS, N_DECAYS_OF_ATTENTION = 4, 6
MAX_HEADS, MAX_LAGS = 4, 1024  # earlier events share the bias of the last lag
HALF_LIVES = (0.3, 60.0)  # events, the shortest and longest at the start of training
MIN_EXPONENT = -50.0  # exponentials below float32's resolution are up to ten times slower on a CPU


class History(NamedTuple):
    """Histories of R rows, each a window of at most L item vectors.

    Neighbouring events of a user have windows that overlap. A block holds up to C neighbours: their
    tokens are stored once in a row of S = L + C - 1, left-padded with zeros, and window `c` of a
    block is ``tokens[c:c + L]``, oldest first. In serving C is 1.
    """

    tokens: Tensor  # (B, S, D)
    window: Tensor  # (R,), index of each row's window among the B * C windows
    length: Tensor  # (R,), number of events
    max_length: int  # L, of these rows: at most the `max_length` that the pooling is made for

    def unfold(self) -> Tensor:
        """Return the windows of all rows, (R, D, L)."""
        windows = self.tokens.unfold(1, self.max_length, 1)  # (B, C, D, L), a view
        n_windows = windows.shape[1]
        return windows[self.window // n_windows, self.window % n_windows]

    def windows(self) -> Tensor:
        """Return the item vectors of each row, (R, L, D), oldest first, zeros before the oldest."""
        return self.unfold().transpose(1, 2)

    def is_padding(self) -> Tensor:
        """Return where `windows` holds no event, (R, L)."""
        newest_first = torch.arange(self.max_length - 1, -1, -1, device=self.window.device)
        return newest_first >= self.length[:, None]

    def lags(self) -> Tensor:
        """Return the number of events from each token to the newest of each window, (C, S)."""
        n_tokens = self.tokens.shape[1]
        index = torch.arange(n_tokens, device=self.window.device)
        return index[self.max_length - 1 :, None] - index


class SumPooling(nn.Module):
    """Sum of the item vectors."""

    def __init__(self, dim: int, max_length: int):
        super().__init__()

    def forward(self, history: History) -> Tensor:
        """Return sums, (R, D)."""
        return _weighted_sum(history, no_decay(history))


class MeanPooling(nn.Module):
    """Mean of the item vectors."""

    def __init__(self, dim: int, max_length: int):
        super().__init__()

    def forward(self, history: History) -> Tensor:
        """Return means, (R, D)."""
        return _weighted_mean(history, no_decay(history))


class MaxPooling(nn.Module):
    """Largest value of each dimension."""

    def __init__(self, dim: int, max_length: int):
        super().__init__()

    def forward(self, history: History) -> Tensor:
        """Return maxima, (R, D)."""
        masked = history.unfold().masked_fill(history.is_padding()[:, None], -torch.inf)
        return torch.where(history.length[:, None] > 0, masked.amax(2), 0.0)


class ConcatPooling(nn.Module):
    """All item vectors, newest first."""

    def __init__(self, dim: int, max_length: int):
        super().__init__()
        self.max_length = max_length

    def forward(self, history: History) -> Tensor:
        """Return concatenated vectors, (R, max_length * D)."""
        vectors = history.windows().flip(1)
        return pad(vectors, (0, 0, 0, self.max_length - vectors.shape[1])).flatten(1)


class DecayPooling(nn.Module):
    """Weighted means whose weights halve with every learned number of events, concatenated."""

    def __init__(self, dim: int, max_length: int, n_decays: int = N_DECAYS):
        super().__init__()
        shortest, longest = (math.log(events) for events in HALF_LIVES)
        start = torch.linspace(shortest, longest, n_decays, dtype=torch.float32, device="cpu")
        self.log_half_life = nn.Parameter(start)

    def forward(self, history: History) -> Tensor:
        """Return weighted means, (R, n_decays * D)."""
        return _weighted_mean(history, math.log(2) * torch.exp(-self.log_half_life))


class AttentionPooling(nn.Module):
    """Decaying means, and attention over the events with these means as queries.

    Heads of scaled dot products (Vaswani et al., 2017), with a learned bias per lag in place of
    position embeddings, so that all windows of a block share the tokens.
    """

    def __init__(self, dim: int, max_length: int):
        super().__init__()
        self.decay = DecayPooling(dim, max_length, N_DECAYS_OF_ATTENTION)
        self.n_heads = math.gcd(dim, MAX_HEADS)
        self.query = Linear(N_DECAYS_OF_ATTENTION * dim, dim)
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        shape = self.n_heads, min(max_length, MAX_LAGS)
        self.lag_bias = nn.Parameter(torch.zeros(shape, dtype=torch.float32, device="cpu"))

    def forward(self, history: History) -> Tensor:
        """Return means and attended values, (R, (n_decays + 1) * D)."""
        summary = self.decay(history)
        tokens, window, length, max_length = history
        n_blocks, n_tokens, dim = tokens.shape
        n_windows = n_tokens - max_length + 1
        lag = history.lags()
        lengths = length.new_zeros(n_blocks * n_windows).index_copy(0, window, length)
        inside = (lag >= 0) & (lag < lengths.view(n_blocks, 1, n_windows, 1))  # (B, 1, C, S)
        lag_index = lag.clamp(0, self.lag_bias.shape[1] - 1)
        bias = torch.where(inside, self.lag_bias[:, lag_index], -1e9)
        query = self.query(summary)
        query = query.new_zeros(len(lengths), dim).index_copy(0, window, query)
        attended = scaled_dot_product_attention(
            self._split_heads(query.view(n_blocks, n_windows, dim)),
            self._split_heads(self.key(tokens)),
            self._split_heads(self.value(tokens)),
            attn_mask=bias,
        )  # (B, H, C, D / H)
        attended = attended.transpose(1, 2).reshape(len(lengths), dim)[window]
        return torch.cat([summary, attended * (length > 0)[:, None]], 1)

    def _split_heads(self, vectors: Tensor) -> Tensor:
        """Turn (B, N, D) into (B, H, N, D / H)."""
        return vectors.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


POOLINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "mean": MeanPooling,
    "sum": SumPooling,
    "max": MaxPooling,
    "concat": ConcatPooling,
    "decay": DecayPooling,
    "attention": AttentionPooling,
}


def make_pooling(pooling: str | Callable, dim: int, max_length: int) -> tuple[nn.Module, int]:
    """Return a pooling and the width of its vectors, found with an empty history."""
    module = POOLINGS[pooling](dim, max_length) if isinstance(pooling, str) else None
    if module is None:
        assert callable(pooling)
        module = pooling(dim, max_length)
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"pooling={pooling!r} returned a {type(module).__name__}: return a torch.nn.Module "
                "that maps a history to a matrix."
            )
        module.to(device="cpu", dtype=torch.float32)
    tokens = torch.zeros(1, 1, dim, dtype=torch.float32, device="cpu")
    zero = torch.zeros(1, dtype=torch.int64, device="cpu")
    with torch.no_grad():
        pooled = module.eval()(History(tokens, zero, zero, max_length=1))
    if pooled.ndim != 2 or len(pooled) != 1:
        raise ValueError(
            f"pooling={pooling!r} returned the shape {tuple(pooled.shape)} for one history: return "
            "one vector per history, (n_rows, width)."
        )
    return module, pooled.shape[1]


def no_decay(history: History) -> Tensor:
    """Return the decay rate of equal weights, (1,)."""
    return torch.zeros(1, dtype=torch.float32, device=history.tokens.device)


def _weighted_sum(history: History, rates: Tensor) -> Tensor:
    """Sum the events of each window, weighted by exp(-rate * lag), for K rates: (R, K * D)."""
    tokens = history.tokens
    lag = history.lags()
    inside = (lag >= 0) & (lag < history.max_length)
    exponent = (-rates[:, None] * lag[:, None]).clamp(min=MIN_EXPONENT, max=0.0)
    weight = torch.exp(exponent) * inside[:, None]
    # A single product for all windows of a block; torch.matmul would copy tokens and result for it.
    weight = weight.flatten(0, 1).expand(len(tokens), -1, -1)  # (B, C * K, S), a view
    summed = torch.bmm(weight, tokens)
    return gather(summed.view(-1, len(rates) * tokens.shape[2]), history.window)


def _weighted_mean(history: History, rates: Tensor) -> Tensor:
    """Average the events of each window, weighted by exp(-rate * lag), for K rates: (R, K * D)."""
    lags = torch.arange(history.max_length, device=rates.device)
    total = torch.exp(-rates * lags[:, None]).cumsum(0)  # (L, K), of windows of 1 ... L events
    scale = gather(total.reciprocal(), (history.length - 1).clamp(min=0))  # (R, K)
    summed = _weighted_sum(history, rates).view(len(scale), len(rates), -1)
    return (summed * scale[:, :, None]).flatten(1)
