"""A fit that dies continues from its last checkpoint, as if nothing had stopped it."""

import json
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    Checkpoint,
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    make_topk_scorer,
    persistence,
)
from skmatch._nn import embedding
from skmatch.datasets import make_events

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn is older than 1.9")

EVENTS = make_events(n_users=60, n_items=100, n_events=500, random_state=0)
SMALL = {
    "embedding_dim": 4, "dims": (8, 4), "batch_size": 128, "max_epochs": 6, "warm_start": True,
    "random_state": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _large_tables(monkeypatch):
    """Let tables learn by row, as large ones do."""
    monkeypatch.setattr(embedding, "SMALL", 8)


def make_pipe(retriever, make=make_match_pipeline, **params):
    encoder = MatchEncoder(item_features=["category"], user_features=["age"])
    return make(encoder, SequenceSampler(max_length=5, **params), retriever)


def retriever_of(model):
    return model.steps[-1][1] if hasattr(model, "steps") else model


class PowerCutError(Exception):
    pass


class Failing(Checkpoint):
    """Checkpoint on a machine that fails after an epoch."""

    def __init__(self, path, every=1, at=2):
        super().__init__(path, every)
        self.at = at

    def on_fit_task_end(self, estimator, context):
        super().on_fit_task_end(estimator, context)
        if context.task_name == "epoch" and context.task_id + 1 == self.at:
            raise PowerCutError


def interrupted(model, path, events=EVENTS, every=1, at=2, **params):
    """Return what the checkpoint of a fit holds that failed after some epochs."""
    model.set_callbacks(Failing(path, every, at))
    with pytest.raises(PowerCutError):
        model.fit(events, **params)
    return persistence.load(path)


def assert_same(model, expected):
    """Compare what training gave, bit for bit."""
    model, expected = retriever_of(model), retriever_of(expected)
    for name, weight in expected.weights_.items():
        np.testing.assert_array_equal(model.weights_[name], weight, err_msg=name)
    np.testing.assert_array_equal(model.item_vectors_, expected.item_vectors_)
    for name in ("loss_curve_", "validation_curve_", "n_iter_"):
        assert getattr(model, name) == getattr(expected, name), name
    assert model.training_state_ is None


KILLING = """if True:
    import json, os, random, signal, sys, time
    from pathlib import Path
    from skmatch import Checkpoint, DSSMRetriever, persistence
    from skmatch._nn import embedding
    from skmatch.datasets import make_events

    embedding.SMALL = 8
    events = make_events(n_users=60, n_items=100, n_events=500, random_state=0)
    small = json.loads(sys.argv[1])
    path, result = Path(sys.argv[2]) / "fit.joblib", Path(sys.argv[2]) / "result.json"

    def fit():
        model = DSSMRetriever(**small).set_callbacks(Checkpoint(path))
        if path.exists():
            model = persistence.load(path)
        n_before = model.n_iter_ if path.exists() else 0
        model.fit(events)
        weights = {name: weight.tobytes().hex() for name, weight in model.weights_.items()}
        result.write_text(json.dumps({"n_before": n_before, "weights": weights}))

    def start():
        if not (child := os.fork()):
            fit()
            os._exit(0)
        return child

    def is_through(child):
        return os.waitpid(child, os.WNOHANG)[0] != 0

    began = time.monotonic()
    assert os.waitpid(start(), 0)[1] == 0
    duration = time.monotonic() - began
    expected = json.loads(result.read_text())["weights"]
    path.unlink()
    n_kills, n_resumed = 0, 0
    while n_kills < 20:
        child = start()
        time.sleep(random.uniform(0, 1.5 * duration))  # a busy machine slows later fits
        if is_through(child):
            ended = json.loads(result.read_text())
            assert ended["weights"] == expected
            n_resumed += ended["n_before"] > 0
            path.unlink()
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        n_kills += 1
    assert os.waitpid(start(), 0)[1] == 0
    ended = json.loads(result.read_text())
    assert ended["weights"] == expected
    print(n_resumed + (ended["n_before"] > 0))
"""


def test_a_fit_that_is_killed_twenty_times_ends_as_one_that_is_not(tmp_path):
    command = [sys.executable, "-c", KILLING, json.dumps(SMALL), str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(printed) > 0


SETTINGS = {
    "dssm": DSSMRetriever(**SMALL),
    "youtube_dnn": YoutubeDNNRetriever(**SMALL),
    "early_stopping": DSSMRetriever(**SMALL, early_stopping=True, n_iter_no_change=2, lr=0.1),
    "auto": DSSMRetriever(**SMALL | {"max_epochs": "auto"}),
    "other_layers": DSSMRetriever(**SMALL, batch_norm=True, activation="prelu", pooling="max"),
    "ensemble": DSSMRetriever(**SMALL, n_estimators=2),
    "bfloat16": DSSMRetriever(**SMALL, precision="bfloat16"),
}


@pytest.mark.parametrize("at", [1, 6])
@pytest.mark.parametrize("model", SETTINGS.values(), ids=SETTINGS)
def test_a_fit_goes_on_where_it_failed(model, at, tmp_path):
    whole = clone(model).fit(EVENTS)
    at = min(at, whole.n_iter_)
    saved = interrupted(clone(model), tmp_path / "fit", at=at)
    assert saved.n_iter_ == at
    assert saved.loss_curve_ == whole.loss_curve_[:at]
    assert_same(saved.fit(EVENTS), whole)


@pytest.mark.parametrize("make", [make_pipeline, make_match_pipeline])
def test_a_pipeline_is_saved_whole_and_goes_on(make, tmp_path):
    whole = make_pipe(DSSMRetriever(**SMALL), make, random_state=1).fit(EVENTS)
    pipe = make_pipe(DSSMRetriever(**SMALL), make, random_state=1)
    saved = interrupted(pipe, tmp_path / "fit")
    assert type(saved) is type(pipe)
    assert saved.predict(EVENTS[:5]).shape == (5, 10)
    assert_same(saved.fit(EVENTS), whole)
    np.testing.assert_array_equal(saved.predict(EVENTS[:5]), whole.predict(EVENTS[:5]))


def test_weights_of_events_go_on(tmp_path):
    weight = np.linspace(0, 1, len(EVENTS))
    whole = DSSMRetriever(**SMALL).fit(EVENTS, sample_weight=weight)
    saved = interrupted(DSSMRetriever(**SMALL), tmp_path / "fit", sample_weight=weight)
    assert_same(saved.fit(EVENTS, sample_weight=weight), whole)


def test_the_seed_is_that_of_the_interrupted_fit(tmp_path):
    whole = DSSMRetriever(**SMALL).fit(EVENTS)
    saved = interrupted(DSSMRetriever(**SMALL), tmp_path / "fit")
    assert_same(saved.set_params(random_state=None).fit(EVENTS), whole)


def test_a_fit_that_continues_another_goes_on(tmp_path):
    whole = DSSMRetriever(**SMALL).fit(EVENTS).fit(EVENTS)
    saved = interrupted(DSSMRetriever(**SMALL).fit(EVENTS), tmp_path / "fit", at=4)
    assert saved.n_iter_ == 10
    assert_same(saved.fit(EVENTS), whole)


def test_what_is_saved_recommends_as_of_its_epoch(tmp_path):
    seen = []

    class Keep(callback.ScoringMonitor):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                seen.append(fitted_estimator.recommend(k=3))

    model = DSSMRetriever(**SMALL)
    model.set_callbacks(Keep(scoring=None), Checkpoint(tmp_path / "fit", every=4)).fit(EVENTS)
    assert persistence.load(tmp_path / "fit").recommend(k=3).equals(seen[3])


def test_every_so_many_epochs_are_saved(tmp_path):
    saved = interrupted(DSSMRetriever(**SMALL), tmp_path / "fit", every=2, at=5)
    assert saved.n_iter_ == 4
    assert_same(saved.fit(EVENTS), DSSMRetriever(**SMALL).fit(EVENTS))


def test_what_is_loaded_keeps_on_saving_and_has_no_other_callback(tmp_path):
    model = DSSMRetriever(**SMALL)
    monitor = callback.ScoringMonitor(scoring={"ndcg": make_topk_scorer("ndcg", k=5)})
    model.set_callbacks(monitor, Failing(tmp_path / "fit"))
    with pytest.raises(PowerCutError):
        model.fit(EVENTS)
    saved = persistence.load(tmp_path / "fit")
    assert [type(callback) for callback in saved._skl_callbacks] == [Checkpoint]
    assert not {"_callback_fit_ctx", "_unfinished"} & vars(saved).keys()
    saved.fit(EVENTS)
    again = persistence.load(tmp_path / "fit")  # of the last epoch
    assert again.n_iter_ == 6
    assert_same(again.fit(EVENTS), saved)


def test_a_failed_fit_leaves_what_was_loaded_as_it_was(tmp_path):
    saved = interrupted(DSSMRetriever(**SMALL), tmp_path / "fit")
    saved.set_callbacks(Failing(tmp_path / "other"))
    with pytest.raises(PowerCutError):
        saved.fit(EVENTS)
    assert_same(saved.set_callbacks().fit(EVENTS), DSSMRetriever(**SMALL).fit(EVENTS))


def test_skops_holds_the_state_once_the_callback_is_off(tmp_path):
    saved = interrupted(DSSMRetriever(**SMALL), tmp_path / "fit")
    skops.io.dump(saved, tmp_path / "fit.skops")
    with pytest.raises(TypeError, match="Checkpoint"):  # it names a file to write
        skops.io.load(tmp_path / "fit.skops", trusted=persistence.TRUSTED_TYPES)
    skops.io.dump(saved.set_callbacks(), tmp_path / "fit.skops")
    again = skops.io.load(tmp_path / "fit.skops", trusted=persistence.TRUSTED_TYPES)
    assert_same(again.fit(EVENTS), DSSMRetriever(**SMALL).fit(EVENTS))


def test_a_memory_mapped_file_goes_on(tmp_path):
    interrupted(DSSMRetriever(**SMALL), tmp_path / "fit")
    mapped = joblib.load(tmp_path / "fit", mmap_mode="r").set_callbacks()
    assert_same(mapped.fit(EVENTS), DSSMRetriever(**SMALL).fit(EVENTS))


CHANGES = {
    "lr": ({"lr": 0.01}, r"lr=0\.006.*0\.01.*set it back"),
    "max_epochs": ({"max_epochs": 9}, "max_epochs=6.*9"),
    "loss": ({"loss": "bpr"}, "loss='softmax'.*'bpr'"),
    "precision": ({"precision": "bfloat16"}, "precision='float32'.*'bfloat16'"),
    "early_stopping": ({"early_stopping": True}, "early_stopping=False"),
    "embedding_dim": ({"embedding_dim": 5}, "sizes of.*the network differ"),
}


@pytest.mark.parametrize(("params", "message"), CHANGES.values(), ids=CHANGES)
def test_other_parameters_are_refused(params, message, tmp_path):
    saved = interrupted(DSSMRetriever(**SMALL), tmp_path / "fit").set_params(**params)
    with pytest.raises(ValueError, match=message):
        saved.fit(EVENTS)
    assert saved.set_params(warm_start=False).set_callbacks().fit(EVENTS).n_iter_ >= 6


def test_other_events_are_refused(tmp_path):
    pipe = make_pipe(DSSMRetriever(**SMALL))
    saved = interrupted(pipe, tmp_path / "fit")
    for name, value in {"timestamp": 0, "age": 0.5}.items():
        events = EVENTS.copy()
        events.loc[events.index[-1], name] = value
        with pytest.raises(ValueError, match=r"other events.*start again|features or the sizes"):
            saved.fit(events)
    with pytest.raises(ValueError, match=r"ids.*differ"):
        saved.fit(EVENTS[:-100])
    with pytest.raises(ValueError, match="sample weights"):
        saved.fit(EVENTS, dssmretriever__sample_weight=np.linspace(0.5, 1, len(EVENTS)))
    with pytest.raises(ValueError, match="neg_ratio=3"):
        saved.set_params(sequencesampler__neg_ratio=4).fit(EVENTS)


def test_partial_fit_gives_the_interrupted_fit_up(tmp_path):
    saved = interrupted(DSSMRetriever(**SMALL), tmp_path / "fit").set_callbacks()
    saved.partial_fit(EVENTS[-50:])
    assert saved.training_state_ is None


@pytest.mark.parametrize("content", [None, b"whole"])
def test_a_writing_that_fails_leaves_the_file_that_was_there(content, tmp_path, monkeypatch):
    def full(value, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(joblib, "dump", full)
    if content:
        (tmp_path / "fit").write_bytes(content)
    with pytest.raises(OSError, match="disk full"):
        DSSMRetriever(**SMALL).set_callbacks(Checkpoint(tmp_path / "fit")).fit(EVENTS)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [content] * bool(content)


def test_a_checkpoint_is_written_as_save_does(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    DSSMRetriever(**SMALL).set_callbacks(Checkpoint(tmp_path / "link")).fit(EVENTS)
    assert (tmp_path / "link").is_symlink()
    content = bytearray((tmp_path / "file").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"link' is damaged: its checksum"):
        persistence.load(tmp_path / "link")


def test_two_fits_with_one_path_leave_whole_files(tmp_path, monkeypatch):
    """A second fit that writes while the first is about to replace the file harms neither."""
    path, replace = tmp_path / "fit", os.replace

    def second_fit(temporary, target):
        monkeypatch.setattr(os, "replace", replace)
        DSSMRetriever(**SMALL | {"lr": 0.1}).set_callbacks(Checkpoint(path)).fit(EVENTS)
        assert persistence.load(path).lr == 0.1
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", second_fit)
    saved = interrupted(DSSMRetriever(**SMALL), path, at=1)
    assert_same(saved.fit(EVENTS), DSSMRetriever(**SMALL).fit(EVENTS))
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_gone_on_with_is_refused_before_the_first_epoch(tmp_path):
    model = DSSMRetriever(**SMALL).set_callbacks(Checkpoint(tmp_path / "none" / "fit"))
    with pytest.raises(FileNotFoundError, match=r"the folder .*none' does not exist; create it"):
        model.fit(EVENTS)
    checkpoint = Checkpoint(tmp_path / "fit")
    for make in (None, make_pipe):
        model = DSSMRetriever(**SMALL | {"warm_start": False})
        model = make(model) if make else model
        with pytest.raises(ValueError, match="warm_start=True"):
            model.set_callbacks(checkpoint).fit(EVENTS)
    with pytest.raises(TypeError, match="PopularityRetriever has none"):
        PopularityRetriever().set_callbacks(checkpoint).fit(EVENTS)
    with pytest.raises(ValueError, match="every=0"):
        Checkpoint(tmp_path / "fit", every=0)


def test_a_search_is_refused(tmp_path):
    pipe = make_pipe(DSSMRetriever(**SMALL))
    search = GridSearchCV(
        pipe, {"dssmretriever__lr": [0.1]}, cv=LeaveLastOut(), scoring=make_topk_scorer("ndcg")
    )
    with pytest.raises(TypeError, match="GridSearchCV"):
        search.set_callbacks(Checkpoint(tmp_path / "fit")).fit(EVENTS)
    search.set_callbacks()
    pipe.set_callbacks(Checkpoint(tmp_path / "fit"))
    with pytest.raises(ValueError, match="auto-propagated"):
        search.fit(EVENTS)
