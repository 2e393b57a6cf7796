"""What holds for every table of events."""

import datetime as dt
import tempfile
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)

N_USERS, N_ITEMS = 4, 7
SMALL = {"embedding_dim": 4, "dims": (4,), "max_epochs": 1, "random_state": 0}
NAMES = ["", "a", "é", "😀", "\0", "שלום", "z|z", "unused"]
DTYPES = {
    "int64": lambda n: pd.Series(range(-1, n - 1)),
    "uint64": lambda n: pd.Series(range(2**64 - n, 2**64), dtype="uint64"),
    "huge": lambda n: pd.Series([2**70 - i for i in range(n)], dtype=object),
    "float": lambda n: pd.Series([np.inf, *(i / 3 for i in range(n - 1))]),
    "str": lambda n: pd.Series(NAMES[:n]),
    "string": lambda n: pd.Series(NAMES[:n], dtype="string"),
    "surrogates": lambda n: pd.Series([chr(0xD800 + i) for i in range(n)], dtype=object),
    "category": lambda n: pd.Series(pd.Categorical(NAMES[:n], categories=NAMES[::-1])),
    "Int64": lambda n: pd.Series(range(2**62, 2**62 + n), dtype="Int64"),
    "arrow": lambda n: pd.Series(range(n), dtype="int64[pyarrow]"),
    "datetime": lambda n: pd.Series(pd.date_range("1900", periods=n, freq="D")),
    "zone": lambda n: pd.Series(pd.date_range("2020-10-25", periods=n, freq="h", tz="CET")),
    "uuid": lambda n: pd.Series([uuid.UUID(int=i) for i in range(n)]),
    "tuple": lambda n: pd.Series([(i,) * (i % 3) + (i,) for i in range(n)]),
    "mixed": lambda n: pd.Series([0, "0", (0,), 0.5, b"0", dt.date(1, 1, 1), 2**70][:n]),
}
UNKNOWN = "nobody"

rows = st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1), st.integers(0, 3))
tables = st.lists(rows, min_size=2, max_size=20).filter(
    lambda t: len({item for _, item, _ in t}) > 1
)
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.none()
texts = st.sampled_from([*NAMES, None])
lists = st.lists(st.sampled_from(NAMES), max_size=3) | st.none()


@st.composite
def cases(draw):
    """Draw events with features and queries, some with times and histories of their own."""
    table = draw(tables)
    user_ids, item_ids = (
        DTYPES[draw(st.sampled_from(sorted(DTYPES)))](n) for n in (N_USERS, N_ITEMS)
    )
    user, item, time = (list(column) for column in zip(*table, strict=True))
    events = pd.DataFrame(
        {
            "user_id": user_ids.iloc[user].reset_index(drop=True),
            "item_id": item_ids.iloc[item].reset_index(drop=True),
            "timestamp": time,
        }
    )
    n = len(events)
    for side in ("user", "item"):
        for kind, cells, dtype in (
            ("number", numbers, float), ("text", texts, object), ("list", lists, object),
        ):  # fmt: skip
            values = draw(st.lists(cells, min_size=n, max_size=n))
            events[f"{side}_{kind}"] = pd.Series(values, dtype=dtype)
    asked = draw(st.lists(st.integers(-1, N_USERS - 1), min_size=1, max_size=5))
    ids = [UNKNOWN if i < 0 else user_ids.iloc[i] for i in asked]
    queries = pd.DataFrame({"user_id": pd.Series(ids, dtype=object)})
    n = len(queries)
    if draw(st.booleans()):
        times = st.integers(-1, 4) | st.none()
        queries["timestamp"] = pd.Series(draw(st.lists(times, min_size=n, max_size=n)), dtype=float)
    if draw(st.booleans()):
        histories = st.lists(st.integers(0, N_ITEMS), max_size=4) | st.none()
        drawn = draw(st.lists(histories, min_size=n, max_size=n))
        known = item_ids.tolist()
        queries["history"] = pd.Series(
            [h and [known[i] if i < N_ITEMS else UNKNOWN for i in h] for h in drawn], dtype=object
        )
    if draw(st.booleans()):
        queries["user_number"] = pd.Series(
            draw(st.lists(numbers, min_size=n, max_size=n)), dtype=float
        )
    return events, queries


def seen(events, query):
    """Return what must not be recommended: all before the query's time, and its own history."""
    own = events[[user == query["user_id"] for user in events["user_id"]]]
    if not pd.isna(query.get("timestamp", np.nan)):
        own = own[own["timestamp"] < query["timestamp"]]
    history = query.get("history")
    return {*own["item_id"], *(history if isinstance(history, list) else ())}


