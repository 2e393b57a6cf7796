"""Losses, pooling, negatives and training against plain numpy."""

import numpy as np
import pytest
import torch

from skmatch._nn.losses import LOSSES
from skmatch._nn.negatives import NegativeSampler, item_probabilities
from skmatch._nn.pooling import POOLINGS, Pooling
from skmatch._nn.training import one_cycle


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_losses_against_numpy():
    positive, negative = np.array([0.3, -2.0]), np.array([[1.0, -1.0], [0.5, -np.inf]])
    counts = np.array([2, 1])
    log_not = np.log(1 - sigmoid(negative))
    expected = {
        "bce": -(np.log(sigmoid(positive)) + log_not.sum(1)) / (1 + counts),
        "bpr": -np.log(sigmoid(positive[:, None] - negative)).sum(1) / counts,
        "softmax": -np.log(np.exp(positive) / (np.exp(positive) + np.exp(negative).sum(1))),
    }
    for name, loss in LOSSES.items():
        scores = torch.tensor(positive), torch.tensor(negative, requires_grad=True)
        value = loss(*scores)
        np.testing.assert_allclose(value.detach(), expected[name], rtol=1e-6)
        value.sum().backward()
        assert torch.isfinite(scores[1].grad).all()


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("block_size", [1, 4])
def test_pooling_against_numpy(name, block_size):
    max_length, dim, n_events = 5, 3, 9
    rng = np.random.default_rng(0)
    events = rng.normal(size=(n_events, dim)).astype(np.float32)
    pooling = Pooling(name, dim, max_length)
    pooling.initialise()
    stops = np.arange(n_events + 1)
    first = stops[::block_size]
    tokens = np.zeros((len(first), max_length + block_size - 1, dim), dtype=np.float32)
    for b, stop in enumerate(first):
        for s in range(tokens.shape[1]):
            if 0 <= (at := stop - max_length + s) < n_events:
                tokens[b, s] = events[at]
    length = torch.tensor(np.minimum(stops, max_length))
    pooled = pooling(torch.tensor(tokens), torch.tensor(stops), length).detach().numpy()
    assert pooled.shape == (len(stops), pooling.width)
    for stop in stops:
        window = events[max(0, stop - max_length) : stop]
        if not len(window):
            assert not pooled[stop].any()
            continue
        if name == "concat":
            expected = np.zeros((max_length, dim))
            expected[: len(window)] = window[::-1]
        elif name == "decay":
            half_lives = np.exp(pooling.log_half_life.detach().numpy())
            weight = 0.5 ** (np.arange(len(window))[::-1] / half_lives[:, None])
            expected = weight @ window / weight.sum(1, keepdims=True)
        else:
            expected = getattr(window, name)(axis=0)
        np.testing.assert_allclose(pooled[stop], np.ravel(expected), atol=1e-5)


COUNTS = np.array([50, 3, 0, 20, 7])


@pytest.mark.parametrize("name", ["uniform", "popularity", "log", "zipf"])
def test_draws_follow_their_formula(name):
    counts = np.maximum(COUNTS, 1)
    rank = np.argsort(np.argsort(-counts, kind="stable"))
    weight = {
        "uniform": np.ones(5),
        "popularity": counts**0.75,
        "log": np.log(counts + 1),
        "zipf": np.log((rank + 2) / (rank + 1)),
    }[name]
    probability = weight / weight.sum()
    np.testing.assert_allclose(item_probabilities(name, COUNTS), probability)
    sampler = NegativeSampler(name, COUNTS, torch.Generator().manual_seed(0))
    drawn = np.bincount(sampler.draw((100_000,)).numpy(), minlength=5) / 100_000
    np.testing.assert_allclose(drawn, probability, atol=0.01)


def test_in_batch_probability_is_the_share_of_events():
    np.testing.assert_allclose(item_probabilities("in_batch", [3, 1]), [0.75, 0.25])


def test_the_learning_rate_rises_and_falls():
    assert one_cycle(0) == pytest.approx(0.1)
    assert one_cycle(0.1) == pytest.approx(1)
    assert one_cycle(1) == pytest.approx(0)
