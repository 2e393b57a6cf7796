"""Weights by the name of their column, wherever events go."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=20, n_items=12, n_events=200, random_state=0)[
    ["user_id", "item_id", "timestamp"]
].assign(weight=lambda events: np.arange(len(events)) % 3)
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 1, "random_state": 0}


def make_pipe(retriever=None, **params):
    retriever = retriever or DSSMRetriever(**SMALL)
    return make_match_pipeline(MatchEncoder(**params), SequenceSampler(), retriever)


def expected(**params):
    plain = EVENTS.drop(columns="weight")
    return make_pipe(**params).fit(plain, dssmretriever__sample_weight=EVENTS["weight"])


@pytest.mark.parametrize("form", ["frame", "parquet", "pandas output"])
def test_a_column_of_weights_trains_as_sample_weight_does(form, tmp_path):
    pipe = make_pipe(weight="weight")
    source = EVENTS
    if form == "parquet":
        source = tmp_path / "events.parquet"
        EVENTS.to_parquet(source)
    if form == "pandas output":
        pipe.set_output(transform="pandas")
    pipe.fit(source)
    np.testing.assert_array_equal(pipe[-1].item_vectors_, expected()[-1].item_vectors_)
    np.testing.assert_array_equal(pipe[-1].counts_, expected()[-1].counts_)


def test_partial_fit_reads_the_column():
    pipe, other = make_pipe(weight="weight").fit(EVENTS), expected()
    news = EVENTS[:9].assign(timestamp=lambda events: events["timestamp"] + 10**9)
    pipe.partial_fit(news)
    other.partial_fit(news.drop(columns="weight"), sample_weight=news["weight"])
    np.testing.assert_array_equal(pipe[-1].item_vectors_, other[-1].item_vectors_)
    pipe.observe(news.drop(columns="weight"))
    with pytest.raises(ValueError, match="weight column 'weight' is missing"):
        pipe.partial_fit(news.drop(columns="weight"))


def test_weights_multiply():
    both = make_pipe(PopularityRetriever(), weight="weight")
    half = np.full(len(EVENTS), 0.5)
    both.fit(EVENTS, popularityretriever__sample_weight=half)
    alone = make_pipe(PopularityRetriever(), weight="weight").fit(EVENTS)
    np.testing.assert_allclose(both[-1].counts_, alone[-1].counts_ / 2)


def test_members_of_a_fusion_count_a_weight_once():
    fusion = make_pipe(FusionRetriever([("one", PopularityRetriever())]), weight="weight")
    alone = make_pipe(PopularityRetriever(), weight="weight").fit(EVENTS)
    member = fusion.fit(EVENTS)[-1].retrievers_[0]
    np.testing.assert_array_equal(member.counts_, alone[-1].counts_)


def test_an_event_of_weight_0_is_history_and_seen_but_no_target():
    events = pd.DataFrame(
        {"user_id": ["ann", "ann", "bob"], "item_id": ["tea", "jam", "rye"], "weight": [1, 0, 1]}
    )
    pipe = make_pipe(PopularityRetriever(), weight="weight").fit(events)
    assert dict(zip(pipe[-1].item_ids_, pipe[-1].counts_, strict=True)) == {
        "tea": 1, "jam": 0, "rye": 1,
    }  # fmt: skip
    assert pipe.recommend(["ann"])["item_id"].tolist() == ["rye"]
    assert pipe[:-1].transform(events[:1]).decode()["history"].tolist() == [["tea", "jam"]]


def test_a_search_splits_weights_with_their_events():
    pipe = make_pipe(PopularityRetriever(), weight="weight")
    grid = {"matchencoder__weight": [None, "weight"]}
    search = GridSearchCV(pipe, grid, scoring=make_topk_scorer("ndcg", k=3), cv=LeaveLastOut())
    search.fit(EVENTS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_the_schema_names_the_role():
    schema = MatchEncoder(weight="weight").fit(EVENTS).schema_
    assert schema.weight == "weight"
    assert schema.to_frame().set_index("role").loc["weight", "column"] == "weight"
    assert "weight 'weight'" in repr(schema)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1.0, "weight column 'weight' holds -1.0 in row 3"),
        (np.nan, "weight column 'weight' holds nan in row 3"),
        ("much", r"weight column 'weight' holds a value that is not a number.*X\['kind'\]\.map"),
    ],
)
def test_a_wrong_weight_is_named(weight, message):
    cells = EVENTS["weight"].astype(object)
    cells[3] = weight
    with pytest.raises(ValueError, match=message):
        make_pipe(weight="weight").fit(EVENTS.assign(weight=cells))


def test_weights_by_kind_need_a_column():
    with pytest.raises(TypeError, match=r"weight=\{'view': 0.1\} is not the name .*\.map\("):
        make_pipe(weight={"view": 0.1}).fit(EVENTS)


def test_the_column_has_one_role():
    with pytest.raises(ValueError, match="'item_id' has another role"):
        make_pipe(weight="item_id").fit(EVENTS)
    with pytest.raises(ValueError, match="'weight' is also the weight column"):
        make_pipe(weight="weight", user_features=["weight"]).fit(EVENTS)
    with pytest.raises(ValueError, match="weight column 'weight' is zero in every row"):
        make_pipe(weight="weight").fit(EVENTS.assign(weight=0))
