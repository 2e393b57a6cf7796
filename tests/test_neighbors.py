"""`ItemIndex` against a sort of all scores."""

import itertools
import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skmatch import DSSMRetriever, neighbors
from skmatch._ranking import top_k
from skmatch.datasets import make_events
from skmatch.neighbors import ItemFilter, ItemIndex, ItemLists


def leave_out(items, start, stop):
    return ItemFilter(exclude=(ItemLists(items, start, stop),))


def make_problem(n_queries=20, n_items=50, n_dims=6, n_seen=15, seed=0):
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(n_queries, n_dims)).astype(np.float32)
    vectors = rng.normal(size=(n_items, n_dims)).astype(np.float32)
    # Item codes, with padding (0) and unknown (1) among them.
    items = rng.integers(0, n_items + 2, 100).astype(np.int32)
    start = rng.integers(0, len(items) - n_seen, n_queries)
    return queries, vectors, leave_out(items, start, start + rng.integers(0, n_seen, n_queries))


def left_out_by(allowed, i):
    (lists,) = allowed.exclude
    return lists.items[lists.start[i] : lists.stop[i]]


def sorted_all(queries, vectors, k, seen=None):
    """Return the expected result by a stable sort of all scores."""
    scores = (queries @ vectors.T).astype(float)
    for i, row in enumerate(scores):
        for code in [] if seen is None else left_out_by(seen, i):
            if code >= 2:
                row[code - 2] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best_scores = np.take_along_axis(scores, best, 1)
    return np.where(np.isneginf(best_scores), -1, best), best_scores


def assert_found(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "int8"])
@pytest.mark.parametrize("leaves_out", [False, True])
@pytest.mark.parametrize("k", [1, 7, 49, 50, 80])
def test_exact_search_is_the_head_of_the_full_ranking(k, leaves_out, method):
    queries, vectors, seen = make_problem()
    seen = seen if leaves_out else None
    found = ItemIndex(method).fit(vectors).search(queries, k, seen)
    assert found[0].shape == found[1].shape == (20, min(k, 50))
    assert_found(found, sorted_all(queries, vectors, k, seen))


@pytest.mark.parametrize("method", ["exact", "int8"])
@pytest.mark.parametrize("size", [1, 50, 150, 999])
def test_blocks_do_not_change_the_result(monkeypatch, size, method):
    queries, vectors, seen = make_problem()
    monkeypatch.setattr(neighbors, "_BLOCK_SIZE", size)
    found = ItemIndex(method).fit(vectors).search(queries, 5, seen)
    assert_found(found, sorted_all(queries, vectors, 5, seen))


def test_integers_find_nearly_all_of_the_best_in_a_quarter_of_the_memory():
    queries, vectors, seen = make_problem(n_items=5000, n_dims=32)
    index = ItemIndex("int8").fit(vectors)
    positions, scores = index.search(queries, 100, seen)
    expected, expected_scores = sorted_all(queries, vectors, 100, seen)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(expected, positions, strict=True)])
    assert recall >= 0.995
    np.testing.assert_allclose(scores[:, :50], expected_scores[:, :50], rtol=1e-5)  # rescored
    assert index.estimate_recall(queries, 100) >= 0.995
    assert index.quantised_.codes.nbytes == vectors.nbytes / 4
    loaded = pickle.loads(pickle.dumps(index))
    assert_found(loaded.search(queries, 100, seen), (positions, scores))


def test_a_vector_of_zeros_can_be_quantised():
    vectors = np.array([[0.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    positions, scores = ItemIndex("int8").fit(vectors).search(np.ones((1, 2), np.float32), 2)
    assert positions.tolist() == [[1, 0]]
    assert scores.tolist() == [[7.0, 0.0]]


def test_users_who_have_seen_all_items_get_none():
    vectors = np.eye(3, dtype=np.float32)
    seen = leave_out(np.array([2, 3, 4, 3]), np.array([0, 3]), np.array([3, 4]))
    positions, scores = ItemIndex().fit(vectors).search(vectors[:2], 3, seen)
    np.testing.assert_array_equal(positions, [[-1, -1, -1], [0, 2, -1]])
    assert np.isneginf(scores[0]).all()
    assert np.isneginf(scores[1]).tolist() == [False, False, True]


def test_no_queries():
    positions, scores = ItemIndex().fit(np.eye(3)).search(np.empty((0, 3)), 2)
    assert positions.shape == scores.shape == (0, 2)


@pytest.mark.parametrize("k", [1, 5, 37, 199, 200])
def test_ties_are_in_the_order_of_the_catalogue(k):
    scores = np.random.default_rng(0).integers(0, 4, (30, 200)).astype(np.float32)
    scores[0] = 0
    scores[1, 3:] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    positions, best_scores = top_k(scores, k)
    np.testing.assert_array_equal(best_scores, np.take_along_axis(scores, expected, 1))
    np.testing.assert_array_equal(positions, np.where(np.isneginf(best_scores), -1, expected))


few_values = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0])


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=few_values), st.data())
def test_top_k_of_few_values_is_a_stable_sort(scores, data):
    k = data.draw(st.integers(1, scores.shape[1]))
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    positions, best_scores = top_k(scores, k)
    np.testing.assert_array_equal(best_scores, np.take_along_axis(scores, expected, 1))
    np.testing.assert_array_equal(positions, np.where(np.isneginf(best_scores), -1, expected))


