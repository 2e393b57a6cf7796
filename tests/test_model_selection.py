"""Every split trains on the past only, whatever the order of the rows."""

import pickle
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import BaseCrossValidator, cross_validate
from sklearn.utils.metadata_routing import get_routing_for_object

from skmatch.model_selection import LeaveLastOut, TemporalSplit

SPLITTERS = [LeaveLastOut(), TemporalSplit()]
every_splitter = pytest.mark.parametrize("cv", SPLITTERS, ids=lambda cv: type(cv).__name__)


def make_events(n_users=6, n_events=60, n_times=10**6, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "item_id": rng.integers(9, size=n_events),
            "timestamp": rng.integers(n_times, size=n_events),
            "user_id": rng.integers(n_users, size=n_events),
        },
        index=rng.permutation(n_events) + 100,
    )


def split_to_lists(cv, X):
    return [(train.tolist(), test.tolist()) for train, test in cv.split(X)]


@st.composite
def events(draw):
    """Events of few users at few times, so that ties are common."""
    n_events = draw(st.integers(2, 40))
    n_times = draw(st.sampled_from([3, 10, 1000]))
    return make_events(draw(st.integers(1, 6)), n_events, n_times, draw(st.integers(0, 2**32)))


def split_or_assume(cv, X):
    try:
        return list(cv.split(X))
    except ValueError as error:
        assume("events:" not in str(error))
        raise


# LeaveLastOut


def test_last_event_of_each_user_is_tested():
    X = pd.DataFrame({"user_id": list("abababc"), "timestamp": [1, 6, 3, 5, 2, 4, 0]})
    assert split_to_lists(LeaveLastOut(), X) == [([0, 3, 4, 5, 6], [1, 2])]
    assert split_to_lists(LeaveLastOut(2), X) == [([0, 5, 6], [1, 2, 3, 4])]
    assert split_to_lists(LeaveLastOut(n_splits=2), X) == [
        ([0, 5], [3, 4]),  # the last events are in neither set, and "c" has but one
        ([0, 3, 4, 5, 6], [1, 2]),
    ]


def test_a_user_with_too_few_events_is_trained_on():
    X = pd.DataFrame({"user_id": list("aaaabb"), "timestamp": [1, 2, 3, 4, 1, 2]})
    assert split_to_lists(LeaveLastOut(2), X) == [([0, 1, 4, 5], [2, 3])]
    # In the first fold, the last event of "b" lies after the block that would be tested.
    assert split_to_lists(LeaveLastOut(n_splits=2), X) == [([0, 1, 4], [2]), ([0, 1, 2, 4], [3, 5])]


def test_events_at_the_same_time_come_in_the_order_of_the_rows():
    X = pd.DataFrame({"user_id": 1, "timestamp": [5, 5, 3, 5]})
    assert split_to_lists(LeaveLastOut(), X) == [([0, 1, 2], [3])]
    assert split_to_lists(LeaveLastOut(2), X) == [([0, 2], [1, 3])]


@given(events(), st.integers(1, 3), st.integers(1, 3))
def test_leave_last_out_trains_on_each_users_past(X, n_last, n_splits):
    folds = split_or_assume(LeaveLastOut(n_last, n_splits), X)
    assert len(folds) == n_splits
    X = X.assign(row=np.arange(len(X)))
    key = X[["timestamp", "row"]].apply(tuple, axis=1).to_numpy()
    user = X["user_id"].to_numpy()
    tested = []
    for fold, (train, test) in enumerate(folds):
        assert not set(train) & set(test)
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()
        assert train.dtype == test.dtype == np.intp
        n_after = (n_splits - 1 - fold) * n_last
        for u in np.unique(user):
            mine = sorted(np.flatnonzero(user == u), key=key.__getitem__)
            mine = mine[: max(len(mine) - n_after, 0)]
            n_tested = n_last if len(mine) > n_last else 0
            assert set(mine[: len(mine) - n_tested]) == set(train[user[train] == u])
            assert set(mine[len(mine) - n_tested :]) == set(test[user[test] == u])
        tested += [*test]
    assert len(tested) == len(set(tested))


