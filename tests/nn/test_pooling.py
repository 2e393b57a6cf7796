"""Pooling against a loop over the windows."""

import numpy as np
import pytest
import torch

from skmatch._nn.pooling import N_DECAYS, POOLINGS, Pooling
from skmatch._nn.training import BLOCK_SIZE, Rows, windows

every_pooling = pytest.mark.parametrize("name", POOLINGS)
LENGTH, DIM = 4, 6  # attention has two heads
# Codes of items, so that the vectors of padding are those of code 0.
LOG = torch.tensor([3, 5, 2, 7, 4, 6, 2, 3, 8, 5])


@pytest.fixture
def table():
    table = torch.randn(9, DIM, generator=torch.Generator().manual_seed(0)) - 2
    table[0] = 0
    return table


def make_pooling(name, max_length=LENGTH):
    pooling = Pooling(name, DIM, max_length)
    pooling.initialise()
    with torch.no_grad():  # weights that other modules draw, or that start as zeros
        for name, weight in pooling.named_parameters():
            if name.startswith("attention"):
                generator = torch.Generator().manual_seed(weight.numel())
                weight.normal_(generator=generator)
    return pooling


def expected_pool(pooling, window):
    """Pool the vectors of one window, oldest first, the plain way."""
    window = window.numpy()[-pooling.max_length :].astype(float)
    if not len(window):
        return np.zeros(pooling.width)
    if pooling.name == "concat":
        newest_first = np.zeros((pooling.max_length, DIM))
        newest_first[: len(window)] = window[::-1]
        return newest_first.ravel()
    if pooling.name in ("decay", "attention"):
        lag = np.arange(len(window))[::-1]
        parts = []
        for log_half_life in pooling.log_half_life.tolist():
            weight = 0.5 ** (lag / np.exp(log_half_life))
            parts.append(weight @ window / weight.sum())
        if pooling.name == "attention":
            parts.append(expected_attention(pooling.attention, np.concatenate(parts), window, lag))
        return np.concatenate(parts)
    return getattr(np, pooling.name)(window, axis=0)


def expected_attention(attention, summary, window, lag):
    def linear(layer, x):
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    query, keys = linear(attention.query, summary), linear(attention.key, window)
    values = linear(attention.value, window)
    width = len(query) // attention.n_heads
    answers = []
    for head in range(attention.n_heads):
        part = slice(head * width, (head + 1) * width)
        bias = attention.lag_bias.detach().numpy()[head, lag]
        share = np.exp(keys[:, part] @ query[part] / np.sqrt(width) + bias)
        answers.append(share @ values[:, part] / share.sum())
    return np.concatenate(answers)


def pool(pooling, table, start, stop, block_size=1, first=None, block=None):
    start, stop = torch.as_tensor(start), torch.as_tensor(stop)
    row = torch.arange(len(start))
    rows = Rows(torch.zeros_like(row), start, stop, LOG, [])
    first = row if first is None else torch.as_tensor(first)
    block = row if block is None else torch.as_tensor(block)
    tokens, offset, length = windows(rows, first, row, block, block_size, pooling.max_length)
    place = block * block_size + offset
    return pooling(table[tokens], place, length)


@every_pooling
def test_single_windows(name, table):
    pooling = make_pooling(name)
    # Of every length from none to more than LENGTH, at either end of the log.
    start, stop = [0, 0, 3, 6, 9, 0, 4, 10], [0, 1, 5, 10, 10, 3, 10, 10]
    pooled = pool(pooling, table, start, stop).detach()
    assert pooled.shape == (len(start), pooling.width)
    for a, b, found in zip(start, stop, pooled, strict=True):
        np.testing.assert_allclose(
            found, expected_pool(pooling, table[LOG[a:b]]), rtol=1e-5, atol=1e-6
        )


