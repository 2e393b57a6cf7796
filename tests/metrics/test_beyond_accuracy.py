"""Metrics beyond accuracy: against plain loops, in `evaluate`, by groups and in comparisons."""

import itertools
from collections import Counter
from math import isnan, log, log2, nan

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV

from skmatch import (
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    evaluate,
    make_match_pipeline,
    make_topk_scorer,
    metrics,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=40, n_events=900, random_state=0)
TRAIN, TEST = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))
ITEMS = EVENTS.drop_duplicates("item_id").set_index("item_id")
ITEMS["tags"] = ITEMS["tags"].astype(str).str.split("|")
BEYOND = [
    *("novelty", "popularity_lift", "new_items", "serendipity"),
    *("diversity", "miscalibration", "coverage", "gini"),
]


def cosine(a, b):
    return len(a & b) / (len(a) * len(b)) ** 0.5


def plain(name, lists, truth, histories, tags, k):
    """Compute a metric of each list, or of all, item by item."""
    counts = Counter(TRAIN["item_id"])
    lists = [[item for item in row[:k] if item is not None] for row in lists]
    if name == "coverage":
        return len(set(itertools.chain(*lists))) / len(tags)
    if name == "gini":
        exposure = Counter(itertools.chain(*lists))
        values = [exposure[item] for item in tags]
        pairs = sum(abs(a - b) for a in values for b in values)
        return pairs / (2 * len(values) * sum(values))
    ranks = sorted(tags, key=lambda item: -counts[item])
    mean = sum(n * n for n in counts.values()) / len(TRAIN)

    def one(row, wanted, history):
        if name == "novelty":
            return np.mean([-log2(max(counts[i], 1) / len(TRAIN)) for i in row])
        if name == "popularity_lift":
            return np.mean([counts[i] for i in row]) / mean
        if name == "new_items":
            return np.mean([counts[i] == 0 for i in row])
        if name == "serendipity":
            surprise = [max(ranks.index(i) - j, 0) for j, i in enumerate(row) if i in wanted]
            return sum(surprise) / len(tags) / k
        if name == "diversity":
            pairs = [1 - cosine(tags[a], tags[b]) for a, b in itertools.combinations(row, 2)]
            return np.mean(pairs) if pairs else nan
        shares = []
        for items in (history, row):
            share = Counter()
            for item in items:
                share.update(dict.fromkeys(tags[item], 1 / len(tags[item]) / len(items)))
            shares.append(share)
        p, q = shares
        return sum(p[t] * log(p[t] / (0.99 * q[t] + 0.01 * p[t])) for t in p) if p else nan

    return [one(*row) for row in zip(lists, truth, histories, strict=True)]


@pytest.fixture(scope="module")
def pipe():
    encoder = MatchEncoder(item_features=["category", "tags"], kinds={"tags": "multi_valued"})
    return make_match_pipeline(encoder, SequenceSampler(), ItemToItemRetriever()).fit(TRAIN)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("name", BEYOND)
def test_evaluate_the_functions_and_plain_loops_agree(pipe, name, k):
    users = TEST["user_id"].tolist()
    lists = pipe.predict(TEST[["user_id", "timestamp"]], k=7).tolist()
    truth = [{item} for item in TEST["item_id"]]
    past = TRAIN.groupby("user_id")["item_id"].agg(list)
    histories = [past.get(user, []) for user in users]
    tags = {item: set(ITEMS["tags"][item]) for item in pipe[-1].item_ids_}
    expected = plain(name, lists, truth, histories, tags, k)
    feature = "tags" if name in ("diversity", "miscalibration") else None
    table = evaluate(pipe, TEST, name, [7, k], feature=feature)
    assert table.loc[table["k"] == k, "value"].item() == pytest.approx(np.nanmean(expected))

    options = {
        "diversity": {"feature": ITEMS["tags"]},
        "miscalibration": {"feature": ITEMS["tags"], "histories": histories},
        "coverage": {"catalogue": pipe[-1].item_ids_},
        "gini": {"catalogue": pipe[-1].item_ids_},
    }.get(name, {"events": TRAIN["item_id"]})
    given = (truth, lists) if name == "serendipity" else (lists,)
    function = getattr(metrics, f"{name}_at_k")
    if name in ("coverage", "gini"):
        assert function(*given, k, **options) == pytest.approx(expected)
    else:
        found = function(*given, k, **options, average=False)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        own = evaluate(pipe, TEST, name, k, feature=feature, average=False)[f"{name}_at_{k}"]
        np.testing.assert_allclose(own, expected, atol=1e-12)


