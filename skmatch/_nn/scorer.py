"""How users are scored against items: by the cosine of their vectors over a temperature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CosineScorer(NamedTuple):
    """Cosine over the temperature; vectors have length 1, so that it is an inner product."""

    temperature: float
    product_dtype: torch.dtype = torch.float32  # of the large matrix product

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores of pairs of users and items, (..., V) each, without the last axis."""
        return (users / self.temperature * items).sum(-1)

    def matrix(self, users: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        """Return the scores of users (R, V) against items (N, V) plus a bias (N,), (R, N)."""
        users = users / self.temperature
        if self.product_dtype == torch.float32:
            return torch.addmm(bias, users, items.T)
        return users.to(self.product_dtype) @ items.to(self.product_dtype).T + bias
