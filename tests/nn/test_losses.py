"""The losses against their formulas in numpy, and at their edges."""

import numpy as np
import pytest
import torch

from skmatch._nn.losses import LIST_LOSSES, LOSSES, PAIR_LOSSES, softmax

NOTHING = 1e-20  # exponentials are bounded from below
every_loss = pytest.mark.parametrize("name", LOSSES)


def formula(name, positive, negative):
    """Compute the loss of one row, whose negatives all count."""
    if name == "bce":
        terms = [np.log1p(np.exp(-positive)), *np.log1p(np.exp(negative))]
        return np.mean(terms)
    if name == "bpr":
        return np.mean(np.log1p(np.exp(negative - positive)))
    scores = np.append(negative, positive)
    return -np.log(np.exp(positive) / np.exp(scores).sum())


def loss_of(name, positive, negative):
    return (PAIR_LOSSES | LIST_LOSSES)[name](positive, negative)


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
    assert torch.equal(negative.grad < NOTHING, negative == -torch.inf)


@every_loss
def test_a_row_without_negatives_is_finite(name):
    positive = torch.tensor([0.3], requires_grad=True)
    negative = torch.full((1, 1), -torch.inf, requires_grad=True)
    loss = loss_of(name, positive, negative)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(positive.grad).all()
    assert (negative.grad < NOTHING).all()


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


def test_a_row_does_not_read_the_others():
    rng = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(6, generator=rng), torch.randn(6, 4, generator=rng)
    for name in LOSSES:
        whole = loss_of(name, positive, negative)
        apart = [loss_of(name, positive[[i]], negative[[i]]) for i in range(6)]
        torch.testing.assert_close(whole, torch.cat(apart))


def test_gradients_of_the_softmax_are_those_of_autograd():
    torch.manual_seed(0)
    positive = torch.randn(5, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(softmax, (positive, negative))
    every = torch.cat([positive[:, None], negative], 1)
    expected = torch.logsumexp(every, 1) - positive
    torch.testing.assert_close(softmax(positive, negative), expected)