def test_extremes():
    one, other = pd.DataFrame({"x": [1.0, 2], "y": [0.0, 0]}), pd.DataFrame(np.eye(2))
    assert metrics.diversity_at_k([[0, 1]], 2, feature=one) == pytest.approx(0)
    assert metrics.diversity_at_k([[0, 1]], 2, feature=other) == 1
    assert isnan(metrics.diversity_at_k([[0, None]], 2, feature=other))
    assert metrics.gini_at_k([[0], [1], [2]], 1, catalogue=[0, 1, 2]) == 0
    same = metrics.miscalibration_at_k([[1, 0]], 2, histories=[[0, 1]], feature=other)
    assert same == pytest.approx(0)
    assert metrics.overlap_at_k([[1, 2, 3]], [[3, 4, None]], 3) == pytest.approx(1 / 3)
    popular = [["a", "b"]] * 3
    events = list("aaabbc")
    assert metrics.serendipity_at_k([["a"], ["b"], ["c"]], popular, 2, events=events) == 0


def test_popularity_is_more_popular_and_less_diverse_than_transitions(pipe):
    popular = make_match_pipeline(*pipe[:2], PopularityRetriever()).fit(TRAIN)
    table = metrics.compare(
        pipe, popular, TEST, ["popularity_lift", "novelty", "coverage"], random_state=0
    ).set_index("metric")
    assert table["difference"]["popularity_lift"] < 0 < table["difference"]["novelty"]
    assert table["difference"]["coverage"] > 0
    assert table["low"]["novelty"] <= table["difference"]["novelty"] <= table["high"]["novelty"]
    assert table.loc["coverage", ["low", "high"]].isna().all()
    assert 0 < table["overlap"]["coverage"] < 1


def test_a_retriever_does_not_differ_from_itself(pipe):
    table = metrics.compare(pipe, pipe, TEST, ["ndcg", "gini"], [3, 9], random_state=0)
    assert (table["difference"] == 0).all()
    assert (table["overlap"] == 1).all()
    assert (table.loc[table["metric"] == "ndcg", ["low", "high"]] == 0).all(axis=None)


def test_the_interval_of_a_difference_is_narrower_than_of_the_scores(pipe):
    """Users who are easy for one retriever are easy for the other."""
    near = make_match_pipeline(*pipe[:2], ItemToItemRetriever(half_life=2.0)).fit(TRAIN)
    paired = metrics.compare(pipe, near, TEST, "ndcg", random_state=0).iloc[0]
    alone = evaluate(pipe, TEST, "ndcg", confidence=0.95, random_state=0).iloc[0]
    assert paired["high"] - paired["low"] < (alone["high"] - alone["low"]) / 2


def test_groups_are_the_users_apart(pipe):
    test = pd.concat([TEST, TEST.head(5).assign(user_id=range(9000, 9005))], ignore_index=True)
    names = ["recall", "novelty", "coverage"]
    table = evaluate(pipe, test, names, by="activity", confidence=0.9, random_state=0)
    assert table["activity"].tolist() == [
        level for level in ("new", "light", "heavy") for _ in names
    ]
    assert table.loc[0, "n_queries"] == table.loc[0, "n_unknown_users"] == 5
    for column in ("segment", test.drop_duplicates("user_id").set_index("user_id")["segment"]):
        groups = evaluate(pipe, test, names, by=column)
        for segment, rows in groups.groupby("segment"):
            own = test[test["segment"] == segment]
            expected = evaluate(pipe, own, names)
            np.testing.assert_allclose(rows["value"], expected["value"])
    assert groups["n_queries"].sum() == len(names) * test["user_id"].nunique()


