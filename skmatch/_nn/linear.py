"""A linear layer that leaves its first weights to the network."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """nn.Linear without draws from torch's global generator.

    `torch.nn.utils.skip_init` does as much, but brings in sympy: half a second in every process
    that fits.
    """

    def reset_parameters(self) -> None:
        pass
