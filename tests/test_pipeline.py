"""Pipelines, plain ones and `MatchPipeline`, and what scikit-learn does with them."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 1, "batch_size": 256, "random_state": 0}
EVENTS = make_events(n_users=40, n_items=30, n_events=800, random_state=0)


def steps(**parameters):
    return MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL | parameters)


@pytest.fixture(scope="module")
def pipe():
    return make_match_pipeline(*steps()).fit(EVENTS)


def test_a_plain_pipeline_answers_like_a_match_pipeline(pipe):
    plain = make_pipeline(*steps()).fit(EVENTS)
    np.testing.assert_array_equal(plain.predict(EVENTS[:9], k=4), pipe.predict(EVENTS[:9], k=4))
    np.testing.assert_array_equal(plain.transform(EVENTS[:9]), pipe.transform(EVENTS[:9]))
    assert plain.score(EVENTS[-9:]) == pipe.score(EVENTS[-9:])


def test_users_may_be_a_list_an_array_a_series_a_frame_or_all(pipe):
    users = EVENTS["user_id"].drop_duplicates()
    expected = pipe.recommend(users[:5].tolist(), k=3)
    for queries in (users[:5].to_numpy(), users[:5], users[:5].to_frame()):
        pd.testing.assert_frame_equal(pipe.recommend(queries, k=3), expected)
    everyone = pipe.recommend(k=3)
    assert set(everyone["user_id"]) == set(users)
    expected = everyone[everyone["user_id"].isin(users[:5])].reset_index(drop=True)
    pd.testing.assert_frame_equal(pipe.recommend(users[:5].tolist(), k=3), expected)


def test_nobody_asked_nothing_answered(pipe):
    answer = pipe.recommend([])
    assert answer.shape == (0, 5)
    assert pipe.predict(EVENTS[:0]).shape == (0, 10)


def test_two_jobs_search_like_one():
    grid = {"sequencesampler__neg_ratio": [1, 3], "dssmretriever__dims": [(8,), (16, 8)]}
    scores = []
    for n_jobs in (1, 2):
        search = GridSearchCV(
            make_match_pipeline(*steps()), grid, cv=LeaveLastOut(),
            scoring=make_topk_scorer("ndcg", k=10), n_jobs=n_jobs,
        ).fit(EVENTS)  # fmt: skip
        scores.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*scores)


def test_memory_changes_nothing_and_is_read(pipe, tmp_path):
    for _ in range(2):  # the second fit reads what the first has stored
        cached = make_match_pipeline(*steps(), memory=str(tmp_path)).fit(EVENTS)
        np.testing.assert_array_equal(cached.predict(EVENTS[:9]), pipe.predict(EVENTS[:9]))
    assert len(list(tmp_path.rglob("output.pkl"))) == 2


@pytest.mark.parametrize("routing", [False, True])
def test_weights_reach_the_retriever(routing):
    weight = np.where(EVENTS["item_id"] == EVENTS["item_id"][0], 1.0, 0.0)
    with config_context(enable_metadata_routing=routing):
        if routing:
            retriever = PopularityRetriever().set_fit_request(sample_weight=True)
            name = "sample_weight"
        else:
            retriever, name = PopularityRetriever(), "popularityretriever__sample_weight"
        pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever)
        pipe.fit(EVENTS, **{name: weight})
        assert pipe.predict(pd.DataFrame({"user_id": [-1]}), k=1) == EVENTS["item_id"][0]


def test_an_item_that_only_the_table_knows_can_be_found():
    items = EVENTS[["item_id", "category"]].drop_duplicates("item_id")
    items = pd.concat([items, items[:1].assign(item_id=999)], ignore_index=True)
    encoder = MatchEncoder(item_features=["category"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), DSSMRetriever(**SMALL))
    pipe.fit(EVENTS, matchencoder__items=items)
    assert 999 in pipe.recommend(EVENTS["user_id"][:1], k=1000)["item_id"].tolist()


def test_times_ask_as_of_then(pipe):
    user = EVENTS["user_id"].mode()[0]
    own = EVENTS[EVENTS["user_id"] == user].reset_index(drop=True)
    queries = pd.DataFrame({"user_id": user, "timestamp": own["timestamp"][[1, len(own) - 1]]})
    answer = pipe.recommend(queries, k=1000)
    n_items = len(pipe[-1].item_ids_)
    seen = [own["item_id"][:1].nunique(), own["item_id"][:-1].nunique()]
    assert len(answer) == 2 * n_items - sum(seen)


def test_a_pipeline_that_ends_in_a_search_recommends_and_grows():
    search = GridSearchCV(
        PopularityRetriever(), {"exclude_seen": [True, False]}, scoring=lambda *_: 0.0, cv=2
    )
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), search)
    assert not hasattr(pipe, "observe")
    pipe.fit(EVENTS)
    top = EVENTS["item_id"].value_counts().index[0]
    assert pipe.recommend([-1], k=1)["item_id"].tolist() == [top]
    pipe.observe(pd.DataFrame({"user_id": [-1], "item_id": [top], "timestamp": [10**12]}))
    assert top not in set(pipe.recommend([-1], k=1000)["item_id"])
