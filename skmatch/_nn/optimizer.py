"""AdamW (Loshchilov and Hutter, 2019) with one step for all weights, and tables by their rows.

torch's own optimizers update whole tables, and bring in torch's compiler, which takes about a
second in every process that fits.
"""

from __future__ import annotations

import math
from itertools import groupby
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
        tables = [module for module in network.modules() if isinstance(module, Table)]
        # Where the vectors of padding stand in that array.
        self.padding = torch.tensor(
            [
                table.weight.storage_offset() + PADDING * width_of(table) + i
                for table in tables
                if not table.by_row
                for i in range(width_of(table))
            ],
            dtype=torch.int64,
            device=self.values.device,
        )
        by_row = sorted((table for table in tables if table.by_row), key=width_of)
        self.stacks = [Stack(list(alike)) for _, alike in groupby(by_row, width_of)]
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
        return [
            [self.first, self.second],
            [stack.first for stack in self.stacks],
            [stack.second for stack in self.stacks],
        ]

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
        self.values.index_fill_(0, self.padding, 0)
        for weight in self.weights:
            weight.grad = None
        for stack in self.stacks:
            place, gradient = stack.take_gradient()
            arrays = stack.first, stack.second, stack.values
            mean, square, rows = (rows_of(array, place) for array in arrays)
            mean.lerp_(gradient, 1 - BETAS[0])
            square.lerp_(gradient.square_().mean(1, keepdim=True), 1 - BETAS[1])
            scale = torch.sqrt(square).add_(eps)
            rows.mul_(decay).addcdiv_(mean, scale, value=-size)
            for array, new in zip(arrays, (mean, square, rows), strict=True):
                array.index_copy_(0, place, new)
            stack.values.index_fill_(0, stack.padding, 0)


class Stack:
    """Tables of one width as one array, which takes no more calls a step than one table does."""

    def __init__(self, tables: list[Table]):
        self.tables = tables
        self.values = torch.cat([table.weight for table in tables])
        sizes = [len(table.weight) for table in tables]
        self.first_rows = np.cumsum([0, *sizes[:-1]]).tolist()
        self.padding = torch.tensor(self.first_rows, device=self.values.device) + PADDING
        for table, part in zip(tables, self.values.split(sizes), strict=True):
            table.weight.data = part
        self.first = torch.zeros_like(self.values)
        self.second = torch.zeros_like(self.values[:, :1])

    def take_gradient(self) -> tuple[Tensor, Tensor]:
        """Give the places of the rows that a step touched, and their gradients; forget."""
        parts = [distributed.sum_rows(*table.take_gradient()) for table in self.tables]
        place = [
            without_repeats(codes).long() + first
            for (codes, _), first in zip(parts, self.first_rows, strict=True)
        ]
        return torch.cat(place), torch.cat([gradient for _, gradient in parts])


def width_of(table: Table) -> int:
    """Give the length of a table's rows."""
    return table.weight.shape[1]


def gradient_of(weight: Tensor) -> Tensor:
    """Give the gradient, flat; zeros where the step did not reach the weight."""
    return (torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten()
