"""AdamW (Loshchilov and Hutter, 2019) with one step for all weights, and tables by their rows.

torch's own optimizers update whole tables, and bring in torch's compiler, which takes about a
second in every process that fits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skmatch._data import PADDING
from skmatch._nn import distributed
from skmatch._nn.distinct import without_repeats
from skmatch._nn.tables import Table, rows_of

BETAS = 0.9, 0.999
EPS = 1e-8


class AdamW:
    """Updates the weights of a network from the gradients of a step, which it takes up.

    Processes that train together sum their gradients, and take the same step.

    Rows of tables have one second moment each, and change in the steps that touch them.
    """

    def __init__(self, network: nn.Module, weight_decay: float):
        self.weight_decay = weight_decay
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        # They become views of one array, so that a step needs few calls however many they are.
        self.values = torch.cat([weight.detach().flatten() for weight in self.weights])
        parts = self.values.split([weight.numel() for weight in self.weights])
        for weight, part in zip(self.weights, parts, strict=True):
            weight.data = part.view_as(weight)
        self.first = torch.zeros_like(self.values)
        self.second = torch.zeros_like(self.values)
        self.tables = [
            module for module in network.modules() if isinstance(module, Table) and module.by_row
        ]
        self.row_first = [torch.zeros_like(table.weight) for table in self.tables]
        self.row_second = [torch.zeros_like(table.weight[:, :1]) for table in self.tables]
        self.n_steps = 0

    def state(self) -> dict[str, Any]:
        """Give the moments, and how many steps they are of: until the next step, no copies."""
        arrays = [[moment.cpu().numpy() for moment in moments] for moments in self._moments()]
        return {"moments": arrays, "n_steps": self.n_steps}

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        for moments, arrays in zip(self._moments(), state["moments"], strict=True):
            for moment, array in zip(moments, arrays, strict=True):
                moment.copy_(torch.from_numpy(np.array(array)))
        self.n_steps = state["n_steps"]

    def _moments(self) -> list[list[Tensor]]:
        return [[self.first, self.second], self.row_first, self.row_second]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update what the last step's gradients reach, at this learning rate."""
        self.n_steps += 1
        bias1, bias2 = (1 - beta**self.n_steps for beta in BETAS)
        # The second moment's bias goes into two numbers, in place of a division of all.
        size, eps = lr * math.sqrt(bias2) / bias1, EPS * math.sqrt(bias2)
        decay = 1 - lr * self.weight_decay
        gradient = torch.cat([gradient_of(weight) for weight in self.weights])
        distributed.sum_(gradient)
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.lerp_(gradient.square_(), 1 - BETAS[1])
        scale = torch.sqrt(self.second).add_(eps)
        self.values.mul_(decay).addcdiv_(self.first, scale, value=-size)
        for weight in self.weights:
            weight.grad = None
        for table, first, second in zip(self.tables, self.row_first, self.row_second, strict=True):
            codes, gradient = distributed.sum_rows(*table.take_gradient())
            codes = without_repeats(codes).long()
            gradient *= (codes != PADDING)[:, None]
            arrays = first, second, table.weight
            mean, square, rows = (rows_of(array, codes) for array in arrays)
            mean.lerp_(gradient, 1 - BETAS[0])
            square.lerp_(gradient.square_().mean(1, keepdim=True), 1 - BETAS[1])
            scale = torch.sqrt(square).add_(eps)
            rows.mul_(decay).addcdiv_(mean, scale, value=-size)
            for array, new in zip(arrays, (mean, square, rows), strict=True):
                array.index_copy_(0, codes, new)


def gradient_of(weight: Tensor) -> Tensor:
    """Give the gradient, flat; zeros where the step did not reach the weight."""
    return (torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten()
