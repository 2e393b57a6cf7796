"""The contract of every retriever."""

import re
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 256, "random_state": 0}
RETRIEVERS = [PopularityRetriever(), DSSMRetriever(**SMALL), YoutubeDNNRetriever(**SMALL)]
EVENTS = make_events(n_users=60, n_items=40, n_events=1500, random_state=0)
EVENTS["user_id"] = "u" + EVENTS["user_id"].astype(str)


def make_pipe(retriever):
    encoder = MatchEncoder(
        user_features=["segment", "age"],
        item_features=["category", "price", "tags"],
        kinds={"tags": "multi_valued"},
    )
    return make_match_pipeline(encoder, SequenceSampler(max_length=10), retriever)


@pytest.fixture(params=RETRIEVERS, ids=lambda retriever: type(retriever).__name__, scope="module")
def pipe(request):
    return make_pipe(clone(request.param)).fit(EVENTS)


def seen_by(user):
    return set(EVENTS.loc[EVENTS["user_id"] == user, "item_id"])


def test_recommend_returns_k_unseen_items_with_the_original_ids(pipe):
    table = pipe.recommend(k=5)
    assert list(table.columns) == ["user_id", "item_id", "score", "rank", "source"]
    assert table["user_id"].dtype == EVENTS["user_id"].dtype
    assert table["item_id"].dtype == EVENTS["item_id"].dtype
    for user, rows in table.groupby("user_id"):
        n_left = EVENTS["item_id"].nunique() - len(seen_by(user))
        assert rows["rank"].tolist() == list(range(1, min(5, n_left) + 1))
        assert rows["item_id"].is_unique
        assert not set(rows["item_id"]) & seen_by(user)
        assert rows["score"].is_monotonic_decreasing


def test_predict_and_transform_return_one_row_per_query(pipe):
    queries = EVENTS[:7]
    assert pipe.predict(queries, k=4).shape == (7, 4)
    vectors = pipe.transform(queries)
    assert vectors.shape == (7, pipe[-1].item_vectors_.shape[1])
    assert vectors.dtype == np.float32


def test_an_unknown_user_gets_popular_items(pipe):
    top = EVENTS["item_id"].value_counts()
    table = pipe.recommend(["nobody"], k=3)
    assert table["user_id"].tolist() == ["nobody"] * 3
    assert [top[item] for item in table["item_id"]] == top.head(3).tolist()


def test_exclude_seen_can_be_set_per_call(pipe):
    everything = pipe.recommend(EVENTS["user_id"][:1], k=1000, exclude_seen=False)
    assert set(everything["item_id"]) == set(EVENTS["item_id"])


def test_similar_items_never_hold_the_item_itself(pipe):
    table = pipe.similar_items(EVENTS["item_id"].unique()[:5], k=3)
    assert len(table) == 15
    assert (table["item_id"] != table["similar"]).all()


def test_same_seed_same_result_and_no_global_state(pipe):
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    again = clone(pipe).fit(EVENTS)
    np.testing.assert_array_equal(again[-1].item_vectors_, pipe[-1].item_vectors_)
    pd.testing.assert_frame_equal(again.recommend(k=5), pipe.recommend(k=5))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == n_threads


def test_input_is_never_changed(pipe):
    before = EVENTS.copy(deep=True)
    clone(pipe).fit(EVENTS).predict(EVENTS[:5])
    pd.testing.assert_frame_equal(EVENTS, before)


def test_score_equals_the_scorer(pipe):
    train, test = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))
    fitted = clone(pipe).fit(train)
    assert fitted.score(test) == pytest.approx(make_topk_scorer("ndcg", k=10)(fitted, test))


def test_a_saved_pipeline_recommends_the_same_in_a_new_process(pipe, tmp_path):
    path, table = tmp_path / "pipe.joblib", tmp_path / "table.pkl"
    joblib.dump(pipe, path)
    code = "import sys, joblib; joblib.load(sys.argv[1]).recommend(k=3).to_pickle(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(path), str(table)], check=True)
    pd.testing.assert_frame_equal(pd.read_pickle(table), pipe.recommend(k=3))


def test_pandas_output_of_all_steps_changes_nothing(pipe):
    framed = clone(pipe).set_output(transform="pandas").fit(EVENTS)
    np.testing.assert_array_equal(framed.predict(EVENTS[:9]), pipe.predict(EVENTS[:9]))
    assert list(framed.transform(EVENTS[:2]).columns) == list(pipe[-1].get_feature_names_out())


def test_plain_events_need_no_other_step(pipe):
    events = EVENTS[["user_id", "item_id", "timestamp"]]
    alone = clone(pipe[-1]).fit(events)
    assert len(alone.recommend([events["user_id"][0]], k=2)) == 2
    np.testing.assert_array_equal(
        clone(pipe[-1]).fit(events.to_numpy()).predict(events.to_numpy()[:3]),
        alone.predict(events[:3]),
    )


def test_not_fitted():
    for retriever in RETRIEVERS:
        with pytest.raises(NotFittedError):
            retriever.recommend(["u1"])


def expected_failed_checks(estimator):
    failed = {
        "check_estimators_pickle": "puts missing values into the time, which has no order then; "
        "features may miss values, times and ids may not",
    }
    if isinstance(estimator, SequenceSampler):
        why = "fit_transform and transform differ by design, as in TargetEncoder"
        failed |= {"check_transformer_general": why, "check_transformer_data_not_an_array": why}
    if isinstance(estimator, tuple(type(retriever) for retriever in RETRIEVERS)):
        failed |= {
            "check_sample_weights_pandas_series": "its frame has no columns user_id and item_id",
            "check_sample_weight_equivalence_on_dense_data": "a weight is how much an event counts "
            "as a target; without any it still is in its user's history and in the catalogue",
        }
    return failed


@parametrize_with_checks(
    [MatchEncoder(), MatchEncoder(user=0, item=1, time=2), SequenceSampler(), *RETRIEVERS],
    expected_failed_checks=expected_failed_checks,
    xfail_strict=True,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("retriever", RETRIEVERS, ids=lambda retriever: type(retriever).__name__)
def test_documented_attributes_exist_and_parameters_are_untouched(retriever):
    fitted = clone(retriever)
    assert fitted.fit(EVENTS) is fitted
    attributes = type(fitted).__doc__.split("Attributes\n")[1].split("\n\n    ")[0]
    names = re.findall(r"^    (\w+_) :", attributes, re.MULTILINE)
    assert {"item_vectors_", "item_ids_", "schema_", "feature_names_in_"} <= set(names)
    for name in names:
        assert hasattr(fitted, name), name
    assert fitted.get_params() == retriever.get_params()


def test_importing_skmatch_loads_nothing_else_and_popularity_needs_no_torch():
    code = (
        "import sys, importlib, typing; before = set(sys.modules); import skmatch;"
        "assert set(sys.modules) - before == {'skmatch', 'skmatch._version'};"
        "import skmatch.retrieval; skmatch.PopularityRetriever;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
