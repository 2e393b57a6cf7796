"""Every value has a code, every known code gives its value back, and no query is an error."""

import datetime as dt
import pickle
import tracemalloc
import uuid
from decimal import Decimal
from itertools import permutations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    _files,
    make_match_pipeline,
)
from skmatch._data import Events

EVENTS = pd.DataFrame(
    {
        "user_id": ["ann", "bob", "ann"],
        "item_id": [30, 10, 10],
        "timestamp": [3, 1, 2],
    },
    index=[7, 7, 0],
)


def make_events(**columns):
    return EVENTS.assign(**columns)


def fit(events=EVENTS, users=None, items=None, **params):
    return MatchEncoder(**params).fit(events, users=users, items=items)


def latest(encoder, name):
    """Return the latest values of a feature as the encoder stores them, by id, decoded."""
    schema = encoder.schema_
    is_user = name in schema.user_table
    table = schema.user_table if is_user else schema.item_table
    ids = (schema.users if is_user else schema.items).values
    (feature,) = (f for f in (*schema.user_features, *schema.item_features) if f.name == name)
    if feature.kind == "numeric":
        values = table[name][2:].tolist()
    elif feature.kind == "categorical":
        decoded = feature.vocabulary.decode(table[name][2:])
        values = decoded.astype(object).where(decoded.notna(), None).tolist()
    else:
        values = [feature.vocabulary.decode(row).tolist() for row in table[name].to_lists()[2:]]
    return dict(zip(ids.tolist(), values, strict=True))


def kinds_of(encoder):
    schema = encoder.schema_
    return {
        f.name: f.kind
        for f in (*schema.user_features, *schema.item_features, *schema.event_features)
    }


# Codes


def test_known_values_have_codes_from_2():
    coded = fit().transform(EVENTS)
    assert coded.user.tolist() == [2, 3, 2]
    assert coded.item.tolist() == [2, 3, 3]
    assert coded.time.tolist() == [3, 1, 2]


def test_fit_transform_is_fit_then_transform():
    one = MatchEncoder().fit_transform(EVENTS).to_frame()
    pd.testing.assert_frame_equal(one, fit().transform(EVENTS).to_frame())


def test_unseen_and_missing_values_have_code_1():
    queries = pd.DataFrame({"user_id": ["ann", "eve", None], "item_id": [10, 99, None]})
    coded = fit().transform(queries)
    assert coded.user.tolist() == [2, 1, 1]
    assert coded.item.tolist() == [3, 1, 1]


def test_a_query_without_item_has_code_0():
    assert fit().transform(EVENTS[["user_id"]]).item.tolist() == [0, 0, 0]


def test_unknown_and_padding_decode_to_missing():
    back = fit().inverse_transform([[0, 1], [1, 0], [2, 3]])
    assert back["user_id"].isna().tolist() == [True, True, False]
    assert back["item_id"].isna().tolist() == [True, True, False]
    assert back.iloc[2].tolist() == ["ann", 10]


@pytest.mark.parametrize(
    "values",
    [["a", "b"], [1.5, np.nan], [True, False], [(1, 2), "x"], [2**70, -1], [None, None]]
    + [pd.to_datetime(["2020-01-01", None]), pd.Categorical(["q", None])]
    + [pd.array([3, None], dtype=t) for t in ("Int64", "int64[pyarrow]")],
    ids=str,
)
def test_ids_of_another_type_are_unseen(values):
    encoder = fit(make_events(user_id=[11, 17, 11], item_id=[1.25, 2.5, 1.25]))
    coded = encoder.transform(pd.DataFrame({"user_id": values, "item_id": values}))
    assert coded.user.tolist() == coded.item.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", "boolean", "bool[pyarrow]"])
def test_missing_is_no_zero(dtype):
    events = pd.DataFrame({"user_id": pd.array([0, 1], dtype=dtype), "item_id": [1, 2]})
    queries = pd.DataFrame({"user_id": pd.array([None, 0], dtype=dtype)})
    assert fit(events).transform(queries).user.tolist() == [1, 2]


def test_a_category_is_found_among_plain_values_and_the_other_way_round():
    plain = EVENTS[["user_id", "item_id"]]
    category = plain.astype("category")
    for learned, asked in ((plain, category), (category, plain)):
        coded = fit(learned).transform(asked)
        assert coded.user.tolist() == [2, 3, 2]
        assert coded.item.tolist() == [2, 3, 3]


# Decoding

