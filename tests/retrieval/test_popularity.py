"""`PopularityRetriever(half_life=...)`: what is popular now."""

import numpy as np
import pandas as pd
import pytest

from skmatch import PopularityRetriever, TemporalSplit
from skmatch.datasets import make_events

NUMBERS = pd.DataFrame(
    {"user_id": list("abcd"), "item_id": ["old", "old", "old", "new"], "timestamp": [0, 0, 10, 20]}
)
DAYS = NUMBERS.assign(
    timestamp=pd.Timestamp("2026-01-01") + pd.to_timedelta(NUMBERS["timestamp"], "D")
)
ZONED = DAYS.assign(timestamp=DAYS["timestamp"].dt.tz_localize("Europe/Berlin"))


@pytest.mark.parametrize(
    ("events", "half_life"),
    [
        (NUMBERS, 10),
        (NUMBERS, 10.0),
        (DAYS, "10D"),
        (DAYS, pd.Timedelta(days=10)),
        (DAYS, np.timedelta64(240, "h")),
        (ZONED, "10D"),
    ],
)
def test_an_event_counts_half_after_each_half_life(events, half_life):
    retriever = PopularityRetriever(half_life).fit(events)
    # As of the latest event, two events are 2 half-lives old and one is 1.
    assert retriever.counts_ == pytest.approx([2 / 4 + 1 / 2, 1])
    weighted = PopularityRetriever(half_life).fit(events, sample_weight=[1, 1, 1, 3])
    assert weighted.counts_ == pytest.approx([1, 3])
    assert weighted.popularity_ == pytest.approx([1 / 4, 3 / 4])
    assert weighted.recommend(["e"])["item_id"].tolist() == ["new", "old"]


def test_without_a_half_life_all_events_count_alike():
    assert PopularityRetriever().fit(NUMBERS).counts_.tolist() == [3, 1]
    short = PopularityRetriever(half_life=1).fit(NUMBERS).recommend(["e"])
    assert short["item_id"].tolist() == ["new", "old"]


@pytest.mark.parametrize("order", ["in time", "shuffled"])
def test_partial_fit_is_a_fit_on_all(order):
    events = make_events(n_users=40, n_items=30, n_events=600, random_state=0)
    events = events[["user_id", "item_id", "timestamp"]].sort_values("timestamp")
    if order == "shuffled":
        events = events.sample(frac=1, random_state=0)
    half_life = float(np.ptp(events["timestamp"])) / 5
    whole = PopularityRetriever(half_life).fit(events)
    grown = PopularityRetriever(half_life)
    for rows in np.array_split(np.arange(600), 4):
        grown.partial_fit(events.iloc[rows])
    assert grown.item_ids_.tolist() == whole.item_ids_.tolist()
    np.testing.assert_allclose(grown.counts_, whole.counts_)
    np.testing.assert_allclose(grown.popularity_, whole.popularity_, rtol=1e-6)
    users = events["user_id"].unique()
    assert grown.recommend(users)["item_id"].tolist() == whole.recommend(users)["item_id"].tolist()


def test_observed_events_do_not_count():
    retriever = PopularityRetriever(half_life=10).fit(NUMBERS)
    before = retriever.counts_.tolist()
    news = pd.DataFrame({"user_id": ["e"], "item_id": ["old"], "timestamp": [1000]})
    assert retriever.observe(news).counts_.tolist() == before
    assert retriever.add_items(pd.DataFrame({"item_id": ["x"]})).counts_.tolist() == [*before, 0]


@pytest.mark.parametrize(
    ("events", "half_life"),
    [
        (NUMBERS, "10D"),
        (NUMBERS, 0),
        (NUMBERS, -1.0),
        (DAYS, 10),
        (DAYS, "10"),
        (DAYS, "soon"),
        (ZONED, 10),
    ],
)
def test_wrong_lengths_of_time_raise(events, half_life):
    with pytest.raises(ValueError, match=r"half_life=.* is not a length of time above 0"):
        PopularityRetriever(half_life).fit(events)


def test_a_half_life_needs_times():
    with pytest.raises(ValueError, match=r"half_life=10 needs times.*MatchEncoder\(time="):
        PopularityRetriever(half_life=10).fit(NUMBERS.drop(columns="timestamp"))


def test_popular_now_wins_where_fashions_change():
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(0, 100, 2000))
    item = (time // 10).astype(int) * 10 + rng.integers(10, size=2000)  # ten items each decade
    user = rng.integers(400, size=2000)
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": time})
    train, test = (events.iloc[rows] for rows in next(TemporalSplit(cutoffs=[95]).split(events)))
    retrievers = PopularityRetriever(), PopularityRetriever(half_life=2.0)
    ndcg = [retriever.fit(train).score(test) for retriever in retrievers]
    assert ndcg[1] > 3 * ndcg[0]


def test_one_wrong_date_does_not_change_what_is_popular_now():
    events = make_events(n_users=60, n_items=30, n_events=2000, random_state=0)
    first, last = events["timestamp"].min(), events["timestamp"].max()
    half_life = float(last - first) / 4
    rare = events["item_id"].value_counts().index[-1]
    wrong = events.iloc[:1].assign(item_id=rare, timestamp=last + 20 * (last - first))
    expected = PopularityRetriever(half_life).fit(events).recommend(["new"])
    retriever = PopularityRetriever(half_life).fit(pd.concat([events, wrong]))
    found = retriever.recommend(["new"])
    assert found["item_id"].tolist() == expected["item_id"].tolist()
    # Many events at that time are what is popular then.
    retriever.partial_fit(pd.concat([wrong] * 100))
    assert retriever.recommend(["new"], k=1)["item_id"].tolist() == [rare]
