"""The values between the steps: short to print, cheap to cut, never changed."""

import copy

import numpy as np
import pandas as pd
import pytest

from skmatch import MatchEncoder, SequenceSampler
from skmatch._columns import RaggedArray, Vocabulary, concatenate_ranges
from skmatch._data import Samples

N = 3000


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user_id": rng.integers(500, size=N),
            "item_id": rng.integers(900, size=N).astype(str),
            "timestamp": rng.integers(99, size=N),
            "city": rng.choice(["Oslo", "Rome"], N),
            "price": rng.normal(size=N),
            "tags": [["a", "b"][: i % 3] for i in range(N)],
        }
    )


@pytest.fixture(scope="module")
def coded(events):
    encoder = MatchEncoder(user_features=["city"], item_features=["price", "tags"])
    return encoder.fit_transform(events)


@pytest.fixture(scope="module")
def samples(coded):
    return SequenceSampler(max_length=5).fit_transform(coded)


def test_ranges_are_laid_one_after_another():
    positions, offsets = concatenate_ranges(np.array([5, 9, 0]), np.array([8, 9, 2]))
    assert positions.tolist() == [5, 6, 7, 0, 1]
    assert offsets.tolist() == [0, 3, 3, 5]


def test_a_bag_gives_its_rows_back():
    rows = [[1, 2], [], [3]]
    bag = RaggedArray.from_lists(rows)
    assert len(bag) == 3
    assert bag.to_lists() == rows
    assert bag.gather(np.array([2, 0, 2, 1])).to_lists() == [[3], [1, 2], [3], []]
    assert RaggedArray.from_lists([[], []]).to_lists() == [[], []]


def test_a_vocabulary_counts_padding_and_unknown():
    vocabulary, codes = Vocabulary.learn(pd.Series(["b", None, "a", "b"]))
    assert codes.tolist() == [2, 1, 3, 2]
    assert len(vocabulary) == 4
    assert vocabulary.lookup(["a", "c", None]).tolist() == [3, 1, 1]
    assert vocabulary.decode(np.array([3, 2])).tolist() == ["a", "b"]


@pytest.mark.parametrize("dtype", [object, "str", "category"])
def test_what_is_looked_up_may_have_any_dtype(dtype):
    vocabulary, _ = Vocabulary.learn(pd.Series(["b", "a"]))
    column = pd.Series(["a", None, "z", "b", "a"], dtype=dtype)
    assert vocabulary.lookup(column).tolist() == [3, 1, 1, 2, 3]


def test_objects_that_are_looked_up_may_be_of_several_types():
    vocabulary, _ = Vocabulary.learn(pd.Series(["b", ("b", 1), 7], dtype=object))
    column = pd.Series([7, "7", ("b", 1), np.nan, pd.NA, "b"], dtype=object)
    assert vocabulary.lookup(column).tolist() == [4, 1, 3, 1, 1, 2]
    with pytest.raises(ValueError, match=r"'tags' holds \['b'\], an unhashable 'list'"):
        vocabulary.lookup(pd.Series(["b", ["b"]], dtype=object, name="tags"))


def test_a_schema_prints_its_columns(coded):
    lines = repr(coded.schema).splitlines()
    assert lines[0].startswith("Schema: ")
    assert "'user_id' (int64)" in lines[1]
    assert f"'item_id' ({pd.Series(['a']).dtype})" in lines[1]
    assert "'timestamp'" in lines[1]
    assert lines[2:] == [
        "  user feature 'city': categorical, 2 values",
        "  item feature 'price': numeric",
        "  item feature 'tags': multi_valued, 2 values",
    ]


def test_a_schema_is_a_frame_of_columns(coded):
    frame = coded.schema.to_frame()
    assert frame["column"].tolist() == ["user_id", "item_id", "timestamp", "city", "price", "tags"]
    assert frame["role"].tolist() == ["user", "item", "time", "user feature"] + ["item feature"] * 2
    assert frame["kind"].tolist() == [
        "id",
        "id",
        "number",
        "categorical",
        "numeric",
        "multi_valued",
    ]
    n_values = frame["n_values"]
    assert n_values.isna().tolist() == [False, False, True, False, True, False]
    assert n_values[0] == len(coded.schema.users.values)
    assert n_values[3] == 2


@pytest.mark.parametrize("name", ["coded", "samples"])
def test_rows_print_a_few_of_themselves(name, request):
    rows = request.getfixturevalue(name)
    text = repr(rows)
    assert "3,000 rows" in text
    assert "user_id" in text
    assert len(text) < 1500
    assert "0 rows" in repr(rows[:0])


@pytest.mark.parametrize("name", ["coded", "samples"])
def test_rows_look_like_a_table(name, request):
    rows = request.getfixturevalue(name)
    frame = rows.to_frame()
    assert len(rows) == len(frame)
    assert rows.shape == frame.shape
    assert np.asarray(rows).shape == frame.shape


@pytest.mark.parametrize("name", ["coded", "samples"])
def test_rows_can_be_cut_as_a_frame_can(name, request):
    rows = request.getfixturevalue(name)
    frame = rows.to_frame()
    chosen = np.array([7, 3, 3, 0])
    pd.testing.assert_frame_equal(rows.gather(chosen).to_frame(), frame.iloc[chosen])
    pd.testing.assert_frame_equal(rows[2:9].to_frame(), frame.iloc[2:9])
    again = type(rows).from_frame(frame.iloc[chosen])
    pd.testing.assert_frame_equal(
        again.decode(), rows.gather(chosen).decode().reset_index(drop=True)
    )


def test_decoded_rows_hold_the_ids_of_the_events(events, coded):
    pd.testing.assert_frame_equal(coded.decode(), events[["user_id", "item_id"]])


def test_no_history_is_copied(samples):
    assert len(samples.log.items) == N
    assert samples.gather(np.zeros(10 * N, dtype=int)).log is samples.log
    frame = samples.to_frame()
    assert all(dtype.kind == "i" for dtype in frame.dtypes)
    assert Samples.from_frame(frame).log is samples.log
    assert Samples.from_frame(frame[::-1].copy()).log is samples.log
    assert copy.deepcopy(samples.log) is samples.log
