"""AdamW (Loshchilov and Hutter, 2019) with a single step for all weights, and tables by row.

torch's own optimizers update whole tables, and import torch's compiler, which takes about a second
in every process that fits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skmatch._columns import PADDING
from skmatch._nn import distributed
from skmatch._nn.embedding import EmbeddingTable, gather, pad_repeats

BETAS = 0.9, 0.999
EPS = 1e-8


class AdamW:
    """Update the weights of a network by the gradients of a step, and discard the gradients.

    Processes that train together sum their gradients, and take the same step. Rows of large tables
    have a second moment per row, and change in the steps that touch them. Matrices and tables
    decay; biases, scales of normalisations and half-lives do not.
    """

    def __init__(self, network: nn.Module, weight_decay: float):
        self.weight_decay = weight_decay
        named_weights = [
            (name, weight) for name, weight in network.named_parameters() if weight.requires_grad
        ]
        decays = {
            name: weight.dim() > 1 and not name.endswith("bias") for name, weight in named_weights
        }
        named_weights.sort(key=lambda pair: not decays[pair[0]])  # weights that decay come first
        self.weights = [weight for _, weight in named_weights]
        self.n_decaying = sum(weight.numel() for name, weight in named_weights if decays[name])
        # The weights become views of a single array, so that a step takes few calls.
        self.values = torch.cat([weight.detach().flatten() for weight in self.weights])
        parts = self.values.split([weight.numel() for weight in self.weights])
        for weight, part in zip(self.weights, parts, strict=True):
            weight.data = part.view_as(weight)
        self.first = torch.zeros_like(self.values)
        self.second = torch.zeros_like(self.values)
        tables = [module for module in network.modules() if isinstance(module, EmbeddingTable)]
        self.small_tables = [table for table in tables if not table.by_row]
        self.tables = [RowMoments(table) for table in tables if table.by_row]
        self.n_steps = 0

    def state(self) -> dict[str, Any]:
        """Return the moments, and the number of steps; until the next step, without copies."""
        arrays = [[moment.cpu().numpy() for moment in moments] for moments in self._moments()]
        return {"moments": arrays, "n_steps": self.n_steps}

    def load(self, state: dict[str, Any]) -> None:
        """Load a state that `state` returned."""
        for moments, arrays in zip(self._moments(), state["moments"], strict=True):
            for moment, array in zip(moments, arrays, strict=True):
                moment.copy_(torch.from_numpy(np.array(array)))
        self.n_steps = state["n_steps"]

    def _moments(self) -> list[list[Tensor]]:
        return [
            [self.first, self.second],
            *([table_moments.first, table_moments.second] for table_moments in self.tables),
        ]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the weights that have gradients, at this learning rate."""
        self.n_steps += 1
        bias1, bias2 = (1 - beta**self.n_steps for beta in BETAS)
        # Correcting the bias in step size and epsilon avoids a division of the whole moment.
        size, eps = lr * math.sqrt(bias2) / bias1, EPS * math.sqrt(bias2)
        decay = 1 - lr * self.weight_decay
        gradient = torch.cat([gradient_of(weight) for weight in self.weights])
        distributed.all_reduce(gradient)
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.lerp_(gradient.square_(), 1 - BETAS[1])
        scale = torch.sqrt(self.second).add_(eps)
        self.values[: self.n_decaying].mul_(decay)
        self.values.addcdiv_(self.first, scale, value=-size)
        for weight in self.weights:
            weight.grad = None
        for small in self.small_tables:
            small.weight[PADDING].zero_()
        for table in self.tables:
            table.step(size, eps, decay)


class RowMoments:
    """Moments of a large table, whose rows change in the steps that touch them."""

    def __init__(self, table: EmbeddingTable):
        self.table = table
        self.first = torch.zeros_like(table.weight)
        self.second = torch.zeros_like(table.weight[:, :1])

    def step(self, size: float, eps: float, decay: float) -> None:
        """Update the rows that the last step touched."""
        touched, gradient = distributed.sum_rows(*self.table.pop_gradient())
        index = pad_repeats(touched).long()
        arrays = self.first, self.second, self.table.weight
        mean, square, rows = (gather(array, index) for array in arrays)
        mean.lerp_(gradient, 1 - BETAS[0])
        square.lerp_(gradient.square().mean(1, keepdim=True), 1 - BETAS[1])
        scale = torch.sqrt(square).add_(eps)
        rows.mul_(decay).addcdiv_(mean, scale, value=-size)
        for array, values in zip(arrays, (mean, square, rows), strict=True):
            array.index_copy_(0, index, values)
        self.table.weight[PADDING].zero_()


def gradient_of(weight: Tensor) -> Tensor:
    """Return the gradient, flat; zeros where the step did not reach the weight."""
    return (torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten()
