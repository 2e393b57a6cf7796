"""Visits: where they begin, what queries and events have of them, and what networks learn."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st

from skmatch import (
    DSSMRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    persistence,
)

# Within a visit events are 1 to 3 apart, visits are 100 and more apart.
TABLE = pd.DataFrame(
    {
        "user_id": ["ann"] * 6 + ["bob"] * 3,
        "item_id": [*"abcdef", *"abc"],
        "timestamp": [0, 1, 3, 103, 104, 304, 0, 2, 302],
    }
)
# The index in the stored events where each event's visit began.
STARTS = [0, 0, 0, 3, 3, 5, 6, 6, 8]
SECONDS = TABLE.assign(
    timestamp=pd.Timestamp("2026-01-01") + pd.to_timedelta(TABLE["timestamp"], "s")
)
ZONED = SECONDS.assign(timestamp=SECONDS["timestamp"].dt.tz_localize("Asia/Tokyo"))


@pytest.mark.parametrize(
    ("events", "unit"),
    [(TABLE, 1), (TABLE.astype({"timestamp": float}), 1), (SECONDS, 1e9), (ZONED, 1e9)],
)
def test_pauses_of_two_kinds_are_separated(events, unit):
    sampler = SequenceSampler()
    samples = sampler.fit_transform(events)
    # In the middle, by the logarithm, between pauses of 2 and of 100.
    assert sampler.visits_.pause == pytest.approx(200**0.5 * unit, rel=0.05)
    assert samples.visit.tolist() == STARTS


def test_few_long_pauses_beside_two_kinds_of_short_ones_begin_visits():
    rng = np.random.default_rng(0)
    # Ratings on one page have equal times, pages are a minute apart, visits days.
    kind = rng.permutation(np.repeat([0, 1, 2], [500, 480, 20]))
    pauses = np.select(
        [kind == 1, kind == 2], [rng.uniform(20, 90, 1000), rng.uniform(1e5, 5e5, 1000)]
    )
    events = pd.DataFrame({"user_id": "u", "item_id": 0, "timestamp": np.cumsum(pauses)})
    sampler = SequenceSampler()
    samples = sampler.fit_transform(events)
    assert 90 < sampler.visits_.pause < 1e5
    assert len(np.unique(samples.visit)) == 21


def test_events_of_equal_times_are_a_visit():
    baskets = pd.DataFrame(
        {"user_id": ["u"] * 6, "item_id": [*"abcdef"], "timestamp": [5, 5, 5, 60, 60, 300]}
    )
    # Equal times count as the shortest pause, here 55.
    assert SequenceSampler().fit_transform(baskets).visit.tolist() == [0] * 5 + [5]
    many = pd.concat([baskets, baskets.assign(user_id="v", timestamp=[5, 6, 6, 60, 61, 300])])
    samples = SequenceSampler().fit_transform(many)
    assert samples.visit.tolist() == [0, 0, 0, 3, 3, 5, 6, 6, 6, 9, 9, 11]


@pytest.mark.parametrize("time", [np.arange(30), np.zeros(30), np.arange(30) * 7.5 - 100])
def test_pauses_of_one_kind_make_no_visits(time):
    events = pd.DataFrame({"user_id": "u", "item_id": np.arange(30), "timestamp": time})
    sampler = SequenceSampler()
    samples = sampler.fit_transform(events)
    assert sampler.visits_ is None
    assert samples.visit is None
    assert sampler.transform(events[:2]).visit is None


def test_evenly_spread_pauses_make_no_visits():
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"user_id": rng.integers(50, size=3000), "item_id": 1})
    for pauses in (rng.exponential(size=3000), rng.lognormal(0, 2, size=3000)):
        events["timestamp"] = np.cumsum(pauses)
        assert SequenceSampler().fit(events).visits_ is None


@pytest.mark.parametrize(
    "events", [TABLE.drop(columns="timestamp"), TABLE.drop_duplicates("user_id")]
)
def test_without_times_or_pauses_there_are_no_visits(events):
    sampler = SequenceSampler()
    assert sampler.fit_transform(events).visit is None
    assert sampler.visits_ is None


@pytest.mark.parametrize(
    ("events", "gap"),
    [
        (TABLE, 50), (TABLE, 50.0), (TABLE, np.int64(50)), (SECONDS, "50s"), (ZONED, "50s"),
        (SECONDS, pd.Timedelta(seconds=50)), (SECONDS, np.timedelta64(50, "s")),
        (ZONED, pd.Timedelta(seconds=50).to_pytimedelta()),
    ],
)  # fmt: skip
def test_a_duration_is_that_much_time_before_an_event(events, gap):
    sampler = SequenceSampler(gap=gap)
    assert sampler.fit_transform(events).visit.tolist() == STARTS


def test_a_duration_does_not_chain():
    """Each event has its own: events no more than 2 before 3 are those of 2, not that of 1."""
    events = pd.DataFrame({"user_id": "u", "item_id": [*"abcd"], "timestamp": [0, 1, 2, 3]})
    assert SequenceSampler(gap=2).fit_transform(events).visit.tolist() == [0, 0, 1, 2]
    query = pd.DataFrame({"user_id": ["u"] * 4, "timestamp": [3, 4, 5, 99]})
    assert SequenceSampler(gap=2).fit(events).transform(query).visit.tolist() == [2, 3, 4, 4]


@pytest.mark.parametrize(
    ("events", "gap"),
    [
        (TABLE, "1D"), (TABLE, "visits"), (TABLE, 0), (TABLE, -1), (TABLE, np.nan),
        (TABLE, pd.Timedelta("1D")), (SECONDS, 50), (SECONDS, "soon"), (SECONDS, "-1D"),
        (SECONDS, pd.NaT), (ZONED, 50), (TABLE, [1]),
    ],
)  # fmt: skip
def test_wrong_gaps_raise(events, gap):
    with pytest.raises(ValueError, match=r"gap=.* is not a length of time above 0"):
        SequenceSampler(gap=gap).fit(events)


def test_a_rate_is_a_share():
    for rate in (-0.1, 1.1, "half"):
        with pytest.raises(ValueError, match="gap_rate"):
            SequenceSampler(gap_rate=rate).fit(TABLE)


@pytest.mark.parametrize("gap", ["visit", 50])
@pytest.mark.parametrize(("events", "unit"), [(TABLE, None), (SECONDS, "s"), (ZONED, "s")])
def test_queries_are_within_a_visit_or_begin_one(events, unit, gap):
    gap = gap if unit is None or gap == "visit" else f"{gap}s"
    sampler = SequenceSampler(gap=gap).fit(events)
    times = pd.Series([305.0, 1000, None, 105, 200, 50_000, 3, None])
    if unit:
        times = events["timestamp"][0] + pd.to_timedelta(times, unit)
    users = ["ann", "ann", "ann", "ann", "ann", "bob", "ann", "new"]
    samples = sampler.transform(pd.DataFrame({"user_id": users, "timestamp": times}))
    # (start of the visit, end of the history); equal where a query begins a visit
    expected = [(5, 6), (6, 6), (6, 6), (3, 5), (5, 5), (9, 9), (0, 2), (0, 0)]
    assert [*zip(samples.visit.tolist(), samples.stop.tolist(), strict=True)] == expected
    now = sampler.transform(pd.DataFrame({"user_id": ["ann", "bob", "new"]}))
    assert now.visit.tolist() == now.stop.tolist() == [6, 9, 0]


@pytest.mark.parametrize("gap", ["visit", "50s"])
def test_times_before_1970(gap):
    old = SECONDS.assign(timestamp=SECONDS["timestamp"] - pd.Timedelta(days=365 * 80))
    sampler = SequenceSampler(gap=gap)
    assert sampler.fit_transform(old).visit.tolist() == STARTS
    last = old["timestamp"][5]
    times = [None, last + pd.Timedelta("1s"), last + pd.Timedelta("1D")]
    queries = pd.DataFrame({"user_id": "ann", "timestamp": pd.to_datetime(pd.Series(times))})
    assert sampler.transform(queries).visit.tolist() == [6, 5, 6]


@pytest.mark.parametrize("gap", ["visit", 50])
def test_an_own_history_is_that_of_the_visit(gap):
    queries = pd.DataFrame(
        {
            "user_id": ["ann", "ann", "ann", "new", "new"],
            "timestamp": [1000, 305, 1000, 1000, 1000],
            "history": [["a", "b"], None, [], ["c"], None],
        }
    )
    samples = SequenceSampler(gap=gap).fit(TABLE).transform(queries)
    assert (samples.stop - samples.start).tolist() == [2, 6, 0, 1, 0]
    # As many events of the history are of the visit:
    assert (samples.stop - samples.visit).tolist() == [2, 1, 0, 1, 0]


@pytest.mark.parametrize("verb", ["partial_fit", "observe"])
@pytest.mark.parametrize("gap", ["visit", 50])
def test_later_events_have_the_visits_of_one_fit(verb, gap):
    queries = pd.DataFrame({"user_id": ["ann", "bob"] * 2, "timestamp": [305, 305, 900, 900]})
    for rows in ([5, 8], [1, 4, 7, 8], [0, 5]):  # at the end, and in between
        known = TABLE.drop(index=rows)
        steps = MatchEncoder(), SequenceSampler(gap=gap), ItemToItemRetriever()
        pipe = make_match_pipeline(*steps).fit(known)
        getattr(pipe, verb)(TABLE.iloc[rows])
        found = pipe[1].transform(pipe[0].transform(queries))
        whole = SequenceSampler(gap=gap).fit(TABLE).transform(queries)
        for name in ("visit", "start", "stop"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


def test_partial_fit_transforms_new_rows_with_their_visits():
    """Counts of a retriever that grows see the same histories."""
    steps = MatchEncoder(), SequenceSampler(), ItemToItemRetriever(window=1)
    pipe = make_match_pipeline(*steps).fit(TABLE[TABLE["timestamp"] < 300])
    pipe.partial_fit(TABLE[TABLE["timestamp"] >= 300])
    table = pipe.recommend(pd.DataFrame({"user_id": ["ann"], "timestamp": [1000]}), k=9)
    assert len(table) == 0  # ann has seen all


@pytest.mark.parametrize("gap", ["visit", 50])
def test_parquet_has_the_visits_of_a_frame(gap, tmp_path, monkeypatch):
    from skmatch import _files
    from skmatch.preprocessing import _event_source

    monkeypatch.setattr(_event_source, "PIECE_SIZE", 90)
    monkeypatch.setattr(_files, "BLOCK_SIZE", 100)
    events = pd.concat([TABLE.assign(user_id=TABLE["user_id"] + str(i)) for i in range(60)])
    events = events.sample(frac=1, random_state=0, ignore_index=True)
    events.to_parquet(tmp_path / "events.parquet", row_group_size=70)
    frame, parquet = SequenceSampler(gap=gap), SequenceSampler(gap=gap)
    expected = frame.fit_transform(events)
    found = parquet.fit_transform(tmp_path / "events.parquet")
    np.testing.assert_array_equal(found.visit, expected.visit)
    assert parquet.visits_.pause == frame.visits_.pause
    query = pd.DataFrame({"user_id": ["ann3"], "timestamp": [305]})
    assert parquet.transform(query).visit.tolist() == frame.transform(query).visit.tolist()


def test_frames_hold_visits():
    sampler = SequenceSampler().set_output(transform="pandas")
    frame = sampler.fit_transform(TABLE)
    assert frame["visit"].tolist() == STARTS
    plain = SequenceSampler().fit_transform(TABLE)
    ours, theirs = (
        ItemToItemRetriever(window=2).fit(X).transitions_.toarray() for X in (frame, plain)
    )
    np.testing.assert_array_equal(ours, theirs)
    query = pd.DataFrame({"user_id": ["ann", "ann"], "timestamp": [305, 900]})
    retriever = ItemToItemRetriever().fit(frame)
    framed = retriever.recommend(sampler.transform(query), k=6, exclude_seen=False)
    plain = SequenceSampler().fit(TABLE).transform(query)
    expected = retriever.recommend(plain, k=6, exclude_seen=False)
    pd.testing.assert_frame_equal(framed, expected)
    assert framed["score"][:6].tolist() != framed["score"][6:].tolist()


@pytest.mark.parametrize("gap", ["visit", 50, None])
def test_saved_files(gap, tmp_path):
    sampler = SequenceSampler(gap=gap).fit(TABLE)
    query = pd.DataFrame({"user_id": ["ann", "ann"], "timestamp": [305, 900]})
    joblib.dump(sampler, tmp_path / "a.joblib")
    skops.io.dump(sampler, tmp_path / "b.skops")
    for loaded in (
        pickle.loads(pickle.dumps(sampler)),
        joblib.load(tmp_path / "a.joblib"),
        skops.io.load(tmp_path / "b.skops", trusted=persistence.TRUSTED_TYPES),
    ):
        found = loaded.transform(query).visit
        assert found is None if gap is None else found.tolist() == [5, 6]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_sees_the_future(data):
    n = data.draw(st.integers(2, 40))
    draw = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    user = data.draw(draw)
    pause = st.sampled_from([0, 1, 2, 3, 100, 150, 400])
    time = np.cumsum(data.draw(st.lists(pause, min_size=n, max_size=n)))
    time = time[data.draw(st.permutations(range(n)))]
    gap = data.draw(st.sampled_from(["visit", 1, 2, 50, 150]))
    max_length = data.draw(st.integers(1, 6))
    events = pd.DataFrame({"user_id": user, "item_id": np.arange(n), "timestamp": time})
    sampler = SequenceSampler(max_length, gap=gap)
    samples = sampler.fit_transform(events)
    if samples.visit is None:
        return
    seen, visit, stop = samples.seen, samples.visit, samples.stop
    assert (seen <= visit).all()  # the history before a visit is a prefix of that up to the event
    assert (visit <= stop).all()
    stored = samples.log.items - 2  # items are numbered by their row
    for row in range(n):
        before, during = stored[seen[row] : visit[row]], stored[visit[row] : stop[row]]
        assert (events["user_id"][[*before, *during]] == user[row]).all()
        assert (time[during] <= time[row]).all()
        if gap != "visit":
            assert (time[before] <= time[row] - gap).all()
            assert (time[during] > time[row] - gap).all()
        else:
            visit_times = [*time[during], time[row]]
            assert (np.diff(visit_times) < sampler.visits_.pause).all()
            assert not len(before) or visit_times[0] - time[before[-1]] >= sampler.visits_.pause
    # A query at the time of an event, as of before it, has at most what the event has.
    queries = sampler.transform(events[["user_id", "timestamp"]])
    assert (queries.stop <= stop).all()
    assert (queries.visit <= queries.stop).all()
    if gap != "visit":
        np.testing.assert_array_equal(np.minimum(visit, queries.stop), queries.visit)


def shop(seed, n_users=240, n_visits=6, length=5, n_tastes=5, n_steps=9):
    """Return visits that begin with the item of the user's taste and go on from item to item."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(n_tastes, size=n_users)
    user, visit = (one.ravel() for one in np.mgrid[:n_users, :n_visits])
    first = rng.integers(n_steps - length, size=len(user))  # of the chain of common items
    item = first[:, None] + np.arange(length + 1)
    item[:, 0] = 100 + taste[user]
    time = visit[:, None] * 1000.0 + np.arange(length + 1)
    happens = np.arange(length + 1) < rng.integers(2, length + 2, size=len(user))[:, None]
    user = np.broadcast_to(user[:, None], item.shape)
    return pd.DataFrame(
        {"user_id": user[happens], "item_id": item[happens], "timestamp": time[happens]}
    )


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_one_network_ranks_within_a_visit_and_for_the_next(cls):
    events = shop(0)
    tastes = events.groupby("user_id")["item_id"].first()
    last = events.groupby("user_id").tail(1)
    last = last[last["item_id"] < 7]  # where the chain goes on
    within = last[["user_id"]].assign(timestamp=last["timestamp"] + 0.5)
    later, now = within.assign(timestamp=99_999.0), last[["user_id"]]
    expected = {"within": last["item_id"] + 1} | dict.fromkeys(
        ("later", "now"), tastes[last["user_id"]]
    )
    hits = {}
    for gap in ("visit", None):
        retriever = cls(
            embedding_dim=16, dims=(16,), max_epochs=8, batch_size=128, exclude_seen=False,
            random_state=0,
        )  # fmt: skip
        sampler = SequenceSampler(gap=gap, exclude_history=False)
        pipe = make_match_pipeline(MatchEncoder(), sampler, retriever).fit(events)
        for name, queries in (("within", within), ("later", later), ("now", now)):
            found = pipe.predict(queries, k=1, exclude_seen=False)[:, 0]
            hits[gap, name] = (found == expected[name].to_numpy()).mean()
    assert hits[None, "within"] > 0.6
    assert min(hits["visit", name] for name in expected) > 0.6
    assert max(hits[None, name] for name in ("later", "now")) < 0.2
