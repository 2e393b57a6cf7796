"""The losses against their formulas in numpy, and at their edges."""

import numpy as np
import pytest
import torch

from skmatch._nn.losses import LOSSES

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


@every_loss
def test_value_is_that_of_the_formula(name):
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=6), rng.normal(size=(6, 4))
    losses = LOSSES[name](torch.tensor(positive), torch.tensor(negative))
    expected = [formula(name, p, n) for p, n in zip(positive, negative, strict=True)]
    np.testing.assert_allclose(losses, expected)


@every_loss
def test_a_negative_of_minus_infinity_does_not_count(name):
    positive = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    negative = torch.tensor(
        [[0.5, -torch.inf, 1.5], [-torch.inf, -torch.inf, 0.2]],
        dtype=torch.float64,
        requires_grad=True,
    )
    losses = LOSSES[name](positive, negative)
    losses.sum().backward()
    expected = [formula(name, 0.3, np.array([0.5, 1.5])), formula(name, -1.0, np.array([0.2]))]
    np.testing.assert_allclose(losses.detach(), expected)
    assert torch.isfinite(positive.grad).all()
    assert torch.equal(negative.grad == 0, negative == -torch.inf)


@every_loss
def test_a_row_without_negatives_is_finite(name):
    positive = torch.tensor([0.3], requires_grad=True)
    negative = torch.full((1, 3), -torch.inf, requires_grad=True)
    loss = LOSSES[name](positive, negative)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(positive.grad).all()
    assert (negative.grad == 0).all()


@every_loss
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_scores_give_finite_losses_and_gradients(name, sign):
    positive = torch.tensor([sign * 1e6], requires_grad=True)
    negative = torch.tensor([[-sign * 1e6, -sign * 1e6]], requires_grad=True)
    loss = LOSSES[name](positive, negative)
    loss.sum().backward()
    for values in (loss, positive.grad, negative.grad):
        assert torch.isfinite(values).all()
    assert loss.item() == 0 if sign > 0 else loss.item() > 1e5


@every_loss
def test_loss_falls_with_the_positive_and_rises_with_a_negative(name):
    positive = torch.tensor([0.1], requires_grad=True)
    negative = torch.tensor([[0.2, -0.3]], requires_grad=True)
    LOSSES[name](positive, negative).sum().backward()
    assert (positive.grad < 0).all()
    assert (negative.grad > 0).all()