@pytest.mark.parametrize("n_numbers", [0, 3, 20, 30])
def test_nan_scores_leave_k_distinct_positions(n_numbers):
    scores = np.full((1, 30), np.nan, dtype=np.float32)
    scores[0, :n_numbers] = np.arange(n_numbers)
    positions, _ = top_k(scores, 10)
    assert positions.shape == (1, 10)
    assert len(np.unique(positions)) == 10


def test_queries_and_vectors_are_not_changed():
    queries, vectors, seen = make_problem()
    copies = queries.copy(), vectors.copy()
    ItemIndex().fit(vectors).search(queries, 5, seen)
    np.testing.assert_array_equal(queries, copies[0])
    np.testing.assert_array_equal(vectors, copies[1])


def test_unknown_method_raises_with_the_choices():
    with pytest.raises(ValueError, match=r"exact.*pynndescent"):
        ItemIndex("annoy").fit(np.eye(2))


def test_a_small_catalogue_needs_no_graph():
    index = ItemIndex("pynndescent").fit(np.eye(100))
    assert index.graph_ is None


@pytest.fixture
def rules():
    """Return a filter with every kind of rule, and a boolean table of the items it allows."""
    rng = np.random.default_rng(1)
    mask = rng.random(300) < 0.9
    limited = np.arange(20) % 4 == 0
    sizes = np.where(limited, np.arange(20) * 5, 0)
    stop = np.cumsum(sizes)
    only = ItemLists(rng.integers(1, 302, stop[-1]), stop - sizes, stop)
    never = tuple(
        ItemLists(rng.integers(0, 302, 100), start, start + 30)
        for start in rng.integers(0, 70, (2, 20))
    )
    permitted = np.zeros((20, 300), dtype=bool)
    for i, row in enumerate(permitted):
        kept = set(only.items[only.start[i] : only.stop[i]] if limited[i] else range(2, 302))
        left_out = {code for lists in never for code in lists.items[lists.start[i] :][:30]}
        row[[code - 2 for code in kept - left_out if code >= 2]] = True
    return ItemFilter(mask, only, limited, never), permitted & mask


