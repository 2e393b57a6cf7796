"""The progress bar of `verbose`."""

import io
import sys

import joblib
import pytest
from sklearn.model_selection import GridSearchCV
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

EVENTS = make_events(n_users=40, n_items=30, n_events=600, random_state=0)
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 3, "batch_size": 256, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])


def make_pipe(retriever, make=make_pipeline):
    return make(MatchEncoder(), SequenceSampler(max_length=5), retriever)


class Screen(io.StringIO):
    """A fake terminal."""

    def isatty(self):
        return True


@pytest.fixture
def look(monkeypatch):
    """Return a function that runs another in a fake terminal and returns the output."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")

    def run(function, *args):
        with (
            monkeypatch.context() as patch
        ):  # pytest has set its own stdout between fixture and test
            patch.setattr(sys, "stdout", Screen())
            function(*args)
            return sys.stdout.getvalue()

    return run


@BOTH
@pytest.mark.parametrize("make", [None, make_pipeline, make_match_pipeline])
def test_verbose_shows_the_epochs_in_a_terminal(cls, make, look):
    retriever = cls(**SMALL, verbose=True)
    shown = look((make_pipe(retriever, make) if make else retriever).fit, EVENTS)
    assert f"{cls.__name__}, epochs" in shown
    assert "3/3" in shown
    assert not hasattr(retriever, "_skl_callbacks")


@BOTH
def test_verbose_shows_nothing_elsewhere(cls, capfd):
    make_pipe(cls(**SMALL, verbose=True)).fit(EVENTS)
    assert capfd.readouterr() == ("", "")


def test_verbose_shows_in_a_notebook(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    DSSMRetriever(**SMALL, verbose=True).fit(EVENTS)
    assert "3/3" in capsys.readouterr().out


def test_not_verbose_shows_nothing_in_a_terminal(look):
    assert look(DSSMRetriever(**SMALL).fit, EVENTS) == ""


def test_verbose_adds_no_second_bar(look, capsys):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn is older than 1.9")
    retriever = DSSMRetriever(**SMALL, verbose=True)
    pipe = make_pipe(retriever).set_callbacks(callback.ProgressBar(max_propagation_depth=0))
    assert ", epochs" not in look(pipe.fit, EVENTS)
    assert ", epochs" not in look(retriever.set_callbacks(callback.ProgressBar()).fit, EVENTS)


def test_verbose_in_workers_shows_nothing(look):
    search = GridSearchCV(
        make_pipe(DSSMRetriever(**SMALL, verbose=True)), {"dssmretriever__temperature": [0.1, 0.2]},
        cv=LeaveLastOut(), scoring=make_topk_scorer("ndcg"), refit=False,
    )  # fmt: skip
    assert look(search.fit, EVENTS).count("3/3") >= 2
    for backend in ("loky", "threading"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            assert look(search.fit, EVENTS) == ""


def test_a_failing_fit_removes_its_bar(look):
    retriever = DSSMRetriever(**SMALL, verbose=True, temperature=1e-40)

    def fit():
        with pytest.raises(FloatingPointError):
            retriever.fit(EVENTS)

    assert "0/3" in look(fit)
    assert not hasattr(retriever, "_skl_callbacks")
    assert "3/3" in look(retriever.set_params(temperature=0.1).fit, EVENTS)
