"""Serving: recommendations in batches and in several threads."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from inspect import isgenerator

import numpy as np
import pandas as pd
import pytest

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    neighbors,
)
from skmatch.datasets import make_events

# Of networks whose scores are not near 0: there, what float32 rounds is no small share of them.
SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 256, "random_state": 0}
SMALL |= {"init": "random", "skip_connection": False}
EVENTS = make_events(n_users=90, n_items=150, n_events=1500, random_state=0)
EVENTS["user_id"] = "u" + EVENTS["user_id"].astype(str)
RETRIEVERS = {
    "popularity": PopularityRetriever(),
    "dssm": DSSMRetriever(**SMALL),
    "dssm with a graph": DSSMRetriever(**SMALL, index="pynndescent"),
    "youtube": YoutubeDNNRetriever(**SMALL),
}


class Graph:
    """Replacement of pynndescent, which takes a minute to compile; see test_neighbors."""

    def __init__(self, vectors, random_state):
        self.vectors = vectors

    def query(self, queries, k):
        return np.argsort(-queries @ self.vectors.T, axis=1)[:, :k]


@pytest.fixture(params=RETRIEVERS.values(), ids=RETRIEVERS, scope="module")
def pipe(request):
    encoder = MatchEncoder(user_features=["segment", "age"], item_features=["category"])
    sampler = SequenceSampler(exclude_history=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_Graph", Graph)
        yield make_match_pipeline(encoder, sampler, request.param).fit(EVENTS)


@pytest.mark.parametrize("batch_size", [1, 40, 45, 1000])
def test_batches_are_the_whole_recommendation(pipe, batch_size):
    items = EVENTS["item_id"].unique()
    filters = {"candidates": items[:50], "exclude": {EVENTS["user_id"][3]: items[:40].tolist()}}
    frames = pipe.recommend_batches(k=3, batch_size=batch_size, **filters)
    assert isgenerator(frames)
    frames = list(frames)
    assert len(frames) == -(-90 // batch_size)
    assert all(frame.index.equals(pd.RangeIndex(len(frame))) for frame in frames)
    assert max(frame["user_id"].nunique() for frame in frames) <= batch_size
    table = pipe.recommend(k=3, **filters)
    pd.testing.assert_frame_equal(
        pd.concat(frames, ignore_index=True), table, rtol=1e-4, check_exact=False
    )


def test_batches_of_every_form_of_queries_with_lists(pipe):
    users = EVENTS["user_id"].unique()[:7]
    lists = [[item] for item in EVENTS["item_id"][:7]]
    queries = pd.DataFrame({"user_id": users, "history": [None, *lists[1:]]})
    for X in (users, queries, pipe[:-1].transform(queries)):
        retriever = pipe if X is not None and not hasattr(X, "log") else pipe[-1]
        options = {"k": 2, "candidates": lists, "exclude_seen": False}
        frames = [*retriever.recommend_batches(X, batch_size=3, **options)]
        assert [len(frame) for frame in frames] == [3, 3, 1]
        table = pd.concat(frames, ignore_index=True)
        assert table["item_id"].tolist() == EVENTS["item_id"][:7].tolist()
        assert table["user_id"].tolist() == users.tolist()


def test_no_queries_return_one_empty_frame(pipe):
    (frame,) = pipe.recommend_batches([])
    assert frame.shape == (0, 5)


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.5, None])
def test_batch_size_is_a_positive_integer(pipe, batch_size):
    with pytest.raises(ValueError, match=r"batch_size=.*integer number of queries"):
        pipe.recommend_batches(batch_size=batch_size)


def test_eight_threads_recommend_the_same_as_one(pipe):
    users = EVENTS["user_id"].unique()
    queries = [
        pd.DataFrame({"user_id": users[start : start + 5]}) for start in range(0, len(users), 5)
    ]
    expected = [pipe.recommend(query, k=4) for query in queries]
    similar = pipe.similar_items(EVENTS["item_id"][:3], k=4)
    for _ in range(3):
        # Newly loaded, so that lazy parts are built during concurrent queries.
        loaded = pickle.loads(pickle.dumps(pipe))
        with ThreadPoolExecutor(8) as pool:
            tables = pool.map(lambda query, of=loaded: of.recommend(query, k=4), queries * 4)
            others = pool.map(
                lambda _, of=loaded: of.similar_items(EVENTS["item_id"][:3], k=4), "ab"
            )
        for table, wanted in zip(tables, expected * 4, strict=True):
            pd.testing.assert_frame_equal(table, wanted)
        for other in others:
            pd.testing.assert_frame_equal(other, similar)


def test_threads_that_look_up_ids_first_find_all_of_them():
    # pandas fills the hash table of an index without its lock: half a table must not be read.
    ids = np.random.default_rng(0).permutation(300_000)
    events = pd.DataFrame({"user_id": ids, "item_id": ids % 7})
    encoder = MatchEncoder().fit(events)
    loaded = pickle.loads(pickle.dumps(encoder))
    with ThreadPoolExecutor(8) as pool:
        coded = list(pool.map(lambda _: loaded.transform(events[-5:]).user, range(8)))
    for user in coded:
        np.testing.assert_array_equal(user, encoder.transform(events[-5:]).user)
