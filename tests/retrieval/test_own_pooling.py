"""A retriever with a pooling of the user's own: trained, saved, loaded and served."""

import joblib
import numpy as np
import pandas as pd
from causal_attention import CausalAttention
from contract import EVENTS, PLAIN, USER, run_in_a_fresh_process

from skmatch import YoutubeDNNRetriever

SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 2, "batch_size": 256, "random_state": 0}


def test_it_is_saved_and_recommends_the_same_in_a_fresh_process(tmp_path):
    fitted = YoutubeDNNRetriever(**SMALL, pooling=CausalAttention).fit(PLAIN)
    path, found = tmp_path / "retriever.joblib", tmp_path / "found.pkl"
    joblib.dump(fitted, path)
    code = "import sys, joblib; joblib.load(sys.argv[1]).recommend(k=3).to_pickle(sys.argv[2])"
    run_in_a_fresh_process(code, path, found)
    pd.testing.assert_frame_equal(pd.read_pickle(found), fitted.recommend(k=3), check_exact=True)


def test_it_is_repeated_exactly_and_trained():
    first, second = (YoutubeDNNRetriever(**SMALL, pooling=CausalAttention) for _ in range(2))
    first.fit(PLAIN)
    np.random.default_rng(1)
    np.testing.assert_array_equal(first.transform(PLAIN), second.fit(PLAIN).transform(PLAIN))
    start = YoutubeDNNRetriever(**SMALL | {"lr": 1e-12}, pooling=CausalAttention).fit(PLAIN)
    name = next(name for name in first.weights_ if name.endswith("attention.in_proj_weight"))
    assert not np.allclose(first.weights_[name], start.weights_[name], atol=1e-4)


def test_the_order_of_the_history_counts_and_its_padding_does_not():
    fitted = YoutubeDNNRetriever(**SMALL, pooling=CausalAttention).fit(PLAIN)
    items = EVENTS["item_id"].unique()[:4].tolist()
    queries = pd.DataFrame({"user_id": "new", "history": [items, items[::-1]]})
    forward, backward = fitted.transform(queries)
    assert not np.allclose(forward, backward, atol=1e-4)
    # Beside a longer history, the windows of a short one are padded.
    beside = fitted.transform(pd.DataFrame({"user_id": "new", "history": [items, items * 5]}))
    np.testing.assert_allclose(beside[0], forward, atol=1e-5)
    assert len(fitted.partial_fit(PLAIN[:50]).recommend([USER], k=3)) == 3
