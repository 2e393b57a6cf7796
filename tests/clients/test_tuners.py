"""Tuners of other libraries search the parameters of a pipeline."""

import pytest
from sklearn.model_selection import cross_val_score

from skmatch import (
    DSSMRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=40, n_events=800, random_state=0)
SCORER = make_topk_scorer("ndcg", k=10)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the tuners


def make_pipe():
    return make_match_pipeline(MatchEncoder(), SequenceSampler(), ItemToItemRetriever())


def test_an_optuna_study():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        window = trial.suggest_int("window", 1, 20)
        pipe = make_pipe().set_params(itemtoitemretriever__window=window)
        return cross_val_score(pipe, EVENTS, cv=LeaveLastOut(), scoring=SCORER).mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=4)
    assert len(study.trials) == 4
    assert study.best_value == max(trial.value for trial in study.trials)


def test_optuna_prunes_by_epoch():
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("sklearn.callback", reason="scikit-learn is older than 1.9")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train, test = next(LeaveLastOut().split(EVENTS))

    class Pruning:
        """Report the score of each epoch; stop the fit of a trial that is behind."""

        def __init__(self, trial):
            self.trial = trial

        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name == "epoch":
                score = SCORER(fitted_estimator, EVENTS.iloc[test])
                self.trial.report(score, context.task_id)
                if self.trial.should_prune():
                    raise optuna.TrialPruned

    def objective(trial):
        retriever = DSSMRetriever(
            embedding_dim=8, dims=(8,), max_epochs=4, random_state=0,
            lr=trial.suggest_categorical("lr", [1e-2, 1e-9]),
        )  # fmt: skip
        retriever.set_callbacks(Pruning(trial)).fit(EVENTS.iloc[train])
        return SCORER(retriever, EVENTS.iloc[test])

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.GridSampler({"lr": [1e-2, 1e-9]}, seed=0),
        pruner=optuna.pruners.ThresholdPruner(lower=2, n_warmup_steps=1),  # no score reaches 2
    )
    study.optimize(objective, n_trials=2)
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.PRUNED}
    assert {len(trial.intermediate_values) for trial in study.trials} == {2}


def test_bayesian_search():
    skopt = pytest.importorskip("skopt")
    search = skopt.BayesSearchCV(
        make_pipe(), {"itemtoitemretriever__window": (1, 20)}, n_iter=3, cv=LeaveLastOut(),
        scoring=SCORER, random_state=0,
    ).fit(EVENTS)  # fmt: skip
    assert 1 <= search.best_params_["itemtoitemretriever__window"] <= 20
    assert len(search.best_estimator_.recommend([1], k=3)) == 3


def test_a_search_of_optuna():
    integration = pytest.importorskip("optuna_integration")
    optuna = pytest.importorskip("optuna")
    windows = {"itemtoitemretriever__window": optuna.distributions.IntDistribution(1, 20)}
    search = integration.OptunaSearchCV(
        make_pipe(), windows, cv=LeaveLastOut(), scoring=SCORER, n_trials=3, random_state=0
    ).fit(EVENTS)
    assert 1 <= search.best_params_["itemtoitemretriever__window"] <= 20
    assert len(search.best_estimator_.recommend([1], k=3)) == 3


def test_a_grid_search_of_dask_ml():
    dask_ml = pytest.importorskip("dask_ml.model_selection")
    search = dask_ml.GridSearchCV(
        make_pipe(), {"itemtoitemretriever__window": [2, 5]}, cv=LeaveLastOut(), scoring=SCORER,
        scheduler="synchronous",
    ).fit(EVENTS)  # fmt: skip
    best = make_pipe().set_params(**search.best_params_)
    scores = cross_val_score(best, EVENTS, cv=LeaveLastOut(), scoring=SCORER)
    assert search.best_score_ == pytest.approx(scores.mean())
