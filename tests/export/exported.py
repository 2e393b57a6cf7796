"""Events with features of every kind, and the comparison of recommendations."""

import numpy as np
import pandas as pd

from skmatch import MatchEncoder, SequenceSampler, make_match_pipeline
from skmatch.datasets import make_events

RNG = np.random.default_rng(0)
EVENTS = make_events(n_users=40, n_items=50, n_events=900, visit_size=4, random_state=0)
EVENTS["user_id"] = "u" + EVENTS["user_id"].astype(str)
EVENTS["tags_of_user"] = [
    [f"t{n}" for n in RNG.integers(0, 6, RNG.integers(0, 4))] for _ in range(len(EVENTS))
]
EVENTS["taste"] = [tuple(RNG.normal(size=3)) for _ in range(len(EVENTS))]
EVENTS.loc[::5, ["age", "taste"]] = None
EVENTS["stars"] = RNG.integers(1, 6, len(EVENTS)).astype(float)
EVENTS["device"] = RNG.choice(["phone", "desk"], len(EVENTS))
ITEMS, USERS = EVENTS["item_id"].unique(), EVENTS["user_id"].unique()
LAST = EVENTS["timestamp"].max()


def make_pipe(retriever):
    encoder = MatchEncoder(
        user_features=["segment", "age", "tags_of_user", "taste"],
        item_features=["category", "price", "tags"],
        event_features=["stars", "device"],
        kinds={"tags": "multi_valued", "tags_of_user": "multi_valued"},
    )
    return make_match_pipeline(encoder, SequenceSampler(max_length=8), retriever)


def assert_same(found, expected):
    """Compare recommendations: equal items but for scores that are nearly equal."""
    assert list(found) == list(expected.columns)
    found = pd.DataFrame(found)
    for name in (expected.columns[0], "rank", "source"):
        assert found[name].tolist() == expected[name].tolist(), name
    np.testing.assert_allclose(found["score"], expected["score"], rtol=0, atol=1e-5)
    differs = np.flatnonzero((found.iloc[:, 1] != expected.iloc[:, 1]).to_numpy())
    for row in differs:
        same = found["user_id"] == found["user_id"][row]
        near = found[same & (abs(found["score"] - found["score"][row]) < 2e-5)]
        assert len(near) > 1 or found["rank"][row] == found.loc[same, "rank"].max()
    assert len(differs) <= 0.02 * len(found)
    if "retrievers" in expected:
        assert (found["retrievers"] == expected["retrievers"]).mean() > 0.95
