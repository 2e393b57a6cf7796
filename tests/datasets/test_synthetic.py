"""The structure of synthetic events."""

import numpy as np
import pandas as pd
import pytest

from skmatch.datasets import make_events


@pytest.fixture(scope="module")
def events():
    return make_events(random_state=0)


def _by_user(events):
    """Return the events in order of user and time, and whether the next row has the same user."""
    ordered = events.sort_values(["user_id", "timestamp"])
    user = ordered["user_id"].to_numpy()
    return ordered, user[1:] == user[:-1]


def _same_next(events):
    """Return the share of events whose item has the category of the user's last item."""
    ordered, together = _by_user(events)
    category = ordered["category"].cat.codes.to_numpy()
    return (category[1:] == category[:-1])[together].mean()


def test_columns_and_dtypes(events):
    assert events.dtypes.astype(str).to_dict() == {
        "user_id": "int64",
        "item_id": "int64",
        "timestamp": "int64",
        "segment": "category",
        "age": "float64",
        "category": "category",
        "price": "float64",
        "tags": "category",
    }
    assert isinstance(events.index, pd.RangeIndex)
    assert events.drop(columns="age").notna().all(axis=None)
    assert 0 < events["age"].isna().mean() < 0.1


@pytest.mark.parametrize("shape", [(1000, 500, 20_000), (7, 10, 7), (5, 300, 2000)])
def test_sizes(shape):
    n_users, n_items, n_events = shape
    events = make_events(*shape, random_state=1)
    assert len(events) == n_events
    assert set(events["user_id"]) == set(range(1, n_users + 1))
    assert events["item_id"].between(1, n_items).all()


def test_smallest():
    events = make_events(1, 1, 1, n_clusters=1)
    assert events[["user_id", "item_id"]].to_numpy().tolist() == [[1, 1]]


def test_same_seed_same_events(events):
    pd.testing.assert_frame_equal(make_events(random_state=0), events)
    pd.testing.assert_frame_equal(make_events(random_state=np.random.default_rng(0)), events)
    assert not make_events(random_state=1).equals(events)


def test_global_generator_is_not_changed():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_events(10, 10, 20)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_rows_are_in_order_of_time_without_ties_within_a_user(events):
    assert events["timestamp"].is_monotonic_increasing
    assert not events.duplicated(["user_id", "timestamp"]).any()


@pytest.mark.parametrize(
    ("of", "features"),
    [("user_id", ["segment", "age"]), ("item_id", ["category", "price", "tags"])],
)
def test_features_belong_to_the_user_or_the_item(of, features, events):
    per_entity = events.groupby(of)[features].nunique(dropna=False)
    assert (per_entity == 1).all(axis=None)


def _share_of_top_tenth(skew):
    events = make_events(2000, 500, 20_000, popularity_skew=skew, random_state=0)
    return events["item_id"].value_counts().head(50).sum() / len(events)


def test_popularity_skew():
    flat, zipf, steep = (_share_of_top_tenth(skew) for skew in (0, 1, 2))
    assert flat < 0.25
    assert flat + 0.1 < zipf < steep - 0.1


def test_next_item_tends_to_the_cluster_of_the_last_one(events):
    chance = (events["category"].value_counts(normalize=True) ** 2).sum()
    assert _same_next(events) > 4 * chance


def test_drift_turns_interest_sooner():
    often, sometimes, never = (
        _same_next(make_events(drift=drift, random_state=0)) for drift in (1, 0.1, 0)
    )
    assert often + 0.1 < sometimes < never
    # the noise of `category` is all that is left
    assert never > 0.8


def test_the_last_item_predicts_better_than_the_user(events):
    """The last item's cluster predicts the next better than the user's most frequent one."""
    ordered, together = _by_user(events)
    codes = ordered["category"].cat.codes
    commonest = codes.groupby(ordered["user_id"]).transform(lambda c: c.mode()[0]).to_numpy()
    by_user = (commonest[1:] == codes.to_numpy()[1:])[together].mean()
    assert _same_next(events) > by_user


def test_items_are_born_over_time(events):
    span = events["timestamp"].max() - events["timestamp"].min()
    n_events = events["item_id"].value_counts()
    first = events.groupby("item_id")["timestamp"].min()[n_events[n_events > 20].index]
    late = (first - events["timestamp"].min()) / span > 0.5
    assert 0.1 < late.mean() < 0.6