def check_answers(model, events, queries, k):
    model.fit(events)
    answer, ids = model.recommend(queries, k=k), model.predict(queries, k=k)
    catalogue = set(events["item_id"])
    assert answer["item_id"].dtype == events["item_id"].dtype
    assert np.isfinite(answer["score"]).all()
    assert ids.shape == (len(queries), min(k, len(catalogue)))
    start = 0
    for query, row in zip(queries.to_dict("records"), ids, strict=True):
        unseen = catalogue - seen(events, query)
        n = min(k, len(unseen))
        own = answer[start : start + n]
        start += n
        assert [user == query["user_id"] for user in own["user_id"]] == [True] * n
        assert own["rank"].tolist() == list(range(1, n + 1))
        assert len(set(own["item_id"])) == n
        assert set(own["item_id"]) <= unseen
        assert list(row[:n]) == own["item_id"].tolist()
        assert pd.isna(row[n:]).all()
    assert start == len(answer)
    vectors = model.transform(queries)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    # Every user, known by the ids as they were.
    everyone = model.recommend(k=k, exclude_seen=False)
    assert everyone["user_id"].dtype == events["user_id"].dtype
    assert set(everyone["user_id"]) == set(events["user_id"])


# Drawn queries may hold ids of another kind than the events, which a warning names.
may_warn = pytest.mark.filterwarnings("ignore:Column '.*' holds .* and fit got")


@may_warn
@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
@settings(max_examples=60, deadline=None)
@given(case=cases(), k=st.integers(1, 9), loss=st.sampled_from(["bce", "bpr", "softmax"]))
def test_a_pipeline_answers_any_table(cls, case, k, loss):
    encoder = MatchEncoder(
        user_features=["user_number", "user_text", "user_list"],
        item_features=["item_number", "item_text", "item_list"],
        kinds={"user_list": "multi_valued", "item_list": "multi_valued"},
    )
    model = make_match_pipeline(encoder, SequenceSampler(), cls(**SMALL, loss=loss))
    check_answers(model, *case, k)


@may_warn
@pytest.mark.parametrize(
    "retriever", [PopularityRetriever(), DSSMRetriever(**SMALL), YoutubeDNNRetriever(**SMALL)]
)
@settings(max_examples=40, deadline=None)
@given(case=cases(), k=st.integers(1, 9))
def test_a_retriever_alone_answers_any_table(retriever, case, k):
    check_answers(retriever, *case, k)


# What is trained is what is served.

CHANGING = {
    "number": "numeric",
    "text": "categorical",
    "tags": "multi_valued",
    "vector": "vector",
}
CELLS = {
    "number": st.sampled_from([-1.5, 0.0, 2.0, 7.0, np.inf, np.nan]),
    "text": st.sampled_from(["a", "b", "c", None]),
    "tags": st.sampled_from([["a"], ["a", "b"], ["b", "a"], [], None]),
    "vector": st.sampled_from([[0.0, 0.5], [1.0, -2.0], None]),
}


def columns_of(draw, n_rows):
    return {
        name: pd.Series(
            draw(st.lists(cells, min_size=n_rows, max_size=n_rows)),
            dtype=float if name == "number" else object,
        )
        for name, cells in CELLS.items()
    }


@st.composite
def changing_tables(draw):
    """Draw unsorted events, many at one time, with features that change, and a table of users."""
    user, item, time = zip(*draw(st.lists(rows, min_size=2, max_size=14)), strict=True)
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": time})
    events = events.astype({"user_id": "str"}).assign(**columns_of(draw, len(events)))
    users = None
    if draw(st.booleans()):
        ids = draw(st.lists(st.integers(0, N_USERS), unique=True, max_size=N_USERS))
        users = pd.DataFrame({"user_id": pd.Series(ids, dtype="int64").astype("str")})
        users = users.assign(**columns_of(draw, len(ids)))
        users = users.drop(columns=draw(st.lists(st.sampled_from(list(CELLS)), unique=True)))
        only_there = [name for name in CELLS if name in users and draw(st.booleans())]
        events = events.drop(columns=only_there)
    assume(has_vector(events, users))
    return events, users


def has_vector(*tables):
    """Return whether any of the tables holds a vector, whose length an encoder needs to know."""
    return any(
        table is not None and "vector" in table and table["vector"].notna().any()
        for table in tables
    )


def is_missing(value):
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def follow(events, users, time="timestamp"):
    """Return each row's history and features by the rule itself, and what is known at the end."""
    state = {}
    for row in () if users is None else users.to_dict("records"):
        state[row["user_id"]] = {name: row[name] for name in CELLS if name in row}
    times = events[time].tolist() if time else [0] * len(events)
    histories, features, records = {}, {}, events.to_dict("records")
    items = {}
    for i in sorted(range(len(events)), key=lambda i: (times[i], i)):
        user = records[i]["user_id"]
        own = {name: records[i][name] for name in CELLS if name in records[i]}
        own = {name: value for name, value in own.items() if not is_missing(value)}
        state[user] = state.get(user, {}) | own
        histories[i] = items.get(user, [])
        items[user] = [*histories[i], records[i]["item_id"]]
        features[i] = dict.fromkeys(CELLS) | state[user]
    in_order = range(len(events))
    return [histories[i] for i in in_order], [features[i] for i in in_order], state, items


