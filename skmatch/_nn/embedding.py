"""Embedding tables, whose training cost depends on the rows of a step, not on the table's size.

A large table gathers the distinct rows of a step into a leaf of the graph: gradients are as large
as that leaf. Small tables train like any other weight.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from skmatch._columns import FIRST_KNOWN, PADDING, UNKNOWN
from skmatch._nn.device import is_async

INITIAL_STD = 0.1
SMALL = 1024  # rows; updating all of them costs less than finding out which were touched


class EmbeddingTable(nn.Module):
    """One vector per code; the vector of padding is zero, and the optimizer keeps it zero.

    Parameters
    ----------
    size, dim : int
        Number of codes, and width of a vector.
    entity : {"user", "item", "value"}
        The kind of the codes: users, items, or values of a feature.
    is_sole_input : bool
        Whether the embedding is the only input that distinguishes the codes. Then new rows are
        random; otherwise they start from the row of the unknown code.
    """

    def __init__(self, size: int, dim: int, entity: str = "value", is_sole_input: bool = False):
        super().__init__()
        self.entity = entity
        self.is_sole_input = is_sole_input
        self.by_row = size > SMALL
        self.weight = nn.Parameter(
            torch.empty(size, dim, dtype=torch.float32, device="cpu"), requires_grad=not self.by_row
        )
        self.touched: list[tuple[Tensor, Tensor]] = []  # distinct codes and their rows of a step

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the rows; padding and unknown start at zero."""
        nn.init.normal_(self.weight, std=INITIAL_STD, generator=generator)
        nn.init.zeros_(self.weight[:FIRST_KNOWN])

    def forward(self, codes: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the rows of codes; with `offsets` (R + 1,), the mean of each range of codes."""
        if not self.training:  # codes that were added after the last training
            codes = codes.masked_fill(codes >= len(self.weight), UNKNOWN)
        rows: Tensor = self.weight
        if self.by_row and self.training and torch.is_grad_enabled():
            touched, codes = distinct(codes)
            rows = gather(rows, touched).requires_grad_()
            self.touched.append((touched, rows))
        if offsets is None:
            return gather(rows, codes)
        return embedding_bag(codes, rows, offsets, mode="mean", include_last_offset=True)

    def pop_gradient(self) -> tuple[Tensor, Tensor]:
        """Return the distinct codes of a step and the gradients of their rows, and forget them."""
        touched, self.touched = self.touched, []
        parts = [(codes, rows.grad) for codes, rows in touched if rows.grad is not None]
        if not parts:  # a process that had no rows of the step
            return torch.empty_like(self.weight[:0, 0], dtype=torch.int64), self.weight[:0]
        return parts[0] if len(parts) == 1 else sum_by_code(parts)

    def extend(self, saved: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return saved rows and, after them, rows of the codes that were added since."""
        added = np.repeat(saved[[UNKNOWN]], len(self.weight) - len(saved), axis=0)
        if self.is_sole_input:
            added += rng.normal(0, INITIAL_STD, added.shape).astype(added.dtype)
        return np.concatenate([saved, added])

    def untrained(self) -> np.ndarray:
        """Return the codes whose rows equal the row of the unknown code."""
        is_equal = (self.weight[FIRST_KNOWN:] == self.weight[UNKNOWN]).all(1)
        return FIRST_KNOWN + np.flatnonzero(is_equal.cpu())

    @torch.no_grad()
    def reset_to_unknown(self, codes: np.ndarray) -> None:
        """Set the rows of untrained codes to the row of the unknown code."""
        rows = torch.as_tensor(codes, device=self.weight.device)
        self.weight[rows] = self.weight[UNKNOWN].clone()


def gather(table: Tensor, codes: Tensor) -> Tensor:
    """Return the rows of codes of any shape.

    On a CPU the gradient of `index_select` takes half the time of `embedding`'s; on a GPU its
    order of sums is not deterministic.
    """
    if is_async(table.device):
        return embedding(codes, table)
    if codes.dim() == 1:
        return table.index_select(0, codes)
    return table.index_select(0, codes.flatten()).view(*codes.shape, *table.shape[1:])


def distinct(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes that occur, sorted, and each code's index among them.

    Reading their number would synchronise with a GPU: there, repeats stay, without an index.
    """
    if not is_async(codes.device):
        return torch.unique(codes, return_inverse=True)
    ordered = codes.flatten().sort().values
    return ordered, torch.searchsorted(ordered, codes)


def pad_repeats(codes: Tensor) -> Tensor:
    """Replace the repeats that `distinct` left by PADDING, which never learns."""
    if not is_async(codes.device):
        return codes
    is_repeat = torch.zeros_like(codes, dtype=torch.bool)
    torch.eq(codes[1:], codes[:-1], out=is_repeat[1:])
    return codes.masked_fill(is_repeat, PADDING)


def sum_by_code(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sum the rows, (M, D), of parts with distinct codes each; return the codes and their sums.

    The order of the sums, and so each bit, is the same on any device.
    """
    counts = [len(codes) for codes, _ in parts]
    touched, index = distinct(torch.cat([codes for codes, _ in parts]))
    total = parts[0][1].new_zeros(len(touched), parts[0][1].shape[1])
    for (_, rows), own_index in zip(parts, index.split(counts), strict=True):
        total.index_add_(0, own_index, rows)
    return touched, total
