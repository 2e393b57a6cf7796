"""Losses: functions of the positives' scores (R,) and the candidates' (R, N), a value per row.

A candidate that must not count has the score -inf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from skmatch._nn.pooling import MIN_EXPONENT


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Point-wise: binary cross-entropy, averaged over the row's pairs."""
    n_pairs = 1 + (negative != -torch.inf).sum(1)
    return (softplus(-positive) + softplus(negative).sum(1)) / n_pairs


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Pair-wise: the positive above each negative (Rendle et al., UAI 2009)."""
    n_pairs = (negative != -torch.inf).sum(1).clamp(min=1)
    return softplus(negative - positive[:, None]).sum(1) / n_pairs


def softmax(positive: Tensor, negative: Tensor) -> Tensor:
    """List-wise: cross-entropy of the positive among itself and the candidates."""
    return _Softmax.apply(positive, negative)


class _Softmax(torch.autograd.Function):
    """Softmax cross-entropy that keeps a single matrix of the scores' size.

    torch's function would copy the scores to put the positive beside them, which takes a tenth of a
    step.
    """

    @staticmethod
    def forward(ctx: Any, positive: Tensor, negative: Tensor) -> Tensor:
        top = torch.maximum(positive, negative.amax(1))
        exp_negative = (negative - top[:, None]).clamp_(min=MIN_EXPONENT).exp_()
        exp_positive = torch.exp(positive - top)
        total = exp_positive + exp_negative.sum(1)
        ctx.save_for_backward(exp_negative, exp_positive, total)
        return total.log() + (top - positive)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        exp_negative, exp_positive, total = ctx.saved_tensors
        (gradient,) = gradients
        return (exp_positive / total - 1) * gradient, exp_negative * (gradient / total)[:, None]


# List-wise losses read candidates that all rows share, pair losses the candidates of each row.
LIST_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"softmax": softmax}
PAIR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": bce, "bpr": bpr}
LOSSES = (*PAIR_LOSSES, *LIST_LOSSES)
