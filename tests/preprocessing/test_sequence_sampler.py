"""Each event has the history before it, and no event sees itself or the future."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skmatch import MatchEncoder, PopularityRetriever, SequenceSampler, make_match_pipeline
from skmatch._data import Samples

EVENTS = pd.DataFrame(
    {
        "user_id": ["ann", "bob", "ann", "ann", "ann"],
        "item_id": ["pie", "rye", "jam", "tea", "fig"],
        "timestamp": [5, 1, 3, 5, 9],
    },
    index=[7, 7, 1, 0, 2],
)  # ann: jam at 3, pie and tea at 5, fig at 9


def histories(samples):
    return samples.decode()["history"].tolist()


def seen(samples):
    """Return for each row all that its user has seen."""
    items = samples.schema.items.decode(samples.log.items)
    return [items[a:b].tolist() for a, b in zip(samples.seen, samples.stop, strict=True)]


def ask(sampler=None, **queries):
    sampler = SequenceSampler().fit(EVENTS) if sampler is None else sampler
    return sampler.transform(pd.DataFrame(queries))


# fit_transform


def test_training_rows_have_the_events_before_them():
    samples = SequenceSampler().fit_transform(EVENTS)
    expected = [["jam"], [], [], ["jam", "pie"], ["jam", "pie", "tea"]]
    assert histories(samples) == expected
    assert seen(samples) == expected
    assert samples.decode()["item_id"].tolist() == EVENTS["item_id"].tolist()


def test_of_events_at_one_time_the_earlier_row_comes_first():
    swapped = EVENTS.iloc[[3, 0, 1, 2, 4]]  # now tea stands before pie
    expected = [["jam"], ["jam", "tea"], [], [], ["jam", "tea", "pie"]]
    assert histories(SequenceSampler().fit_transform(swapped)) == expected


def test_without_times_the_rows_are_in_order():
    samples = SequenceSampler().fit_transform(EVENTS.drop(columns="timestamp"))
    assert histories(samples) == [[], [], ["pie"], ["pie", "jam"], ["pie", "jam", "tea"]]


def test_a_history_holds_the_most_recent_events():
    samples = SequenceSampler(max_length=2).fit_transform(EVENTS)
    assert histories(samples) == [["jam"], [], [], ["jam", "pie"], ["pie", "tea"]]
    assert seen(samples)[4] == ["jam", "pie", "tea"]


def test_one_event_has_no_history():
    samples = SequenceSampler().fit_transform(EVENTS[:1])
    assert histories(samples) == [[]]
    assert histories(SequenceSampler().fit(EVENTS[:1]).transform(EVENTS[["user_id"]])[:2]) == [
        ["pie"],
        [],
    ]


def test_fit_then_transform_answers_queries():
    sampler = SequenceSampler().fit(EVENTS)
    # As queries, both events at 5 know only what was before 5.
    assert histories(sampler.transform(EVENTS)) == [
        ["jam"],
        [],
        [],
        ["jam"],
        ["jam", "pie", "tea"],
    ]


def test_datetimes_order_events_as_numbers_do():
    events = EVENTS.assign(timestamp=pd.to_datetime(EVENTS["timestamp"], unit="D", utc=True))
    sampler = SequenceSampler()
    expected = histories(SequenceSampler().fit_transform(EVENTS))
    assert histories(sampler.fit_transform(events)) == expected
    queries = pd.DataFrame(
        {"user_id": "ann", "timestamp": pd.to_datetime(["1970-01-06", None], utc=True)}
    )
    assert histories(sampler.transform(queries)) == [["jam"], ["jam", "pie", "tea", "fig"]]


# transform

ALL = ["jam", "pie", "tea", "fig"]


def test_a_query_without_time_has_all_that_is_stored():
    samples = ask(user_id=["ann", "eve", "bob"])
    assert histories(samples) == seen(samples) == [ALL, [], ["rye"]]


@pytest.mark.parametrize(
    ("time", "expected"),
    [(0, []), (3, []), (4, ALL[:1]), (5, ALL[:1]), (5.5, ALL[:3]), (9, ALL[:3]), (10, ALL)]
    + [(np.nan, ALL), (None, ALL), (np.inf, ALL), (-np.inf, [])],
)
def test_a_query_with_a_time_has_what_was_strictly_before(time, expected):
    samples = ask(user_id=["ann", "eve"], timestamp=[time, time])
    assert histories(samples) == seen(samples) == [expected, []]


def test_times_of_queries_may_be_missing_one_by_one():
    samples = ask(user_id=["ann"] * 3, timestamp=pd.array([5, None, 6], dtype="Int64"))
    assert histories(samples) == [["jam"], ALL, ["jam", "pie", "tea"]]


def test_max_length_holds_for_queries():
    sampler = SequenceSampler(max_length=2).fit(EVENTS)
    samples = ask(sampler, user_id=["ann", "ann"], timestamp=[6, np.nan])
    assert histories(samples) == [["pie", "tea"], ["tea", "fig"]]
    assert seen(samples) == [ALL[:3], ALL]


def test_a_query_may_bring_its_own_history():
    samples = ask(
        SequenceSampler(max_length=2).fit(EVENTS),
        user_id=["bob", "bob", "bob", "eve", "eve", "eve"],
        history=[["tea"], None, [], ["jam", "pie", "fig"], ("pie",), np.nan],
    )
    assert histories(samples) == [["tea"], ["rye"], [], ["pie", "fig"], ["pie"], []]
    # What is stored of a user still counts as seen.
    assert seen(samples) == [
        ["rye", "tea"],
        ["rye"],
        ["rye"],
        ["jam", "pie", "fig"],
        ["pie"],
        [],
    ]


def test_unknown_items_of_an_own_history_keep_their_place():
    samples = ask(user_id=["eve"], history=[["jam", "???", "tea"]])
    codes = samples.log.items[samples.start[0] : samples.stop[0]]
    known = samples.schema.items.lookup(["jam", "tea"])
    assert codes.tolist() == [known[0], 1, known[1]]
    assert codes.dtype == np.int32  # floats would be equal, and are no codes


def test_an_own_history_and_a_time():
    samples = ask(user_id=["ann", "ann"], timestamp=[5, 5], history=[["rye"], None])
    assert histories(samples) == [["rye"], ["jam"]]
    assert seen(samples) == [["jam", "rye"], ["jam"]]


def test_no_queries_have_no_histories():
    for queries in (EVENTS[:0], EVENTS[:0].assign(history=None)):
        assert len(SequenceSampler().fit(EVENTS).transform(queries)) == 0


# Against a reference in plain Python

tables = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=25
)


def to_frame(rows):
    frame = pd.DataFrame(rows, columns=["user_id", "time", "item_id"])
    return frame.rename(columns={"time": "timestamp"})


@settings(deadline=None, max_examples=60)
@given(tables, st.integers(1, 4))
def test_no_event_sees_itself_or_the_future(rows, max_length):
    rows = [(user, time, n) for n, (user, time, _) in enumerate(rows)]  # an item an event
    samples = SequenceSampler(max_length=max_length).fit_transform(to_frame(rows))
    assert samples.decode()["item_id"].tolist() == list(range(len(rows)))
    for n, (history, known) in enumerate(zip(histories(samples), seen(samples), strict=True)):
        user, time, _ = rows[n]
        past = [m for m, row in enumerate(rows) if row[0] == user and (row[1], m) < (time, n)]
        past.sort(key=lambda m: (rows[m][1], m))
        assert known == past
        assert history == past[-max_length:]


@settings(deadline=None, max_examples=60)
@given(
    tables,
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.none() | st.integers(-1, 6),
            st.none() | st.lists(st.integers(0, 6), max_size=5),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 4),
)
def test_queries_are_answered_row_by_row(rows, queries, max_length):
    sampler = SequenceSampler(max_length=max_length).fit(to_frame(rows))
    frame = pd.DataFrame({"user_id": [user for user, _, _ in queries]})
    frame["timestamp"] = pd.Series([time for _, time, _ in queries], dtype=float)
    frame["history"] = pd.Series([own for _, _, own in queries], dtype=object)
    samples = sampler.transform(frame)
    known = {item for _, _, item in rows}
    order = sorted(range(len(rows)), key=lambda n: (rows[n][1], n))
    for (user, time, own), history in zip(queries, histories(samples), strict=True):
        stored = [
            rows[n][2] for n in order if rows[n][0] == user and (time is None or rows[n][1] < time)
        ]
        expected = stored if own is None else [i if i in known else None for i in own]
        assert [None if pd.isna(i) else i for i in history] == expected[-max_length:]


@settings(deadline=None, max_examples=30)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_where_times_differ(rows, random):
    frame = to_frame([(user, n, item) for n, (user, _, item) in enumerate(rows)])
    expected = histories(SequenceSampler().fit_transform(frame))
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = histories(SequenceSampler().fit_transform(frame.iloc[order]))
    assert shuffled == [expected[n] for n in order]


# Counts, memory, output


def test_counts_are_those_of_the_catalogue():
    items = pd.DataFrame({"item_id": ["new", "rye"]})
    encoder = MatchEncoder().fit(EVENTS, items=items)
    sampler = SequenceSampler().fit(encoder.transform(EVENTS))
    assert len(sampler.item_counts_) == 6
    by_item = dict(zip(encoder.schema_.items.values, sampler.item_counts_.tolist(), strict=True))
    assert by_item == {"pie": 1, "rye": 1, "jam": 1, "tea": 1, "fig": 1, "new": 0}


def test_memory_is_one_log_of_events():
    n = 2000
    events = pd.DataFrame({"user_id": 0, "item_id": np.arange(n) % 50})
    sampler = SequenceSampler(max_length=1000)
    samples = sampler.fit_transform(events)
    assert samples.log is sampler.log_
    assert len(samples.log.items) == n
    assert all(dtype.kind == "i" for dtype in samples.to_frame().dtypes)
    assert len(pickle.dumps(samples)) < 100 * n
    assert sampler.transform(events).log is sampler.log_


def test_samples_survive_a_frame():
    samples = SequenceSampler(max_length=2, min_history=3).fit_transform(EVENTS)
    frame = samples.to_frame()
    again = Samples.from_frame(frame)
    pd.testing.assert_frame_equal(again.to_frame(), frame.reset_index(drop=True))
    assert histories(again) == histories(samples)
    assert (again.min_history, again.log, again.sampling) == (3, samples.log, samples.sampling)


@pytest.mark.parametrize("how", ["set_output", "config"])
def test_frames_give_the_same_histories(how):
    queries = pd.DataFrame({"user_id": ["ann", "eve"], "history": [None, ["tea", "?"]]})
    plain_encoder = MatchEncoder().fit(EVENTS)
    plain = SequenceSampler().fit(plain_encoder.transform(EVENTS))
    expected = plain.transform(plain_encoder.transform(queries)).decode()
    encoder, sampler = MatchEncoder(), SequenceSampler()
    if how == "set_output":
        encoder.set_output(transform="pandas")
        sampler.set_output(transform="pandas")
    with sklearn.config_context(transform_output="pandas" if how == "config" else "default"):
        frame = sampler.fit_transform(encoder.fit_transform(EVENTS))
        assert sampler.get_feature_names_out().tolist() == frame.columns.tolist()
        answered = sampler.transform(encoder.transform(queries))
    assert isinstance(answered, pd.DataFrame)
    pd.testing.assert_frame_equal(Samples.from_frame(answered).decode(), expected)


def test_plain_events_are_encoded():
    values = EVENTS.to_numpy()
    sampler = SequenceSampler()
    assert histories(sampler.fit_transform(values)) == histories(
        SequenceSampler().fit_transform(EVENTS)
    )
    assert sampler.n_features_in_ == 3


def test_input_is_never_changed():
    before = EVENTS.copy(deep=True)
    events = MatchEncoder().fit_transform(EVENTS)
    coded = events.to_frame()
    sampler = SequenceSampler(max_length=1).fit(events)
    sampler.transform(events)
    SequenceSampler().fit_transform(EVENTS)
    pd.testing.assert_frame_equal(EVENTS, before)
    pd.testing.assert_frame_equal(events.to_frame(), coded)


def test_clone_and_pickle():
    sampler = SequenceSampler(max_length=2, negatives="log", random_state=3)
    assert clone(sampler).get_params() == sampler.get_params()
    again = pickle.loads(pickle.dumps(sampler.fit(EVENTS)))
    queries = pd.DataFrame({"user_id": ["ann", "eve"], "timestamp": [6, 6]})
    pd.testing.assert_frame_equal(
        again.transform(queries).decode(), sampler.transform(queries).decode()
    )


def test_the_seed_of_the_draws_follows_random_state():
    def seed(random_state):
        return SequenceSampler(random_state=random_state).fit(EVENTS).sampling_.seed

    assert seed(None) is None
    assert seed(0) == seed(0) != seed(1)


def test_the_share_of_histories_that_end_before_a_gap_follows_gap_rate():
    assert SequenceSampler(gap=2, gap_rate=0.25).fit_transform(EVENTS).gap_rate == 0.25
    assert SequenceSampler(gap=None, gap_rate=0.25).fit_transform(EVENTS).gap_rate == 0


@pytest.mark.parametrize("verb", ["observe", "partial_fit"])
def test_visits_of_new_events_begin_where_those_of_a_fit_do(verb):
    times = np.add.outer(np.arange(10) * 10_000, [0, 10, 20]).ravel()  # visits of three events
    events = pd.DataFrame(
        {"user_id": "ann", "item_id": np.arange(len(times)) % 5, "timestamp": times}
    )
    grown, whole = (
        make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever()).fit(known)
        for known in (events[:-4], events)
    )
    getattr(grown, verb)(events[-4:])
    queries = pd.DataFrame({"user_id": "ann", "timestamp": [80_015, 90_015, 90_025, 99_999]})
    for pipeline in (grown, whole):
        samples = pipeline[1].transform(pipeline[0].transform(queries))
        assert samples.to_frame()["visit"].tolist() == [24, 27, 27, 30]


def test_a_sampler_that_has_grown_knows_and_counts_the_new_items():
    steps = MatchEncoder(), SequenceSampler(), PopularityRetriever()
    encoder, sampler, _ = (
        make_match_pipeline(*steps)
        .fit(EVENTS)
        .partial_fit(EVENTS.assign(item_id="new", timestamp=10))
    )
    for step in (encoder, sampler):
        assert step.schema_.items.values.tolist() == ["pie", "rye", "jam", "tea", "fig", "new"]
    assert sampler.item_counts_.tolist() == [1, 1, 1, 1, 1, 5]


# Errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"negatives": "hard"}, r"negatives='hard' is not known; choose.*'popularity'"),
        ({"negatives": None}, r"negatives.*None"),
        ({"max_length": 0}, r"'max_length'.*\[1, 2147483647\].*0"),
        ({"max_length": 2.5}, r"'max_length'.*2\.5"),
        ({"neg_ratio": 0}, r"'neg_ratio'.*\[1, inf\).*0"),
        ({"min_history": -1}, r"'min_history'.*\[0, inf\).*-1"),
        ({"random_state": "x"}, r"'random_state'.*'x'"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        SequenceSampler(**params).fit(EVENTS)


def test_events_that_the_encoder_does_not_know():
    encoder = MatchEncoder().fit(EVENTS[:3])
    with pytest.raises(ValueError, match=r"2 events.*unknown to the MatchEncoder.*row 3: fit both"):
        SequenceSampler().fit(encoder.transform(EVENTS))


def test_plain_queries_need_the_encoder():
    sampler = SequenceSampler().fit(MatchEncoder().fit_transform(EVENTS))
    with pytest.raises(ValueError, match=r"got a DataFrame.*same MatchEncoder first"):
        sampler.transform(EVENTS)
