"""`ItemIndex` against a sort of all scores."""

import pickle

import numpy as np
import pytest

from skmatch import neighbors
from skmatch.neighbors import ItemIndex, SeenItems, top_k


def make_problem(n_queries=20, n_items=50, n_dims=6, n_seen=15, seed=0):
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(n_queries, n_dims)).astype(np.float32)
    vectors = rng.normal(size=(n_items, n_dims)).astype(np.float32)
    # Codes, with padding (0) and unknown (1) among them, which are no items.
    items = rng.integers(0, n_items + 2, 100).astype(np.int32)
    start = rng.integers(0, len(items) - n_seen, n_queries)
    return queries, vectors, SeenItems(items, start, start + rng.integers(0, n_seen, n_queries))


def sorted_all(queries, vectors, k, seen=None):
    """Give what an index should give, by a stable sort of every score."""
    scores = (queries @ vectors.T).astype(float)
    for i, row in enumerate(scores):
        for code in [] if seen is None else seen.items[seen.start[i] : seen.stop[i]]:
            if code >= 2:
                row[code - 2] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best_scores = np.take_along_axis(scores, best, 1)
    return np.where(np.isneginf(best_scores), -1, best), best_scores


def assert_found(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("leaves_out", [False, True])
@pytest.mark.parametrize("k", [1, 7, 49, 50, 80])
def test_exact_is_the_head_of_the_full_order(k, leaves_out):
    queries, vectors, seen = make_problem()
    seen = seen if leaves_out else None
    found = ItemIndex().fit(vectors).search(queries, k, seen)
    assert found[0].shape == found[1].shape == (20, min(k, 50))
    assert_found(found, sorted_all(queries, vectors, k, seen))


@pytest.mark.parametrize("size", [1, 50, 150, 999])
def test_blocks_do_not_change_the_answer(monkeypatch, size):
    queries, vectors, seen = make_problem()
    monkeypatch.setattr(neighbors, "_BLOCK_SIZE", size)
    assert_found(
        ItemIndex().fit(vectors).search(queries, 5, seen), sorted_all(queries, vectors, 5, seen)
    )


def test_who_has_seen_all_gets_nothing():
    vectors = np.eye(3, dtype=np.float32)
    seen = SeenItems(np.array([2, 3, 4, 3]), np.array([0, 3]), np.array([3, 4]))
    positions, scores = ItemIndex().fit(vectors).search(vectors[:2], 3, seen)
    np.testing.assert_array_equal(positions, [[-1, -1, -1], [0, 2, -1]])
    assert np.isneginf(scores[0]).all()
    assert np.isneginf(scores[1]).tolist() == [False, False, True]


def test_no_queries():
    positions, scores = ItemIndex().fit(np.eye(3)).search(np.empty((0, 3)), 2)
    assert positions.shape == scores.shape == (0, 2)


@pytest.mark.parametrize("k", [1, 5, 37, 199, 200])
def test_of_equal_scores_the_first_items_come_first(k):
    scores = np.random.default_rng(0).integers(0, 4, (30, 200)).astype(np.float32)
    scores[0] = 0
    scores[1, 3:] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    positions, best_scores = top_k(scores, k)
    np.testing.assert_array_equal(best_scores, np.take_along_axis(scores, expected, 1))
    np.testing.assert_array_equal(positions, np.where(np.isneginf(best_scores), -1, expected))


def test_scores_and_vectors_of_the_caller_stay_as_they_are():
    queries, vectors, seen = make_problem()
    copies = queries.copy(), vectors.copy()
    ItemIndex().fit(vectors).search(queries, 5, seen)
    np.testing.assert_array_equal(queries, copies[0])
    np.testing.assert_array_equal(vectors, copies[1])


def test_an_unknown_method_is_told_the_choices():
    with pytest.raises(ValueError, match=r"exact.*pynndescent"):
        ItemIndex("annoy").fit(np.eye(2))


def test_a_small_catalogue_needs_no_graph():
    index = ItemIndex("pynndescent").fit(np.eye(100))
    assert index.graph_ is None


def test_pynndescent_is_near_the_exact_answer_and_leaves_out_what_is_seen():
    queries, vectors, seen = make_problem(n_items=300, n_dims=8, n_seen=30)
    index = ItemIndex("pynndescent", random_state=0).fit(vectors)
    assert index.graph_ is not None
    for left_out in (None, seen):
        positions, scores = index.search(queries, 10, left_out)
        expected, _ = sorted_all(queries, vectors, 10, left_out)
        assert positions.shape == (20, 10)
        assert (positions >= 0).all()
        assert (np.diff(scores) <= 0).all()
        assert all(len(set(row)) == 10 for row in positions.tolist())
        own_scores = np.einsum("qd,qkd->qk", queries, vectors[positions])
        np.testing.assert_allclose(scores, own_scores, rtol=1e-5)
        pairs = zip(positions.tolist(), expected.tolist(), strict=True)
        assert np.mean([len({*a} & {*b}) / 10 for a, b in pairs]) > 0.9
    for i, row in enumerate(positions):
        assert not {*(row + 2).tolist()} & {*seen.items[seen.start[i] : seen.stop[i]].tolist()}
    loaded = pickle.loads(pickle.dumps(index))
    assert not hasattr(loaded, "graph_")  # built anew by the first search
    np.testing.assert_array_equal(loaded.search(queries, 10, seen), index.search(queries, 10, seen))
    # Who has seen nearly all is answered the exact way.
    everything = SeenItems(np.arange(2, 300), np.array([0]), np.array([298]))
    positions, _ = index.search(queries[:1], 5, everything)
    assert {*positions[0].tolist()} == {298, 299, -1}
    assert (positions[0] == -1).sum() == 3


def test_threads_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(50, 4)), rng.normal(size=(30, 4))
    one = ItemIndex().fit(vectors).search(queries, 5)
    monkeypatch.setattr(neighbors, "_PART_SIZE", 100)
    monkeypatch.setattr(neighbors, "_openmp_effective_n_threads", lambda: 3)
    many = ItemIndex().fit(vectors).search(queries, 5)
    for expected, got in zip(one, many, strict=True):
        np.testing.assert_array_equal(got, expected)