UUIDS = [uuid.UUID(int=i) for i in (3, 1, 2)]
TIMES = pd.to_datetime(["2020-01-01", "2021-07-01", "1900-01-01"])
OSLO = TIMES.tz_localize("Europe/Oslo")
NAMES = ["x", "né", ""]
IDS = {
    "int": pd.Series([5, -3, 0]),
    "huge": pd.Series([2**63 - 1, -(2**63), 2**53 + 1]),
    "int8": pd.Series([1, -2, 3], dtype="int8"),
    "uint64": pd.Series([2**64 - 1, 0, 1], dtype="uint64"),
    "float": pd.Series([1.5, -0.0, np.inf]),
    "bool": pd.Series([True, False, True]),
    "str": pd.Series(NAMES),
    "string[python]": pd.Series(NAMES, dtype="string[python]"),
    "string[pyarrow]": pd.Series(NAMES, dtype="string[pyarrow]"),
    "arrow string": pd.Series(NAMES, dtype=pd.ArrowDtype(pa.string())),
    "object of str": pd.Series(NAMES, dtype=object),
    "bytes": pd.Series([b"a", b"", b"c"]),
    "datetime": pd.Series(TIMES),
    "datetime[s]": pd.Series(TIMES).dt.as_unit("s"),
    "zone": pd.Series(OSLO),
    "timedelta": pd.Series(pd.to_timedelta([1, 2, 3], unit="s")),
    "date": pd.Series([dt.date(2020, 1, 1), dt.date(2021, 1, 1), dt.date(1, 1, 1)]),
    "period": pd.Series(pd.period_range("2020", periods=3, freq="M")),
    "uuid": pd.Series(UUIDS),
    "tuples": pd.Series([(1, 2), (3, 4), (5, 6)]),
    "mixed": pd.Series([1, "1", (1,)], dtype=object),
    "category": pd.Series(pd.Categorical(NAMES, categories=["unused", *NAMES], ordered=True)),
    "category of int": pd.Series(pd.Categorical([5, 7, 5], categories=[9, 7, 5])),
    "category of zone": pd.Series(OSLO).astype("category"),
    "category of Int64": pd.Series([1, 2, 3], dtype="Int64").astype("category"),
    "category of string": pd.Series(NAMES, dtype="string[python]").astype("category"),
    "category of tuples": pd.Series([(1, 2), (3, 4), (5, 6)]).astype("category"),
    "Int64": pd.Series([1, 2**62 + 1, 3], dtype="Int64"),
    "Float64": pd.Series([1.5, 2.5, 3.5], dtype="Float64"),
    "boolean": pd.Series([True, False, True], dtype="boolean"),
    "int64[pyarrow]": pd.Series([1, 2**62 + 1, 3], dtype="int64[pyarrow]"),
    "bool[pyarrow]": pd.Series([True, False, True], dtype="bool[pyarrow]"),
    "timestamp[pyarrow]": pd.Series(TIMES, dtype="timestamp[us][pyarrow]"),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_ids_come_back_as_they_were(ids):
    events = pd.DataFrame({"user_id": ids, "item_id": ids[::-1].to_list()})
    events["item_id"] = ids[::-1].reset_index(drop=True)
    before = events.copy(deep=True)
    encoder = pickle.loads(pickle.dumps(fit(events)))
    coded = encoder.transform(events)
    pd.testing.assert_frame_equal(encoder.inverse_transform(coded), events)
    pd.testing.assert_frame_equal(events, before)
    assert coded.user.min() >= 2
    # A recommendation holds the same ids, and a missing entry in their midst is no error.
    recommended = PopularityRetriever().fit(events).recommend(exclude_seen=False)
    assert recommended["item_id"].dtype == ids.dtype
    assert set(recommended["user_id"]) == set(ids)
    decoded = encoder.schema_.items.decode([1, 2])
    assert decoded.isna().tolist() == [True, False]
    assert decoded[1] == events["item_id"][0]


def test_an_arrow_dictionary_comes_back_by_value():
    dictionary = pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
    events = EVENTS.assign(user_id=pd.array(["a", "b", "a"], dtype=dictionary))
    encoder = fit(events)
    assert encoder.inverse_transform(encoder.transform(events))["user_id"].tolist() == list("aba")


any_text = st.text(st.characters(exclude_categories=["Cs"]))  # no dtype of text holds surrogates
id_columns = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1).map(pd.Series),
    st.lists(st.integers(), min_size=1).map(lambda x: pd.Series(x, dtype=object)),
    st.lists(any_text, min_size=1).map(lambda x: pd.Series(x, dtype="str")),
    st.lists(any_text, min_size=1).map(lambda x: pd.Series(x, dtype="string[python]")),
    st.lists(any_text, min_size=1).map(lambda x: pd.Series(x, dtype="category")),
    st.lists(st.floats(allow_nan=False), min_size=1).map(pd.Series),
    st.lists(st.booleans(), min_size=1).map(pd.Series),
    st.lists(st.uuids(), min_size=1).map(pd.Series),
    st.lists(st.text() | st.integers(), min_size=1).map(lambda x: pd.Series(x, dtype=object)),
    st.lists(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)), min_size=1).map(
        pd.Series
    ),
    st.lists(
        st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)),
        min_size=1,
    ).map(lambda x: pd.Series(x).dt.tz_convert("America/Lima")),
)


