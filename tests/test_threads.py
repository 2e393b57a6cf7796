"""Threads that recommend while another adds events and items: each answer is of a whole state."""

import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier

import pandas as pd
import pytest

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=30, n_items=40, n_events=400, random_state=0)
USERS, ITEMS = (EVENTS[name].unique().tolist() for name in ("user_id", "item_id"))
LAST = int(EVENTS["timestamp"].max())
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 1, "random_state": 0}
RETRIEVERS = {
    "popularity": PopularityRetriever(),
    "items": ItemToItemRetriever(),
    "dssm": DSSMRetriever(**SMALL),
    "youtube": YoutubeDNNRetriever(**SMALL),
    "fusion": FusionRetriever(
        [("dssm", DSSMRetriever(**SMALL)), ("items", ItemToItemRetriever())], weights=None
    ),
}
N_READERS, N_ROUNDS = 3, 10


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def make_pipe(retriever):
    encoder = MatchEncoder(user_features=["segment", "age"], item_features=["category"])
    return make_match_pipeline(encoder, SequenceSampler(), retriever)


def grow(model, number):
    """Change the histories of two users at once; now and then add an item or train."""
    has_features = bool(model.schema_.item_features)
    first, second = USERS[number % 7], USERS[7 + number % 5]
    events = pd.DataFrame(
        {
            "user_id": [first, second, f"new {number}"],
            "item_id": [ITEMS[number % 11], ITEMS[11 + number % 13], ITEMS[number % 3]],
            "timestamp": LAST + 10 * number,
        }
    )
    if has_features:
        events["segment"] = ["a", "b", f"segment {number}"]
    if number % 10 == 3:
        model.partial_fit(events)
    elif number % 10 == 7:
        items = pd.DataFrame({"item_id": [10_000 + number], "category": ["new"]})
        model.add_items(items if has_features else items[["item_id"]])
    else:
        model.observe(events)


def values(table):
    return repr(table.to_numpy().tolist())


QUERIES = pd.DataFrame({"user_id": [*USERS[:12], "nobody"], "age": [30.0] * 13})
QUESTIONS = [
    lambda model: values(model.recommend(QUERIES, k=5, exclude={USERS[0]: ITEMS[:3]})),
    lambda model: values(model.recommend(k=2)),
    lambda model: values(model.similar_items(ITEMS[:3], k=3)),
]


def read_while_growing(model, n_rounds):
    """Return the answers of each reader in order, and the answers of all states in order."""
    twin = deepcopy(model)
    states = [[answer_of(twin)] for answer_of in QUESTIONS]
    for number in range(n_rounds):
        grow(twin, number)
        for own, answer_of in zip(states, QUESTIONS, strict=True):
            own.append(answer_of(twin))
    start, is_over = Barrier(N_READERS + 1), []

    def read(_):
        start.wait()
        found = [[] for _ in QUESTIONS]
        while not is_over:
            for own, answer_of in zip(found, QUESTIONS, strict=True):
                own.append(answer_of(model))
        return found

    with ThreadPoolExecutor(N_READERS) as pool:
        readers = pool.map(read, range(N_READERS))
        start.wait()
        try:
            for number in range(n_rounds):
                grow(model, number)
        finally:
            is_over.append(True)
        return [*readers], states


@pytest.mark.parametrize("name", RETRIEVERS)
def test_readers_see_whole_states_in_order_while_a_writer_changes_them(name):
    pipe = make_pipe(RETRIEVERS[name]).fit(EVENTS.astype({"user_id": object}))
    readers, states = read_while_growing(pipe, N_ROUNDS)
    for found in readers:
        for own, known in zip(found, states, strict=True):
            at = 0
            for one in own:
                assert one in known[at:], "an answer of no state, or of an earlier one"
                at = known.index(one, at)


def test_a_retriever_of_plain_events_is_read_in_whole_states_too():
    retriever = ItemToItemRetriever().fit(EVENTS.astype({"user_id": object}))
    readers, states = read_while_growing(retriever, N_ROUNDS)
    for found in readers:
        for own, known in zip(found, states, strict=True):
            assert set(own) <= set(known)


def test_of_two_writers_at_once_the_later_one_fails_and_changes_nothing(monkeypatch):
    pipe = make_pipe(PopularityRetriever()).fit(EVENTS)
    news = pd.DataFrame({"user_id": USERS[:1], "item_id": ITEMS[:1], "timestamp": LAST + 1})
    learn, expected = PopularityRetriever._learn_more, deepcopy(pipe).observe(news).recommend(k=3)

    def interrupted(self, *args):
        monkeypatch.setattr(PopularityRetriever, "_learn_more", learn)
        pipe.observe(news)  # as another thread might
        return learn(self, *args)

    monkeypatch.setattr(PopularityRetriever, "_learn_more", interrupted)
    with pytest.raises(RuntimeError, match=r"changed the MatchEncoder .* one thread at a time"):
        pipe.partial_fit(news.assign(item_id=ITEMS[1]))
    pd.testing.assert_frame_equal(pipe.recommend(k=3), expected)