def test_popularity_moves_with_time(events):
    half = len(events) // 2
    early, late = (
        part["item_id"].value_counts().reindex(range(1, 501), fill_value=0)
        for part in (events[:half], events[half:])
    )
    shuffled = events.sample(frac=1, random_state=0)
    one, other = (
        part["item_id"].value_counts().reindex(range(1, 501), fill_value=0)
        for part in (shuffled[:half], shuffled[half:])
    )
    assert early.corr(late) < one.corr(other) - 0.1


def test_repeats_are_few_where_a_cluster_has_many_items():
    events = make_events(n_users=1000, n_items=5000, random_state=0)
    assert events.duplicated(["user_id", "item_id"]).mean() < 0.05


def test_visits_hold_events_of_about_a_minute_each():
    events = make_events(n_events=20_000, visit_size=5, random_state=0)
    ordered, together = _by_user(events)
    pause = np.diff(ordered["timestamp"])[together]
    assert (pause > 0).all()
    within = pause <= 60
    assert (pause[~within] > 600).mean() > 0.98
    n_visits = len(events) - within.sum()
    # A user's first event begins a visit; of the others one in five does.
    expected = 1000 + (20_000 - 1000) / 5
    assert n_visits == pytest.approx(expected, rel=0.05)


def test_the_share_of_repeats():
    events = make_events(n_items=5000, repeats=0.4, random_state=0)
    later = events.duplicated("user_id")
    repeated = events.duplicated(["user_id", "item_id"])
    assert repeated[later].mean() == pytest.approx(0.4, abs=0.05)
    everything = make_events(repeats=1.0, random_state=0)
    assert (everything.groupby("user_id")["item_id"].nunique() == 1).all()


def test_user_features_predict_the_clusters_of_items(events):
    clusters = events["category"].cat.codes
    matches = events["segment"].cat.codes == clusters
    assert matches.mean() > 3 / 10  # by chance 1 in 10
    assert events["age"].corr(clusters) > 0.2


def test_item_features_predict_the_cluster(events):
    items = events.drop_duplicates("item_id")
    of_tags = items["tags"].astype("str").str.extract(r"tag_(\d+)_", expand=False).astype(int)
    assert (of_tags == items["category"].cat.codes).mean() > 0.7
    assert np.log(items["price"]).corr(of_tags) > 0.4
    assert (items["price"] > 0).all()


def test_tags_are_one_or_two(events):
    n_tags = events["tags"].astype("str").str.split("|").str.len()
    assert set(n_tags) == {1, 2}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_users": 0}, "n_users=0"),
        ({"n_items": -3}, "n_items=-3"),
        ({"n_events": 10.5}, "n_events=10.5 must be an integer"),
        ({"n_events": 999}, "n_events=999 is less than n_users=1000"),
        ({"n_clusters": 501}, "n_clusters=501 is more than n_items=500"),
        ({"popularity_skew": -1}, "popularity_skew=-1"),
        ({"popularity_skew": float("nan")}, "popularity_skew=nan"),
        ({"drift": 1.5}, "drift=1.5 must be a number from 0 to 1"),
        ({"visit_size": 0.5}, "visit_size=0.5 must be a number from 1"),
        ({"repeats": 2}, "repeats=2 must be a number from 0 to 1"),
        ({"drift": "slow"}, "drift='slow'"),
        ({"random_state": "dice"}, "random_state='dice' must be an integer from 0"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_events(**parameters)


def test_extreme_skew_and_many_clusters():
    events = make_events(2000, 100, 5000, n_clusters=100, popularity_skew=50, random_state=0)
    assert events["item_id"].nunique() == 100


def test_content_adds_columns_and_changes_no_other():
    plain = make_events(300, 60, 3000, random_state=0)
    events = make_events(300, 60, 3000, content=True, random_state=0)
    pd.testing.assert_frame_equal(events[plain.columns], plain)
    assert [name for name in events if name not in plain] == [
        "title", "picture", "rating", "action",
    ]  # fmt: skip
    assert (events["title"].str.split().str.len() == 3).all()
    assert {len(cell) for cell in events["picture"]} == {8}
    assert (
        events.groupby("item_id")[["title", "picture"]]
        .agg(lambda c: len(set(map(str, c))))
        .eq(1)
        .all(axis=None)
    )
    assert events["rating"].isin(range(1, 6)).all()
    means = events.groupby("action")["rating"].mean()
    assert means["view"] < means["cart"] < means["purchase"]
