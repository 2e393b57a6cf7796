"""What is saved, how large it is and what comes back."""

import pickle
import subprocess
import sys

import cloudpickle
import joblib
import numpy as np
import pytest

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=300, n_items=200, n_events=6000, random_state=0)
SMALL = {"embedding_dim": 32, "dims": (32,), "max_epochs": 1, "random_state": 0}


@pytest.fixture(scope="module")
def fitted():
    encoder = MatchEncoder(user_features=["segment"], item_features=["category", "price"])
    return make_match_pipeline(encoder, SequenceSampler(), DSSMRetriever(**SMALL)).fit(EVENTS)


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_round_trip_before_and_after_an_answer(fitted, module):
    expected = fitted.predict(EVENTS[:20])
    once = module.loads(module.dumps(fitted))
    np.testing.assert_array_equal(once.predict(EVENTS[:20]), expected)
    twice = module.loads(module.dumps(once))
    np.testing.assert_array_equal(twice.predict(EVENTS[:20]), expected)


@pytest.mark.parametrize("retriever", [PopularityRetriever(k=3), YoutubeDNNRetriever(**SMALL)])
def test_an_unfitted_one_comes_back_with_its_parameters(retriever):
    again = pickle.loads(pickle.dumps(retriever))
    assert again.get_params() == retriever.get_params()
    assert again.fit(EVENTS).predict(EVENTS[:1], k=3).shape == (1, 3)


def test_a_memory_mapped_one_answers_alike(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "pipe.joblib")
    mapped = joblib.load(tmp_path / "pipe.joblib", mmap_mode="r")
    np.testing.assert_array_equal(mapped.predict(EVENTS[:20]), fitted.predict(EVENTS[:20]))


def test_the_file_holds_little_more_than_its_arrays(fitted):
    retriever, log = fitted[-1], fitted[1].log_.items
    sampler = fitted[1]
    schema = fitted.schema_
    arrays = [
        *retriever.weights_.values(), retriever.item_vectors_, retriever.popularity_, log,
        sampler.times_, sampler.offsets_, sampler.item_counts_,
        schema.users.values, schema.items.values,
        *schema.user_table.values(), *schema.item_table.values(),
    ]  # fmt: skip
    fitted.predict(EVENTS[:1])
    assert len(pickle.dumps(fitted)) < 1.2 * sum(array.nbytes for array in arrays)


def test_a_loaded_popularity_needs_no_torch(tmp_path):
    joblib.dump(PopularityRetriever().fit(EVENTS), tmp_path / "popular.joblib")
    code = (
        "import sys, joblib; joblib.load(sys.argv[1]).recommend(k=3);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "popular.joblib")], check=True)