def test_leave_last_out_says_which_fold_has_nobody_to_test():
    X = pd.DataFrame({"user_id": [1, 1, 2, 2, 2], "timestamp": range(5)})
    message = (
        "Fold 0 of LeaveLastOut has no test events: it tests users with at least 4 events, and no "
        "user has more than 3. Lower n_last or n_splits."
    )
    for cv in (LeaveLastOut(3), LeaveLastOut(n_splits=3)):
        with pytest.raises(ValueError, match=message):
            next(cv.split(X))


# TemporalSplit


def test_blocks_of_as_many_events():
    X = make_events(n_events=60)
    time = X["timestamp"].to_numpy()
    for cv, n_train, n_test in [
        (TemporalSplit(), [10, 20, 30, 40, 50], [10] * 5),
        (TemporalSplit(2), [20, 40], [20] * 2),
        (TemporalSplit(3, test_size=0.1), [42, 48, 54], [6] * 3),
        (TemporalSplit(1, test_size=0.25), [45], [15]),
    ]:
        folds = list(cv.split(X))
        assert [len(train) for train, _ in folds] == n_train
        assert [len(test) for _, test in folds] == n_test
        assert time[folds[-1][1]].max() == time.max()
        for (_, test), (train, _) in pairwise(folds):
            assert set(test) <= set(train)


def test_cutoffs_belong_to_the_test_set():
    X = pd.DataFrame({"user_id": 1, "timestamp": [0, 10, 10, 20, 30]})
    cv = TemporalSplit(cutoffs=[10, 20])
    assert cv.get_n_splits() == 2
    assert split_to_lists(cv, X) == [([0], [1, 2]), ([0, 1, 2], [3, 4])]
    assert split_to_lists(TemporalSplit(cutoffs=(10.5,)), X) == [([0, 1, 2], [3, 4])]
    assert split_to_lists(TemporalSplit(cutoffs=np.array([30])), X) == [([0, 1, 2, 3], [4])]


def test_gap_and_window_bound_the_training_set():
    X = pd.DataFrame({"user_id": 1, "timestamp": range(10)})
    (train, test) = next(TemporalSplit(cutoffs=[7], gap=2).split(X))
    assert (train.tolist(), test.tolist()) == ([0, 1, 2, 3, 4], [7, 8, 9])
    (train, _) = next(TemporalSplit(cutoffs=[7], window=3).split(X))
    assert train.tolist() == [4, 5, 6]
    (train, _) = next(TemporalSplit(cutoffs=[7], gap=2, window=3).split(X))
    assert train.tolist() == [2, 3, 4]


@given(
    events(),
    st.integers(1, 4),
    st.sampled_from([None, 0.05, 0.2]),
    st.sampled_from([0, 1, 2.5]),
    st.sampled_from([None, 4, 100]),
)
def test_temporal_split_trains_on_the_past_of_all(X, n_splits, test_size, gap, window):
    cv = TemporalSplit(n_splits, test_size=test_size, gap=gap, window=window)
    folds = split_or_assume(cv, X)
    time = X["timestamp"].to_numpy()
    assert len(folds) == n_splits
    cutoffs = [time[test].min() for _, test in folds] + [np.inf]
    for fold, (train, test) in enumerate(folds):
        start, end = cutoffs[fold], cutoffs[fold + 1]
        past = time < start - gap
        if window is not None:
            past &= time >= start - gap - window
        np.testing.assert_array_equal(train, np.flatnonzero(past))
        np.testing.assert_array_equal(test, np.flatnonzero((start <= time) & (time < end)))
    if len(np.unique(time)) == len(time):
        share = 1 / (n_splits + 1) if test_size is None else test_size
        for _, test in folds:
            assert abs(len(test) - share * len(X)) <= 1