def features_of(rows):
    return rows.to_frame()[list(CELLS)].reset_index(drop=True)


def encoded(encoder, features):
    """Return the codes of features that somebody unknown brings."""
    frame = pd.DataFrame(features, columns=list(CELLS)).astype({"text": object, "tags": object})
    frame["number"] = frame["number"].astype(float)
    return features_of(encoder.transform(frame.assign(user_id=UNKNOWN)))


def changing_encoder(**params):
    return MatchEncoder(user_features=list(CELLS), kinds=CHANGING, **params)


def check_serving(encoder, sampler, events, users):
    """Compare queries with what `follow` says of the events."""
    histories, features, state, items = follow(events, users)
    moments = events.assign(row=range(len(events))).groupby(["user_id", "timestamp"])["row"]
    first, last = moments.transform("min"), moments.transform("max")
    bare = sampler.transform(encoder.transform(events[["user_id", "timestamp"]]))
    # The history is that of the first row of this user and time; all values of the time are known.
    assert bare.decode()["history"].tolist() == [histories[i] for i in first]
    expected = encoded(encoder, [features[i] for i in last])
    pd.testing.assert_frame_equal(features_of(bare), expected)
    # A time later than an event's, and none.
    later = pd.DataFrame({"user_id": events["user_id"], "timestamp": events["timestamp"] + 0.5})
    pd.testing.assert_frame_equal(features_of(encoder.transform(later)), expected)
    everyone = pd.DataFrame({"user_id": list(state)})
    now = sampler.transform(encoder.transform(everyone))
    assert now.decode()["history"].tolist() == [items.get(user, []) for user in state]
    latest = [dict.fromkeys(CELLS) | values for values in state.values()]
    pd.testing.assert_frame_equal(features_of(now), encoded(encoder, latest))


@settings(max_examples=150, deadline=None)
@given(case=changing_tables(), in_parquet=st.booleans())
def test_what_is_trained_is_what_is_served(case, in_parquet):
    events, users = case
    encoder, sampler = changing_encoder(), SequenceSampler()
    with tempfile.TemporaryDirectory() as folder:
        X = events
        if in_parquet:
            X = Path(folder) / "events.parquet"
            events.to_parquet(X)
        trained = sampler.fit_transform(encoder.fit_transform(X, users=users))
    histories, features, *_ = follow(events, users)
    assert trained.decode()["history"].tolist() == histories
    pd.testing.assert_frame_equal(features_of(trained), encoded(encoder, features))
    # The row as a query with its own features, where it stands alone in its user's time.
    served = sampler.transform(encoder.transform(events))
    alone = ~events.duplicated(["user_id", "timestamp"], keep=False).to_numpy()
    columns = ["user_id", "item_id", "timestamp", *CELLS]
    one, other = (rows.to_frame().loc[alone, columns] for rows in (trained, served))
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))
    one, other = (rows.decode()["history"][alone].tolist() for rows in (trained, served))
    assert one == other
    # At ties with what the row knew.
    brought = encoder.transform(events.assign(history=histories))
    assert sampler.transform(brought).decode()["history"].tolist() == histories
    check_serving(encoder, sampler, events, users)


@settings(max_examples=60, deadline=None)
@given(case=changing_tables(), verb=st.sampled_from(["observe", "partial_fit"]), data=st.data())
def test_what_is_observed_is_known_from_its_moment_on(case, verb, data):
    events, users = case
    events = events.sort_values("timestamp", kind="stable", ignore_index=True)
    n = data.draw(st.integers(1, len(events)))
    assume(has_vector(events[:n], users))
    news = events[n:].sample(frac=1, random_state=0)
    pipe = make_match_pipeline(changing_encoder(), SequenceSampler(), PopularityRetriever())
    pipe.fit(events[:n], matchencoder__users=users)
    for part in (news[::2], news[1::2]):
        if verb == "observe":
            part = part[part["item_id"].isin(events["item_id"][:n])]
        if len(part):
            getattr(pipe, verb)(part)
            events = pd.concat([events[:n], part])
            n = len(events)
    check_serving(pipe[0], pipe[1], events[:n].reset_index(drop=True), users)


@settings(max_examples=60, deadline=None)
@given(case=changing_tables())
def test_the_order_of_rows_may_be_the_time_of_features(case):
    events, users = case
    encoder, sampler = changing_encoder(time=None), SequenceSampler()
    trained = sampler.fit_transform(encoder.fit_transform(events, users=users))
    histories, features, state, items = follow(events, users, time=None)
    assert trained.decode()["history"].tolist() == histories
    pd.testing.assert_frame_equal(features_of(trained), encoded(encoder, features))
    now = sampler.transform(encoder.transform(pd.DataFrame({"user_id": list(state)})))
    assert now.decode()["history"].tolist() == [items.get(user, []) for user in state]
    latest = [dict.fromkeys(CELLS) | values for values in state.values()]
    pd.testing.assert_frame_equal(features_of(now), encoded(encoder, latest))
