"""Features of events: read of past events, in training as in serving, never of the target."""

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    make_match_pipeline,
)

EVENTS = pd.DataFrame(
    {
        "user_id": ["ann", "ann", "ann", "bob", "bob"],
        "item_id": [10, 20, 30, 20, 10],
        "timestamp": [3, 1, 2, 1, 2],
        "rating": [5.0, 1.0, np.nan, 3.0, 3.0],
        "sort": ["view", "cart", None, "view", "view"],
    }
)
FEATURES = ["rating", "sort"]
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 1, "random_state": 0}


def make_pipe(retriever=None, **params):
    encoder = MatchEncoder(event_features=FEATURES, **params)
    return make_match_pipeline(encoder, SequenceSampler(), retriever or DSSMRetriever(**SMALL))


def of_histories(samples):
    """Return the ratings and the kinds of the events in each history."""
    rating, sort = samples.schema.event_features
    ranges = list(zip(samples.start, samples.stop, strict=True))
    numbers = samples.log.features["rating"] * rating.scale + rating.mean
    sorts = sort.vocabulary.decode(samples.log.features["sort"]).astype(object)
    sorts = sorts.where(sorts.notna(), None).tolist()
    ratings = [None if np.isnan(one) else round(float(one), 4) for one in numbers]
    return [list(zip(ratings[a:b], sorts[a:b], strict=True)) for a, b in ranges]


def test_histories_hold_the_features_of_their_events():
    pipe = make_pipe()
    trained = pipe[1].fit_transform(pipe[0].fit_transform(EVENTS))
    assert of_histories(trained) == [
        [(1, "cart"), (None, None)], [], [(1, "cart")], [], [(3, "view")],
    ]  # fmt: skip
    served = pipe[:-1].transform(pd.DataFrame({"user_id": ["ann", "eve"]}))
    assert of_histories(served) == [[(1, "cart"), (None, None), (5, "view")], []]


def test_a_wrong_name_of_a_feature_of_histories_is_refused():
    query = pd.DataFrame({"user_id": ["ann"], "history": [[10]], "history_ratings": [[5.0]]})
    pipe = make_pipe(PopularityRetriever()).fit(EVENTS)
    known = "'history_ratings', which .* 'history_rating', 'history_sort'. Correct"
    for step in (pipe, pipe[0]):
        with pytest.raises(ValueError, match=known):
            step.transform(query) if step is pipe[0] else step.recommend(query)
    with pytest.raises(ValueError, match="queries have no columns"):
        PopularityRetriever().fit(EVENTS).recommend(query)
    # Columns that the encoder knows otherwise are no features of histories.
    events = EVENTS.assign(history_ratings=1.0)
    for features in ([], ["history_ratings"]):
        encoder = MatchEncoder(user_features=features)
        steps = encoder, SequenceSampler(), PopularityRetriever()
        make_match_pipeline(*steps).fit(events).recommend(query.assign(history_ratings=2.0))


@pytest.mark.parametrize("form", ["parquet", "pandas output"])
def test_parquet_and_frames_of_codes_carry_them(form, tmp_path):
    pipe, source = make_pipe(), EVENTS
    if form == "parquet":
        source = tmp_path / "events.parquet"
        EVENTS.to_parquet(source)
    else:
        pipe.set_output(transform="pandas")
    pipe.fit(source)
    expected = make_pipe().fit(EVENTS)
    np.testing.assert_array_equal(pipe[-1].item_vectors_, expected[-1].item_vectors_)
    queries = pd.DataFrame({"user_id": ["ann"], "history": [[20]], "history_rating": [[1.0]]})
    np.testing.assert_array_equal(pipe.transform(queries), expected.transform(queries))


def test_a_query_brings_the_features_of_its_own_history():
    pipe = make_pipe().fit(EVENTS)
    queries = pd.DataFrame(
        {
            "user_id": ["ann", "ann", "bob", "eve"],
            "history": [[20, 30, 10], None, [10], [20, 10]],
            "history_rating": [[1.0, None, 5.0], None, [2.0], [None, None]],
            "history_sort": [["cart", None, "view"], None, ["new"], ["cart", "view"]],
        }
    )
    assert of_histories(pipe[:-1].transform(queries)) == [
        [(1, "cart"), (None, None), (5, "view")],
        [(1, "cart"), (None, None), (5, "view")],
        [(2, None)],
        [(None, "cart"), (None, "view")],
    ]
    vectors = pipe.transform(queries)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    bare = pipe[:-1].transform(queries[["user_id", "history"]])
    assert of_histories(bare)[2] == [(None, None)]