@every_pooling
def test_blocks_give_what_single_windows_give(name, table):
    pooling = make_pooling(name)
    # Two users, events 0-5 and 6-9; the second misses a row between its first and third.
    stop = np.array([0, 1, 2, 3, 4, 5, 6, 8, 9])
    start = np.maximum([0] * 6 + [6] * 3, stop - LENGTH)
    block = [0] * 6 + [1] * 3
    pooled = pool(pooling, table, start, stop, BLOCK_SIZE, first=[0, 6], block=block).detach()
    np.testing.assert_allclose(
        pooled, pool(pooling, table, start, stop).detach(), rtol=1e-5, atol=1e-6
    )
    for a, b, found in zip(start, stop, pooled, strict=True):
        np.testing.assert_allclose(
            found, expected_pool(pooling, table[LOG[a:b]]), rtol=1e-5, atol=1e-6
        )


@every_pooling
def test_an_empty_window_gives_zeros(name, table):
    pooled = pool(make_pooling(name), table, [0, 4], [0, 4])
    assert (pooled == 0).all()


@every_pooling
def test_an_empty_log_gives_zeros(name, table):
    pooling = make_pooling(name)
    zero = torch.zeros(2, dtype=torch.int64)
    rows = Rows(zero, zero, zero, LOG[:0], [])
    row = torch.arange(2)
    tokens, offset, length = windows(rows, row, row, row, 1, 4)
    place = row + offset
    assert (pooling(table[tokens], place, length) == 0).all()


@every_pooling
def test_one_event_gives_its_vector(name, table):
    pooling = make_pooling(name)
    pooled = pool(pooling, table, [2], [3]).detach()
    own = table[LOG[2]]
    if name == "concat":
        expected = torch.cat([own, torch.zeros(DIM * (LENGTH - 1))])
    elif name == "attention":
        expected = torch.cat([own.repeat(N_DECAYS[name]), pooling.attention.value(own).detach()])
    else:
        expected = own.repeat(pooling.width // DIM)
    np.testing.assert_allclose(pooled[0], expected, rtol=1e-6)


@every_pooling
def test_of_a_longer_history_the_newest_events_count(name, table):
    pooling = make_pooling(name)
    np.testing.assert_allclose(
        pool(pooling, table, [0], [9]).detach(), pool(pooling, table, [5], [9]).detach(), rtol=1e-6
    )


def test_padding_never_is_the_largest(table):
    table[1:] = -table[1:].abs() - 1
    pooled = pool(make_pooling("max"), table, [0, 0, 3], [1, 2, 8])
    assert (pooled <= -1).all()


def test_mean_of_a_short_history_is_over_its_events_only():
    ones = torch.ones(9, DIM)
    ones[0] = 0
    assert torch.equal(pool(make_pooling("mean"), ones, [0, 0], [1, 3]), torch.ones(2, DIM))


def decay_weights(n_events):
    """Give the weight of each event, newest first, under each half-life."""
    pooling = Pooling("decay", n_events, n_events)
    pooling.initialise()
    # The pool of unit vectors is the weights.
    weights = pooling(torch.eye(n_events)[None], torch.tensor([0]), torch.tensor([n_events]))
    return weights.detach().view(-1, n_events).flip(1)


def test_weights_of_decay_sum_to_one_and_the_newest_weighs_most():
    weights = decay_weights(6)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    assert (weights.diff(dim=1) < 0).all()


def test_half_lives_of_decay_run_from_short_to_long():
    newest = decay_weights(6)[:, 0]
    assert (newest.diff() < 0).all()
    assert newest[0] > 0.85  # nearly the last event alone
    assert newest[-1] < 1.1 / 6  # nearly the mean


def test_half_lives_learn(table):
    pooling = make_pooling("decay")
    pool(pooling, table, [0], [4]).square().sum().backward()
    gradient = pooling.log_half_life.grad
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()


@every_pooling
def test_gradients_reach_the_events_of_the_windows_only(name, table):
    table.requires_grad_()
    weight = torch.linspace(1, 2, make_pooling(name).width)
    (pool(make_pooling(name), table, [1], [4]) * weight).sum().backward()
    inside = torch.zeros(9, dtype=torch.bool)
    inside[LOG[1:4]] = True
    touched = (table.grad != 0).any(1)
    touched[0] = False  # padding: `TwoTowers` gives it no gradient
    if name == "max":
        assert not (touched & ~inside).any()
    else:
        assert torch.equal(touched, inside)
