"""Embedding tables, whose training costs what a step touches and not what the table holds.

A table that learns by row gathers the distinct rows of a step into a leaf of the graph: gradients
are as large as that leaf. Small tables learn as any weight does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from skmatch._columns import UNKNOWN
from skmatch._nn.device import is_waited_for
from skmatch._nn.distinct import distinct

INITIAL_STD = 0.1
SMALL = 1024  # rows; to update so few costs less than to find out which were touched


class Table(nn.Module):
    """One vector a code; that of padding is zero, and the optimizer keeps it so."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.by_row = size > SMALL
        self.weight = nn.Parameter(torch.empty(size, dim), requires_grad=not self.by_row)
        self.touched: list[
            tuple[Tensor, Tensor]
        ] = []  # distinct codes, and their rows in the graph

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the rows; padding and unknown start neutral."""
        nn.init.normal_(self.weight, std=INITIAL_STD, generator=generator)
        nn.init.zeros_(self.weight[:2])

    def forward(self, codes: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Give the rows of codes; with `offsets` (R + 1,), the mean of each bag of codes."""
        if not self.training:  # what came after the last training is unknown
            codes = codes.masked_fill(codes >= len(self.weight), UNKNOWN)
        rows: Tensor = self.weight
        if self.by_row and self.training and torch.is_grad_enabled():
            touched, codes = distinct(codes)
            rows = rows_of(rows, touched).requires_grad_()
            self.touched.append((touched, rows))
        if offsets is None:
            return rows_of(rows, codes)
        return embedding_bag(codes, rows, offsets, mode="mean", include_last_offset=True)

    def take_gradient(self) -> tuple[Tensor, Tensor]:
        """Give the distinct codes that a step touched and the gradients of their rows; forget."""
        touched, self.touched = self.touched, []
        parts = [(codes, rows.grad) for codes, rows in touched if rows.grad is not None]
        if not parts:  # a process that had no rows of the step
            return torch.empty_like(self.weight[:0, 0], dtype=torch.int64), self.weight[:0]
        return parts[0] if len(parts) == 1 else sum_by_code(parts)


def rows_of(table: Tensor, codes: Tensor) -> Tensor:
    """Give the rows of codes of any shape.

    On a CPU by an operation whose gradient takes half the time; on a GPU it would not be the same
    in each run.
    """
    if is_waited_for(table.device):
        return embedding(codes, table)
    if codes.dim() == 1:  # without views, each of which takes a call in the gradient
        return table.index_select(0, codes)
    return table.index_select(0, codes.flatten()).view(*codes.shape, *table.shape[1:])


def sum_by_code(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sum the rows, (M, D), of parts with distinct codes each; give the codes and their sums.

    Part after part: the order of the sums, and so each bit, is the same on any device.
    """
    counts = [len(codes) for codes, _ in parts]
    touched, place = distinct(torch.cat([codes for codes, _ in parts]))
    total = parts[0][1].new_zeros(len(touched), parts[0][1].shape[1])
    for (_, rows), own_place in zip(parts, place.split(counts), strict=True):
        total.index_add_(0, own_place, rows)
    return touched, total