rows = st.tuples(
    st.integers(0, 3), st.integers(0, 4), st.integers(0, 3), st.sampled_from([1.0, 5.0, None]),
    st.sampled_from(["view", "cart", None]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(table=st.lists(rows, min_size=3, max_size=12), data=st.data())
def test_what_is_trained_is_what_is_served(table, data):
    columns = ["user_id", "item_id", "timestamp", *FEATURES]
    events = pd.DataFrame(table, columns=columns).astype({"rating": float, "sort": object})
    events = events.sort_values("timestamp", kind="stable", ignore_index=True)
    n = data.draw(st.integers(2, len(events)))
    encoder = MatchEncoder(event_features=FEATURES, kinds={"sort": "categorical"})
    pipe = make_match_pipeline(encoder, SequenceSampler())
    trained = pipe[1].fit_transform(pipe[0].fit_transform(events))
    plain = events.astype(object).where(events.notna(), None)
    pairs = list(zip(plain["rating"], plain["sort"], strict=True))
    before = [
        [pairs[j] for j in range(i) if events["user_id"][j] == events["user_id"][i]]
        for i in range(len(events))
    ]
    assert of_histories(trained) == before
    # Observed in parts, and as queries after all events.
    encoder, sampler = clone(encoder), clone(pipe[1])
    steps = make_match_pipeline(encoder, sampler, PopularityRetriever()).fit(events[:n])
    if n < len(events):
        steps.partial_fit(events[n:])
    everyone = pd.DataFrame({"user_id": events["user_id"].unique()})
    for one in (pipe, steps[:-1]):
        found = of_histories(one.transform(everyone))
        expected = [
            [pair for pair, user in zip(pairs, events["user_id"], strict=True) if user == own]
            for own in everyone["user_id"]
        ]
        assert found == expected


def test_the_features_of_an_event_do_not_reach_its_own_prediction():
    changed = EVENTS.assign(rating=[1.0, 1.0, np.nan, 3.0, 1.0])  # of the last events
    pipes = [make_pipe().fit(events) for events in (EVENTS, changed)]
    before = [pipe[1].fit_transform(pipe[0].fit_transform(EVENTS)) for pipe in pipes]
    assert of_histories(before[0]) == of_histories(before[1])
    queries = EVENTS[["user_id", "timestamp"]]
    for pipe in pipes:
        rows = pipe[:-1].transform(queries.assign(rating=9.0))
        assert of_histories(rows) == of_histories(pipe[:-1].transform(queries))


def test_they_change_the_vectors_of_users_and_are_saved(tmp_path):
    pipe = make_pipe(DSSMRetriever(**SMALL | {"max_epochs": 3})).fit(pd.concat([EVENTS] * 9))
    queries = pd.DataFrame({"user_id": ["x", "y"], "history": [[10, 20]] * 2})
    queries["history_rating"] = [[1.0, 1.0], [5.0, 5.0]]
    vectors = pipe.transform(queries)
    assert not np.allclose(vectors[0], vectors[1])
    joblib.dump(pipe, tmp_path / "pipe.joblib")
    np.testing.assert_array_equal(joblib.load(tmp_path / "pipe.joblib").transform(queries), vectors)


def test_observed_events_bring_theirs_or_miss_them():
    pipe = make_pipe().fit(EVENTS)
    news = EVENTS[3:4].assign(timestamp=9, rating=4.0, sort="gift")
    pipe.observe(news).observe(news.drop(columns=FEATURES).assign(timestamp=10))
    served = of_histories(pipe[:-1].transform(pd.DataFrame({"user_id": ["bob"]})))
    assert served == [[(3, "view"), (3, "view"), (4, "gift"), (None, None)]]
    assert np.isfinite(pipe.transform(pd.DataFrame({"user_id": ["bob"]}))).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"history_rating": [[1.0]]}, "'history_rating' does not hold one value for each item"),
        ({"history_rating": [{1.0, 2.0}]}, "'history_rating' holds .*, a set without an order"),
        ({"history": None, "history_rating": [[1.0]]}, "'history_rating' without .* 'history'"),
    ],
)
def test_a_query_with_wrong_features_is_an_error(columns, message):
    pipe = make_pipe().fit(EVENTS)
    queries = pd.DataFrame({"user_id": ["ann"], "history": [[10, 20]]})
    queries = queries.drop(columns=[name for name, cells in columns.items() if cells is None])
    queries = queries.assign(**{name: cells for name, cells in columns.items() if cells})
    with pytest.raises(ValueError, match=message):
        pipe.transform(queries)


def test_wrong_columns_are_named():
    with pytest.raises(ValueError, match="feature column 'rating' is missing"):
        make_pipe().fit(EVENTS.drop(columns="rating"))
    lists = EVENTS.assign(sort=[["a"], ["b"], [], ["a"], []])
    with pytest.raises(ValueError, match="event feature 'sort' is of kind 'multi_valued'"):
        make_pipe().fit(lists)
    with pytest.raises(ValueError, match="'rating' is named twice"):
        make_pipe(item_features=["rating"]).fit(EVENTS)
    with pytest.raises(ValueError, match="'history_rating' is reserved"):
        make_pipe(user_features=["history_rating"]).fit(EVENTS.assign(history_rating=1))
