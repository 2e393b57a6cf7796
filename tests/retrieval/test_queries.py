"""Every kind of query in one frame: the source and the number of its recommendations."""

import uuid

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch.datasets import make_events

SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 2, "batch_size": 256, "random_state": 0}
EVENTS = make_events(n_users=30, n_items=25, n_events=300, random_state=0).assign(
    user_id=lambda frame: "u" + frame["user_id"].astype(str)
)
FEATURES = ["group", "wealth", "tastes"]
RNG = np.random.default_rng(0)
PEOPLE = pd.DataFrame(
    {
        "user_id": EVENTS["user_id"].unique(),
        "group": RNG.choice(["a", "b", "c"], EVENTS["user_id"].nunique()),
        "wealth": RNG.normal(size=EVENTS["user_id"].nunique()),
    }
)
PEOPLE["tastes"] = [["x"], ["x", "y"], ["z"]] * (len(PEOPLE) // 3) + [["y"]] * (len(PEOPLE) % 3)
ITEMS = EVENTS["item_id"].unique()
SEEN = EVENTS.groupby("user_id")["item_id"].agg(set)
ANN, BOB = PEOPLE["user_id"][:2]
END = EVENTS["timestamp"].max()

# One query of each kind and its source.
CASES = pd.DataFrame(
    [
        # name, user_id, history, group, wealth, tastes, source
        ("known", ANN, None, None, None, None, "history"),
        ("known, with a session", BOB, list(ITEMS[:3]), None, None, None, "history"),
        ("unknown, with features", "new", None, "a", 0.5, ["x"], "features"),
        ("unknown, with one feature", "newer", None, None, 1.5, None, "features"),
        ("anonymous session", None, list(ITEMS[3:5]), None, None, None, "history"),
        ("unknown, with features and a history", "newest", [ITEMS[0]], "b", None, ["y"], "history"),
        ("nothing known", "who", None, None, None, None, "popularity"),
        ("nothing at all", None, None, None, None, None, "popularity"),
        ("only what training did not know", "who", [-1, -2], "q", None, ["q"], "popularity"),
    ],
    columns=["name", "user_id", "history", *FEATURES, "source"],
)
QUERIES = CASES.drop(columns=["name", "source"])
every_case = pytest.mark.parametrize("row", CASES.index, ids=CASES["name"])


@pytest.fixture(
    scope="module", params=[DSSMRetriever, YoutubeDNNRetriever], ids=["dssm", "youtube"]
)
def pipe(request):
    encoder = MatchEncoder(user_features=FEATURES)
    pipe = make_match_pipeline(encoder, SequenceSampler(), request.param(**SMALL))
    return pipe.fit(EVENTS.merge(PEOPLE))


def recommend_each(pipe, queries, k=5, **rules):
    """Return the recommendations of each query, whose rows start at rank 1."""
    table = pipe.recommend(queries, k=k, **rules)
    return [part for _, part in table.groupby((table["rank"] == 1).cumsum())]


def seen_by(case):
    session_items = case["history"] if isinstance(case["history"], list) else []
    return SEEN.get(case["user_id"], set()) | set(session_items)


def test_one_frame_holds_queries_of_every_kind(pipe):
    found = recommend_each(pipe, QUERIES)
    assert len(found) == len(QUERIES)
    for part, (_, case) in zip(found, CASES.iterrows(), strict=True):
        assert part["source"].unique().tolist() == [case["source"]], case["name"]
        assert part["rank"].tolist() == [1, 2, 3, 4, 5]
        same = (
            part["user_id"].isna()
            if pd.isna(case["user_id"])
            else part["user_id"] == case["user_id"]
        )
        assert same.all()
        seen = seen_by(case)
        assert not seen & set(part["item_id"])
        assert part["item_id"].is_unique


@every_case
def test_a_query_does_not_depend_on_other_queries(pipe, row):
    together = recommend_each(pipe, QUERIES)[row].reset_index(drop=True)
    alone = recommend_each(pipe, QUERIES.iloc[[row]])[0].reset_index(drop=True)
    # Absolute tolerance, since cosines near 0 are rounded like larger ones.
    pd.testing.assert_frame_equal(together, alone, check_dtype=False, atol=1e-6)


def test_unused_columns_can_be_dropped(pipe):
    for row, columns in {0: ["user_id"], 4: ["user_id", "history"], 6: ["user_id"]}.items():
        whole = recommend_each(pipe, QUERIES.iloc[[row]])[0]
        least = recommend_each(pipe, QUERIES.loc[[row], columns])[0]
        pd.testing.assert_frame_equal(least, whole, check_dtype=False)


def test_missing_features_are_those_known_of_the_user(pipe):
    own = PEOPLE[PEOPLE["user_id"].isin([ANN, BOB])]
    expected = pipe.transform(own)
    queries = own.assign(**{name: pd.Series([None, None], dtype=object) for name in FEATURES})
    np.testing.assert_array_equal(pipe.transform(queries), expected)
    np.testing.assert_array_equal(pipe.transform(own[["user_id"]]), expected)
    for name in FEATURES:  # one row's feature at a time
        cells = own[name].astype(object)
        cells.iloc[1] = None
        np.testing.assert_array_equal(pipe.transform(own.assign(**{name: cells})), expected)


def test_a_session_replaces_the_history_and_both_count_as_seen(pipe):
    session_items = [item for item in ITEMS if item not in SEEN[ANN]][:4]
    queries = pd.DataFrame({"user_id": [ANN, ANN], "history": [session_items, None]})
    first, stored = recommend_each(pipe, queries, k=len(ITEMS))
    assert set(first["item_id"]) == set(ITEMS) - SEEN[ANN] - set(session_items)
    assert set(stored["item_id"]) == set(ITEMS) - SEEN[ANN]
    vectors = pipe.transform(queries)
    assert not np.allclose(vectors[0], vectors[1])


def test_a_query_is_made_as_of_its_time(pipe):
    own = EVENTS[EVENTS["user_id"] == ANN].sort_values("timestamp")
    times = [own["timestamp"].iloc[0], own["timestamp"].iloc[2], END + 1, None]
    queries = pd.DataFrame({"user_id": ANN, "timestamp": pd.array(times, dtype="Int64")})
    items = own["item_id"].tolist()
    for part, n in zip(
        recommend_each(pipe, queries, k=99), (0, 2, len(own), len(own)), strict=True
    ):
        assert set(part["item_id"]) == set(ITEMS) - set(items[:n])
    newest = pipe.transform(queries[2:])
    np.testing.assert_allclose(newest[0], newest[1], atol=1e-6)


def test_the_time_of_a_session_does_not_cut_its_history(pipe):
    session = pd.DataFrame({"user_id": [None], "history": [list(ITEMS[:3])], "timestamp": [0]})
    without = pipe.transform(session.drop(columns="timestamp"))
    np.testing.assert_array_equal(pipe.transform(session), without)


def test_k_items_or_all_that_remain(pipe):
    for k in (1, 7, len(ITEMS) - 2, len(ITEMS), 100):
        for part, (_, case) in zip(recommend_each(pipe, QUERIES, k), CASES.iterrows(), strict=True):
            assert len(part) == min(k, len(set(ITEMS) - seen_by(case)))
            assert part["item_id"].is_unique


@pytest.mark.parametrize("parameter", ["candidates", "exclude"])
def test_unknown_ids_in_rules_are_counted(pipe, parameter):
    rule = [*ITEMS[:6].tolist(), -1, -2, -3]
    with pytest.warns(UserWarning, match=f"3 id.* in {parameter} that are not in the catalogue"):
        found = pipe.recommend(QUERIES, exclude_seen=False, **{parameter: rule})
    known = pipe.recommend(QUERIES, exclude_seen=False, **{parameter: rule[:6]})
    pd.testing.assert_frame_equal(found, known)


def test_integer_ids_with_a_missing_one():
    events = EVENTS.assign(user_id=EVENTS["user_id"].str[1:].astype(int))
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL))
    pipe.fit(events)
    known = events["user_id"].iloc[0]
    users = pd.array([known, None, 10**6, None], dtype="Int64")
    histories = [None, [ITEMS[0]], None, None]
    found = pipe.recommend(pd.DataFrame({"user_id": users, "history": histories}), k=2)
    assert found["source"][::2].tolist() == ["history", "history", "popularity", "popularity"]
    assert found["user_id"].isna()[::2].tolist() == [False, True, False, True]