def test_ties_go_to_one_side():
    X = pd.DataFrame({"user_id": 1, "timestamp": [0, 1, 1, 1, 1, 1, 2, 3]})
    assert split_to_lists(TemporalSplit(1), X) == [([0], [1, 2, 3, 4, 5, 6, 7])]
    with pytest.raises(ValueError, match="Fold 0 of TemporalSplit, cut at 1, has no test events"):
        next(TemporalSplit(4, test_size=0.15).split(X))


def test_no_fold_is_given_before_all_are_known_to_be_possible():
    X = pd.DataFrame({"user_id": 1, "timestamp": range(10)})
    with pytest.raises(ValueError, match="Fold 1 of TemporalSplit, cut at 10, has no test events"):
        next(TemporalSplit(cutoffs=[5, 10]).split(X))


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (
            TemporalSplit(cutoffs=[0]),
            "Fold 0 .*cut at 0, has no training events: no ",
        ),
        (
            TemporalSplit(cutoffs=[3, 5], gap=4),
            "Fold 0 .*training.*lower n_splits, test_size or ",
        ),
        (TemporalSplit(cutoffs=[5], window=0), "Fold 0 .*training.*widen window"),
        (TemporalSplit(cutoffs=[5, 5.5, 5.7]), "Fold 1 .*cut at 5.5, has no test.*spread the cut"),
        (TemporalSplit(40), "Fold 0 .*has no training events"),
        (TemporalSplit(2, test_size=0.001), "Fold 0 .*has no test events.*raise test_size"),
    ],
)
def test_folds_that_cannot_be_are_named(cv, message):
    X = pd.DataFrame({"user_id": 1, "timestamp": range(10)})
    with pytest.raises(ValueError, match=message):
        list(cv.split(X))


# Times of any kind


@pytest.mark.parametrize(
    "convert",
    [
        lambda t: t.astype("float32"),
        lambda t: t.astype("uint64"),
        lambda t: t.astype("Int64"),
        lambda t: t.astype("int64[pyarrow]"),
        lambda t: t.astype(object),
        lambda t: t - 10**12,
        lambda t: pd.to_datetime(t, unit="s"),
        lambda t: pd.to_datetime(t, unit="s").dt.as_unit("ns"),
        lambda t: pd.to_datetime(t, unit="s", utc=True).dt.tz_convert("Europe/Rome"),
        lambda t: pd.to_datetime(t, unit="s").astype("timestamp[us][pyarrow]"),
        lambda t: pd.Series([*pd.to_datetime(t, unit="s").dt.to_pydatetime()], t.index, object),
    ],
)
def test_times_of_any_kind_split_alike(convert):
    X = make_events()
    converted = X.assign(timestamp=convert(X["timestamp"]))
    for cv in (LeaveLastOut(2, 2), TemporalSplit(3)):
        assert split_to_lists(cv, converted) == split_to_lists(cv, X)


