"""Layers: towers, normalisation of batches and dropout."""

import pytest
import torch

from skmatch._nn.layers import BatchNorm, Dropout, Linear, Tower


def make_tower(dims=(16, 4), width=9, use_batch_norm=False, skip_connection=False):
    tower = Tower(
        width,
        dims,
        activation="gelu",
        dropout=0.0,
        use_batch_norm=use_batch_norm,
        skip_connection=skip_connection,
    )
    generator = torch.Generator().manual_seed(0)
    for module in tower.modules():
        if isinstance(module, Linear):
            module.initialise(generator)
    return tower


def test_batch_norm_follows_its_batches_in_training_only():
    tower = make_tower(use_batch_norm=True)
    x = [torch.arange(36.0).view(4, 9)]
    (norm,) = (module for module in tower.modules() if isinstance(module, BatchNorm))
    before = norm.running_mean.clone()
    tower.eval()(x)
    assert torch.equal(norm.running_mean, before)
    tower.train()(x)
    assert not torch.equal(norm.running_mean, before)


def test_batch_norm_is_that_of_torch_but_for_a_single_row():
    ours, theirs = BatchNorm(3).train(), torch.nn.BatchNorm1d(3).train()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))
    before = ours.running_mean.clone()
    torch.testing.assert_close(ours(x[:1]), theirs.eval()(x[:1]))
    assert torch.equal(ours.running_mean, before)


@pytest.mark.parametrize("dims", [(16, 4), (4,)])
@pytest.mark.parametrize("skip_connection", [True, False])
def test_a_tower_reads_what_rows_share_once(dims, skip_connection):
    tower = make_tower(dims, skip_connection=skip_connection)
    block = torch.tensor([0, 0, 1, 2, 2, 2])
    own, shared = torch.randn(6, 3), torch.randn(3, 6)
    expected = tower([own, shared[block]])
    torch.testing.assert_close(tower([own, shared], block), expected)


# Dropout


def dropped(rate, n=100_000, seed=0):
    dropout = Dropout(rate)
    dropout.generator = torch.Generator().manual_seed(seed)
    return dropout(torch.ones(n))


def test_dropout_does_nothing_in_serving_or_at_rate_zero():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_dropout_keeps_the_expectation(rate):
    x = dropped(rate)
    assert x.mean() == pytest.approx(1, abs=0.02)
    assert (x == 0).float().mean() == pytest.approx(rate, abs=0.006)


def test_dropout_near_one_neither_keeps_nor_drops_all():
    x = dropped(0.999)
    assert 0 < (x != 0).float().mean() < 0.01
    assert x.mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 4), (0, 4)])
def test_dropout_keeps_the_shape(shape):
    assert Dropout(0.5).train()(torch.ones(shape)).shape == shape


def test_dropout_follows_from_its_generator_alone():
    state = torch.get_rng_state()
    first = dropped(0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, dropped(0.5, seed=1))
    assert not torch.equal(first, dropped(0.5, seed=2))