def test_source_of_a_popularity_retriever():
    found = PopularityRetriever().fit(EVENTS).recommend(QUERIES[["user_id", "history"]], k=3)
    assert set(found["source"]) == {"popularity"}
    assert len(found) == 3 * len(QUERIES)


def test_source_of_queries_in_pandas_output(pipe):
    expected = pipe.recommend(QUERIES, k=3)["source"].tolist()
    with config_context(transform_output="pandas"):
        assert pipe.recommend(QUERIES, k=3)["source"].tolist() == expected


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_features_predict_the_first_item(cls):
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"user_id": np.repeat(np.arange(200), 5), "item_id": 0})
    events["group"] = np.where(events["user_id"] % 2, "odd", "even")
    is_first = ~events["user_id"].duplicated()
    events["item_id"] = rng.integers(2, 12, len(events))
    events.loc[is_first, "item_id"] = events["user_id"] % 2  # one of two items, by the group
    retriever = cls(embedding_dim=8, dims=(8,), batch_size=64, random_state=0)
    encoder = MatchEncoder(user_features=["group"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), retriever).fit(events)
    unknown_users = pd.DataFrame({"user_id": [-1, -2], "group": ["even", "odd"]})
    assert pipe.predict(unknown_users, k=1).ravel().tolist() == [0, 1]