def best_permitted(queries, vectors, permitted, k):
    scores = np.where(permitted, (queries @ vectors.T).astype(float), -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best_scores = np.take_along_axis(scores, best, 1)
    return np.where(np.isneginf(best_scores), -1, best), best_scores


@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("candidates_share", [0, 1], ids=["all scored", "candidates scored"])
@pytest.mark.parametrize("mask_share", [0, 1], ids=["all scored", "masked scored"])
def test_every_rule_of_a_filter_holds(monkeypatch, rules, k, mask_share, candidates_share):
    monkeypatch.setattr(neighbors, "_MAX_MASK_SHARE", mask_share)
    monkeypatch.setattr(neighbors, "_MAX_CANDIDATES_SHARE", candidates_share)
    queries, vectors, _ = make_problem(n_items=300)
    allowed, permitted = rules
    expected = best_permitted(queries, vectors, permitted, k)
    assert_found(ItemIndex().fit(vectors).search(queries, k, allowed), expected)
    monkeypatch.setattr(neighbors, "_BLOCK_SIZE", 900)  # three queries
    assert_found(ItemIndex().fit(vectors).search(queries, k, allowed), expected)
    some = np.array([8, 3, 16])
    found = ItemIndex().fit(vectors).search(queries[some], k, allowed.gather(some))
    assert_found(found, tuple(part[some] for part in expected))


def test_tied_candidates_are_in_order_and_distinct():
    vectors, query = np.ones((200, 2), dtype=np.float32), np.ones((1, 2), dtype=np.float32)
    mask = np.zeros(200, dtype=bool)
    mask[[150, 20, 70]] = True
    codes = np.array([70, 20, 70, 150, 20]) + 2
    listed = ItemLists(codes, np.array([0]), np.array([5]))
    for allowed in (
        ItemFilter(mask),
        ItemFilter(candidates=listed, has_candidates=np.array([True])),
    ):
        positions, scores = ItemIndex().fit(vectors).search(query, 4, allowed)
        assert positions.tolist() == [[20, 70, 150, -1]]
        assert scores.tolist() == [[2, 2, 2, -np.inf]]


@pytest.mark.parametrize("candidates_share", [0, 1], ids=["all scored", "candidates scored"])
def test_only_unknown_candidates_leave_no_items(monkeypatch, candidates_share):
    monkeypatch.setattr(neighbors, "_MAX_CANDIDATES_SHARE", candidates_share)
    nothing = np.zeros(50, dtype=bool)
    unknown = ItemLists(np.array([1, 0, 1]), np.array([0]), np.array([3]))
    for allowed in (
        ItemFilter(nothing),
        ItemFilter(candidates=unknown, has_candidates=np.array([True])),
    ):
        positions, scores = ItemIndex().fit(np.eye(50)).search(np.eye(50)[:1], 3, allowed)
        assert positions.tolist() == [[-1, -1, -1]]
        assert np.isneginf(scores).all()


class Graph:
    """Stand-in for a graph of neighbours that finds the nearest items, or any."""

    def __init__(self, vectors, right):
        self.vectors, self.right = vectors, right

    def query(self, queries, k):
        keys = -queries @ self.vectors.T
        if not self.right:
            keys = np.random.default_rng(0).random(keys.shape)
        return np.argsort(keys, axis=1)[:, :k]


@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("right", [True, False])
def test_a_graph_respects_the_filter(rules, right, k):
    queries, vectors, _ = make_problem(n_items=300)
    allowed, permitted = rules
    index = ItemIndex().fit(vectors)
    index.graph_ = Graph(vectors, right)
    found = index.search(queries, k, allowed)
    expected = best_permitted(queries, vectors, permitted, k)
    if right:
        assert_found(found, expected)
    for row, mine, wanted in zip(permitted, found[0], expected[0], strict=True):
        mine = mine[mine >= 0]
        assert len(mine) == (wanted >= 0).sum()
        assert len(set(mine)) == len(mine)
        assert row[mine].all()


def test_a_graph_fetches_at_least_a_minimum():
    queries, vectors, _ = make_problem(n_items=300)
    fetched = []

    class Recorder(Graph):
        def query(self, queries, k):
            fetched.append(k)
            return super().query(queries, k)

    index = ItemIndex().fit(vectors)
    index.graph_ = Recorder(vectors, right=True)
    assert index.search(queries, 3)[0].shape == (20, 3)
    index.search(queries, 150)
    assert fetched == [100, 150]


def test_one_heavy_user_does_not_make_others_fetch_more():
    n_items, n_queries = 5000, 2000
    queries, vectors, _ = make_problem(n_queries, n_items, n_dims=64)
    fetched = []

    class Recorder:
        def query(self, queries, k):
            fetched.append((len(queries), k))
            return np.broadcast_to(np.arange(k), (len(queries), k)).copy()

    index = ItemIndex().fit(vectors)
    index.graph_ = Recorder()
    stop = np.full(n_queries, 10)
    stop[7] = 2000
    seen = leave_out(np.arange(2, 2002), np.zeros(n_queries, dtype=int), stop)
    tracemalloc.start()
    index.search(queries, 10, seen)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(fetched) == [(1, 2010), (n_queries - 1, 100)]
    assert peak < 100 * 2**20
    fetched.clear()
    stop[:] = 2000
    index.search(queries, 10, seen)
    assert sum(n for n, _ in fetched) == n_queries
    assert max(n * k for n, k in fetched) * 64 <= 2**24


def test_a_graph_finds_the_same_for_one_query_and_for_many(rules):
    queries, vectors, _ = make_problem(n_items=300)
    allowed, _ = rules
    index = ItemIndex().fit(vectors)
    index.graph_ = Graph(vectors, right=True)
    together = index.search(queries, 7, allowed)
    for i in range(len(queries)):
        row = np.array([i])
        assert_found(index.search(queries[row], 7, allowed.gather(row)), [p[row] for p in together])


@pytest.mark.parametrize(
    ("method", "n_items", "chosen"),
    [
        ("exact", 301, "exact"),
        ("auto", 300, "exact"),
        ("auto", 301, "pynndescent"),
        ("pynndescent", 100, "exact"),
        ("pynndescent", 101, "pynndescent"),
    ],
)
def test_auto_is_exact_up_to_a_number_of_items(monkeypatch, method, n_items, chosen):
    monkeypatch.setattr(neighbors, "AUTO_ITEMS", 300)
    monkeypatch.setattr(ItemIndex, "_build", lambda self: None)
    assert ItemIndex(method).fit(np.ones((n_items, 2))).method_ == chosen


def test_estimated_recall_is_the_share_of_exact_results():
    queries, vectors, _ = make_problem(n_items=300)
    index = ItemIndex().fit(vectors)
    assert index.estimate_recall(queries, 10) == 1.0
    assert index.estimate_recall(queries, 500) == 1.0
    index.graph_ = Graph(vectors, right=True)
    assert index.estimate_recall(queries, 10) == 1.0
    index.graph_ = Graph(vectors, right=False)
    found, exact = index.search(queries, 10)[0], sorted_all(queries, vectors, 10)[0]
    hits = [len({*a} & {*b}) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    assert 0 < sum(hits) < 100
    assert index.estimate_recall(queries, 10) == pytest.approx(sum(hits) / 200)
    with pytest.raises(ValueError, match="k=0"):
        index.estimate_recall(queries, 0)
    with pytest.raises(ValueError, match="at least one"):
        index.estimate_recall(queries[:0], 5)


def test_pynndescent_is_near_exact_and_respects_the_filter(rules):
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
        assert not {*(row + 2).tolist()} & {*left_out_by(seen, i).tolist()}
    assert index.estimate_recall(queries, 10) > 0.9
    allowed, permitted = rules
    positions, _ = index.search(queries, 10, allowed)
    n_found = (positions >= 0).sum(axis=1)
    np.testing.assert_array_equal(n_found, np.minimum(permitted.sum(axis=1), 10))
    assert np.take_along_axis(permitted, positions, 1)[positions >= 0].all()
    loaded = pickle.loads(pickle.dumps(index))
    assert not hasattr(loaded, "graph_")  # rebuilt by the first search
    np.testing.assert_array_equal(loaded.search(queries, 10, seen), index.search(queries, 10, seen))
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])  # numba takes all cores
    # Users who have seen nearly all items are searched exactly.
    everything = leave_out(np.arange(2, 300), np.array([0]), np.array([298]))
    positions, _ = index.search(queries[:1], 5, everything)
    assert {*positions[0].tolist()} == {298, 299, -1}
    assert (positions[0] == -1).sum() == 3