@pytest.mark.parametrize("unit", ["s", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Rome"])
def test_lengths_of_time(unit, zone):
    days = pd.Series(pd.date_range("2024-03-25", periods=10, tz=zone)).dt.as_unit(unit)
    X = pd.DataFrame({"user_id": 1, "timestamp": days})
    naive = ("2024-04-01", date(2024, 4, 1)) if zone is None else ()
    for cutoff in (*naive, pd.Timestamp("2024-04-01", tz=zone)):
        for gap in ("2D", pd.Timedelta(days=2), timedelta(days=2), np.timedelta64(2, "D")):
            cv = TemporalSplit(cutoffs=[cutoff], gap=gap, window="72h")
            assert split_to_lists(cv, X) == [([2, 3, 4], [7, 8, 9])]
    # Finer than the unit of the column
    finer = pd.Timestamp("2024-04-01 00:00:00.5", tz=zone)
    assert split_to_lists(TemporalSplit(cutoffs=[finer]), X)[0][1] == [8, 9]


def test_a_cutoff_has_its_own_time_zone():
    X = pd.DataFrame({"user_id": 1, "timestamp": pd.date_range("2024-01-01", periods=4, tz="UTC")})
    tokyo = pd.Timestamp("2024-01-02 09:00", tz="Asia/Tokyo")
    assert split_to_lists(TemporalSplit(cutoffs=[tokyo]), X) == [([0], [1, 2, 3])]


def test_cutoffs_with_and_without_a_zone_do_not_mix():
    rome = pd.date_range("2024-10-26", periods=4, tz="Europe/Rome")
    X = pd.DataFrame({"user_id": 1, "timestamp": rome})
    for cutoff in ("2024-10-27 02:30", pd.Timestamp("2024-10-27 02:30"), date(2024, 10, 27)):
        with pytest.raises(ValueError, match=r"the times have a time zone.*tz_localize.*ambiguous"):
            list(TemporalSplit(cutoffs=[cutoff]).split(X))
    cutoff = pd.Timestamp("2024-10-27 02:30").tz_localize("Europe/Rome", ambiguous=True)
    assert split_to_lists(TemporalSplit(cutoffs=[cutoff]), X) == [([0, 1], [2, 3])]
    naive = X.assign(timestamp=rome.tz_localize(None))
    with pytest.raises(ValueError, match=r"times have no time zone: drop the cut-off"):
        list(TemporalSplit(cutoffs=[cutoff]).split(naive))


def test_rows_are_the_time_where_there_is_none():
    X = make_events().drop(columns="timestamp")
    timed = X.assign(timestamp=range(len(X)))
    for cv in (LeaveLastOut(2, 2), TemporalSplit(3), TemporalSplit(cutoffs=[30], gap=5, window=9)):
        assert split_to_lists(cv, X) == split_to_lists(cv, timed)


def test_arrays_go_by_position():
    X = make_events()
    values = X[["user_id", "item_id", "timestamp"]].to_numpy()
    for cv in (LeaveLastOut(2, 2), TemporalSplit(3)):
        expected = split_to_lists(cv, X)
        assert split_to_lists(cv, values) == expected
        assert split_to_lists(cv, values.astype(object)) == expected
        assert split_to_lists(cv, values.astype(float)) == expected
        assert split_to_lists(cv, values.tolist()) == expected
        wider = np.column_stack([values, values[::-1]])
        assert split_to_lists(cv, wider) == expected
        untimed = X.drop(columns="timestamp")
        assert split_to_lists(cv, values[:, :2]) == split_to_lists(cv, untimed)


def test_columns_are_named_by_the_user():
    X = make_events()
    renamed = X.rename(columns={"user_id": "who", "timestamp": ("when", 0)})
    for cv in (LeaveLastOut, TemporalSplit):
        expected = split_to_lists(cv(), X)
        assert split_to_lists(cv(user="who", time=("when", 0)), renamed) == expected
        assert split_to_lists(cv(user=2, time=1), renamed) == expected


# What holds for both


@given(events(), st.randoms(use_true_random=False))
def test_order_of_the_rows_does_not_matter(X, random):
    """Where no two events have the same time."""
    X = X.assign(timestamp=np.random.default_rng(0).permutation(len(X)))
    order = list(range(len(X)))
    random.shuffle(order)
    for cv in (LeaveLastOut(1, 2), TemporalSplit(2, gap=1)):
        folds = split_or_assume(cv, X)
        for fold, (train, test) in enumerate(cv.split(X.iloc[order])):
            assert sorted(np.take(order, train)) == folds[fold][0].tolist()
            assert sorted(np.take(order, test)) == folds[fold][1].tolist()


@every_splitter
def test_users_are_ids_of_any_kind(cv):
    X = make_events()
    expected = split_to_lists(cv, X)
    for convert in (str, float, "user {}".format, lambda n: (n, "a"), lambda n: n if n else "zero"):
        assert split_to_lists(cv, X.assign(user_id=X["user_id"].map(convert))) == expected
    for dtype in ("category", "Int64", "object"):
        assert split_to_lists(cv, X.astype({"user_id": dtype})) == expected


@every_splitter
def test_events_are_left_as_they_were(cv):
    X = make_events()
    before = X.copy(deep=True)
    list(cv.split(X))
    pd.testing.assert_frame_equal(X, before)


@every_splitter
def test_groups_and_y_are_ignored(cv):
    X = make_events()
    with_all = [
        (train.tolist(), test.tolist()) for train, test in cv.split(X, np.ones(60), np.arange(60))
    ]
    assert with_all == split_to_lists(cv, X)
    assert cv.get_n_splits() == cv.get_n_splits(X, None, None) == len(with_all)


@every_splitter
def test_splitter_travels(cv):
    X = make_events()
    assert isinstance(cv, BaseCrossValidator)
    for other in (pickle.loads(pickle.dumps(cv)), clone(cv, safe=False)):
        assert repr(other) == repr(cv)
        assert split_to_lists(other, X) == split_to_lists(cv, X)


def test_repr_names_the_parameters():
    assert repr(LeaveLastOut(2, time="when")) == (
        "LeaveLastOut(n_last=2, n_splits=1, time='when', user='user_id')"
    )
    assert "cutoffs=['2024-01-01']" in repr(TemporalSplit(cutoffs=["2024-01-01"]))


class Count(BaseEstimator):
    def fit(self, X, y=None):
        self.n_ = len(X)
        return self

    def score(self, X, y=None):
        return self.n_ / (self.n_ + len(X))


@every_splitter
@pytest.mark.parametrize("routing", [False, True])
def test_splitter_is_a_cv_with_and_without_metadata_routing(cv, routing):
    with sklearn.config_context(enable_metadata_routing=routing):
        assert not get_routing_for_object(cv).consumes("split", ["groups"])
        result = cross_validate(Count(), make_events(), cv=cv, params={})
    assert len(result["test_score"]) == cv.get_n_splits()


# Errors


@every_splitter
@pytest.mark.parametrize("column", ["user_id", "timestamp"])
@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_values_are_named(cv, column, nothing):
    X = make_events().astype({column: object}).set_index(np.arange(60) + 1000)
    X.loc[[1007, 1009], column] = nothing
    with pytest.raises(ValueError, match=rf"'{column}' of X has no value in row 1007 \(2 such"):
        list(cv.split(X))


@every_splitter
@pytest.mark.parametrize(
    "convert", [str, lambda n: date(2024, 1, 1 + n % 9), lambda n: n if n % 2 else str(n), complex]
)
def test_times_without_an_order_are_named(cv, convert):
    X = make_events()
    X["timestamp"] = X["timestamp"].map(convert)
    with pytest.raises(ValueError, match=r"'timestamp' of X holds .* convert it to numbers or wi"):
        list(cv.split(X))


@every_splitter
def test_missing_columns_are_named(cv):
    with pytest.raises(ValueError, match="user column 'user_id' is missing"):
        list(cv.split(make_events().drop(columns="user_id")))
    with pytest.raises(ValueError, match="time column 'when' is missing"):
        list(type(cv)(time="when").split(make_events()))


@every_splitter
@pytest.mark.parametrize("X", [make_events()[:0], np.empty((0, 3))])
def test_no_events_are_an_error(cv, X):
    with pytest.raises(ValueError, match="X has no rows"):
        list(cv.split(X))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_counts_are_checked_at_once(value):
    with pytest.raises(ValueError, match=r"n_last=.* integer of at least 1"):
        LeaveLastOut(n_last=value)
    for cv in (LeaveLastOut, TemporalSplit):
        with pytest.raises(ValueError, match=r"n_splits=.* integer of at least 1"):
            cv(n_splits=value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"test_size": 0}, r"test_size=0 .* between 0 and 0.2"),
        ({"test_size": 0.2}, r"test_size=0.2 .*n_splits=5.* between 0 and 0.2"),
        ({"test_size": 10}, r"test_size=10 "),
        ({"test_size": "7D"}, r"test_size='7D' .*or cutoffs, a list of times"),
        ({"test_size": "0.1"}, r"test_size='0.1' "),
        ({"test_size": np.nan}, r"test_size=nan "),
        ({"test_size": 0.1, "cutoffs": [3]}, "test_size=0.1 cannot be combined with cutoffs"),
        ({"cutoffs": []}, r"cutoffs=\[\] is not a list of times"),
        ({"cutoffs": "2024-01-01"}, "cutoffs='2024-01-01' is not a list of times"),
        ({"cutoffs": 5}, "cutoffs=5 is not a list of times"),
    ],
    ids=repr,
)
def test_parameters_are_checked_at_once(parameters, message):
    with pytest.raises(ValueError, match=message):
        TemporalSplit(**parameters)


