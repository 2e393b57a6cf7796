"""Candidates: what is drawn, what is masked and how it is scored, against the formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import NEGATIVES, make_batch, unit_vectors

from skmatch._nn import candidates
from skmatch._nn.candidates import CandidateSampler, indices_among, item_probabilities
from skmatch._nn.scorer import CosineScorer

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


def sampler(name, seed=0, counts=COUNTS, neg_ratio=3, exclude_history=False):
    return CandidateSampler(
        name,
        counts,
        neg_ratio=neg_ratio,
        exclude_history=exclude_history,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_probabilities_are_those_of_the_formula(name):
    probability = item_probabilities(name, COUNTS)
    assert probability.sum() == pytest.approx(1)
    np.testing.assert_allclose(probability, WEIGHTS[name] / WEIGHTS[name].sum())
    np.testing.assert_allclose(sampler(name).log_probability, np.log(probability), rtol=1e-5)


@pytest.mark.parametrize("name", DRAWN)
def test_frequencies_of_draws_match_the_formula(name):
    n_draws = 200_000
    drawn = sampler(name).draw(n_draws)
    observed = np.bincount(drawn - 2, minlength=N)
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
    first = sampler(name, seed=1).draw(150)
    state = torch.get_rng_state()
    again = sampler(name, seed=1).draw(150)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (150,)
    assert first.dtype == torch.int64
    assert first.min() >= 2
    assert torch.equal(first, again)
    assert not torch.equal(first, sampler(name, seed=2).draw(150))


@pytest.mark.parametrize("name", DRAWN)
def test_draws_of_one_sampler_differ(name):
    one = sampler(name)
    assert not torch.equal(one.draw(100), one.draw(100))


@pytest.mark.parametrize("name", DRAWN)
def test_a_catalogue_of_one_item(name):
    assert (sampler(name, counts=np.array([3])).draw(100) == 2).all()


@pytest.mark.parametrize("name", DRAWN[1:])
def test_the_largest_random_number_draws_the_last_item(name, monkeypatch):
    # Sums of probabilities and exponentials of logarithms are rounded.
    monkeypatch.setattr(torch, "rand", lambda n, **options: torch.ones(n, dtype=torch.float64))
    assert (sampler(name, counts=np.arange(8, 0, -1)).draw(3) == 9).all()


# What is scored

EVEN = np.full(N, 4)
every_way = pytest.mark.parametrize(
    ("scope", "negatives"),
    [*(("shared", name) for name in NEGATIVES), *(("per_row", name) for name in NEGATIVES[:-1])],
)
every_scope = pytest.mark.parametrize("scope", ["shared", "per_row"])


def drawn_for(batch, negatives, scope, **options):
    """Draw the candidates of a batch; rows have their own where the scope says so."""
    return getattr(sampler(negatives, **options), scope)(batch)


def codes_of(drawn):
    """Return the candidates of each row, (R, N), or of all rows, (N,)."""
    return drawn.items[drawn.picked] if hasattr(drawn, "picked") else drawn.items


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_is_the_cosine_over_the_temperature(dtype):
    users, items, bias = unit_vectors(5), unit_vectors(4, seed=1), torch.arange(4.0)
    scorer = CosineScorer(0.5, dtype)
    expected = 2 * users @ items.T
    matrix = scorer.matrix(users, items, bias)
    assert matrix.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(matrix, expected + bias, rtol=0, atol=tolerance)
    pairs = scorer.pairs(users[:, None], items[None])  # in full precision in any case
    torch.testing.assert_close(pairs, expected)


def test_gradients_of_products_in_bfloat16_are_close_and_float32():
    torch.manual_seed(0)
    drawn = torch.randn(50, 8), torch.randn(40, 8), torch.randn(40)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        users, items, bias = (values.clone().requires_grad_() for values in drawn)
        scores = CosineScorer(1.0, dtype).matrix(users, items, bias)
        scores.softmax(1)[:, 0].sum().backward()
        results.append([scores, users.grad, items.grad, bias.grad])
    for exact, close in zip(*results, strict=True):
        assert close.dtype == torch.float32
        assert 0 < (close - exact).norm() < 0.02 * exact.norm()


@every_way
def test_candidates_are_scored_by_their_cosine_plus_their_log_weight(scope, negatives):
    batch = make_batch([2, 3, 4, 4, 8])
    drawn = drawn_for(batch, negatives, scope, neg_ratio=50)
    users, items = unit_vectors(5), unit_vectors(len(drawn.items), seed=1)
    scores = drawn.score(CosineScorer(0.5), users, items)
    if scope == "shared":
        expected = 2 * users @ items.T + drawn.log_weight
        columns = codes_of(drawn).expand(5, -1)
    else:
        expected = 2 * (users[:, None] * items[drawn.picked]).sum(2)
        columns = codes_of(drawn)
    is_own = columns == batch.positive[:, None]
    assert is_own.any()
    assert torch.equal(scores == -torch.inf, is_own)
    torch.testing.assert_close(scores[~is_own], expected[~is_own])


histories = st.lists(st.lists(st.integers(0, N + 1), max_size=5), min_size=1, max_size=6)


@every_way
@pytest.mark.parametrize("exclude_history", [True, False])
@settings(deadline=None, max_examples=30)
@given(histories=histories, seed=st.integers(0, 99))
def test_what_is_not_a_negative_is_masked_and_all_else_counts(
    scope, negatives, exclude_history, histories, seed
):
    rng = np.random.default_rng(seed)
    batch = make_batch(rng.integers(2, N + 2, len(histories)), histories)
    drawn = drawn_for(batch, negatives, scope, exclude_history=exclude_history, seed=seed)
    n_rows = len(histories)
    scores = drawn.score(CosineScorer(1.0), torch.zeros(n_rows, 8), torch.ones(len(drawn.items), 8))
    columns = codes_of(drawn).expand(n_rows, -1).tolist()
    for row, positive, history, own in zip(
        scores, batch.positive.tolist(), histories, columns, strict=True
    ):
        left_out = {positive, *(history if exclude_history else [])}
        assert (row == -torch.inf).tolist() == [code in left_out for code in own]


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "log", "zipf", "in_batch"])
def test_shared_draws_estimate_the_sum_over_the_catalogue(monkeypatch, negatives):
    monkeypatch.setattr(candidates, "SHARED_ROWS", 8)
    one = sampler(negatives, counts=np.arange(N) ** 2, neg_ratio=8)
    table = unit_vectors(N, seed=1)
    users, own = unit_vectors(3), torch.tensor([2, 6, 8])
    share = one.log_probability.exp()
    # In a batch, the other rows' positives are the draws.
    n_others = 1000 if negatives == "in_batch" else 1
    total, n_steps = torch.zeros(3), 500
    for _ in range(n_steps):
        others = torch.multinomial(share, n_others, replacement=True, generator=one.generator) + 2
        everyone = torch.cat([users, users[:1].expand(n_others, -1)])
        drawn = one.shared(make_batch(torch.cat([own, others])))
        total += drawn.score(CosineScorer(1.0), everyone, table[drawn.items - 2])[:3].exp().sum(1)
    every = (users @ table.T).exp()
    expected = every.sum(1) - every.gather(1, own[:, None] - 2).squeeze(1)
    # The three rows of fixed positives are among the draws of an in-batch step, too.
    rtol = 0.1 if negatives == "in_batch" else 0.03
    torch.testing.assert_close(total / n_steps, expected, rtol=rtol, atol=0)


@every_scope
def test_rows_share_few_draws_and_meet_items_as_often_as_they_are_drawn(scope, monkeypatch):
    monkeypatch.setattr(candidates, "SHARED_ROWS", 2)
    one = sampler("uniform", neg_ratio=2)
    batch, hits = make_batch([2] * 8), torch.zeros(8, 1)
    n_steps = 3000
    for _ in range(n_steps):
        drawn = getattr(one, scope)(batch)
        assert len(drawn.items) <= 2 * 2
        if scope == "per_row":
            assert drawn.picked.shape == (8, 2)
            hits += (codes_of(drawn) == 3).float().mean(1, keepdim=True)
        else:
            hits += drawn.log_weight[drawn.items == 3].exp().sum() / N
    torch.testing.assert_close(hits / n_steps, torch.full((8, 1), 1 / N), rtol=0, atol=0.02)


@every_scope
@pytest.mark.parametrize("negatives", DRAWN)
def test_draws_are_bounded_by_the_catalogue(scope, negatives, monkeypatch):
    monkeypatch.setattr(candidates, "SHARED_ROWS", 8)
    one = sampler(negatives, neg_ratio=10**5)
    n_draws, draw = [], one.draw
    monkeypatch.setattr(one, "draw", lambda n: n_draws.append(n) or draw(n))
    drawn = getattr(one, scope)(make_batch([2] * 8))
    assert max(n_draws) <= max(candidates.MAX_DRAWS * N, 4 * 8)
    if scope == "per_row":
        assert drawn.picked.shape == (8, N)
    else:
        assert len(drawn.items) <= N


def test_all_are_the_catalogue_and_each_counts_once():
    drawn = drawn_for(make_batch([2, 8]), "all", "shared")
    assert drawn.items.tolist() == list(range(2, N + 2))
    assert (drawn.log_weight == 0).all()


# Weights of rows in a batch


def test_in_a_batch_a_weight_counts_as_so_many_rows():
    weighted = make_batch([2, 4, 5], weight=torch.tensor([1.0, 3.0, 1.0]))
    repeated = make_batch([2, 4, 4, 4, 5])
    ours, theirs = (drawn_for(batch, "in_batch", "shared") for batch in (weighted, repeated))
    assert ours.items.tolist() == theirs.items.tolist()
    torch.testing.assert_close(ours.log_weight, theirs.log_weight)


@pytest.mark.parametrize("zero", [0.0, 1e-38])
def test_in_a_batch_a_row_without_weight_is_no_negative(zero):
    batch = make_batch([2, 4, 5] * 20, weight=torch.tensor([1.0, zero, 1.0] * 20))
    shared = drawn_for(batch, "in_batch", "shared")
    assert shared.items.tolist() == [2, 4, 5]
    assert (shared.log_weight < -80).tolist() == [False, True, False]
    assert not torch.isnan(shared.log_weight).any()
    picked = codes_of(drawn_for(batch, "in_batch", "per_row"))
    assert set(picked.unique().tolist()) == {2, 5}


def test_in_a_batch_rows_are_picked_in_proportion_to_their_weights():
    batch = make_batch([2, 4], weight=torch.tensor([1.0, 3.0]))
    one = sampler("in_batch", counts=EVEN)
    picked = torch.cat([codes_of(one.per_row(batch)).flatten() for _ in range(1000)])
    assert (picked == 4).float().mean() == pytest.approx(0.75, abs=0.02)


@every_scope
def test_a_batch_without_any_weight_has_no_nan(scope):
    batch = make_batch([2, 4], weight=torch.zeros(2))
    drawn = drawn_for(batch, "in_batch", scope)
    scores = drawn.score(CosineScorer(0.1), unit_vectors(2), unit_vectors(len(drawn.items)))
    assert not torch.isnan(scores).any()


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9)))
def test_indices_among_sorted_codes(ordered, codes):
    ordered = sorted(set(ordered))
    expected = [ordered.index(code) if code in ordered else -1 for code in codes]
    found = indices_among(torch.tensor(ordered), torch.tensor(codes, dtype=torch.int64))
    assert found.tolist() == expected
