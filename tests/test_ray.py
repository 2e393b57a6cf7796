"""A search on Ray with two worker processes finds the same as in one process."""

import joblib
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV, cross_validate

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

ray = pytest.importorskip("ray", reason="needs ray, which no extra installs: pip install ray")
EVENTS = make_events(n_users=60, n_items=300, n_events=1200, random_state=0)
SCORER = make_topk_scorer(["recall", "ndcg"], k=[5, 10])


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Start Ray with two processors."""
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=10**8)
    register_ray()
    yield
    ray.shutdown()


def run(kind):
    retriever = DSSMRetriever(embedding_dim=4, dims=(8, 4), max_epochs=1, random_state=0)
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(max_length=5), retriever)
    options = {"cv": LeaveLastOut(n_splits=2), "scoring": SCORER}
    if kind == "cross_validate":
        results = cross_validate(pipe, EVENTS, **options)
    else:
        grid = {"dssmretriever__temperature": [0.05, 0.1, 0.2]}
        results = GridSearchCV(pipe, grid, refit="ndcg_at_10", **options).fit(EVENTS).cv_results_
    return pd.DataFrame({name: values for name, values in results.items() if "test_" in name})


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*")
@pytest.mark.parametrize("kind", ["GridSearchCV", "cross_validate"])
def test_a_search_is_the_same_on_ray(kind):
    with joblib.parallel_config(backend="ray", n_jobs=2):
        there = run(kind)
    pd.testing.assert_frame_equal(there, run(kind), check_exact=True)