@settings(deadline=None, max_examples=100)
@given(id_columns, st.randoms(use_true_random=False))
def test_decode_inverts_encode(ids, random):
    index = list(range(len(ids)))
    random.shuffle(index)
    events = pd.DataFrame({"item_id": ids, "user_id": ids}).set_index(pd.Index(index) // 2)
    before = events.copy(deep=True)
    encoder = fit(events)
    back = encoder.inverse_transform(encoder.transform(events))
    expected = events[["user_id", "item_id"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(back, expected)
    pd.testing.assert_frame_equal(events, before)


@settings(deadline=None, max_examples=30)
@given(st.lists(any_text, min_size=1), st.lists(any_text))
def test_a_text_is_known_or_unknown(known, asked):
    events = pd.DataFrame({"user_id": known, "item_id": known}, dtype="str")
    codes = fit(events).transform(pd.DataFrame({"user_id": pd.Series(asked, dtype="str")})).user
    assert (codes >= 2).tolist() == [text in known for text in asked]


# Features


def test_kinds_go_by_dtype():
    columns = {
        "text": ["a", "b", "a"],
        "int": [1, 2, 1],
        "bool": [True, False, True],
        "category": pd.Categorical([1.0, 2.0, 1.0]),
        "float": [1.0, 2.0, np.nan],
        "Float64": pd.array([1.0, None, 2.0], dtype="Float64"),
        "object": np.array([1, None, 2.5], dtype=object),
        "decimal": [Decimal("1.0"), None, Decimal("2.5")],
        "arrow_decimal": pd.array([Decimal(1), None, Decimal(2)], pd.ArrowDtype(pa.decimal128(9))),
        "list": [["a"], ["b"], []],
        "tuple": [None, ("a",), ()],
        "arrow": pd.array([["a"], ["b"], None], dtype=pd.ArrowDtype(pa.list_(pa.string()))),
    }
    categories = dict.fromkeys(["text", "int", "bool", "category"], "categorical")
    numbers = dict.fromkeys(["float", "Float64", "object", "decimal", "arrow_decimal"], "numeric")
    several = dict.fromkeys(["list", "tuple", "arrow"], "multi_valued")
    encoder = fit(make_events(**columns), user_features=list(columns))
    assert kinds_of(encoder) == categories | numbers | several


@pytest.mark.parametrize("side", ["user_features", "item_features", "event_features"])
def test_many_distinct_integers_warn_unless_their_kind_is_set(side):
    ids = np.arange(300)
    prices = pd.DataFrame({"user_id": ids, "item_id": ids, "price": ids % 250})
    with pytest.warns(UserWarning, match=r"'price' holds 250 .*kinds={'price': 'numeric'}"):
        assert kinds_of(fit(prices, **{side: ["price"]})) == {"price": "categorical"}
    for kind in ("numeric", "categorical"):
        assert kinds_of(fit(prices, **{side: ["price"]}, kinds={"price": kind})) == {"price": kind}
    codes = prices.assign(price=prices["price"].astype("category"))
    assert kinds_of(fit(codes, **{side: ["price"]})) == {"price": "categorical"}
    few = prices.assign(price=prices["price"] % 100)
    assert kinds_of(fit(few, **{side: ["price"]})) == {"price": "categorical"}


def test_kinds_may_be_overruled():
    kinds = {"year": "numeric", "level": "categorical", "tags": "multi_valued"}
    events = make_events(year=[1999, 2001, 1999], level=[0.5, 1.5, 0.5], tags=["a|b", "b", None])
    encoder = fit(events, user_features=["year"], item_features=["level", "tags"], kinds=kinds)
    assert kinds_of(encoder) == kinds
    # The mean and deviation of the three rows.
    assert latest(encoder, "year") == pytest.approx({"ann": -(0.5**0.5), "bob": 2**0.5})
    assert latest(encoder, "level") == {30: 0.5, 10: 0.5}
    assert latest(encoder, "tags") == {30: ["a", "b"], 10: ["b"]}


def test_the_delimiter_may_be_another():
    events = make_events(tags=["a|b; c", "", "c"])
    encoder = fit(events, item_features=["tags"], kinds={"tags": "multi_valued"}, delimiter="; ")
    assert latest(encoder, "tags") == {30: ["a|b", "c"], 10: ["c"]}


def test_the_latest_value_that_is_not_missing_counts():
    # ann has events at 2 (last row) and 3 (first row); 10 has events at 1 and 2.
    events = make_events(city=["Oslo", "Rome", "Lima"], colour=["red", "blue", None])
    encoder = fit(events, user_features=["city"], item_features=["colour"])
    assert latest(encoder, "city") == {"ann": "Oslo", "bob": "Rome"}
    assert latest(encoder, "colour") == {30: "red", 10: "blue"}
    by_row = fit(events, time=None, user_features=["city"])
    assert latest(by_row, "city") == {"ann": "Lima", "bob": "Rome"}


def test_of_values_at_one_time_that_of_the_last_row_is_the_latest():
    n = 1000  # sorts that are not stable leave shorter columns in order
    events = pd.DataFrame(
        {"user_id": "ann", "item_id": 1, "timestamp": np.arange(n) % 2, "colour": np.arange(n)}
    )
    kinds = {"colour": "categorical"}
    encoder = fit(events, item_features=["colour"], kinds=kinds)
    assert latest(encoder, "colour") == {1: n - 1}


def test_numbers_are_standardised_and_infinite_ones_are_missing():
    events = make_events(age=[np.inf, 40.0, 20.0], height=[np.nan, 1.5, -np.inf])
    encoder = fit(events, user_features=["age", "height"])
    assert latest(encoder, "age") == {"ann": -1.0, "bob": 1.0}
    assert np.isnan(latest(encoder, "height")["ann"])
    assert latest(encoder, "height")["bob"] == 0.0
    queries = pd.DataFrame({"user_id": ["eve"] * 3, "age": [30.0, np.inf, np.nan]})
    np.testing.assert_array_equal(encoder.transform(queries).features["age"], [0, np.nan, np.nan])


def test_numbers_of_new_items_are_standardised_by_the_mean_and_scale_of_the_fit():
    steps = MatchEncoder(item_features=["year"]), SequenceSampler(), PopularityRetriever()
    pipeline = make_match_pipeline(*steps).fit(make_events(year=[1990.0, 2010.0, 2010.0]))
    pipeline.partial_fit(make_events(item_id=50, timestamp=4, year=2030.0))
    assert latest(pipeline[0], "year") == {30: -1, 10: 1, 50: 3}


def test_unseen_feature_values_are_unknown():
    events = make_events(city=["Oslo", "Rome", "Oslo"], tags=[["a"], ["b"], ["a", "b"]])
    encoder = fit(events, user_features=["city", "tags"])
    queries = pd.DataFrame(
        {"user_id": "eve", "city": ["Bonn", None, "Rome"], "tags": [["z", "b"], None, ()]}
    )
    coded = encoder.transform(queries)
    assert coded.features["city"].tolist() == [1, 1, 3]
    assert coded.features["tags"].to_lists() == [[1, 3], [], []]


def test_a_query_brings_features_or_those_known_of_the_user_count():
    encoder = fit(make_events(city=["Oslo", "Rome", "Oslo"]), user_features=["city"])
    users = pd.DataFrame({"user_id": ["bob", "eve"]})
    assert encoder.transform(users).user_columns()["city"].tolist() == [3, 1]
    brought = users.assign(city="Oslo")
    assert encoder.transform(brought).user_columns()["city"].tolist() == [2, 2]


def test_tables_hold_features_and_further_ids():
    users = pd.DataFrame({"user_id": ["eve", "ann"], "city": ["Bonn", "Rome"]}, index=[3, 3])
    items = pd.DataFrame({"genre": ["jazz", None, "soul"], "item_id": [10, 30, 50]})
    encoder = fit(users=users, items=items, user_features=["city"], item_features=["genre"])
    assert latest(encoder, "city") == {"ann": "Rome", "bob": None, "eve": "Bonn"}
    assert latest(encoder, "genre") == {30: None, 10: "jazz", 50: "soul"}
    assert encoder.transform(pd.DataFrame({"user_id": ["eve"]})).user.tolist() == [4]


def test_a_table_goes_before_the_events():
    items = pd.DataFrame({"item_id": [10], "genre": ["jazz"]})
    encoder = fit(make_events(genre="rock"), items=items, item_features=["genre"])
    assert latest(encoder, "genre") == {30: None, 10: "jazz"}


PLANS = pd.DataFrame(
    {
        "user_id": "ann",
        "item_id": [1, 2, 3, 4],
        "timestamp": [0, 1, 2, 3],
        "plan": [None, None, None, "premium"],
    }
)


def test_a_value_is_not_known_before_it_is_there():
    encoder = MatchEncoder(user_features=["plan"])
    assert encoder.fit_transform(PLANS).features["plan"].tolist() == [1, 1, 1, 2]
    queries = pd.DataFrame({"user_id": "ann", "timestamp": [1, 2.5, 3.5, None]})
    assert encoder.transform(queries).features["plan"].tolist() == [1, 1, 2, 2]


def test_numbers_are_scaled_by_the_rows_that_bring_them():
    events = make_events(user_id="ann", age=[30.0, 10.0, 20.0])
    scaled = MatchEncoder(user_features=["age"]).fit_transform(events).features["age"]
    np.testing.assert_allclose(scaled, [1.5**0.5, -(1.5**0.5), 0])
    # A constant has no deviation, and a table's users count, too.
    constant = MatchEncoder(user_features=["age"]).fit_transform(make_events(age=0.1))
    assert constant.features["age"].tolist() == [0, 0, 0]
    users = pd.DataFrame({"user_id": ["ann", "bob"], "age": [1.0, 3.0]})
    encoder = MatchEncoder(user_features=["age"])
    assert encoder.fit_transform(EVENTS, users=users).features["age"].tolist() == [-1, 1, -1]


def test_a_value_that_only_earlier_rows_had_is_known():
    events = pd.concat([PLANS.assign(plan=["free", "free", "pro", "pro"])] * 2)
    events["user_id"] = ["ann"] * 4 + ["bob"] * 4
    pipe = make_match_pipeline(
        MatchEncoder(user_features=["plan"]),
        SequenceSampler(),
        DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1, random_state=0),
    ).fit(events)
    queries = pd.DataFrame({"user_id": ["eve", "kim"], "plan": ["free", "none such"]})
    answer = pipe.recommend(queries, k=1)
    assert answer["source"].tolist() == ["features", "popularity"]


def test_a_table_of_users_is_known_before_all_events_and_followed_by_theirs():
    users = pd.DataFrame({"user_id": ["ann", "eve"], "plan": ["free", "pro"]})
    encoder = MatchEncoder(user_features=["plan"])
    trained = encoder.fit_transform(PLANS, users=users).features["plan"]
    free, pro, premium = encoder.transform(
        pd.DataFrame({"user_id": "nobody", "plan": ["free", "pro", "premium"]})
    ).features["plan"]
    assert trained.tolist() == [free, free, free, premium]
    queries = pd.DataFrame({"user_id": ["ann", "ann", "eve"], "timestamp": [2.5, 9, 1]})
    assert encoder.transform(queries).features["plan"].tolist() == [free, premium, pro]


@pytest.mark.parametrize("verb", ["observe", "partial_fit"])
def test_what_is_observed_follows_a_table_of_users(verb):
    users = pd.DataFrame({"user_id": ["ann"], "plan": ["free"]})
    encoder = MatchEncoder(user_features=["plan"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever())
    pipe.fit(PLANS.drop(columns="plan"), matchencoder__users=users)
    getattr(pipe, verb)(PLANS[:1].assign(timestamp=9, plan="premium"))
    getattr(pipe, verb)(PLANS[:1].assign(timestamp=5, plan="free"))  # arrives late
    queries = pd.DataFrame({"user_id": "ann", "timestamp": [1, 6, 10, None]})
    assert pipe[0].transform(queries).features["plan"].tolist() == [2, 2, 3, 3]


def test_a_value_that_arrives_late_is_not_the_latest():
    events = PLANS.assign(plan="free", timestamp=[1, 2, 4, 5])
    encoder = MatchEncoder(user_features=["plan"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever()).fit(events)
    pipe.observe(events[:1].assign(timestamp=3, plan="pro"))
    queries = pd.DataFrame({"user_id": "ann", "timestamp": [2.5, 3.5, 6, None]})
    assert pipe[0].transform(queries).features["plan"].tolist() == [2, 3, 2, 2]


@pytest.mark.parametrize(
    "convert",
    [
        lambda days: days,
        lambda days: days.dt.as_unit("s"),
        lambda days: days.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
        lambda days: days.astype(object),
        lambda days: days.astype("timestamp[us][pyarrow]"),
        lambda days: days - pd.Timestamp("2000-01-01"),
    ],
    ids=["datetime", "seconds", "zone", "objects", "arrow", "timedelta"],
)
def test_a_datetime_that_is_missing_is_no_number(convert):
    days = convert(pd.Series(pd.to_datetime(["2020-01-01", None, "2020-01-03"])))
    encoder = MatchEncoder(
        user_features=["joined"], item_features=["made"],
        kinds={"joined": "numeric", "made": "numeric"},
    )  # fmt: skip
    events = make_events(joined=days.array, made=days.array)
    joined = encoder.fit_transform(events).features["joined"]
    np.testing.assert_array_equal(joined, [-1, np.nan, 1])
    assert latest(encoder, "made") == {30: -1, 10: 1}
    # In another unit it is the same number.
    if days.dtype.kind == "M":
        asked = pd.DataFrame({"user_id": ["eve"], "joined": days[2:].dt.as_unit("ns").array})
        assert encoder.transform(asked).features["joined"].tolist() == [1]


VECTORS = {
    "lists": [[0, 0.5], [2.0, 1.5], [1.0, 1.0]],
    "arrays": [np.array(v, dtype=np.float32) for v in ([0, 0.5], [2, 1.5], [1, 1])],
    "tuples": [(0.0, 0.5), (2.0, 1.5), (1.0, 1.0)],
    "arrow": pd.array([[0, 0.5], [2, 1.5], [1, 1]], dtype=pd.ArrowDtype(pa.list_(pa.float64(), 2))),
}


@pytest.mark.parametrize("cells", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("in_table", [False, True])
def test_cells_of_equally_many_floats_are_vectors(cells, side, in_table):
    cells = pd.Series(cells, dtype=object if isinstance(cells, list) else None)
    events = EVENTS.assign(user_id=list("abc"), item_id=[1, 2, 3])
    table = pd.DataFrame({f"{side}_id": events[f"{side}_id"].array, "vector": cells})
    encoder = MatchEncoder(**{f"{side}_features": ["vector"]})
    if in_table:
        encoder.fit(events, **{f"{side}s": table})
    else:
        encoder.fit(events.assign(vector=cells.array))
    schema = encoder.schema_
    (feature,) = schema.user_features + schema.item_features
    assert (feature.kind, feature.size) == ("vector", 2)
    matrix = (schema.user_table | schema.item_table)["vector"]
    assert matrix.dtype == np.float32
    assert np.isnan(matrix[:2]).all()
    # Around their mean, and of length 1 on average.
    expected = np.array([[-1, -0.5], [1, 0.5], [0, 0]]) / np.sqrt(2.5 / 3)
    np.testing.assert_allclose(matrix[2:], expected, atol=1e-6)
    if side == "item":
        values = np.stack(schema.item_values("vector"))
        np.testing.assert_allclose(values, [[0, 0.5], [2, 1.5], [1, 1]], atol=1e-6)


def test_vectors_of_a_catalogue_are_copied_once(monkeypatch):
    monkeypatch.setattr(_files, "BLOCK_SIZE", 2**14)
    matrix = np.random.default_rng(0).random((20_000, 100), dtype=np.float32)
    table = pd.DataFrame({"item_id": range(20_000), "vector": list(matrix)})
    encoder = MatchEncoder(item_features=["vector"])
    tracemalloc.start()
    encoder.fit(EVENTS.assign(item_id=range(3)), items=table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.8 * matrix.nbytes
    encoded = encoder.schema_.item_table["vector"][2:]
    expected = matrix - matrix.mean(0, dtype=float)
    expected /= np.sqrt((expected**2).sum(1).mean())
    np.testing.assert_allclose(encoded, expected, atol=1e-5)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([[0, 0], [0.5, 1.5], None], "vector"),
        ([np.array([0, 0]), np.array([0.5, 1.5]), None], "vector"),
        ([[1, 2], [3], []], "multi_valued"),
        ([[1], [], ["a"]], "multi_valued"),
    ],
)
def test_the_kind_of_cells_does_not_depend_on_the_order_of_rows(side, cells, kind):
    for order in permutations(cells):
        events = make_events(cell=list(order))
        assert kinds_of(fit(events, **{f"{side}_features": ["cell"]})) == {"cell": kind}


def test_a_missing_vector_is_known_to_be_missing():
    vectors = pd.Series([[0.0, 0.5], None, [2.0, 1.5]], dtype=object).array
    events = EVENTS.assign(item_id=[1, 2, 3], vector=vectors)
    table = fit(events, item_features=["vector"]).schema_.item_table["vector"]
    assert np.isnan(table).all(axis=1).tolist() == [True, True, False, True, False]


def test_vectors_change_over_time_and_queries_bring_their_own():
    vectors = pd.Series([[3.0, 1.0], [1.0, 1.0], None], dtype=object).array
    encoder = MatchEncoder(user_features=["vector"])
    rows = encoder.fit_transform(EVENTS.assign(vector=vectors))  # ann at 3, bob at 1, ann at 2
    np.testing.assert_array_equal(rows.features["vector"], [[1, 0], [-1, 0], [np.nan] * 2])
    queries = pd.DataFrame(
        {
            "user_id": ["ann", "ann", "eve", "eve"],
            "timestamp": [2, 4, 4, 4],
            "vector": pd.Series([None, None, [2.0, 5.0], None], dtype=object),
        }
    )
    expected = [[np.nan] * 2, [1, 0], [0, 4], [np.nan] * 2]
    coded = encoder.transform(queries)
    np.testing.assert_array_equal(coded.features["vector"], expected)
    again = SequenceSampler().fit(rows).transform(coded.to_frame())
    np.testing.assert_array_equal(again.features["vector"], expected)


@pytest.mark.parametrize("cell", [[1.0], [1.0, np.nan], [1.0, "a"], 3.0, "text"], ids=repr)
def test_what_is_no_vector_of_the_length_is_an_error_with_its_row(cell):
    cells = pd.Series([[1.0, 2.0], [3.0, 4.0], cell], dtype=object)
    events = EVENTS.assign(item_id=[1, 2, 3], user_id=list("abc"), vector=cells.array)
    message = r"'vector' holds .* in row 0, and not a vector of 2 finite .*kinds={'vector'"
    for side in ("user_features", "item_features"):
        with pytest.raises(ValueError, match=message):
            fit(events, **{side: ["vector"]})
    encoder = fit(events[:2], user_features=["vector"])
    with pytest.raises(ValueError, match=message):
        encoder.transform(events)


def test_vectors_without_any_have_no_length():
    events = make_events(vector=pd.Series([None] * 3, dtype=object).array)
    for side in ("user_features", "item_features"):
        with pytest.raises(ValueError, match="'vector' holds no vector, so that their length"):
            fit(events, kinds={"vector": "vector"}, **{side: ["vector"]})


def test_kinds_tell_vectors_from_names():
    pairs = make_events(sizes=pd.Series([[36.5, 38.0]] * 3).array)
    encoder = fit(pairs, item_features=["sizes"], kinds={"sizes": "multi_valued"})
    assert latest(encoder, "sizes") == {30: [36.5, 38.0], 10: [36.5, 38.0]}
    whole = make_events(sizes=pd.Series([[36, 38]] * 3).array)
    assert kinds_of(fit(whole, item_features=["sizes"])) == {"sizes": "multi_valued"}
    encoder = fit(whole, item_features=["sizes"], kinds={"sizes": "vector"})
    assert kinds_of(encoder) == {"sizes": "vector"}


# Roles


def test_arrays_hold_user_item_and_time():
    values = np.array([["a", "x", 2], ["b", "y", 1]], dtype=object)
    encoder = MatchEncoder().fit(values)
    coded = encoder.transform(values)
    assert coded.time.tolist() == [2, 1]
    assert encoder.schema_.user == "user_id"
    assert encoder.inverse_transform(coded).to_numpy().tolist() == [["a", "x"], ["b", "y"]]


def test_an_array_of_two_columns_has_the_order_of_its_rows():
    encoder = MatchEncoder().fit([[1, 2], [3, 4]])
    assert encoder.schema_.time is None
    assert encoder.transform([[3, 9]]).user.tolist() == [3]
    assert encoder.n_features_in_ == 2


def test_further_columns_of_an_array_are_features_by_position():
    values = np.array([[1, 10, 5, 7], [2, 10, 6, 8]])
    encoder = MatchEncoder(user_features=[3]).fit(values)
    assert latest(encoder, 3) == {1: 7, 2: 8}


def test_an_integer_role_is_a_position_or_a_label():
    by_position = MatchEncoder(user=1, item=0, time=None).fit(EVENTS)
    assert (by_position.schema_.user, by_position.schema_.item) == ("item_id", "user_id")
    frame = pd.DataFrame({1: ["a"], 0: [5]})
    by_label = MatchEncoder(user=1, item=0, time=None).fit(frame)
    assert by_label.schema_.users.values.tolist() == ["a"]


@pytest.mark.parametrize(
    ("events", "params"),
    [(EVENTS, {"time": None}), (EVENTS.drop(columns="timestamp"), {})],
    ids=["none", "absent"],
)
def test_the_order_of_the_rows_may_be_the_time(events, params):
    encoder = fit(events, **params)
    assert encoder.schema_.time is None
    assert encoder.transform(events).time is None
    assert encoder.get_feature_names_out().tolist() == ["user_id", "item_id"]


def test_datetimes_of_any_zone_and_unit_are_the_same_times():
    naive = pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"]))
    zoned = naive.dt.tz_localize("UTC")
    for fitted, *others in (
        (naive, naive.dt.as_unit("s"), naive.astype(object), naive.dt.as_unit("ns")),
        (zoned, zoned.dt.tz_convert("Asia/Tokyo"), zoned.dt.as_unit("s"), zoned.astype(object)),
    ):
        encoder = fit(make_events(timestamp=fitted.array))
        expected = encoder.transform(make_events(timestamp=fitted.array)).time.tolist()
        for times in others:
            assert encoder.transform(make_events(timestamp=times.array)).time.tolist() == expected


def test_times_with_and_without_a_zone_do_not_mix():
    naive = pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"]))
    zoned = naive.dt.tz_localize("Asia/Shanghai")
    for fitted, other in ((naive, zoned), (zoned, naive)):
        encoder = fit(make_events(timestamp=fitted.array))
        queries = pd.DataFrame({"user_id": ["u1"], "timestamp": other[:1]})
        message = "time column 'timestamp' holds.*time zone in both or in neither.*tz_localize"
        with pytest.raises(ValueError, match=message):
            encoder.transform(queries)
        model = PopularityRetriever().fit(make_events(timestamp=fitted.array))
        for method in (model.observe, model.partial_fit, model.predict):
            with pytest.raises(ValueError, match=message):
                method(make_events(timestamp=other.array))


@pytest.mark.parametrize("dtype", ["int8", "uint64", "Int32", "int32[pyarrow]", "float32", object])
def test_numbers_of_any_dtype_are_times(dtype):
    times = pd.array([3, 1, 2], dtype=dtype)
    assert fit(make_events(timestamp=times)).transform(EVENTS).time.tolist() == [3, 1, 2]


def test_times_beyond_int64_do_not_wrap_around():
    times = np.array([2**63 + 2**20, 1, 2], dtype="uint64")
    coded = MatchEncoder().fit_transform(make_events(timestamp=times))
    assert coded.time.argsort().tolist() == [1, 2, 0]


# Output


@pytest.fixture
def featured():
    events = make_events(city=["Oslo", "Rome", "Oslo"], tags=[["a"], ["b"], ["a", "b"]])
    return events, MatchEncoder(user_features=["city", "tags"])


def test_feature_names_out_are_the_columns_of_the_frame(featured):
    events, encoder = featured
    frame = encoder.set_output(transform="pandas").fit_transform(events)
    assert encoder.get_feature_names_out().tolist() == frame.columns.tolist()
    assert frame.columns.tolist() == ["user_id", "item_id", "timestamp", "city", "tags"]
    assert frame.index.tolist() == events.index.tolist()


def assert_same_events(one, other):
    for name in ("user", "item", "time"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.schema is other.schema
    assert one.shape == other.shape
    assert one.original_users().tolist() == other.original_users().tolist()
    frames = [rows.to_frame().reset_index(drop=True) for rows in (one, other)]
    pd.testing.assert_frame_equal(*frames)


def test_events_survive_a_frame(featured):
    events, encoder = featured
    coded = encoder.fit_transform(events)
    assert_same_events(Events.from_frame(coded.to_frame()), coded)


@pytest.mark.parametrize(
    "queries",
    [
        {"user_id": ["ann", "eve"]},
        {"user_id": ["ann", "eve"], "timestamp": [5, 6], "city": ["Rome", "Bonn"]},
        {"user_id": ["eve", "bob", "ann"], "history": [[10, 99], None, []]},
    ],
    ids=["users", "times", "histories"],
)
def test_queries_survive_a_frame(featured, queries):
    events, encoder = featured
    coded = encoder.fit(events).transform(pd.DataFrame(queries))
    again = Events.from_frame(coded.to_frame())
    assert_same_events(again, coded)
    assert again.shape == again.to_frame().shape
    if coded.history is not None:
        assert again.history.to_lists() == coded.history.to_lists() == [[3, 1], [], []]
        assert again.has_history.tolist() == coded.has_history.tolist() == [True, False, True]


@pytest.mark.parametrize("how", ["set_output", "config"])
def test_a_pipeline_recommends_the_same_with_pandas_output(featured, how):
    events, encoder = featured
    queries = pd.DataFrame({"user_id": ["ann", "eve"], "history": [None, [10]]})

    def recommend(pandas):
        pipe = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever(k=2))
        if pandas and how == "set_output":
            pipe[:2].set_output(transform="pandas")
        pipe.fit(events)
        return pd.concat(
            [pipe.recommend(), pipe.recommend(["eve", "bob"]), pipe.recommend(queries)]
        )

    expected = recommend(pandas=False)
    with sklearn.config_context(transform_output="pandas" if how == "config" else "default"):
        pd.testing.assert_frame_equal(recommend(pandas=True), expected)


def test_another_output_is_refused():
    with pytest.raises(
        ValueError, match=r"transform='dask'.*'default', 'pandas', 'polars' or None"
    ):
        MatchEncoder().set_output(transform="dask")


def test_clone_and_pickle(featured):
    events, encoder = featured
    assert clone(encoder).get_params() == encoder.get_params()
    again = pickle.loads(pickle.dumps(encoder.fit(events)))
    pd.testing.assert_frame_equal(
        again.transform(events).to_frame(), encoder.transform(events).to_frame()
    )


def test_fit_leaves_parameters_and_tables_alone():
    features, kinds = ["genre"], {"genre": "multi_valued"}
    items = pd.DataFrame({"item_id": [10, 50], "genre": ["a|b", "c"]})
    before = items.copy(deep=True)
    encoder = fit(items=items, item_features=features, kinds=kinds)
    assert encoder.item_features is features
    assert (features, kinds) == (["genre"], {"genre": "multi_valued"})
    pd.testing.assert_frame_equal(items, before)


# Errors: each names what is wrong, with its value, and what to do


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (EVENTS.drop(columns="user_id"), r"user column 'user_id' is missing.*'item_id'.*user="),
        (EVENTS.drop(columns="item_id"), r"item column 'item_id' is missing.*item="),
        (make_events(user_id=["a", None, "b"]), r"'user_id' has 1 missing.*row 1\. Drop"),
        (make_events(item_id=[np.nan, 1, np.nan]), r"'item_id' has 2 missing.*row 0\. Drop"),
        (make_events(timestamp=[1, 2, np.nan]), r"'timestamp' has 1 missing.*row 2.*time=None"),
        (make_events(timestamp=list("abc")), r"has dtype (str|object).*'a'.*pd\.to_datetime"),
        (make_events(timestamp=[True, False, True]), r"'timestamp' has dtype bool.*Convert"),
        (make_events(timestamp=[1j, 2, 3]), r"'timestamp' is complex; pass real"),
        (EVENTS.iloc[:0], r"0 sample.*pass at least one event"),
        (
            pd.concat([EVENTS, EVENTS[["item_id"]]], axis=1),
            r"'item_id' occurs more than once.*drop",
        ),
        (make_events(item_id=[[1], [2], [3]]), r"'item_id'.*unhashable.*'list'.*[Uu]se strings"),
        (np.ones(3), r"Expected 2D array.*[Rr]eshape"),
        (np.ones((3, 1)), r"1 feature\(s\).*user in the first column"),
        (np.ones((3, 2), dtype=complex), r"Complex data not supported"),
    ],
)
def test_bad_events(events, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        MatchEncoder().fit(events)


def test_a_sparse_matrix_is_refused():
    with pytest.raises(TypeError, match=r"[Ss]parse.*toarray"):
        MatchEncoder().fit(scipy.sparse.csr_array(np.ones((2, 2))))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"time": "when"}, r"time column 'when' is missing.*time="),
        ({"user": "uid"}, r"user column 'uid' is missing.*user="),
        ({"user_features": ["age"]}, r"feature column 'age' is missing.*Add.*matchencoder__users="),
        ({"user_features": "name"}, r"'user_features'.*'name'"),
        ({"user_features": ["name"], "item_features": ["name"]}, r"'name' is named twice"),
        (
            {"user_features": ["name"], "kinds": {"name": "nominal"}},
            r"kinds\['name'\] is 'nominal'; choose.*'categorical'",
        ),
        (
            {"user_features": ["name"], "kinds": {"other": "numeric"}},
            r"kinds names 'other'.*add it to user_features",
        ),
        (
            {"user_features": ["name"], "kinds": {"name": "numeric"}},
            r"numeric feature 'name'.*\"?Al.*make it numbers",
        ),
        (
            {"item_features": ["level"], "kinds": {"level": "multi_valued"}},
            r"'level' holds 1; pass lists",
        ),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        fit(make_events(name=["Al", "Bo", "Cy"], level=1), **params)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"item_id": [10, 10]}, r"items has several rows for 'item_id' = 10; keep one"),
        ({"item": [10]}, r"'item_id' is missing; items has 'item'\. Name the column"),
        ({"item_id": [10, None]}, r"'item_id' has 1 missing.*row 1"),
    ],
)
def test_bad_tables(items, message):
    with pytest.raises(ValueError, match=message):
        fit(items=pd.DataFrame(items))


