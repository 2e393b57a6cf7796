"""Repeats of a user's items: no targets where recommendations leave them out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch.datasets import make_events
from skmatch.retrieval._training_rows import is_repeat

EVENTS = make_events(100, 60, 3000, repeats=0.5, random_state=0)
SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 1, "random_state": 0, "device": "cpu"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 6)), min_size=1))
def test_a_repeat_is_an_item_that_the_user_had_before(rows):
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    samples = SequenceSampler().fit_transform(MatchEncoder().fit_transform(events))
    in_order = events.sort_values("timestamp", kind="stable")
    expected = in_order.duplicated(["user_id", "item_id"]).reindex(events.index)
    repeats = is_repeat(samples)
    np.testing.assert_array_equal(repeats, expected)


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_repeats_train_as_events_of_weight_0_do(cls):
    samples = SequenceSampler(negatives="uniform").fit_transform(EVENTS)
    is_new = ~EVENTS.duplicated(["user_id", "item_id"])
    fitted = cls(**SMALL).fit(samples)
    weighted = cls(**SMALL).fit(samples, sample_weight=is_new.astype(float))
    np.testing.assert_array_equal(fitted.item_vectors_, weighted.item_vectors_)
    everything = cls(**SMALL, exclude_seen=False).fit(samples)
    assert everything.loss_curve_ != fitted.loss_curve_


def test_repeats_count_as_popularity_and_as_history():
    fitted = DSSMRetriever(**SMALL).fit(EVENTS)
    counts = EVENTS["item_id"].value_counts().reindex(fitted.item_ids_)
    np.testing.assert_array_equal(fitted.counts_, counts)


def test_partial_fit_knows_what_the_user_had_before():
    first, more = EVENTS[:2000], EVENTS[2000:]
    repeated = EVENTS.duplicated(["user_id", "item_id"])[2000:]
    steps = MatchEncoder(), SequenceSampler(negatives="uniform"), DSSMRetriever(**SMALL)
    more = more[more["item_id"].isin(first["item_id"]) & more["user_id"].isin(first["user_id"])]
    weight = (~repeated[more.index]).astype(float)
    plain = make_match_pipeline(*steps).fit(first).partial_fit(more)
    weighted = make_match_pipeline(*steps).fit(first).partial_fit(more, sample_weight=weight)
    np.testing.assert_array_equal(plain[-1].item_vectors_, weighted[-1].item_vectors_)


def test_a_table_of_repeats_alone_trains():
    events = pd.DataFrame({"user_id": [1, 1, 1, 2, 2], "item_id": [5, 5, 5, 7, 7]})
    fitted = DSSMRetriever(**SMALL).fit(events)
    assert np.isfinite(fitted.item_vectors_).all()
