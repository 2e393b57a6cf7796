"""Pooling against a loop over the windows."""

import numpy as np
import pytest
import torch
from torch import nn

from skmatch._nn.batches import BLOCK_SIZE, Rows, read_users
from skmatch._nn.layers import Linear
from skmatch._nn.pooling import HALF_LIVES, POOLINGS, History, make_pooling

every_pooling = pytest.mark.parametrize("name", POOLINGS)
LENGTH, DIM = 4, 6  # attention has two heads
# Codes of items, so that the vectors of padding are those of code 0.
LOG = torch.tensor([3, 5, 2, 7, 4, 6, 2, 3, 8, 5])
N_DECAYS = {"decay": 4, "attention": 6}


@pytest.fixture
def table():
    table = torch.randn(9, DIM, generator=torch.Generator().manual_seed(0)) - 2
    table[0] = 0
    return table


def pooling_of(name, max_length=LENGTH):
    """Make a pooling whose weights are not zero."""
    pooling, _ = make_pooling(name, DIM, max_length)
    for module in pooling.modules():
        if isinstance(module, Linear):
            generator = torch.Generator().manual_seed(module.weight.numel())
            nn.init.normal_(module.weight, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    if name == "attention":
        nn.init.normal_(pooling.lag_bias, generator=torch.Generator().manual_seed(0))
    return pooling


def width_of(name):
    return make_pooling(name, DIM, LENGTH)[1]


def expected_pool(name, pooling, window):
    """Pool the vectors of one window, oldest first, the plain way."""
    window = window.numpy()[-LENGTH:].astype(float)
    if not len(window):
        return np.zeros(width_of(name))
    if name == "concat":
        newest_first = np.zeros((LENGTH, DIM))
        newest_first[: len(window)] = window[::-1]
        return newest_first.ravel()
    if name in ("decay", "attention"):
        lag = np.arange(len(window))[::-1]
        decay = pooling if name == "decay" else pooling.decay
        parts = []
        for log_half_life in decay.log_half_life.tolist():
            weight = 0.5 ** (lag / np.exp(log_half_life))
            parts.append(weight @ window / weight.sum())
        if name == "attention":
            parts.append(expected_attention(pooling, np.concatenate(parts), window, lag))
        return np.concatenate(parts)
    return getattr(np, name)(window, axis=0)


def expected_attention(attention, summary, window, lag):
    def linear(layer, x):
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    query, keys = linear(attention.query, summary), linear(attention.key, window)
    values = linear(attention.value, window)
    width = len(query) // attention.n_heads
    attended = []
    for head in range(attention.n_heads):
        part = slice(head * width, (head + 1) * width)
        bias = attention.lag_bias.detach().numpy()[head, lag]
        share = np.exp(keys[:, part] @ query[part] / np.sqrt(width) + bias)
        attended.append(share @ values[:, part] / share.sum())
    return np.concatenate(attended)


def pool(pooling, table, start, stop, block_size=1, first=None, block=None):
    start, stop = torch.as_tensor(start), torch.as_tensor(stop)
    row = torch.arange(len(start))
    rows = Rows(torch.zeros_like(row), start, stop, LOG, [], LENGTH, torch.ones_like(row))
    first = row if first is None else torch.as_tensor(first)
    block = row if block is None else torch.as_tensor(block)
    users = read_users(rows, rows.user, [], first, row, block, block_size)
    return pooling(History(table[users.tokens], users.window, users.length, LENGTH))


@every_pooling
def test_single_windows(name, table):
    pooling = pooling_of(name)
    # Of every length from none to more than LENGTH, at either end of the log.
    start, stop = [0, 0, 3, 6, 9, 0, 4, 10], [0, 1, 5, 10, 10, 3, 10, 10]
    pooled = pool(pooling, table, start, stop).detach()
    assert pooled.shape == (len(start), width_of(name))
    for a, b, found in zip(start, stop, pooled, strict=True):
        np.testing.assert_allclose(
            found, expected_pool(name, pooling, table[LOG[a:b]]), rtol=1e-5, atol=1e-6
        )


@every_pooling
def test_windows_of_a_block_are_pooled_as_single_ones(name, table):
    pooling = pooling_of(name)
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
            found, expected_pool(name, pooling, table[LOG[a:b]]), rtol=1e-5, atol=1e-6
        )


@every_pooling
def test_an_empty_window_is_pooled_to_zeros(name, table):
    pooled = pool(pooling_of(name), table, [0, 4], [0, 4])
    assert (pooled == 0).all()


@every_pooling
def test_an_empty_log_is_pooled_to_zeros(name, table):
    row, zero = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    rows = Rows(zero, zero, zero, LOG[:0], [], LENGTH, zero)
    users = read_users(rows, zero, [], row, row, row, 1)
    history = History(table[users.tokens], users.window, users.length, LENGTH)
    assert (pooling_of(name)(history) == 0).all()


