"""scikit-learn's searches and cross-validation over whole pipelines."""

from collections import Counter

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import loguniform
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=40, n_events=1200, random_state=0)
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 1, "batch_size": 256, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
SEVERAL = make_topk_scorer(["recall", "hit", "ndcg"], k=[5, 10])
ONE = make_topk_scorer("ndcg", k=10)
GRID = {
    "sequencesampler__neg_ratio": [1, 3],
    "dssmretriever__temperature": [0.05, 0.2],
    "dssmretriever__dims": [(4,), (8, 4)],
}


def make_pipe(cls=DSSMRetriever, memory=None, make=make_pipeline, **parameters):
    steps = MatchEncoder(), SequenceSampler(max_length=5), cls(**SMALL | parameters)
    return make(*steps, memory=memory)


def grid_search(pipe, grid=GRID, cv=None, scoring=SEVERAL, refit="ndcg_at_10", **options):
    cv = cv or LeaveLastOut()
    return GridSearchCV(pipe, grid, cv=cv, scoring=scoring, refit=refit, **options).fit(EVENTS)


def scores_of(search):
    """Return all scores of a search without its times."""
    table = pd.DataFrame(search.cv_results_)
    return table[[name for name in table if "_test_" in name]]


@BOTH
def test_grid_search_is_the_same_with_two_workers(cls):
    step = cls.__name__.lower()
    grid = {name.replace("dssmretriever", step): values for name, values in GRID.items()}
    one, two = (grid_search(make_pipe(cls), grid, n_jobs=n_jobs) for n_jobs in (1, 2))
    pd.testing.assert_frame_equal(scores_of(two), scores_of(one), check_exact=True)
    assert len(scores_of(one).drop_duplicates()) > 1
    np.testing.assert_array_equal(two.predict(EVENTS[:20]), one.predict(EVENTS[:20]))


def test_grid_search_is_the_same_with_threads():
    with joblib.parallel_config(backend="threading", n_jobs=2):
        threads = grid_search(make_pipe())
    pd.testing.assert_frame_equal(scores_of(threads), scores_of(grid_search(make_pipe())))


def test_best_estimator_recommends_and_saves(tmp_path):
    search = grid_search(make_pipe(make=make_match_pipeline), n_jobs=2)
    assert search.best_score_ == search.cv_results_["mean_test_ndcg_at_10"].max()
    users = EVENTS["user_id"].unique()[:5]
    table = search.best_estimator_.recommend(users, k=3)
    assert table.groupby("user_id").size().tolist() == [3] * 5
    for saved in (search, search.best_estimator_):
        joblib.dump(saved, tmp_path / "saved.joblib")
        loaded = joblib.load(tmp_path / "saved.joblib")
        pipe = getattr(loaded, "best_estimator_", loaded)
        pd.testing.assert_frame_equal(pipe.recommend(users, k=3), table, check_exact=True)


def test_randomized_search():
    search = RandomizedSearchCV(
        make_pipe(), {"dssmretriever__temperature": loguniform(0.01, 1)}, n_iter=3,
        cv=LeaveLastOut(), scoring=SEVERAL, refit="recall_at_5", random_state=0, n_jobs=2,
    ).fit(EVENTS)  # fmt: skip
    tried = search.cv_results_["param_dssmretriever__temperature"]
    assert len(set(tried)) == 3
    assert search.best_params_["dssmretriever__temperature"] in tried


@BOTH
@pytest.mark.parametrize("halving", [HalvingGridSearchCV, HalvingRandomSearchCV])
def test_halving_searches_give_the_better_candidates_more_epochs(cls, halving):
    step = cls.__name__.lower()
    search = halving(
        make_pipe(cls), {f"{step}__temperature": [0.05, 0.1, 0.2, 0.4]}, cv=LeaveLastOut(),
        scoring=ONE, resource=f"{step}__max_epochs", max_resources=4, factor=2, random_state=0,
        **({"n_candidates": 4} if halving is HalvingRandomSearchCV else {}),
    ).fit(EVENTS)  # fmt: skip
    assert search.n_resources_ == [1, 2, 4]
    assert search.n_candidates_ == [4, 2, 1]
    assert search.best_params_[f"{step}__max_epochs"] == 4
    assert search.best_estimator_[-1].n_iter_ == 4


