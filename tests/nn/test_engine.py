"""The engine: rows and items as vectors, whatever the blocks that they are encoded in."""

import numpy as np
import pytest

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, YoutubeDNNRetriever
from skmatch._nn import engine
from skmatch.datasets import make_events

EVENTS = make_events(n_users=40, n_items=30, n_events=500, random_state=0)
SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 1, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])


@pytest.fixture(scope="module")
def samples():
    encoder = MatchEncoder(user_features=["age", "segment"], item_features=["category", "tags"])
    return SequenceSampler(max_length=6).fit_transform(encoder.fit_transform(EVENTS))


@BOTH
def test_vectors_do_not_depend_on_the_other_rows(cls, samples):
    model = cls(**SMALL).fit(samples)
    together = model.transform(samples)
    for a, b in ((0, 1), (5, 17), (30, 300)):  # with parts of the log, and with all of it
        part = model.transform(samples[a:b])
        np.testing.assert_allclose(part, together[a:b], rtol=0, atol=1e-6)


@BOTH
@pytest.mark.parametrize("n_estimators", [1, 2])
def test_rows_and_items_are_encoded_in_blocks_of_any_size(cls, n_estimators, samples, monkeypatch):
    model = cls(**SMALL, n_estimators=n_estimators).fit(samples)
    users, items = model.transform(samples), model.item_vectors_
    monkeypatch.setattr(engine, "ROWS_BLOCK", 7 * 6 * 8)
    monkeypatch.setattr(engine, "CATALOGUE_BLOCK", 7)
    np.testing.assert_allclose(model.transform(samples), users, rtol=0, atol=1e-6)
    again = model._serving_engine().item_vectors(samples.schema)
    np.testing.assert_allclose(again, items, rtol=0, atol=1e-6)


@BOTH
def test_the_network_reads_the_newest_events_that_it_is_made_for(cls):
    events = MatchEncoder().fit_transform(EVENTS)
    short, long = (
        SequenceSampler(max_length=n).fit(events).transform(events[:50]) for n in (6, 20)
    )
    model = cls(**SMALL).fit(SequenceSampler(max_length=6).fit_transform(events))
    assert (long.stop - long.start).max() > 6
    np.testing.assert_allclose(model.transform(long), model.transform(short), rtol=0, atol=1e-6)


@BOTH
def test_serving_neither_learns_nor_changes_the_weights(cls, samples):
    model = cls(**SMALL).fit(samples)
    before = {name: weight.copy() for name, weight in model.weights_.items()}
    model.transform(samples)
    model.similar_items(model.item_ids_[:3])
    for name, weight in before.items():
        np.testing.assert_array_equal(model.weights_[name], weight)
    network = model._serving_engine().network
    assert not network.training
    assert all(weight.grad is None for weight in network.parameters())
