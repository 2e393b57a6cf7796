"""First vectors of items against the matrix of counts, written out."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skmatch import DSSMRetriever, SequenceSampler, YoutubeDNNRetriever
from skmatch._nn import cooccurrence
from skmatch._nn.cooccurrence import cooccurrence_vectors
from skmatch.datasets import make_events


def counts_of(users, items, near):
    """Count the pairs of events of a user that lie near each other, (n_codes, n_codes)."""
    counts = np.zeros((max(items) + 1,) * 2)
    for a, (user, item) in enumerate(zip(users, items, strict=True)):
        for b, (other, its) in enumerate(zip(users, items, strict=True)):
            if user == other and a != b and abs(a - b) <= near:
                counts[item, its] += 1
    return counts


def make_log(lengths, n_items, seed=0):
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(len(lengths)) + 2, lengths)
    return users, (rng.integers(n_items, size=len(users)) + 2).astype(np.int32)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 40))
def test_sums_of_what_is_near_are_products_with_the_counts(lengths, near, chunk):
    users, items = make_log(lengths, 5)
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(items.max() + 1, 3)).astype(np.float32)
    weights = rng.random((items.max() + 1, 1), dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "WINDOW", near)
        patch.setattr(cooccurrence, "CHUNK_SIZE", chunk)
        ones = np.ones((len(items), 1), dtype=np.float32)
        near_items = cooccurrence._sum_nearby(users, items, ones, weights, vectors)
        # The events of item 2 weigh 3, so that its pairs count three times, and its own nine times.
        heavy = np.where(items[:, None] == 2, np.float32(3), ones)
        weighted = cooccurrence._sum_nearby(users, items, heavy, weights, vectors)
    counts = counts_of(users, items, near)
    np.testing.assert_allclose(near_items, counts @ (weights * vectors), rtol=0, atol=1e-4)
    factor = np.where(np.arange(len(vectors)) == 2, 3, 1)[:, None]
    expected = (factor * counts * factor.T) @ (weights * vectors)
    np.testing.assert_allclose(weighted, expected, rtol=0, atol=1e-3)


def test_vectors_are_the_main_directions_of_the_scaled_counts():
    users, items = make_log([30] * 20, 25)
    codes, vectors = cooccurrence_vectors(users, items, dim=25, seed=0)
    assert codes.tolist() == list(range(2, 27))
    counts = counts_of(users, items, cooccurrence.WINDOW)[2:, 2:]
    n_near = counts.sum(1)
    scaled = counts / np.sqrt(np.outer(n_near, n_near))
    # All directions together give the square of the matrix, but for the scale.
    gram = vectors.astype(float) @ vectors.T
    factor = np.trace(gram) / np.trace(scaled @ scaled)
    np.testing.assert_allclose(gram, factor * scaled @ scaled, rtol=0, atol=1e-3 * factor)
    assert np.mean(vectors**2) == pytest.approx(1, rel=1e-4)
    # Fewer are the best approximation by so many.
    _, few = cooccurrence_vectors(users, items, dim=4, seed=0)
    values = np.sort(np.abs(np.linalg.eigvalsh(scaled)))[::-1]
    found = np.linalg.svd(few.astype(float), compute_uv=False)
    np.testing.assert_allclose(found / found[0], values[:4] / values[0], rtol=0.02)


def test_items_of_the_same_users_are_near():
    # Even items are touched by some users, odd ones by the others.
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60) + 2, 20)
    items = 2 * rng.integers(20, size=len(users)) + users % 2 + 2
    codes, vectors = cooccurrence_vectors(users, items, dim=4, seed=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = codes[:, None] % 2 == codes % 2
    assert cosine[same].min() > cosine[~same].max()


def test_items_without_neighbours_and_rare_ones_are_not_placed(monkeypatch):
    users = np.array([2, 2, 2, 2, 3, 4, 4])
    items = np.array([5, 7, 5, 7, 3, 9, 7])
    codes, vectors = cooccurrence_vectors(users, items, dim=8, seed=0)
    assert codes.tolist() == [5, 7, 9]  # 3 is the only event of its user
    assert np.isfinite(vectors).all()
    monkeypatch.setattr(cooccurrence, "MAX_ITEMS", 2)
    assert cooccurrence_vectors(users, items, dim=8, seed=0)[0].tolist() == [5, 7]


def test_events_of_users_with_a_single_event_place_nothing():
    codes, vectors = cooccurrence_vectors(np.array([2, 3, 4]), np.array([2, 3, 3]), dim=8, seed=0)
    assert len(codes) == len(vectors) == 0


def test_a_single_item_that_users_repeat():
    codes, vectors = cooccurrence_vectors(np.array([2, 2, 2]), np.array([4, 4, 4]), dim=8, seed=0)
    assert codes.tolist() == [4]
    np.testing.assert_allclose(np.abs(vectors), [[1.0]], rtol=1e-5)


@pytest.mark.parametrize("retriever", [DSSMRetriever, YoutubeDNNRetriever])
def test_training_that_begins_there_is_ahead(retriever):
    events = make_events(n_users=300, n_items=200, n_events=9000, random_state=0)
    samples = SequenceSampler().fit_transform(events)
    small = {"embedding_dim": 16, "dims": (16,), "max_epochs": 1, "random_state": 0}
    losses = {
        init: retriever(init=init, **small).fit(samples).loss_curve_[0]
        for init in ("cooccurrence", "random")
    }
    assert losses["cooccurrence"] < losses["random"] - 0.02


def test_events_held_out_place_nothing(monkeypatch):
    events = make_events(n_users=50, n_items=40, n_events=1000, random_state=0)
    samples = SequenceSampler().fit_transform(events)
    seen = []

    def spy(users, items, *others):
        seen.append(len(items))
        return cooccurrence_vectors(users, items, *others)

    monkeypatch.setattr("skmatch._nn.engine.cooccurrence_vectors", spy)
    options = {"max_epochs": 1, "exclude_seen": False, "random_state": 0}
    DSSMRetriever(**options, early_stopping=True, validation_fraction=0.5).fit(samples)
    DSSMRetriever(**options, init="random").fit(samples)
    assert seen == [1000 - 25]


def test_many_items_take_the_memory_of_a_few_copies_of_their_vectors():
    items = np.arange(20_000, dtype=np.int32).repeat(2) + 2
    users = np.arange(len(items)) // 50 + 2
    tracemalloc.start()
    _, vectors = cooccurrence_vectors(users, items, dim=48, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(vectors) == 20_000
    assert peak < 4 * len(vectors) * (48 + cooccurrence.N_OVERSAMPLES) * vectors.itemsize
