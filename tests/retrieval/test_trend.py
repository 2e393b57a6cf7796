"""Scores that follow what is popular at the time of the query."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skmatch import (
    DSSMRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    MatchPipeline,
    PopularityRetriever,
    SequenceSampler,
    TemporalSplit,
    YoutubeDNNRetriever,
)
from skmatch.datasets import make_events
from skmatch.neighbors import ItemFilter, ItemIndex, ItemLists

RETRIEVERS = {
    "dssm": lambda **given: DSSMRetriever(max_epochs=1, dims=(8,), random_state=0, **given),
    "youtube": lambda **given: YoutubeDNNRetriever(
        max_epochs=1, embedding_dim=8, dims=(8,), random_state=0, **given
    ),
    "items": ItemToItemRetriever,
}
ALL = pytest.mark.parametrize("name", RETRIEVERS)


def fashions(n_events=4000, n_decades=20):
    """Return events whose items change every tenth of 100 days, within groups of users."""
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(0, 100, n_events))
    user = rng.integers(200, size=n_events)
    item = (time * n_decades / 100).astype(int) * 10 + user % 2 * 5 + rng.integers(5, size=n_events)
    return pd.DataFrame({"user_id": user, "item_id": item, "timestamp": time})


EVENTS = fashions()
PLAIN = make_events(n_users=60, n_items=30, n_events=900, random_state=0)


def test_counts_at_the_time_of_a_query_have_the_events_before_it():
    table = pd.DataFrame(
        {"user_id": list("abcd"), "item_id": ["x", "x", "y", "z"], "timestamp": [0.0, 8, 16, 24]}
    )
    retriever = PopularityRetriever(half_life=8).fit(table)
    queries = pd.DataFrame({"user_id": "e", "timestamp": [0.0, 4, 8, 16, 20, 24, 99]})
    scores = retriever.score_pairs(queries.merge(table[["item_id"]].drop_duplicates(), how="cross"))
    shares = scores["score"].to_numpy().reshape(-1, 3)  # of x, y, z
    expected = [
        [0, 0, 0],
        *3 * [[1, 0, 0]],
        *2 * [[0.75, 1, 0]],
        [3 / 8, 1 / 2, 1],
    ]
    expected = [np.array(row) / max(sum(row), 1) for row in expected]
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    ranked = retriever.recommend(queries.iloc[[4, 6]], k=3)["item_id"].tolist()
    assert ranked == ["y", "x", "z", "z", "y", "x"]
    # Without a time, a query is as of now.
    assert retriever.recommend(["e"], k=3)["item_id"].tolist() == ["z", "y", "x"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 39), st.sampled_from([8.0, 16.0]), st.booleans())
def test_nothing_from_a_query_on_changes_what_it_gets(cut, half_life, has_weights):
    # Periods end at whole numbers, so that counts up to one of them are exact.
    rng = np.random.default_rng(cut)
    time = np.sort(rng.integers(0, 40, size=120)).astype(float) * half_life / 8
    table = pd.DataFrame({"user_id": np.arange(120), "item_id": rng.integers(9, size=120)})
    table["timestamp"] = time
    weight = rng.uniform(0.1, 5, size=120) if has_weights else np.ones(120)
    now = cut * half_life / 8
    known = time < now
    if not known.any() or known.all():
        return
    whole = PopularityRetriever(half_life=half_life).fit(table, sample_weight=weight)
    before = PopularityRetriever(half_life=half_life).fit(table[known], sample_weight=weight[known])
    query = pd.DataFrame({"user_id": [999], "timestamp": [now]})
    pairs = query.merge(pd.DataFrame({"item_id": before.item_ids_}), how="cross")
    scores = whole.score_pairs(pairs)["score"], before.score_pairs(pairs)["score"]
    np.testing.assert_allclose(*scores, rtol=1e-5)


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("name", [*RETRIEVERS, "popular"])
def test_a_half_life_beyond_the_events_counts_what_was_before_a_query(name, grown):
    table = EVENTS.assign(timestamp=pd.Timestamp("2024-01-01") + pd.to_timedelta(EVENTS.index, "h"))
    if name == "popular":
        retriever = PopularityRetriever(half_life="36500D", k=300, exclude_seen=False)
    else:
        retriever = RETRIEVERS[name](trend="36500D", k=300, exclude_seen=False)
    first, later = (table[:3000], table[3000:]) if grown else (table, table[:0])
    retriever.fit(first)
    if grown:
        retriever.partial_fit(later)
    query = pd.DataFrame({"user_id": [-1], "timestamp": [table["timestamp"][2000]]})
    scores = retriever.recommend(query).set_index("item_id")["score"]
    factor = scores[retriever.item_ids_] / retriever.popularity_
    before = np.isin(retriever.item_ids_, table["item_id"][:1500])
    after = ~np.isin(retriever.item_ids_, table["item_id"][:2000])
    assert factor[before].min() > 1.1 > 0.9 > factor[after].max()


def test_the_half_life_is_found():
    quick = PopularityRetriever(half_life="auto").fit(EVENTS)
    assert quick.half_life_ < 100 / 8  # fashions last for 5 days
    steady = EVENTS.assign(timestamp=np.random.default_rng(0).permutation(EVENTS["timestamp"]))
    slow = PopularityRetriever(half_life="auto").fit(steady)
    assert slow.half_life_ is None or slow.half_life_ >= 100 / 8
    dates = EVENTS.assign(timestamp=pd.to_datetime(EVENTS["timestamp"], unit="D"))
    by_date = PopularityRetriever(half_life="auto").fit(dates)
    assert by_date.half_life_ == pytest.approx(quick.half_life_ * 86400e9)


@pytest.mark.parametrize("time", [-1e6, 1e6])
def test_an_event_without_weight_changes_no_half_life(time):
    odd = EVENTS[:1].assign(timestamp=time)
    table, weight = pd.concat([EVENTS, odd]), np.append(np.ones(len(EVENTS)), 0)
    expected = PopularityRetriever(half_life="auto").fit(EVENTS)
    found = PopularityRetriever(half_life="auto").fit(table, sample_weight=weight)
    assert found.half_life_ == expected.half_life_
    np.testing.assert_array_equal(found.popularity_, expected.popularity_)


def test_without_times_there_is_no_trend():
    table = EVENTS.drop(columns="timestamp")
    assert PopularityRetriever(half_life="auto").fit(table).half_life_ is None
    assert ItemToItemRetriever().fit(table).trend_ is None
    with pytest.raises(ValueError, match=r"trend=5 needs times.*MatchEncoder\(time="):
        ItemToItemRetriever(trend=5).fit(table)
    with pytest.raises(ValueError, match="trend='soon' is not a length of time above 0"):
        ItemToItemRetriever(trend="soon").fit(EVENTS)


@ALL
@pytest.mark.parametrize("gap", [None, 2.0])
def test_scores_are_those_without_a_trend_and_its_factor(name, gap):
    pipe, without = (
        MatchPipeline(
            [("encode", MatchEncoder()), ("sample", SequenceSampler(gap=gap)), ("rank", retriever)]
        ).fit(EVENTS)
        for retriever in (RETRIEVERS[name](), RETRIEVERS[name](trend=None))
    )
    retriever = pipe[-1]
    assert without[-1].trend_ is None
    assert retriever.trend_.argmax() >= 180 > retriever.trend_.argmin()  # items of the last days
    np.testing.assert_allclose(retriever.trend_, by_hand(retriever, EVENTS), rtol=0.01, atol=2e-3)

    user, last = EVENTS[["user_id", "timestamp"]].iloc[-1]
    # Without a time, within the last visit, after it, and a user of whom nothing is known.
    queries = pd.DataFrame(
        {"user_id": [user, user, user, -1], "timestamp": [None, last + 1, last + 3, last + 1]}
    )
    power = np.full(4, 0.5) if gap is None else np.array([0.75, 0.25, 0.75, 0.75])
    pairs = queries.merge(pd.DataFrame({"item_id": retriever.item_ids_}), how="cross")
    scores, plain = (
        one.score_pairs(pairs)["score"].to_numpy().reshape(4, -1) for one in (pipe, without)
    )
    added = power[:, None] * retriever.trend_
    is_product = np.array([name == "items"] * 3 + [True])[:, None]
    expected = np.where(is_product, plain * np.exp(added), plain + 0.05 * added)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def by_hand(retriever, events):
    """Compute the trend from all events one by one."""
    age = events["timestamp"].max() - events["timestamp"]
    code = pd.Index(retriever.item_ids_).get_indexer(events["item_id"])
    n_items = len(retriever.item_ids_)
    half_life = retriever.counts_over_time_.half_life
    now = np.bincount(code, 0.5 ** (age / half_life), minlength=n_items)
    overall = np.bincount(code, minlength=n_items) / len(events)
    usual = len(events) * half_life / np.log(2) / 98  # days that hold 98% of the events
    share = (now + 0.1 * usual * overall) / (now.sum() + 0.1 * usual)
    return np.log((share + 0.5 / n_items) / (overall + 0.5 / n_items))


@ALL
def test_recommendations_at_all_times_have_the_scores_of_pairs(name):
    retriever = RETRIEVERS[name](trend=7.0).fit(EVENTS)
    times = [None, 12.5, 40.0, 99.9, 1000.0]
    queries = pd.DataFrame({"user_id": np.arange(10), "timestamp": np.repeat(times, 2)})
    found = retriever.recommend(queries, k=5)
    by_time = found["user_id"].map(queries.set_index("user_id")["timestamp"])
    pairs = retriever.score_pairs(found[["user_id", "item_id"]].assign(timestamp=by_time))
    np.testing.assert_allclose(pairs["score"], found["score"], rtol=1e-5)
    assert found.groupby("user_id")["score"].is_monotonic_decreasing.all()
    # One query at a time gives the same.
    alone = [retriever.recommend(queries.iloc[[row]], k=5) for row in range(10)]
    pd.testing.assert_frame_equal(pd.concat(alone, ignore_index=True), found, rtol=1e-5)
    # At an earlier time, items of that time are recommended, and those of later times are not.
    assert found.loc[by_time == 40.0, "item_id"].between(0, 89).all()


@ALL
def test_a_trend_ranks_better_where_fashions_change_and_no_worse_where_not(name):
    for split in (LeaveLastOut(), TemporalSplit(cutoffs=[87])):
        train, test = (EVENTS.iloc[rows] for rows in next(split.split(EVENTS)))
        with_it, without = (
            RETRIEVERS[name](trend=one).fit(train).score(test) for one in ("auto", None)
        )
        assert with_it > without
    train, test = (PLAIN.iloc[rows] for rows in next(LeaveLastOut().split(PLAIN)))
    scores = [RETRIEVERS[name](trend=one).fit(train).score(test) for one in ("auto", None)]
    assert scores[0] > 0.9 * scores[1]


@ALL
def test_weights_of_any_unit_make_the_same_trend(name):
    weight = np.where(EVENTS["timestamp"] > 50, 2.0, 1.0)
    one, other = (
        RETRIEVERS[name](trend=9.0).fit(EVENTS, sample_weight=unit * weight) for unit in (1, 1e-6)
    )
    np.testing.assert_allclose(one.trend_, other.trend_, atol=1e-5)
    for unit in (1e-300, 1e29):
        now = PopularityRetriever(half_life=9.0).fit(EVENTS, sample_weight=unit * weight)
        then = one.counts_over_time_.now() / one.counts_over_time_.now().sum()
        np.testing.assert_allclose(now.popularity_, then, rtol=1e-5)
    rows = np.repeat(np.arange(len(EVENTS)), weight.astype(int))
    twice = ItemToItemRetriever(trend=9.0).fit(EVENTS.iloc[rows])
    np.testing.assert_allclose(one.trend_, twice.trend_, atol=1e-5)


@pytest.mark.parametrize("name", [*RETRIEVERS, "popular"])
def test_the_trend_grows(name):
    make = RETRIEVERS.get(name, lambda trend: PopularityRetriever(half_life=trend))
    early, late = EVENTS[:3000], EVENTS[3000:]
    whole = make(trend=9.0).fit(EVENTS)
    grown = make(trend=9.0).fit(early).partial_fit(late)
    assert grown.item_ids_.tolist() == whole.item_ids_.tolist()
    over_time = grown.counts_over_time_, whole.counts_over_time_
    np.testing.assert_allclose(*(own.now() for own in over_time), rtol=1e-5)
    at = [own.after(int(own.n_ended(np.array([60.0]))[0])) for own in over_time]
    np.testing.assert_allclose(*at, rtol=1e-5)
    if name == "items":
        np.testing.assert_allclose(grown.trend_, whole.trend_, atol=1e-5)
    if name in ("items", "popular"):
        more = grown.add_items(pd.DataFrame({"item_id": [10_000]}))
        assert more.counts_over_time_.n_items == len(more.item_ids_)
        assert 10_000 in more.recommend([1], k=len(more.item_ids_))["item_id"].tolist()


@pytest.mark.parametrize("method", ["exact", "pynndescent"])
def test_an_index_adds_the_bias_of_items(method):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 8)).astype(np.float32)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    bias = rng.normal(size=300).astype(np.float32)
    seen = ItemLists(rng.integers(2, 302, size=200), np.arange(20) * 10, np.arange(20) * 10 + 10)
    mask = rng.random(300) < 0.9
    for allowed in (ItemFilter(), ItemFilter(exclude=(seen,)), ItemFilter(mask=mask)):
        expected = queries @ vectors.T + bias
        allowed.apply(expected, 0)
        index = ItemIndex(method, random_state=0).fit(vectors)
        positions, scores = index.search(queries, 10, allowed, bias)
        best = np.sort(expected, axis=1)[:, :-11:-1]
        assert np.isclose(scores, best, atol=1e-5).mean() > (0.99 if method == "exact" else 0.9)
        found = np.take_along_axis(expected, positions, axis=1)
        np.testing.assert_allclose(scores, found, atol=1e-5)
        assert all(len(set(row)) == 10 for row in positions)


@pytest.mark.parametrize("name", ["dssm", "youtube"])
def test_the_trend_is_a_reason(name):
    retriever = RETRIEVERS[name]().fit(EVENTS)
    items = [retriever.item_ids_[retriever.trend_.argmax()], retriever.item_ids_[0]]
    reasons = retriever.explain([1], items=items, n_reasons=None)
    own = reasons[reasons["kind"] == "trend"].set_index("item_id")["contribution"]
    trend = pd.Series(retriever.trend_, index=retriever.item_ids_)[items]
    np.testing.assert_allclose(own[items], 0.05 * 0.5 * trend, rtol=1e-5)  # without visits
    # What lowers a score is no reason for it.
    few = retriever.explain([1], items=items)
    assert items[0] in few.loc[few["kind"] == "trend", "item_id"].tolist()
    assert items[1] not in few.loc[few["kind"] == "trend", "item_id"].tolist()


@ALL
@pytest.mark.parametrize("wrong", [-1e6, 1e6])
def test_a_wrong_date_changes_little(name, wrong):
    stray = pd.DataFrame({"user_id": [-1], "item_id": [7], "timestamp": [wrong]})
    right, events = EVENTS, pd.concat([EVENTS, stray], ignore_index=True)
    clean, dirty = (RETRIEVERS[name](trend="auto").fit(table) for table in (right, events))
    half_lives = [one.counts_over_time_.half_life for one in (clean, dirty)]
    assert 1 / 2 < half_lives[0] / half_lives[1] < 2
    if wrong > 0:
        # As of a time at which nothing else happened all other items have the same trend.
        others = dirty.item_ids_ != 7
        assert np.ptp(dirty.trend_[others]) < 0.5 < np.ptp(clean.trend_)
    query = pd.DataFrame({"user_id": [1], "timestamp": [99.0]})
    found = [one.recommend(query, k=10)["item_id"] for one in (clean, dirty)]
    assert len(set(found[0]) & set(found[1])) >= (9 if name == "items" else 1)
