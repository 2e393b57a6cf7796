"""Losses: each gives one value a row, (R,).

Pair losses are functions of scores, the positive's (R,) and the negatives' (R, N); a negative that
must not count has the score -inf. The softmax runs over items that all rows share.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from skmatch._nn.device import LEAST_EXPONENT


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Point-wise: binary cross-entropy, averaged over the row's pairs."""
    n_pairs = 1 + (negative != -torch.inf).sum(1)
    return (softplus(-positive) + softplus(negative).sum(1)) / n_pairs


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Pair-wise: the positive above each negative (Rendle et al., UAI 2009)."""
    n_pairs = (negative != -torch.inf).sum(1).clamp(min=1)
    return softplus(negative - positive[:, None]).sum(1) / n_pairs


PAIR_LOSSES = {"bce": bce, "bpr": bpr}
LOSSES = (*PAIR_LOSSES, "softmax")


class SharedNegatives(NamedTuple):
    """Negatives that all rows share, and which of them are none of a row's own."""

    items: Tensor  # (N, V), in the precision of products
    correction: Tensor  # (N,), added to the scores, in the precision of these
    column: Tensor  # (R, M), where among the items those are; -1 counts for nothing

    def scores(self, users: Tensor) -> Tensor:
        """Give the scores of users of vectors (R, V), (R, N); -inf at what is none of theirs."""
        if self.items.dtype == self.correction.dtype:
            scores = torch.addmm(self.correction, users, self.items.T)
        else:
            scores = users.to(self.items.dtype) @ self.items.T + self.correction
        # 1 - 1/1 where there is none, 1 - 1/0 at what is one: four times as fast as torch.where.
        none = 1 - self.column.to(scores.dtype).lt_(0).reciprocal_()
        return scores.scatter_add_(1, self.column.clamp(min=0), none)


def softmax(users: Tensor, positive: Tensor, negatives: SharedNegatives) -> Tensor:
    """List-wise: cross-entropy of the positive's score (R,) among itself and the negatives'."""
    return _Softmax.apply(users, positive, negatives.items, negatives)


class _Softmax(torch.autograd.Function):
    """The loss from vectors to value in one: the matrix of scores is kept once, as shares.

    Autograd alone would keep three of it and take twice the time.
    """

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, positive: Tensor, items: Tensor, negatives: SharedNegatives
    ) -> Tensor:
        shares = negatives.scores(users)
        top = torch.maximum(positive, shares.amax(1))
        shares.sub_(top[:, None]).clamp_(min=LEAST_EXPONENT).exp_()
        own = torch.exp(positive - top)
        total = own + shares.sum(1)
        products = (values.to(items.dtype) for values in (users, shares))
        ctx.save_for_backward(*products, items, own / total, total)
        return total.log() + (top - positive)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        users, shares, items, own, total = ctx.saved_tensors
        (gradient,) = gradients
        scale = (gradient / total)[:, None]
        # In this order twice as fast as shares.T times users.
        to_items = ((users * scale).to(items.dtype).T @ shares).T
        return (shares @ items) * scale, (own - 1) * gradient, to_items, None
