"""Embedding tables, whose training costs what a step touches and not what the table holds.

A table that learns gathers the distinct rows of a step into a leaf of the graph: gradients are as
large as that leaf, and `RowAdam` updates those rows alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

PADDING = 0  # the code whose row is zero and stays so


class Table(nn.Module):
    """One vector a code; `touched` holds what `RowAdam` has not yet taken up."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dim), requires_grad=False)
        self.touched: list[tuple[Tensor, Tensor]] = []

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the rows; padding and unknown start neutral."""
        nn.init.normal_(self.weight, std=0.1, generator=generator)
        nn.init.zeros_(self.weight[:2])

    def forward(self, codes: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Give the rows of codes; with `offsets` (R + 1,), the mean of each bag of codes."""
        rows: Tensor = self.weight
        if self.training and torch.is_grad_enabled():
            distinct, codes = torch.unique(codes, return_inverse=True)
            rows = rows[distinct].requires_grad_()
            self.touched.append((distinct, rows))
        if offsets is None:
            return embedding(codes, rows)
        return embedding_bag(codes, rows, offsets, mode="mean", include_last_offset=True)


class RowAdam:
    """AdamW on the rows that a step touched, with one second moment a row."""

    BETAS = 0.9, 0.999
    EPS = 1e-8

    def __init__(self, tables: list[Table], weight_decay: float):
        self.tables = tables
        self.weight_decay = weight_decay
        self.first = [torch.zeros_like(table.weight) for table in tables]
        self.second = [torch.zeros_like(table.weight[:, :1]) for table in tables]
        self.n_steps = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take up the gradients of the last step."""
        self.n_steps += 1
        bias1, bias2 = (1 - beta**self.n_steps for beta in self.BETAS)
        for table, first, second in zip(self.tables, self.first, self.second, strict=True):
            codes, gradient = merge(table.touched)
            table.touched.clear()
            gradient *= (codes != PADDING)[:, None]
            mean = first[codes].lerp_(gradient, 1 - self.BETAS[0])
            square = gradient.square().mean(1, keepdim=True)
            square = second[codes].lerp_(square, 1 - self.BETAS[1])
            first[codes], second[codes] = mean, square
            rows = table.weight[codes].mul_(1 - lr * self.weight_decay)
            scale = (square / bias2).sqrt_().add_(self.EPS)
            table.weight[codes] = rows.addcdiv_(mean, scale, value=-lr / bias1)


def merge(touched: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Give the distinct codes of all parts of a step, and the sum of the gradients of each."""
    codes = torch.cat([codes for codes, _ in touched])
    gradient = torch.cat([rows.grad for _, rows in touched if rows.grad is not None])
    if len(touched) == 1:
        return codes, gradient
    codes, place = torch.unique(codes, return_inverse=True)
    total = gradient.new_zeros(len(codes), gradient.shape[1])
    return codes, total.index_add_(0, place, gradient)
