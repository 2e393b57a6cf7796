"""What holds of a fit on a GPU; skipped where there is none."""

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
from skmatch._nn import tables
from skmatch._nn.pooling import POOLINGS
from skmatch._nn.training import PRECISIONS, Trainer
from skmatch.datasets import make_events

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

EVENTS = make_events(n_users=80, n_items=60, n_events=2500, random_state=1)
SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])


@BOTH
@pytest.mark.parametrize("precision", PRECISIONS)
def test_learns_as_much_as_on_a_cpu(cls, precision):
    train, test = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))
    scorer = make_topk_scorer("ndcg", k=10)
    on_cpu, on_gpu = (
        scorer(cls(max_epochs=15, random_state=0, **where).fit(train), test)
        for where in ({"device": "cpu"}, {"device": "cuda", "precision": precision})
    )
    assert on_gpu > 0.8 * on_cpu


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
def test_every_pooling_and_loss(pooling, loss):
    fitted = DSSMRetriever(**SMALL, pooling=pooling, loss=loss, device="cuda").fit(EVENTS)
    assert np.isfinite(fitted.loss_curve_).all()
    assert np.isfinite(fitted.item_vectors_).all()


@BOTH
@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity", "log", "zipf", "in_batch", "all"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_step_waits_for_it(cls, loss, negatives, precision, monkeypatch):
    steps_of = Trainer._steps

    def watched(trainer):
        steps = list(steps_of(trainer))
        # torch's libraries set themselves up in the first epoch.
        torch.cuda.set_sync_debug_mode("error" if trainer.step else "default")
        yield from steps
        torch.cuda.set_sync_debug_mode("default")  # the epoch's loss is read

    monkeypatch.setattr(Trainer, "_steps", watched)
    monkeypatch.setattr(tables, "SMALL", 0)  # tables learn by row, as large ones do
    samples = SequenceSampler(negatives=negatives).fit_transform(EVENTS)
    try:
        cls(**SMALL, loss=loss, precision=precision, device="cuda").fit(samples)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@BOTH
def test_is_saved_as_plain_arrays_and_answers_from_the_cpu(cls, tmp_path):
    fitted = cls(**SMALL, device="cuda").fit(EVENTS)
    joblib.dump(fitted, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert all(type(weight) is np.ndarray for weight in loaded.weights_.values())
    assert loaded._serving_engine().device.type == "cpu"
    np.testing.assert_array_equal(loaded.predict(EVENTS[:20]), fitted.predict(EVENTS[:20]))
