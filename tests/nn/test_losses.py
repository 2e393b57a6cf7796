"""The losses against their formulas in numpy, and at their edges."""

import numpy as np
import pytest
import torch

from skmatch._nn.losses import LOSSES, PAIR_LOSSES, SharedNegatives, softmax

every_loss = pytest.mark.parametrize("name", LOSSES)


def formula(name, positive, negative):
    """Give the loss of one row; `negative` holds only what counts."""
    if name == "bce":
        terms = [np.log1p(np.exp(-positive)), *np.log1p(np.exp(negative))]
        return np.mean(terms)
    if name == "bpr":
        return np.mean(np.log1p(np.exp(negative - positive)))
    scores = np.append(negative, positive)
    return -np.log(np.exp(positive) / np.exp(scores).sum())


def loss_of(name, positive, negative):
    """Give the losses of one row or more; a column of -inf is the own positive of all rows."""
    if name != "softmax":
        return PAIR_LOSSES[name](positive, negative)
    # Scores become those of items that all rows share: a row is the unit vector of its own score.
    own = negative == -torch.inf
    losses = []
    for row in range(len(positive)):
        finite = torch.where(own[row], 0.0, negative[row])
        column = torch.where(own[row], torch.arange(len(finite)), -1)[None]
        shared = SharedNegatives(finite[:, None], torch.zeros_like(finite), column)
        one = torch.ones(1, 1, dtype=positive.dtype)
        losses.append(softmax(one, positive[row : row + 1], shared))
    return torch.cat(losses)


@every_loss
def test_value_is_that_of_the_formula(name):
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=6), rng.normal(size=(6, 4))
    losses = loss_of(name, torch.tensor(positive), torch.tensor(negative))
    expected = [formula(name, p, n) for p, n in zip(positive, negative, strict=True)]
    np.testing.assert_allclose(losses, expected)


@every_loss
def test_a_negative_of_minus_infinity_does_not_count(name):
    positive = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    negative = torch.tensor(
        [[0.5, -torch.inf, 1.5], [0.4, -torch.inf, 0.2]], dtype=torch.float64, requires_grad=True
    )
    losses = loss_of(name, positive, negative)
    losses.sum().backward()
    expected = [formula(name, 0.3, np.array([0.5, 1.5])), formula(name, -1.0, np.array([0.4, 0.2]))]
    np.testing.assert_allclose(losses.detach(), expected)
    assert torch.isfinite(positive.grad).all()
    assert torch.equal(negative.grad == 0, negative == -torch.inf)


@every_loss
def test_a_row_without_negatives_is_finite(name):
    positive = torch.tensor([0.3], requires_grad=True)
    negative = torch.full((1, 1), -torch.inf, requires_grad=True)
    loss = loss_of(name, positive, negative)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(positive.grad).all()
    assert (negative.grad == 0).all()


@every_loss
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_scores_give_finite_losses_and_gradients(name, sign):
    positive = torch.tensor([sign * 1e6], requires_grad=True)
    negative = torch.tensor([[-sign * 1e6, -sign * 1e6]], requires_grad=True)
    loss = loss_of(name, positive, negative)
    loss.sum().backward()
    for values in (loss, positive.grad, negative.grad):
        assert torch.isfinite(values).all()
    assert loss.item() == 0 if sign > 0 else loss.item() > 1e5


@every_loss
def test_loss_falls_with_the_positive_and_rises_with_a_negative(name):
    positive = torch.tensor([0.1], requires_grad=True)
    negative = torch.tensor([[0.2, -0.3]], requires_grad=True)
    loss_of(name, positive, negative).sum().backward()
    assert (positive.grad < 0).all()
    assert (negative.grad > 0).all()


def test_softmax_of_products_in_bfloat16_is_close_and_float32():
    torch.manual_seed(0)
    n_rows, n_items = 50, 40
    correction, column = torch.randn(n_items), torch.randint(-1, n_items, (n_rows, 3))
    drawn = torch.randn(n_rows, 8), torch.randn(n_rows), torch.randn(n_items, 8)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        users, positive, items = (values.clone().requires_grad_() for values in drawn)
        shared = SharedNegatives(items.to(dtype), correction, column)
        losses = softmax(users, positive, shared)
        losses.sum().backward()
        results.append([losses, users.grad, positive.grad, items.grad])
    for exact, close in zip(*results, strict=True):
        assert close.dtype == torch.float32
        assert (close - exact).norm() < 0.02 * exact.norm()


def test_gradients_of_the_softmax_are_those_of_autograd():
    torch.manual_seed(0)
    users, items = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    positive = torch.randn(5, dtype=torch.float64, requires_grad=True)
    column = torch.tensor([[0, 1], [-1, -1], [1, 1], [2, -1], [-1, 3]])
    correction = torch.randn(4, dtype=torch.float64)

    def loss(users, positive, items):
        return softmax(users, positive, SharedNegatives(items, correction, column))

    torch.autograd.gradcheck(loss, (users, positive, items))
    shared = SharedNegatives(items, correction, column)
    every = torch.cat([positive[:, None], shared.scores(users)], 1)
    expected = torch.logsumexp(every, 1) - positive
    torch.testing.assert_close(loss(users, positive, items), expected)
