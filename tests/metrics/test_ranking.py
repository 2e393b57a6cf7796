"""The metric functions against values counted by hand, ranx, and invalid input."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from skmatch import metrics as public
from skmatch.metrics._ranking import METRICS

FUNCTIONS = {name: getattr(public, f"{name}_at_k") for name in METRICS}
every_metric = pytest.mark.parametrize("name", METRICS)

LOG2_3 = np.log2(3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall", [2 / 3, 0, 1]),
        ("hit", [1, 0, 1]),
        ("precision", [2 / 3, 0, 1 / 3]),
        ("mrr", [1, 0, 1 / 2]),
        ("map", [(1 + 2 / 3) / 3, 0, 1 / 2]),
        ("ndcg", [(1 + 1 / 2) / (1 + 1 / LOG2_3 + 1 / 2), 0, 1 / LOG2_3]),
    ],
)
def test_values_counted_by_hand(name, expected):
    y_true = [["a", "b", "c"], ["d"], ["e"]]
    y_pred = [["a", "x", "b", "c"], ["x", "y", "z", "d"], ["x", "e", "y", "z"]]
    values = FUNCTIONS[name](y_true, y_pred, 3, average=False)
    np.testing.assert_allclose(values, expected)
    assert FUNCTIONS[name](y_true, y_pred, k=3) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("recall", "precision")])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_ideal_ranking_scores_one(name, k):
    """With more and with fewer relevant items than k."""
    assert FUNCTIONS[name]([[1, 2, 3]], [[3, 1, 2, 8, 9]], k) == 1


@every_metric
def test_a_repeated_recommendation_counts_at_its_first_rank(name):
    metric = FUNCTIONS[name]
    assert metric([["a", "b"]], [["a", "a", "b"]], 3) == metric([["a", "b"]], [["a", "x", "b"]], 3)


@every_metric
def test_a_repeated_relevant_item_counts_once(name):
    metric = FUNCTIONS[name]
    assert metric([["a", "b", "a"]], [["a", "x"]], 2) == metric([["a", "b"]], [["a", "x"]], 2)


@every_metric
@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA])
def test_missing_recommendations_are_misses(name, nothing):
    metric = FUNCTIONS[name]
    padded = [["b", nothing, nothing], ["a", "c", "b"]]
    assert metric([["a", "b"], ["c"]], padded, 3) == metric(
        [["a", "b"], ["c"]], [["b", "x", "y"], ["a", "c", "b"]], 3
    )


def test_missing_recommendations_never_match_missing_relevant_items():
    assert public.hit_at_k([["a", None]], [[None, "b"]], 2) == 0
    assert public.recall_at_k(np.array([[1, np.nan]]), np.array([[1, np.nan]]), 2) == 1


@every_metric
@pytest.mark.parametrize(
    "make_id",
    [
        int,
        float,
        "item {}".format,
        lambda n: UUID(int=n),
        lambda n: (n, "red"),
        lambda n: 2**62 + n,
        lambda n: n if n % 2 else str(n),
    ],
    ids=["int", "float", "str", "uuid", "tuple", "large int", "mixed"],
)
def test_any_hashable_is_an_id(name, make_id):
    y_true = [[0, 3], [4]]
    y_pred = [[1, 3, 0], [4, 2, 1]]
    expected = FUNCTIONS[name](y_true, y_pred, 3)
    y_true, y_pred = ([[make_id(n) for n in row] for row in rows] for rows in (y_true, y_pred))
    assert FUNCTIONS[name](y_true, y_pred, 3) == expected
    y_pred[1].pop()  # rows may differ in length
    assert FUNCTIONS[name](y_true, y_pred, 3) == expected


@pytest.mark.parametrize(
    "y_true",
    [
        np.array([3, 4]),
        np.array([3.0, 4.0]),
        np.array([3, 4], dtype=object),
        pd.Series([3, 4], index=[7, 7]),
        pd.Series([3, 4], dtype="Int64"),
        pd.Series([3, 4], dtype="category"),
        [3, 4],
        [{3}, frozenset([4])],
        [(3,), np.array([4])],
        np.array([[3], [4]]),
        pd.DataFrame({"relevant": [3, 4]}),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "wrap", [np.array, pd.DataFrame, list, lambda rows: np.array(rows, dtype=object)]
)
def test_any_container_is_accepted(y_true, wrap):
    y_pred = wrap([[1, 3], [4, 2]])
    np.testing.assert_array_equal(public.mrr_at_k(y_true, y_pred, 2, average=False), [0.5, 1])


def test_strings_are_single_ids():
    assert public.recall_at_k(np.array(["ab", "cd"]), np.array([["ab"], ["c"]]), 1) == 0.5
    assert public.recall_at_k(["ab", "cd"], [["ab"], ["c"]], 1) == 0.5


def test_inputs_are_not_changed():
    y_true, y_pred = [[1, 2], [3]], np.array([[1, 5], [3, 1]])
    public.map_at_k(y_true, y_pred, 2)
    assert y_true == [[1, 2], [3]]
    np.testing.assert_array_equal(y_pred, [[1, 5], [3, 1]])


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None, True, np.True_])
def test_k_must_be_a_positive_integer(k):
    with pytest.raises(ValueError, match=r"^k=.* use an integer of at least 1"):
        public.recall_at_k([[1]], [[1]], k)


def test_k_may_be_a_numpy_integer():
    assert public.recall_at_k([[1]], [[1]], np.int32(1)) == 1


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([[1], [], [2]], [[1], [1], [1]], r"no relevant item for query 1 .*drop them"),
        ([[1], [None]], [[1], [1]], r"no relevant item for query 1"),
        ([], np.empty((0, 3)), "y_true is empty"),
        ([[1]], [[1], [2]], "ranks for 2 queries and y_true holds 1"),
        ([[1]], np.array([1]), r"shape \(1,\).*one row of ranked item ids per query"),
        ([[1]], [1], r"shape \(1,\)"),
        ([[1]], ["abc"], r"shape \(1,\)"),
        ([[1]], [[1, 2]], "ranks 2 items per query and k=3.*pad y_pred with None"),
    ],
)
def test_errors_name_value_and_remedy(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        public.ndcg_at_k(y_true, y_pred, 3 if "k=3" in message else 1)


LONG = pd.DataFrame({"user_id": [1, 1, 2], "item_id": ["a", "b", "c"]})
LISTS = [["a", "b"], ["c"]]


@every_metric
@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ({1: ["a"], 2: ["c"]}, LISTS, "y_true is a dict: pass a collection"),
        (LISTS, {1: ["a"], 2: ["c"]}, "y_pred is a dict: pass one row of ranked item ids"),
        (LISTS, [{"a": 1, "b": 2}, {"c": 1}], "y_pred holds a dict, not a list"),
        (LISTS, [{"a", "b"}, {"c"}], "y_pred holds a set, not a list"),
        ([{"a": 1}, {"c": 2}], LISTS, "y_true holds a mapping.*gains as relevance"),
        (LONG, LONG, r"y_true is a frame with the columns \['user_id', 'item_id'\].*agg\(list\)"),
        (LISTS, LONG.assign(rank=1), r"y_pred is a frame with the columns .*groupby"),
        (LISTS, pd.DataFrame({"item_id": ["a", "c"]}), "y_pred is a frame with the columns"),
        ("ab", LISTS, "y_true is a str"),
        (5, LISTS, "y_true is a int"),
        (None, LISTS, "y_true is a NoneType"),
        (np.ones((2, 1, 1)), LISTS, r"y_true has shape \(2, 1, 1\)"),
    ],
)
def test_input_without_one_row_per_query_raises(name, y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](y_true, y_pred, 1)


# Graded relevance


def test_gains_counted_by_hand():
    y_true, gains = [["a", "b"], ["c"]], [[1, 3], [5]]
    y_pred = [["x", "a", "b"], ["x", "c", "y"]]
    ideal = 3 + 1 / LOG2_3
    expected = [(1 / LOG2_3 + 3 / 2) / ideal, 1 / LOG2_3]
    found = public.ndcg_at_k(y_true, y_pred, 3, relevance=gains, average=False)
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    found = public.ndcg_at_k(y_true, y_pred, 2, relevance=gains)
    assert found == pytest.approx(((1 / LOG2_3) / ideal + 1 / LOG2_3) / 2)
    # Of a repeated item the largest counts; the gain of padding does not.
    repeated = public.ndcg_at_k(
        [["b", "a", None, "b"], ["c"]], y_pred, 3, relevance=[[2, 1, 9, 3], [5]], average=False
    )
    np.testing.assert_allclose(repeated, expected, rtol=1e-15)
    one_each = public.ndcg_at_k(np.array([3, 4]), [[1, 3], [4, 2]], 2, relevance=np.array([2, 7]))
    assert one_each == pytest.approx((1 / LOG2_3 + 1) / 2)


@st.composite
def rankings(draw):
    """Draw queries with relevant items and rankings without repetition."""
    n_items = draw(st.integers(2, 12))
    n_queries = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_relevant = rng.integers(1, n_items, size=n_queries, endpoint=True)
    y_true = [rng.permutation(n_items)[:n] for n in n_relevant]
    y_pred = np.array([rng.permutation(n_items) for _ in range(n_queries)])
    return y_true, y_pred, draw(st.integers(1, n_items))


@given(rankings())
def test_bounds_and_relations(case):
    y_true, y_pred, k = case
    value = {name: f(y_true, y_pred, k, average=False) for name, f in FUNCTIONS.items()}
    assert all(((v >= 0) & (v <= 1)).all() for v in value.values())
    n_relevant = np.array([len(row) for row in y_true])
    np.testing.assert_allclose(value["precision"] * k, value["recall"] * n_relevant)
    for name in ("recall", "ndcg", "mrr", "map", "precision"):
        np.testing.assert_array_equal(value[name] > 0, value["hit"] > 0)
    for name in ("recall", "hit", "mrr"):  # more answers never harm
        assert (
            FUNCTIONS[name](y_true, y_pred, y_pred.shape[1], average=False) >= value[name]
        ).all()


@given(rankings(), st.randoms(use_true_random=False))
def test_order_of_queries_and_names_of_items_do_not_matter(case, random):
    y_true, y_pred, k = case
    order = list(range(len(y_true)))
    random.shuffle(order)
    names = [f"item {n}" for n in range(y_pred.shape[1])]
    random.shuffle(names)
    named_true = [[names[n] for n in y_true[q]] for q in order]
    named_pred = [[names[n] for n in y_pred[q]] for q in order]
    for metric in FUNCTIONS.values():
        np.testing.assert_array_equal(
            metric(named_true, named_pred, k, average=False),
            metric(y_true, y_pred, k, average=False)[order],
        )


@settings(deadline=None)
@given(rankings(), st.integers(0, 2**32))
def test_graded_gains_agree_with_scikit_learn(case, seed):
    y_true, y_pred, k = case
    rng = np.random.default_rng(seed)
    gains = [rng.integers(1, 6, len(row)) / 2 for row in y_true]
    found = public.ndcg_at_k(y_true, y_pred, k, relevance=gains, average=False)
    for row, own, ranked, value in zip(y_true, gains, y_pred, found, strict=True):
        relevance, score = np.zeros(len(ranked)), np.zeros(len(ranked))
        relevance[row], score[ranked] = own, np.arange(len(ranked))[::-1]
        assert value == pytest.approx(ndcg_score([relevance], [score], k=k))
    best = [row[np.argsort(-own, kind="stable")] for row, own in zip(y_true, gains, strict=True)]
    padded = [[*row, *[None] * k] for row in best]
    assert (public.ndcg_at_k(y_true, padded, k, relevance=gains, average=False) == 1).all()
    ones = [np.ones(len(row)) for row in y_true]
    np.testing.assert_array_equal(
        public.ndcg_at_k(y_true, y_pred, k, relevance=ones, average=False),
        public.ndcg_at_k(y_true, y_pred, k, average=False),
    )


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ([[1], [1]], r"relevance holds 1 gains for query 0, and y_true 2 items"),
        ([[1, 2]], r"relevance holds 0 gains for query 1, and y_true 1 items"),
        ([[1, -1], [1]], "the gain -1"),
        ([[1, np.inf], [1]], "the gain inf"),
        ([[1, None], [1]], "the gain nan"),
        ([[1, "x"], [1]], "relevance is not numeric"),
        ([[1, 2], [0]], "no relevant item with a gain above 0 for query 1"),
    ],
)
def test_invalid_gains_raise(gains, message):
    with pytest.raises(ValueError, match=message):
        public.ndcg_at_k(LISTS, [["a"], ["c"]], 1, relevance=gains)


def test_gains_of_integer_ids_count_where_a_query_misses_or_a_ranking_repeats():
    y_pred = np.array([[9, 8, 7], [8, 2, 2], [3, 3, 3]])
    score = public.ndcg_at_k(np.array([1, 2, 3]), y_pred, 3, relevance=[3, 5, 2], average=False)
    np.testing.assert_allclose(score, [0, 1 / np.log2(3), 1])


def test_a_query_without_a_ranking_is_named_by_the_shape():
    for y_pred in ([["a", "b"], None], [["a", "b"], 3]):
        with pytest.raises(ValueError, match=r"y_pred has shape \(2,\): pass one row"):
            public.recall_at_k([["a"], ["b"]], y_pred, 1)


def test_tuples_of_different_lengths_are_different_ids():
    assert public.recall_at_k([[("a",)]], [[("a", None), ("a",)]], 1) == 0
    assert public.recall_at_k([[("a",)]], [[("a", None), ("a",)]], 2) == 1


def test_gains_need_an_order_and_ndcg():
    with pytest.raises(ValueError, match="holds sets"):
        public.ndcg_at_k([{"a", "b"}], [["a"]], 1, relevance=[[1, 2]])
    for name in set(METRICS) - {"ndcg"}:
        with pytest.raises(TypeError, match="relevance"):
            FUNCTIONS[name](LISTS, LISTS, 1, relevance=[[1, 2], [1]])


RANX = """
import json, sys
import ranx
qrels, run, names = json.load(sys.stdin)
scores = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names, return_mean=False)
print(json.dumps({name: list(values) for name, values in scores.items()}))
"""


@pytest.mark.skipif(find_spec("ranx") is None, reason="ranx is not installed")
def test_agrees_with_ranx():
    """In a separate process, where ranx runs as plain Python: compiling it takes a minute."""
    rng = np.random.default_rng(0)
    y_true = [rng.permutation(40)[: rng.integers(1, 9)] for _ in range(300)]
    y_pred = np.array([rng.permutation(40)[:30] for _ in y_true])
    queries = [f"q{q:04d}" for q in range(len(y_true))]  # ranx sorts them by name
    qrels = [{f"i{n}": 1 for n in row} for row in y_true]
    run = [{f"i{n}": 1 / (1 + rank) for rank, n in enumerate(row)} for row in y_pred]
    theirs = {"hit": "hit_rate"}
    names = {(m, k): f"{theirs.get(m, m)}@{k}" for m in METRICS for k in (1, 3, 10, 30)}
    given = [dict(zip(queries, rows, strict=True)) for rows in (qrels, run)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RANX],
        input=json.dumps([*given, list(names.values())]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    n_relevant = np.array([len(row) for row in y_true])
    for (metric, k), name in names.items():
        expected = np.array(scores[name])
        if metric == "map":  # ranx divides by all relevant items, however small k is
            expected = expected * n_relevant / np.minimum(n_relevant, k)
        ours = FUNCTIONS[metric](y_true, y_pred, k, average=False)
        np.testing.assert_allclose(ours, expected, err_msg=name)