def test_a_table_is_a_frame():
    with pytest.raises(ValueError, match=r"users is a dict; pass a DataFrame.*'user_id'"):
        fit(users={"user_id": ["ann"]})


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ({"item_id": [10]}, r"user column 'user_id' is missing"),
        ({"user_id": [["ann"]]}, r"'user_id'.*unhashable.*'list'.*[Uu]se strings"),
        ({"user_id": ["ann"], "timestamp": ["2020"]}, r"'timestamp'.*'2020'.*pd\.to_datetime"),
        (
            {"user_id": ["ann"], "timestamp": pd.to_datetime(["2020-01-01"])},
            r"'timestamp' holds a datetime here and a number at fit; convert",
        ),
        ({"user_id": ["ann"], "history": [3]}, r"'history' holds 3; pass lists"),
    ],
)
def test_bad_queries(queries, message):
    with pytest.raises(ValueError, match=message):
        fit().transform(pd.DataFrame(queries))


def test_numbers_are_no_datetimes():
    encoder = fit(make_events(timestamp=pd.to_datetime(["2020-01-01"] * 3)))
    with pytest.raises(ValueError, match="holds a number here and a datetime at fit"):
        encoder.transform(EVENTS)


def test_queries_with_the_default_column_of_times_are_refused_where_events_had_another():
    events = pd.DataFrame({"user_id": [1, 1], "item_id": [5, 6], "bought_at": [1, 2]})
    encoder = MatchEncoder(time="bought_at").fit(events)
    query = pd.DataFrame({"user_id": [1], "timestamp": [9]})
    with pytest.raises(ValueError, match="times are in 'bought_at'"):
        encoder.transform(query)
    # A column of the training table is known, whatever it holds.
    MatchEncoder(time="bought_at").fit(events.assign(timestamp=0)).transform(query)
