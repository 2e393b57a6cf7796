"""What holds of a fit on a GPU; skipped where there is none, but for what a CPU can check of it."""

import joblib
import numpy as np
import pytest
import torch

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_topk_scorer,
)
from skmatch._nn import embedding
from skmatch._nn.batches import Batches
from skmatch._nn.optimizer import AdamW
from skmatch._nn.pooling import POOLINGS
from skmatch._nn.training import PRECISIONS, Trainer
from skmatch.datasets import make_events

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

EVENTS = make_events(n_users=80, n_items=60, n_events=2500, random_state=1)
SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])


@on_gpu
@BOTH
@pytest.mark.parametrize("precision", PRECISIONS)
def test_learns_as_much_as_on_a_cpu(cls, precision):
    train, test = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))
    scorer = make_topk_scorer("ndcg", k=10)
    cpu, gpu = (
        scorer(cls(max_epochs=15, random_state=0, **where).fit(train), test)
        for where in ({"device": "cpu"}, {"device": "cuda", "precision": precision})
    )
    assert gpu > 0.8 * cpu


@on_gpu
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
def test_every_pooling_and_loss(pooling, loss):
    fitted = DSSMRetriever(**SMALL, pooling=pooling, loss=loss, device="cuda").fit(EVENTS)
    assert np.isfinite(fitted.loss_curve_).all()
    assert np.isfinite(fitted.item_vectors_).all()


def fit_watched(monkeypatch, set_sync_debug_mode, model, samples):
    """Fit with a watch over the epochs after the first, in which torch sets itself up."""
    run_epoch, epoch = Trainer.run_epoch, Batches.epoch
    trained = set()

    def remember(trainer):
        loss = run_epoch(trainer)
        trained.add(trainer.batches)
        return loss

    def watched(batches):
        steps = epoch(batches)
        first = next(steps)  # brings the order of the epoch to the device
        set_sync_debug_mode("error" if batches in trained else "default")
        yield first
        yield from steps
        set_sync_debug_mode("default")  # the epoch's loss is read

    monkeypatch.setattr(Trainer, "run_epoch", remember)
    monkeypatch.setattr(Batches, "epoch", watched)
    monkeypatch.setattr(embedding, "SMALL", 0)  # tables learn by row, as large ones do
    try:
        return model.fit(samples)
    finally:
        set_sync_debug_mode("default")


@on_gpu
@BOTH
@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity", "log", "zipf", "in_batch", "all"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_step_synchronises(cls, loss, negatives, precision, monkeypatch):
    samples = SequenceSampler(negatives=negatives).fit_transform(EVENTS)
    model = cls(**SMALL, loss=loss, precision=precision, device="cuda")
    fit_watched(monkeypatch, torch.cuda.set_sync_debug_mode, model, samples)


@BOTH
def test_the_watch_covers_the_steps_of_all_epochs_but_the_first(cls, monkeypatch):
    """Without a GPU, that the names that are patched exist, and when the watch is on."""
    modes, take_step = [], AdamW.step

    def step(optimizer, lr):
        modes.append("step")
        take_step(optimizer, lr)

    monkeypatch.setattr(AdamW, "step", step)
    model = cls(**SMALL | {"max_epochs": 3, "batch_size": 300}, device="cpu")
    fit_watched(monkeypatch, modes.append, model, SequenceSampler().fit_transform(EVENTS))
    first, other = ([mode, "step", "step", "step", "default"] for mode in ("default", "error"))
    assert modes == [*first, *other, *other, "default"]


@on_gpu
@BOTH
def test_is_saved_as_plain_arrays_and_recommends_on_the_cpu(cls, tmp_path):
    fitted = cls(**SMALL, device="cuda").fit(EVENTS)
    joblib.dump(fitted, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert all(type(weight) is np.ndarray for weight in loaded.weights_.values())
    assert loaded._serving_engine().device.type == "cpu"
    np.testing.assert_array_equal(loaded.predict(EVENTS[:20]), fitted.predict(EVENTS[:20]))
