"""What holds for every table of events."""

import datetime as dt
import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
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
    """Give what must not be recommended: all before the query's time, and its own history."""
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


@pytest.mark.parametrize(
    "retriever", [PopularityRetriever(), DSSMRetriever(**SMALL), YoutubeDNNRetriever(**SMALL)]
)
@settings(max_examples=40, deadline=None)
@given(case=cases(), k=st.integers(1, 9))
def test_a_retriever_alone_answers_any_table(retriever, case, k):
    check_answers(retriever, *case, k)