@every_pooling
def test_one_event_is_pooled_to_its_vector(name, table):
    pooling = pooling_of(name)
    pooled = pool(pooling, table, [2], [3]).detach()
    own = table[LOG[2]]
    if name == "concat":
        expected = torch.cat([own, torch.zeros(DIM * (LENGTH - 1))])
    elif name == "attention":
        expected = torch.cat([own.repeat(N_DECAYS[name]), pooling.value(own).detach()])
    else:
        expected = own.repeat(width_of(name) // DIM)
    np.testing.assert_allclose(pooled[0], expected, rtol=1e-6)


@every_pooling
def test_of_a_longer_history_the_newest_events_count(name, table):
    pooling = pooling_of(name)
    np.testing.assert_allclose(
        pool(pooling, table, [0], [9]).detach(), pool(pooling, table, [5], [9]).detach(), rtol=1e-6
    )


def test_padding_never_is_the_largest(table):
    table[1:] = -table[1:].abs() - 1
    pooled = pool(pooling_of("max"), table, [0, 0, 3], [1, 2, 8])
    assert (pooled <= -1).all()


def test_mean_of_a_short_history_is_over_its_events_only():
    ones = torch.ones(9, DIM)
    ones[0] = 0
    assert torch.equal(pool(pooling_of("mean"), ones, [0, 0], [1, 3]), torch.ones(2, DIM))


def decay_weights(n_events):
    """Return the weight of each event, newest first, under each half-life."""
    pooling, _ = make_pooling("decay", n_events, n_events)
    # Unit vectors are pooled to the weights.
    history = History(
        torch.eye(n_events)[None], torch.tensor([0]), torch.tensor([n_events]), n_events
    )
    weights = pooling(history)
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
    pooling = pooling_of("decay")
    pool(pooling, table, [0], [4]).square().sum().backward()
    gradient = pooling.log_half_life.grad
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()


@every_pooling
def test_gradients_reach_the_events_of_the_windows_only(name, table):
    table.requires_grad_()
    weight = torch.linspace(1, 2, width_of(name))
    (pool(pooling_of(name), table, [1], [4]) * weight).sum().backward()
    inside = torch.zeros(9, dtype=torch.bool)
    inside[LOG[1:4]] = True
    touched = (table.grad != 0).any(1)
    touched[0] = False  # padding: `ItemEncoder` keeps gradients from it
    if name == "max":
        assert not (touched & ~inside).any()
    else:
        assert torch.equal(touched, inside)


def test_half_lives_start_from_the_shortest_to_the_longest():
    pooling, width = make_pooling("decay", DIM, LENGTH)
    half_lives = pooling.log_half_life.exp()
    torch.testing.assert_close(half_lives[[0, -1]], torch.tensor(HALF_LIVES))
    assert width == N_DECAYS["decay"] * DIM


# What a history offers to a pooling


def test_a_history_by_hand():
    # One block of two windows of at most two events: no event, then (1, 2), and (2, 3).
    tokens = torch.tensor([[1.0, 2.0, 3.0]]).unsqueeze(2)
    history = History(tokens, torch.tensor([0, 1]), torch.tensor([1, 2]), 2)
    assert history.windows()[:, :, 0].tolist() == [[1, 2], [2, 3]]
    assert history.is_padding().tolist() == [[True, False], [False, False]]
    assert history.lags().tolist() == [[1, 0, -1], [2, 1, 0]]


# Poolings of the caller


class Newest(nn.Module):
    def forward(self, history):
        return history.windows()[:, -1]


class Returning(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, history):
        return torch.zeros(self.shape)


def test_a_callable_makes_a_module_for_these_sizes():
    made = []

    def make(dim, max_length):
        made.append((dim, max_length))
        return Newest()

    module, width = make_pooling(make, DIM, LENGTH)
    assert made == [(DIM, LENGTH)]
    assert (type(module), width) == (Newest, DIM)


def test_a_callable_that_makes_no_module_is_refused():
    with pytest.raises(TypeError, match=r"returned a str: return a torch\.nn\.Module"):
        make_pooling(lambda dim, max_length: "mean", DIM, LENGTH)


@pytest.mark.parametrize("shape", [(DIM,), (1, LENGTH, DIM), (2, DIM), ()])
def test_a_module_that_returns_no_vector_per_history_is_refused(shape):
    message = rf"returned the shape \({', '.join(map(str, shape))},?\).*one vector per history"
    with pytest.raises(ValueError, match=message):
        make_pooling(lambda dim, max_length: Returning(shape), DIM, LENGTH)