def test_eight_threads_build_and_search_one_graph():
    queries, vectors, seen = make_problem(n_items=300, n_dims=8, n_seen=30)
    index = ItemIndex("pynndescent", random_state=0).fit(vectors)

    def search(index, i):
        return index.search(queries[i : i + 1], 10, seen.gather(np.array([i])))

    expected = [search(index, i) for i in range(20)]
    for _ in range(3):
        loaded = pickle.loads(pickle.dumps(index))  # the first search builds its graph
        with ThreadPoolExecutor(8) as pool:
            results = pool.map(search, itertools.repeat(loaded), [*range(20)] * 4)
        for result, wanted in zip(results, expected * 4, strict=True):
            assert_found(result, wanted)


def test_a_retriever_searches_the_graph():
    events = make_events(n_users=90, n_items=150, n_events=1500, random_state=0)
    small = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "random_state": 0}
    exact, by_graph = (
        DSSMRetriever(**small, index=index).fit(events) for index in ("exact", "pynndescent")
    )
    assert by_graph.index_.method_ == "pynndescent"
    found, expected = (model.recommend(k=10, exclude_seen=False) for model in (by_graph, exact))
    assert found["user_id"].tolist() == expected["user_id"].tolist()
    pairs = ["user_id", "item_id"]
    assert len(found[pairs].merge(expected[pairs])) > 0.9 * len(expected)
    unseen = by_graph.recommend(k=10)
    assert len(unseen) == len(expected)
    assert unseen[pairs].merge(events[pairs]).empty


def test_threads_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(50, 4)), rng.normal(size=(30, 4))
    one = ItemIndex().fit(vectors).search(queries, 5)
    monkeypatch.setattr(neighbors, "_PART_SIZE", 100)
    monkeypatch.setattr(neighbors, "n_threads", lambda: 3)
    many = ItemIndex().fit(vectors).search(queries, 5)
    for expected, got in zip(one, many, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_top_k_of_many_values_is_a_stable_sort():
    rng = np.random.default_rng(0)
    for n_items, k in itertools.product((300, 2561, 5001), (1, 3, 10)):
        scores = rng.normal(size=(7, n_items)).astype(np.float32)
        few = np.where(rng.random(n_items) < 0.001, scores, -np.inf).astype(np.float32)
        equal = np.where(np.arange(n_items) % 7, np.float32(0), np.float32(-np.inf))[None]
        for case in (scores, np.round(scores), few, equal):
            order = np.argsort(-case, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(case, order, axis=1)
            positions, found = top_k(case, k)
            np.testing.assert_array_equal(found, best)
            np.testing.assert_array_equal(positions, np.where(np.isneginf(best), -1, order))