def test_cross_validate_with_several_metrics():
    cv = LeaveLastOut(n_splits=2)
    result = cross_validate(
        make_pipe(), EVENTS, cv=cv, scoring=SEVERAL, return_estimator=True, n_jobs=2
    )
    for fold, (train, test) in enumerate(cv.split(EVENTS)):
        scores = SEVERAL(make_pipe().fit(EVENTS.iloc[train]), EVENTS.iloc[test])
        assert {name: result[f"test_{name}"][fold] for name in scores} == scores
        assert result["estimator"][fold].predict(EVENTS[:3]).shape == (3, 10)


@BOTH
@pytest.mark.parametrize("scoring", [ONE, SEVERAL])
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("error_score", [np.nan, -1.0])
def test_a_diverging_candidate_gets_the_error_score(cls, scoring, n_jobs, error_score):
    step = cls.__name__.lower()
    several = scoring is SEVERAL
    with pytest.warns(FitFailedWarning, match="training diverged"):
        search = grid_search(
            make_pipe(cls), {f"{step}__lr": [1e30, 0.003]}, scoring=scoring, n_jobs=n_jobs,
            refit="ndcg_at_10" if several else True, error_score=error_score,
        )  # fmt: skip
    means = [values for name, values in scores_of(search).items() if name.startswith("mean")]
    assert len(means) == (6 if several else 1)
    for diverged, learned in means:
        np.testing.assert_equal(diverged, error_score)
        assert 0 <= learned <= 1
    assert search.best_params_ == {f"{step}__lr": 0.003}
    assert search.predict(EVENTS[:3]).shape == (3, 10)


@pytest.fixture
def n_calls(monkeypatch):
    """Count the steps that are fitted and not read from the cache."""
    count = Counter()
    for cls in (MatchEncoder, SequenceSampler):

        def counted(self, X, y=None, *, _plain=cls.fit_transform, **tables):
            count[type(self).__name__] += 1
            return _plain(self, X, y, **tables)

        monkeypatch.setattr(cls, "fit_transform", counted)
    return count


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_memory_encodes_once_a_fold_and_changes_nothing(tmp_path, n_calls, output):
    cv = LeaveLastOut(n_splits=2)
    plain = grid_search(make_pipe(), cv=cv)
    assert n_calls == {"MatchEncoder": 17, "SequenceSampler": 17}  # 8 candidates x 2 folds + refit
    n_calls.clear()
    pipe = make_pipe(memory=str(tmp_path)).set_output(transform=output)
    cached = grid_search(pipe, cv=cv)
    # The sampler's own parameter has two values.
    assert n_calls == {"MatchEncoder": 2 + 1, "SequenceSampler": 2 * 2 + 1}
    pd.testing.assert_frame_equal(scores_of(cached), scores_of(plain), check_exact=True)
    np.testing.assert_array_equal(cached.predict(EVENTS[:20]), plain.predict(EVENTS[:20]))
    n_calls.clear()
    grid_search(pipe, cv=cv)
    assert not n_calls


def test_memory_is_shared_by_workers(tmp_path):
    plain = grid_search(make_pipe())
    cached = grid_search(make_pipe(memory=str(tmp_path)), n_jobs=2)
    pd.testing.assert_frame_equal(scores_of(cached), scores_of(plain), check_exact=True)


def count_threads(_):
    import torch

    DSSMRetriever(**SMALL).fit(EVENTS)
    return torch.get_num_threads()


def test_workers_share_the_cores(monkeypatch):
    n_jobs = 2
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # which workers would inherit
        monkeypatch.delenv(name, raising=False)
    counts = joblib.Parallel(n_jobs)(joblib.delayed(count_threads)(i) for i in range(n_jobs))
    assert max(counts) * n_jobs <= max(joblib.cpu_count(), n_jobs)


def test_a_fit_does_not_change_the_number_of_threads():
    import torch

    before = torch.get_num_threads()
    grid_search(make_pipe(), {"dssmretriever__temperature": [0.1]}, n_jobs=2)
    count_threads(0)
    assert torch.get_num_threads() == before
