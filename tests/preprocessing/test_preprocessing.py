"""Codes that decode, and histories that know no future."""

import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skmatch import MatchEncoder, SequenceSampler

IDS = {
    "int64": pd.Series([5, -3, 2**62, 5]),
    "str": pd.Series(["a", "né", "", "a"]),
    "object": pd.Series([1, "1", (2, 3), 1], dtype=object),
    "uuid": pd.Series([uuid.UUID(int=i) for i in (1, 2, 3, 1)]),
    "category": pd.Series(pd.Categorical(["x", "y", "z", "x"], categories=list("zyxw"))),
    "Int64": pd.Series([1, 2, 3, 1], dtype="Int64"),
    "string": pd.Series(["p", "q", "r", "p"], dtype="string"),
    "int64[pyarrow]": pd.Series([1, 2, 3, 1], dtype="int64[pyarrow]"),
    "datetime": pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01", "2020-01-01"])),
    "tz": pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"] * 2).tz_localize("Asia/Tokyo")),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_ids_of_any_dtype_come_back_as_they_were(ids):
    events = pd.DataFrame({"user_id": ids, "item_id": ids})
    encoder = MatchEncoder().fit(events)
    back = encoder.inverse_transform(encoder.transform(events))
    pd.testing.assert_frame_equal(back, events)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text() | st.integers(), min_size=1))
def test_decode_inverts_encode(ids):
    events = pd.DataFrame({"user_id": ids, "item_id": ids}, dtype=object)
    encoder = MatchEncoder().fit(events)
    back = encoder.inverse_transform(encoder.transform(events))
    assert back["user_id"].tolist() == ids


def test_unseen_and_missing_become_unknown():
    encoder = MatchEncoder().fit(pd.DataFrame({"user_id": ["a"], "item_id": [1]}))
    coded = encoder.transform(pd.DataFrame({"user_id": ["a", "b", None], "item_id": [1, 2, None]}))
    assert coded.user.tolist() == [2, 1, 1]
    assert coded.item.tolist() == [2, 1, 1]


def test_features_take_their_kind_from_the_dtype_and_the_latest_value_counts():
    events = pd.DataFrame(
        {
            "user_id": ["a", "a", "b"],
            "item_id": [1, 2, 1],
            "timestamp": [2, 1, 3],
            "city": ["Rome", "Oslo", None],
            "age": [30.0, 20.0, np.nan],
            "tags": [["x", "y"], [], ["y"]],
        }
    )
    encoder = MatchEncoder(user_features=["city", "age"], item_features=["tags"]).fit(events)
    schema = encoder.schema_
    kinds = [feature.kind for feature in (*schema.user_features, *schema.item_features)]
    assert kinds == ["categorical", "numeric", "multi_valued"]
    cities = schema.user_features[0].vocabulary.decode(schema.user_table["city"])
    assert cities[2] == "Rome"
    assert cities[[3]].isna().all()
    assert np.isnan(schema.user_table["age"][3])
    assert schema.item_table["tags"].to_lists()[2:] == [[2], []]


def test_tables_bring_items_that_nobody_has_touched():
    events = pd.DataFrame({"user_id": ["a"], "item_id": [1]})
    items = pd.DataFrame({"item_id": [1, 9], "genre": ["jazz", "soul"]})
    schema = MatchEncoder(item_features=["genre"]).fit(events, items=items).schema_
    assert schema.items.values.tolist() == [1, 9]
    assert schema.item_table["genre"][2:].tolist() == [2, 3]


def histories(samples):
    return samples.decode()["history"].tolist()


EVENTS = pd.DataFrame(
    {
        "user_id": ["a", "b", "a", "a", "a"],
        "item_id": ["p", "q", "r", "s", "t"],
        "timestamp": [5, 1, 3, 5, 9],
    },
    index=[7, 7, 1, 0, 2],
)


def test_histories_by_hand():
    sampler = SequenceSampler(max_length=2)
    # r at 3, then p and s at 5 in the order of the rows, then t.
    expected = [["r"], [], [], ["r", "p"], ["p", "s"]]
    assert histories(sampler.fit_transform(EVENTS)) == expected
    queries = pd.DataFrame({"user_id": ["a", "a", "a", "z"], "timestamp": [5, 6, np.nan, 9]})
    assert histories(sampler.transform(queries)) == [["r"], ["p", "s"], ["s", "t"], []]


def test_a_query_may_bring_its_own_history():
    sampler = SequenceSampler(max_length=2).fit(EVENTS)
    queries = pd.DataFrame({"user_id": ["a", "a", "z"], "history": [["q"], None, ["p", "q", "r"]]})
    samples = sampler.transform(queries)
    assert histories(samples) == [["q"], ["s", "t"], ["q", "r"]]
    assert (samples.stop - samples.seen).tolist() == [5, 4, 3]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 4)), min_size=1),
    st.integers(1, 4),
)
def test_histories_hold_what_came_before_and_nothing_else(rows, max_length):
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    samples = SequenceSampler(max_length=max_length).fit_transform(events)
    assert len(samples.log.items) == len(events)
    for i, history in enumerate(histories(samples)):
        user, _, time = rows[i]
        before = sorted(
            (t, j) for j, (u, _, t) in enumerate(rows) if u == user and (t, j) < (time, i)
        )
        assert history == [rows[j][1] for _, j in before][-max_length:]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"negatives": "hard"}, "negatives='hard'.*'zipf'"),
        ({"neg_ratio": 0}, "'neg_ratio'.*0"),
        ({"max_length": 0}, "'max_length'.*0"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        SequenceSampler(**parameters).fit(EVENTS)
    with pytest.raises(ValueError, match=r"'rating'.*missing"):
        MatchEncoder(item_features=["rating"]).fit(EVENTS)
    with pytest.raises(ValueError, match=r"'nominal'.*'categorical'"):
        MatchEncoder(user_features=["item_id"], kinds={"item_id": "nominal"}).fit(EVENTS)
