"""scikit-learn's callbacks on retrievers: alone, in a Pipeline and in a search."""

import re

import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_topk_scorer,
)
from skmatch.datasets import make_events

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn is older than 1.9")

EVENTS = make_events(n_users=40, n_items=30, n_events=600, random_state=0)
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 3, "batch_size": 256, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])


def make_pipe(retriever, make=make_pipeline):
    return make(MatchEncoder(), SequenceSampler(max_length=5), retriever)


class Recorder:
    """Records (estimator, task, number of subtasks) of every task that begins."""

    max_propagation_depth = None

    def __init__(self):
        self.tasks = []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append((context.estimator_name, context.task_name, context.max_subtasks))

    def on_fit_task_end(self, estimator, context): ...


class StopAfter:
    """Stops the fit of a retriever after some epochs."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def setup(self, estimator, context):
        self.n_seen = 0

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        self.n_seen += context.task_name == "epoch"
        return self.n_seen == self.n_epochs


@BOTH
def test_callbacks_of_a_pipeline_reach_every_step_and_epoch(cls):
    recorder = Recorder()
    make_pipe(cls(**SMALL)).set_callbacks(recorder).fit(EVENTS)
    assert recorder.tasks == [
        ("Pipeline", "fit", 3),
        ("MatchEncoder", "fit", 0),
        ("SequenceSampler", "fit", 0),
        (cls.__name__, "fit", 3),
        *[(cls.__name__, "epoch", 0)] * 3,
    ]


@pytest.mark.parametrize("step", [MatchEncoder(), SequenceSampler(), PopularityRetriever()])
def test_every_estimator_reports_its_fit_and_stores_no_callback(step):
    recorder = Recorder()
    fitted = clone(step).set_callbacks(recorder).fit(EVENTS).set_callbacks()
    assert recorder.tasks == [(type(step).__name__, "fit", 0)]
    assert vars(fitted).keys() == vars(clone(step).fit(EVENTS)).keys()


def bars(text):
    """Return the last state of each bar, from its name to the percentage."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return {
        name: int(percent)
        for name, percent in re.findall(r"(?m)^ *([^━╸╺\n]*?) +[━╸╺ ]* *(\d+)%", plain)
    }


@pytest.fixture
def wide(monkeypatch):
    """Make the terminal wide enough for scikit-learn's bars."""
    import rich

    monkeypatch.setattr(rich.get_console(), "_width", 250)


@BOTH
def test_progress_bar_through_a_pipeline(cls, wide, capsys):
    make_pipe(cls(**SMALL)).set_callbacks(callback.ProgressBar()).fit(EVENTS)
    shown = bars(capsys.readouterr().out)
    assert f"Pipeline - fit-final-estimator | {cls.__name__} - fit #2" in shown
    assert set(shown.values()) == {100}
    assert len(shown) == 4  # the pipeline and its three steps


@BOTH
def test_progress_bar_through_a_search_with_two_workers(cls, wide, capsys):
    step = cls.__name__.lower()
    search = GridSearchCV(
        make_pipe(cls(**SMALL)), {f"{step}__max_epochs": [1, 2]}, cv=LeaveLastOut(),
        scoring=make_topk_scorer("ndcg"), n_jobs=2,
    )  # fmt: skip
    search.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(EVENTS)
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if f"| {cls.__name__} - fit" in line]
    assert len(epochs) == 3  # two candidates and the refit
    assert all("100%" in line for line in lines)


@BOTH
def test_scoring_monitor_takes_the_scorer(cls):
    scorer = make_topk_scorer(["recall", "ndcg"], k=[5, 10])
    monitor = callback.ScoringMonitor(scoring=scorer)
    retriever = cls(**SMALL, lr=0.05, exclude_seen=False).set_callbacks(monitor).fit(EVENTS)
    log = monitor.get_logs().data_as_pandas
    epochs = log[log["task_name"] == "epoch"]
    assert len(epochs) == 3
    assert epochs["ndcg_at_10"].nunique() > 1
    # What the retriever is scored on: the last event of each user.
    last = EVENTS.groupby("user_id").tail(1)
    samples = retriever.sampler_.transform(retriever.encoder_.transform(last))
    scores = scorer(retriever, samples)
    assert epochs.iloc[-1][list(scores)].to_dict() == pytest.approx(scores)
    assert scores["ndcg_at_10"] == pytest.approx(retriever.score(samples))


@BOTH
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scoring_monitor_in_the_pipeline_of_a_search(cls, n_jobs):
    monitor = callback.ScoringMonitor(scoring={"ndcg": make_topk_scorer("ndcg", k=5)})
    step = cls.__name__.lower()
    search = GridSearchCV(
        make_pipe(cls(**SMALL).set_callbacks(monitor)), {f"{step}__max_epochs": [1, 2]},
        cv=LeaveLastOut(), scoring=make_topk_scorer("ndcg"), n_jobs=n_jobs,
    ).fit(EVENTS)  # fmt: skip
    log = monitor.get_logs().data_as_pandas
    n_epochs = 1 + 2 + search.best_params_[f"{step}__max_epochs"]
    assert (log["task_name"] == "epoch").sum() == n_epochs
    assert log["ndcg"].between(0, 1).all()


@BOTH
def test_a_callback_stops_the_fit_inside_a_pipeline_and_a_search(cls):
    pipe = make_pipe(cls(**SMALL).set_callbacks(StopAfter(2)))
    assert pipe.fit(EVENTS)[-1].n_iter_ == 2
    search = GridSearchCV(
        pipe, {f"{cls.__name__.lower()}__temperature": [0.1, 0.2]}, cv=LeaveLastOut(),
        scoring=make_topk_scorer("ndcg"), n_jobs=2,
    ).fit(EVENTS)  # fmt: skip
    assert search.best_estimator_[-1].n_iter_ == 2


@BOTH
def test_a_stopped_fit_equals_a_shorter_fit(cls):
    seen = []

    class Keep(StopAfter):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            seen.append(fitted_estimator.predict(EVENTS[:5]))
            return super().on_fit_task_end(estimator, context)

    stopped = cls(**SMALL).set_callbacks(Keep(2)).fit(EVENTS)
    assert len(stopped.loss_curve_) == 2
    assert (stopped.predict(EVENTS[:5]) == seen[1]).all()
