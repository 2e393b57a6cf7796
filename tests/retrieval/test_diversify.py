"""`diversify`: against maximal marginal relevance item by item, and its rules."""

import numpy as np
import pandas as pd
import pytest
from contract import EVENTS, make_steps

from skmatch import DSSMRetriever, PopularityRetriever, diversify, make_match_pipeline

SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 1, "random_state": 0}
ITEMS = EVENTS.drop_duplicates("item_id").set_index("item_id")


@pytest.fixture(scope="module")
def pipe():
    return make_match_pipeline(*make_steps(DSSMRetriever(**SMALL))).fit(EVENTS)


@pytest.fixture(scope="module")
def found(pipe):
    return pipe.recommend(k=15)


def plain(rows, similarity, k, weight):
    """Choose items one by one."""
    score = (rows["score"] - rows["score"].min()) / np.ptp(rows["score"])
    left, chosen = rows["item_id"].tolist(), []
    score = dict(zip(left, score, strict=True))
    while left and len(chosen) < k:
        best = max(
            left,
            key=lambda item: (
                (1 - weight) * score[item]
                - weight * max([0.0, *(similarity(item, other) for other in chosen)])
            ),
        )
        left.remove(best)
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("max_dense", [0, 128])
@pytest.mark.parametrize("by", ["vectors", "tags"])
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_it_is_maximal_marginal_relevance(pipe, found, by, weight, max_dense, monkeypatch):
    monkeypatch.setattr("skmatch.retrieval._diversify.MAX_DENSE", max_dense)
    tags = {item: set(text.split("|")) for item, text in ITEMS["tags"].astype(str).items()}
    place = {item: i for i, item in enumerate(pipe[-1].item_ids_)}
    vectors = pipe[-1].item_vectors_

    def similarity(a, b):
        if by == "tags":
            return len(tags[a] & tags[b]) / np.sqrt(len(tags[a]) * len(tags[b]))
        return float(vectors[place[a]] @ vectors[place[b]])

    feature = "tags" if by == "tags" else None
    lists = diversify(found, pipe, 6, weight=weight, feature=feature)
    assert list(lists.columns) == list(found.columns)
    for user, rows in lists.groupby("user_id"):
        own = found[found["user_id"] == user]
        if weight < 1:  # else ties
            assert rows["item_id"].tolist() == plain(own, similarity, 6, weight)
        assert rows["rank"].tolist() == list(range(1, min(6, len(own)) + 1))


def test_rows_may_have_been_dropped(pipe, found):
    kept = found[(found["rank"] > 1) | (found["user_id"] == found["user_id"].iloc[0])]
    lists = diversify(kept, pipe, 6)
    for user, rows in kept.groupby("user_id"):
        own = lists[lists["user_id"] == user].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, diversify(rows, pipe, 6))
    with pytest.raises(ValueError, match="not in order: sort it by 'user_id' and 'rank'"):
        diversify(found.sort_values("score"), pipe)


def test_categories_are_capped(pipe, found):
    lists = diversify(found, pipe, 8, weight=0, feature=ITEMS["category"], max_per_value=2)
    category = lists["item_id"].map(ITEMS["category"])
    assert lists.groupby(["user_id", category], observed=True).size().max() == 2
    for _, rows in lists.groupby("user_id"):
        assert rows["score"].is_monotonic_decreasing


def test_a_quota_of_new_items():
    counts = pd.Series({"a": 5, "b": 3, "c": 2})
    events = pd.DataFrame({"item_id": counts.index.repeat(counts)})
    events["user_id"] = range(len(events))
    items = pd.DataFrame({"item_id": ["x", "y"], "kind": "new"})
    catalogue = pd.concat([pd.DataFrame({"item_id": list("abc"), "kind": "old"}), items])
    steps = make_steps(PopularityRetriever())
    steps[0].set_params(user_features=[], item_features=["kind"], kinds=None)
    pipe = make_match_pipeline(*steps).fit(events, matchencoder__items=catalogue.head(3))
    pipe.add_items(items)
    found = pipe.recommend(["nobody"], k=5)
    kind = catalogue.set_index("item_id")["kind"]
    lists = diversify(found, pipe, 3, weight=0, feature=kind, min_new=1)
    assert lists["item_id"].tolist() == ["a", "b", "x"]
    lists = diversify(found, pipe, 3, weight=0, feature=kind, min_new=9)
    assert set(lists["item_id"]) >= {"x", "y"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 2}, "weight=2 must be a number from 0 to 1"),
        ({"k": 0}, "k=0"),
        ({"min_new": -1}, "min_new=-1"),
        ({"max_per_value": 2}, "max_per_value=2 needs categories"),
        ({"feature": "price"}, "'price' holds numbers with fractions"),
    ],
)
def test_bad_input_is_named(pipe, found, options, message):
    with pytest.raises(ValueError, match=message):
        diversify(found, pipe, **options)


def test_what_is_no_recommendation_is_named(pipe, found):
    with pytest.raises(ValueError, match="column 'rank' is missing"):
        diversify(found.drop(columns="rank"), pipe)
    with pytest.raises(ValueError, match="item -3 is not in the catalogue"):
        diversify(found.assign(item_id=-3), pipe)
    assert diversify(found[:0], pipe).empty
