"""Pooling of histories: a window of item vectors becomes one vector.

Neighbouring events of a user have windows that overlap. A block holds up to C neighbours: their
tokens stand once in a row of S = L + C - 1, left-padded with zeros, and the window of the event at
offset c is ``tokens[c:c + L]``, oldest first. In serving C is 1. Shapes: B blocks, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

POOLINGS = ("mean", "sum", "max", "concat", "decay")
N_DECAYS = 4
HALF_LIVES = (0.3, 60.0)  # events, the shortest and longest at the start of training


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
        return self._weighted(tokens, place, length)

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
        if self.name == "decay":
            rates = math.log(2) * torch.exp(-self.log_half_life)
        else:
            rates = torch.zeros(1, device=device)
        n_tokens = tokens.shape[1]
        n_windows = n_tokens - self.max_length + 1
        newest = torch.arange(n_windows, device=device)[:, None] + self.max_length - 1
        lag = newest - torch.arange(n_tokens, device=device)  # (C, S)
        inside = (lag >= 0) & (lag < self.max_length)
        weight = torch.exp(-rates[:, None] * lag[:, None].clamp(min=0)) * inside[:, None]
        pooled = torch.matmul(weight.flatten(0, 1), tokens)  # (B, C * K, D)
        pooled = embedding(place, pooled.view(-1, len(rates) * tokens.shape[2]))
        if self.name == "sum":
            return pooled
        lags = torch.arange(self.max_length, device=device)
        total = torch.exp(-rates * lags[:, None]).cumsum(0)  # (L, K): of windows of 1 ... L events
        norm = embedding((length - 1).clamp(min=0), total)  # (R, K)
        return (pooled.view(len(place), len(rates), -1) / norm[:, :, None]).flatten(1)