def test_too_short_histories_warn():
    sampler = SequenceSampler(min_history=1)
    once = EVENTS.drop_duplicates("user_id")
    with pytest.warns(UserWarning, match=r"No event has min_history=1.*min_history=0"):
        make_match_pipeline(MatchEncoder(), sampler, DSSMRetriever(**SMALL)).fit(once)


# Users and items without training events


def fit_with_tables(retriever):
    """Fit on odd users with odd items; the tables hold further users and items."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(100), 8)
    events = pd.DataFrame({"user_id": user, "item_id": 2 * rng.integers(0, 15, 800) + user % 2})
    items, users = pd.DataFrame({"item_id": range(40)}), pd.DataFrame({"user_id": range(104)})
    items["kind"] = np.where(items["item_id"] % 2, "odd", "even")
    users["kind_of_user"] = np.where(users["user_id"] % 2, "odd", "even")
    encoder = MatchEncoder(user_features=["kind_of_user"], item_features=["kind"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), retriever)
    return pipe.fit(events, matchencoder__users=users, matchencoder__items=items)


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_an_item_without_events_is_known_by_its_features(cls):
    options = {"embedding_dim": 8, "dims": (8,), "max_epochs": 6, "exclude_seen": False}
    pipe = fit_with_tables(cls(**options, batch_size=64, random_state=0))
    vector = dict(zip(pipe[-1].item_ids_.tolist(), pipe[-1].item_vectors_, strict=True))
    for item in (36, 38):
        np.testing.assert_allclose(vector[item], vector[34], rtol=1e-5)
        np.testing.assert_allclose(vector[item + 1], vector[35], rtol=1e-5)
    table = pipe.recommend([0, 1, 2, 3], k=1, candidates=[34, 35])
    assert table["item_id"].tolist() == [34, 35, 34, 35]


def test_an_item_without_events_or_features_keeps_a_vector_of_its_own():
    items = pd.DataFrame({"item_id": range(40)})
    retriever = YoutubeDNNRetriever(**SMALL).fit(EVENTS[EVENTS["item_id"] < 30], items=items)
    vectors = retriever.item_vectors_.round(6)
    assert len(np.unique(vectors, axis=0)) == len(vectors) == 40


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_a_user_without_events_is_an_unknown_user(cls):
    pipe = fit_with_tables(cls(**SMALL))
    queries = pd.DataFrame({"user_id": [100, 102, -1], "kind_of_user": "even"})
    vectors = pipe.transform(queries)
    np.testing.assert_allclose(vectors[:2], vectors[[2, 2]], rtol=1e-4, atol=1e-6)
    own = pipe.set_params(**{f"{cls.__name__.lower()}__id_dropout": 0.0})
    vectors = fit_with_tables(own[-1]).transform(queries)
    assert not np.allclose(vectors[0], vectors[1])


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_vectors_of_users_are_features_like_all_others(cls):
    taste = dict(zip(PEOPLE["user_id"], RNG.normal(size=(len(PEOPLE), 3)).tolist(), strict=True))
    events = EVENTS.assign(taste=EVENTS["user_id"].map(taste))
    steps = MatchEncoder(user_features=["taste"]), SequenceSampler(), cls(**SMALL)
    pipe = make_match_pipeline(*steps).fit(events)
    queries = pd.DataFrame({"user_id": [ANN, "new", "lost"], "taste": [None, taste[BOB], None]})
    found = pipe.recommend(queries, k=2)
    sources = found.groupby("user_id", sort=False)["source"].unique().map(list)
    assert sources.to_dict() == {ANN: ["history"], "new": ["features"], "lost": ["popularity"]}
    reasons = pipe.explain(queries[1:2], k=2, n_reasons=None)
    assert set(reasons["reason"]) == {"taste"}


def test_unknown_ids_of_the_fitted_type_are_no_error():
    ids = [uuid.UUID(int=i) for i in range(6)]
    events = pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": ids[:2] * 2})
    retriever = PopularityRetriever().fit(events)
    queries = pd.DataFrame({"user_id": [1], "history": [[ids[4], ids[5]]]})
    assert retriever.recommend(queries)["item_id"].empty