def test_groups_do_not_depend_on_the_order_of_rows(pipe):
    test = TRAIN.assign(label=(np.arange(len(TRAIN)) % 3).astype(str))  # differs within users
    shuffled = test.sample(frac=1, random_state=0)
    table, other = (evaluate(pipe, rows, "ndcg", by="label") for rows in (test, shuffled))
    pd.testing.assert_frame_equal(
        table.sort_values("label", ignore_index=True), other.sort_values("label", ignore_index=True)
    )


def test_a_column_comes_before_the_groups_by_activity(pipe):
    table = evaluate(pipe, TEST.assign(activity="all"), "recall", by="activity")
    assert table["activity"].tolist() == ["all"]


def test_a_search_reads_all_metrics(pipe):
    scorer = make_topk_scorer(["ndcg", "coverage", "diversity"], feature="category")
    search = GridSearchCV(
        pipe, {"itemtoitemretriever__window": [1, 10]}, scoring=scorer, refit="coverage_at_10",
        cv=LeaveLastOut(), error_score="raise",
    ).fit(TRAIN)  # fmt: skip
    assert {"mean_test_coverage_at_10", "mean_test_diversity_at_10"} <= set(search.cv_results_)
    assert evaluate(search, TEST, "coverage")["value"][0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "diversity"}, "'diversity' and 'miscalibration' need a feature"),
        ({"metrics": "ndcg", "feature": "tags"}, "the others none"),
        (
            {"metrics": "diversity", "feature": "colour"},
            "'colour' is not an item feature.*fit again",
        ),
        ({"metrics": "diversity", "feature": ["tags"]}, "feature is a list"),
        (
            {"metrics": "diversity", "feature": ITEMS["price"]},
            "'price' holds numbers with fractions",
        ),
        ({"metrics": "diversity", "feature": ITEMS[["tags"]]}, "not all of them numbers"),
        (
            {"metrics": "miscalibration", "feature": -ITEMS[["price"]]},
            "vectors with negative numbers",
        ),
        ({"metrics": "diversity", "feature": pd.Series(["a"], ["x"])}, "holds no item"),
        ({"metrics": "ndcg", "by": "city"}, "The by column 'city' is missing"),
        ({"metrics": "ndcg", "by": "segment", "average": False}, "need averages"),
        ({"metrics": "ndcg", "by": "k"}, "by has the name 'k', which is also a column that eval"),
        ({"metrics": "ndcg", "by": "lists"}, r"groups 'lists' cannot be told apart \(unhashable"),
        ({"metrics": "ndcg", "by": {1: "a"}}, "by is a dict: pass the label of a column"),
        ({"metrics": "ndcg", "by": pd.Series([1, 2], [-1, -2])}, "holds no user"),
        ({"metrics": "entropy"}, "'entropy' is unknown"),
    ],
)
def test_bad_input_is_named(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(pipe, TEST.assign(k=1, lists=[[]] * len(TEST)), **options)


def test_functions_name_what_they_cannot_read():
    for call, message in [
        (lambda: metrics.novelty_at_k([["a"]], 1, events=[]), "events is empty"),
        (lambda: metrics.coverage_at_k([["a"]], 1, catalogue=["b"]), "'a', which is not in"),
        (lambda: metrics.gini_at_k([["a"]], 2, catalogue=["a"]), "k=2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="feature is a str"):
        metrics.diversity_at_k([["a"]], 1, feature="kind")
