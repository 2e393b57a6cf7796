"""Distinct codes of a step: only as many as there are on a CPU, and with all repeats on a GPU.

How many there are, a GPU alone knows, and would have to be waited for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skmatch._columns import PADDING
from skmatch._nn.device import is_waited_for


def distinct(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Give the codes that occur, sorted, and each code's place among them.

    Where the device would be waited for, codes stay as many as they are: no place points at the
    repeats.
    """
    if not is_waited_for(codes.device):
        return torch.unique(codes, return_inverse=True)
    ordered = codes.flatten().sort().values
    return ordered, torch.searchsorted(ordered, codes)


def without_repeats(codes: Tensor) -> Tensor:
    """Put PADDING, which never learns, in the place of the repeats that `distinct` left."""
    if not is_waited_for(codes.device):
        return codes
    is_repeat = torch.zeros_like(codes, dtype=torch.bool)
    torch.eq(codes[1:], codes[:-1], out=is_repeat[1:])
    return codes.masked_fill(is_repeat, PADDING)
