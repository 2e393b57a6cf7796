"""Negatives: what is drawn, against the formulas."""

import numpy as np
import pytest
import torch
from skmatch._nn.negatives import NegativeSampler, item_probabilities

COUNTS = np.array([5, 0, 100, 1, 20, 20, 3])
RANK = np.array([3, 5, 0, 6, 1, 2, 4])  # of equal counts, the first item first
N = len(COUNTS)
AT_LEAST_ONE = np.maximum(COUNTS, 1)
WEIGHTS = {
    "uniform": np.ones(N),
    "popularity": AT_LEAST_ONE**0.75,
    "log": np.log(AT_LEAST_ONE + 1),
    "zipf": np.log(RANK + 2) - np.log(RANK + 1),
    "in_batch": AT_LEAST_ONE.astype(float),
    "all": np.ones(N),
}
DRAWN = ("uniform", "popularity", "log", "zipf")


def sampler(name, seed=0, counts=COUNTS):
    return NegativeSampler(name, counts, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", WEIGHTS)
def test_probabilities_are_those_of_the_formula(name):
    probability = item_probabilities(name, COUNTS)
    assert probability.sum() == pytest.approx(1)
    np.testing.assert_allclose(probability, WEIGHTS[name] / WEIGHTS[name].sum())
    np.testing.assert_allclose(sampler(name).log_probability, np.log(probability), rtol=1e-5)


@pytest.mark.parametrize("name", DRAWN)
def test_frequencies_of_draws_match_the_formula(name):
    n_draws = 200_000
    drawn = sampler(name).draw((n_draws,))
    observed = np.bincount(drawn, minlength=N)
    expected = n_draws * WEIGHTS[name] / WEIGHTS[name].sum()
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < 22.5  # the 0.999 quantile of 6 degrees of freedom


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_item_without_events_counts_as_one(name):
    probability = item_probabilities(name, np.array([4, 0]))
    np.testing.assert_array_equal(probability, item_probabilities(name, np.array([4, 1])))
    assert (probability > 0).all()


def test_in_batch_probability_is_the_share_of_the_events():
    np.testing.assert_allclose(
        item_probabilities("in_batch", np.array([1, 3, 4])), [1 / 8, 3 / 8, 1 / 2]
    )


@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_from_the_generator_alone(name):
    first = sampler(name, seed=1).draw((50, 3))
    state = torch.get_rng_state()
    again = sampler(name, seed=1).draw((50, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (50, 3)
    assert first.dtype == torch.int64
    assert torch.equal(first, again)
    assert not torch.equal(first, sampler(name, seed=2).draw((50, 3)))


@pytest.mark.parametrize("name", DRAWN)
def test_draws_of_one_sampler_differ(name):
    one = sampler(name)
    assert not torch.equal(one.draw((100,)), one.draw((100,)))


@pytest.mark.parametrize("name", DRAWN)
def test_a_catalogue_of_one_item(name):
    assert (sampler(name, counts=np.array([3])).draw((100,)) == 0).all()