NUMBERS = range(10)
DATES = pd.date_range("2024-01-01", periods=10)


@pytest.mark.parametrize(
    ("times", "parameters", "message"),
    [
        (NUMBERS, {"cutoffs": [5, 3]}, r"cutoffs=\[5, 3\] do not ascend: 3 comes after 5"),
        (NUMBERS, {"cutoffs": [5, 5]}, "do not ascend"),
        (NUMBERS, {"cutoffs": ["2024-01-05"]}, "cutoffs holds '2024-01-05', but .*use a number"),
        (DATES, {"cutoffs": [5]}, "cutoffs holds 5, but .*use a pandas.Timestamp"),
        (DATES, {"cutoffs": ["soon"]}, "cutoffs holds 'soon', but .*use a pandas.Timestamp"),
        (DATES, {"cutoffs": [None]}, "cutoffs holds None, but .*use a pandas.Timestamp"),
        (DATES, {"cutoffs": [pd.Timestamp("2024-01-05", tz="UTC")]}, "no time zone: drop"),
        (NUMBERS, {"gap": -1}, "gap=-1 is not a length of time: use a number"),
        (NUMBERS, {"gap": None}, "gap=None is not a length of time: use a number"),
        (NUMBERS, {"window": "2D"}, "window='2D' is not a length of time: use a number"),
        (NUMBERS, {"window": pd.Timedelta("2D")}, "window=.* use a number"),
        (DATES, {"window": "2"}, r"window='2' .*use a pandas.Timedelta or text such as '7D'"),
        (DATES, {"gap": 2}, r"gap=2 .*use a pandas.Timedelta or text such as '7D'"),
        (DATES, {"gap": "soon"}, r"gap='soon' .*use a pandas.Timedelta"),
        (DATES, {"window": pd.NaT}, r"window=NaT .*use a pandas.Timedelta"),
        (DATES, {"window": "-2D"}, r"window='-2D' .*not below 0"),
    ],
    ids=repr,
)
def test_parameters_must_fit_the_times(times, parameters, message):
    X = pd.DataFrame({"user_id": 1, "timestamp": times})
    with pytest.raises(ValueError, match=message):
        next(TemporalSplit(**parameters).split(X))


@pytest.mark.parametrize("last", [4, 2**62])  # times beyond 2**62 cannot be sorted with their rows
def test_equal_times_are_in_the_order_of_the_rows_whatever_the_span(last):
    events = pd.DataFrame({"user_id": [1] * 5, "timestamp": [last, -last, 3, last, 3]})
    events["item_id"] = range(5)
    folds = LeaveLastOut(n_splits=4).split(events)
    assert [test.tolist() for _, test in folds] == [[2], [4], [0], [3]]
