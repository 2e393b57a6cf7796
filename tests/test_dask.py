"""A Dask cluster of two worker processes: searches, and recommendations to many users."""

import os
import signal
import sys
import time
from itertools import chain
from pathlib import Path

import joblib
import numpy as np
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

distributed = pytest.importorskip("distributed", reason="needs distributed: the extra 'test'")
dd = pytest.importorskip("dask.dataframe", reason="needs dask.dataframe: the extra 'test'")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from score_dask import score  # noqa: E402

EVENTS = make_events(n_users=60, n_items=300, n_events=1200, random_state=0)
SPLITS = list(LeaveLastOut(n_splits=2).split(EVENTS))
SCORER = make_topk_scorer(["recall", "ndcg"], k=[5, 10])
TEMPERATURES = [0.05, 0.1, 0.2]
# SKMATCH_TEST_USERS=1000000 shows that memory does not grow with the number of users.
N_USERS = int(os.environ.get("SKMATCH_TEST_USERS", 50_000))
USERS_PER_PART = 2000
K = 100


@pytest.fixture(scope="module")
def client():
    """Start two workers of one thread each, which keep every copy of what is sent to both."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.amm.stop()  # it would leave one copy, which is lost with its worker
        yield client


def make_pipe():
    retriever = DSSMRetriever(embedding_dim=4, dims=(8, 4), max_epochs=1, random_state=0)
    encoder = MatchEncoder(user_features=["segment"], item_features=["category"])
    return make_match_pipeline(encoder, SequenceSampler(max_length=5), retriever)


def search(scoring=SCORER):
    grid = {"dssmretriever__temperature": TEMPERATURES}
    search = GridSearchCV(make_pipe(), grid, cv=SPLITS, scoring=scoring, refit="ndcg_at_10")
    return search.fit(EVENTS)


def on_dask():
    return joblib.parallel_config(backend="dask", scatter=[EVENTS, *chain.from_iterable(SPLITS)])


def scores_of(results):
    """Return all scores of a search or cross-validation without its times."""
    return pd.DataFrame({name: values for name, values in results.items() if "test_" in name})


class FatalScorer:
    """Scores, but the first process to score the last candidate is killed, once."""

    def __init__(self, marker):
        self.marker = marker

    def __call__(self, pipe, X, y=None):
        if pipe[-1].temperature == TEMPERATURES[-1] and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return SCORER(pipe, X, y)


@pytest.fixture(scope="module")
def local():
    return search()


def test_a_search_is_the_same_on_dask(client, local):
    with on_dask():
        there = search()
    assert len(scores_of(local.cv_results_).drop_duplicates()) > 1
    pd.testing.assert_frame_equal(
        scores_of(there.cv_results_), scores_of(local.cv_results_), check_exact=True
    )
    np.testing.assert_array_equal(there.predict(EVENTS[:20]), local.predict(EVENTS[:20]))


def test_cross_validation_is_the_same_on_dask(client):
    here = cross_validate(make_pipe(), EVENTS, cv=SPLITS, scoring=SCORER)
    with on_dask():
        there = cross_validate(make_pipe(), EVENTS, cv=SPLITS, scoring=SCORER)
    pd.testing.assert_frame_equal(scores_of(there), scores_of(here), check_exact=True)


def test_a_killed_worker_does_not_lose_the_search(client, local, tmp_path):
    before = set(client.run(os.getpid).values())
    with on_dask():
        there = search(FatalScorer(tmp_path / "killed"))
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(os.getpid).values()) != before
    pd.testing.assert_frame_equal(
        scores_of(there.cv_results_), scores_of(local.cv_results_), check_exact=True
    )


def users_of(part):
    """Return a partition of users: a few known ones, the others with features."""
    ids = np.arange(part * USERS_PER_PART, (part + 1) * USERS_PER_PART)
    return pd.DataFrame({"user_id": ids, "segment": EVENTS["segment"].array[ids % len(EVENTS)]})


def size_of(tables):
    """Return the numbers of users and bytes of a partition of recommendations."""
    size = tables.memory_usage(deep=True).sum()
    return pd.DataFrame({"users": [tables["user_id"].nunique()], "bytes": [size]})


def reset_peak():
    """Reset the peak memory of the process and return its current memory."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak():
    """Return the peak memory of the process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's peaks")
def test_many_users_take_bounded_memory(client, local, tmp_path):
    path = tmp_path / "pipe.joblib"
    joblib.dump(local.best_estimator_, path)
    parts = range(N_USERS // USERS_PER_PART)
    users = dd.from_map(users_of, parts, meta=users_of(0).iloc[:0])
    sizes = score(users, path, K).map_partitions(size_of, meta={"users": int, "bytes": int})
    sizes.partitions[:4].compute()  # loads all code
    before = client.run(reset_peak)
    start = time.monotonic()
    found = sizes.compute()
    seconds = time.monotonic() - start
    grown = sum(peak - before[worker] for worker, peak in client.run(peak).items())
    print(f"{seconds:.0f} s, +{grown / 2**20:.0f} MB; tables {found['bytes'].sum() / 2**20:.0f} MB")
    assert found["users"].sum() == N_USERS
    assert grown < found["bytes"].sum() / 2


def test_dask_recommends_the_same_as_one_process(client, local, tmp_path):
    joblib.dump(local.best_estimator_, tmp_path / "pipe.joblib")
    users = users_of(0)
    there = score(dd.from_pandas(users, npartitions=3), tmp_path / "pipe.joblib", k=3).compute()
    here = local.best_estimator_.recommend(users, k=3)
    pd.testing.assert_frame_equal(there.reset_index(drop=True), here, rtol=1e-4, check_exact=False)
