"""Losses as functions of scores: the positive's (R,) and the negatives' (R, N) give (R,).

A negative that must not count has the score -inf.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Point-wise: binary cross-entropy, averaged over the row's pairs."""
    n_pairs = 1 + (negative != -torch.inf).sum(1)
    return (softplus(-positive) + softplus(negative).sum(1)) / n_pairs


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Pair-wise: the positive above each negative (Rendle et al., UAI 2009)."""
    n_pairs = (negative != -torch.inf).sum(1).clamp(min=1)
    return softplus(negative - positive[:, None]).sum(1) / n_pairs


def softmax(positive: Tensor, negative: Tensor) -> Tensor:
    """List-wise: cross-entropy of the positive among itself and the negatives."""
    # One sum over all: that of the negatives alone has no gradient where there are none.
    every = torch.cat([positive[:, None], negative], 1)
    return torch.logsumexp(every, 1) - positive


LOSSES = {"bce": bce, "bpr": bpr, "softmax": softmax}
