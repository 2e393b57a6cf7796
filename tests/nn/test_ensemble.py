"""An ensemble scores by the mean of its members' cosines; each member trains apart."""

import numpy as np
import pytest
import torch

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, YoutubeDNNRetriever
from skmatch._nn.candidates import CandidateSampler
from skmatch._nn.ensemble import EnsembleTrainer
from skmatch._nn.training import Trainer
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=40, n_events=1500, random_state=0)
SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 256, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])


def fit(cls, **options):
    samples = SequenceSampler().fit_transform(MatchEncoder().fit_transform(EVENTS))
    return cls(**SMALL | options).fit(samples), samples


def split_members(vectors):
    """Return the vectors of the three members, scaled to length 1, (3, n, 8)."""
    return np.stack(np.split(vectors * np.sqrt(3), 3, axis=1))


@BOTH
def test_the_score_is_the_mean_of_the_members_cosines(cls):
    model, samples = fit(cls, n_estimators=3)
    users, items = model.transform(samples), model.item_vectors_
    assert users.shape[1] == items.shape[1] == 3 * 8
    of_users, of_items = split_members(users), split_members(items)
    cosines = of_users @ of_items.transpose(0, 2, 1)
    np.testing.assert_allclose(users @ items.T, cosines.mean(0), atol=1e-6)
    for parts in (of_users, of_items):
        np.testing.assert_allclose(np.linalg.norm(parts, axis=2), 1, atol=1e-5)


@BOTH
def test_the_first_member_is_the_network_that_trains_alone(cls):
    alone, samples = fit(cls)
    pair, _ = fit(cls, n_estimators=2)
    for vectors, expected in (
        (pair.transform(samples), alone.transform(samples)),
        (pair.item_vectors_, alone.item_vectors_),
    ):
        first, second = np.split(vectors * np.sqrt(2), 2, axis=1)
        np.testing.assert_allclose(first, expected, atol=1e-6)
        assert np.abs(second - expected).max() > 0.05


def test_the_loss_is_the_mean_of_the_members():
    class Member:
        def __init__(self, loss):
            self.run_epoch = lambda: loss

    assert EnsembleTrainer([Member(1.0), Member(4.0)]).run_epoch() == 2.5


def test_the_same_seed_gives_the_same_ensemble():
    model, again = (fit(DSSMRetriever, n_estimators=2)[0] for _ in range(2))
    np.testing.assert_array_equal(again.item_vectors_, model.item_vectors_)


def test_members_train_in_orders_and_on_draws_of_their_own(monkeypatch):
    orders, draws = [], []
    run_epoch, draw = Trainer.run_epoch, CandidateSampler.draw

    def spy_on_epoch(trainer):
        epoch = trainer.batches.epoch

        def spy():
            for batch in epoch():
                orders[-1].append(batch.positive)
                yield batch

        orders.append([])
        draws.append([])
        monkeypatch.setattr(trainer.batches, "epoch", spy)
        return run_epoch(trainer)

    def spy_on_draw(sampler, n_draws):
        draws[-1].append(draw(sampler, n_draws))
        return draws[-1][-1]

    monkeypatch.setattr(Trainer, "run_epoch", spy_on_epoch)
    monkeypatch.setattr(CandidateSampler, "draw", spy_on_draw)
    for seed in (None, 0):  # draws of the retriever's seed, and of the sampler's own
        orders.clear()
        draws.clear()
        samples = SequenceSampler(random_state=seed).fit_transform(EVENTS)
        DSSMRetriever(**SMALL | {"max_epochs": 1}, n_estimators=2).fit(samples)
        for first, second in (orders, draws):
            assert len(first) == len(second) > 1
            assert not any(torch.equal(*pair) for pair in zip(first, second, strict=True))
