"""Events in Parquet: what is learned of pieces is what is learned of one frame."""

import sys
import tempfile

import joblib
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    _files,
    make_match_pipeline,
)
from skmatch._columns import RaggedArray, Vocabulary
from skmatch.datasets import make_events
from skmatch.preprocessing import _event_source

SMALL = {"embedding_dim": 4, "dims": (4,), "max_epochs": 1, "random_state": 0}
FEATURES = {
    "user_features": ["segment", "age", "likes", "visits"],
    "item_features": ["category", "price", "tags", "in_stock"],
    "kinds": {"tags": "multi_valued"},
}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Cut 600 events into several pieces, blocks of rows and blocks of users."""
    monkeypatch.setattr(_event_source, "PIECE_SIZE", 90)
    monkeypatch.setattr(_files, "BLOCK_SIZE", 100)


def events_of_all_kinds(n_events=600, seed=0):
    """Return events in no order of time, many at the same one, with missing values of all kinds."""
    rng = np.random.default_rng(seed)
    events = make_events(40, 30, n_events, n_clusters=4, random_state=seed)
    events = events.sample(frac=1, random_state=seed, ignore_index=True)
    events["timestamp"] = events["timestamp"] // 3_000_000  # ties
    events["age"] += rng.integers(3, size=n_events)  # features change over time
    events["price"] = events["price"].where(rng.random(n_events) > 0.2)
    likes = np.array([["a"], ["b", "c"], [], None, ["c", "a"], ["d"]], dtype=object)
    events["likes"] = likes[rng.integers(len(likes), size=n_events)]
    events["tags"] = events["tags"].astype("str").where(rng.random(n_events) > 0.3)
    events["visits"] = rng.integers(5, size=n_events)
    events["in_stock"] = rng.random(n_events) > 0.5
    return events


def late_values(events):
    """Let no value of some features stand in the first piece."""
    late = events.copy()
    for name in ("likes", "category", "price"):
        late.loc[:150, name] = None
    late["visits"] = events["visits"].astype("float64").where(events.index < 500).astype("Int64")
    late["in_stock"] = events["in_stock"].astype(object).where(events.index > 150, None)
    return late


def written(events, folder, n_files=3):
    """Write events as Parquet files of several row groups; give their paths."""
    paths = []
    for i, rows in enumerate(np.array_split(np.arange(len(events)), n_files)):
        paths.append(folder / f"{i}.parquet")
        events.iloc[rows].to_parquet(paths[-1], index=False, row_group_size=70)
    return paths


def assert_same(one, other, where="state"):
    """Compare fitted values down to the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        np.testing.assert_array_equal(one, other, err_msg=where)
    elif isinstance(one, (RaggedArray, Vocabulary)) or hasattr(one, "__dataclass_fields__"):
        names = [name for name in vars(one) if not name.startswith("_") and name != "on_disk"]
        for name in names:
            if name != "user_ids":  # which those of Parquet decode from codes
                assert_same(getattr(one, name), getattr(other, name), f"{where}.{name}")
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            assert_same(one[name], other[name], f"{where}[{name!r}]")
    elif isinstance(one, tuple):
        for i, parts in enumerate(zip(one, other, strict=True)):
            assert_same(*parts, f"{where}[{i}]")
    else:
        assert one == other, where


def assert_same_fit(X, frame, encoder):
    """Compare all that the first two steps give and store, from Parquet and from a frame."""
    steps = []
    for events in (X, frame):
        sampler = SequenceSampler(max_length=5, random_state=0)
        coded = encoder.fit_transform(events)
        samples = sampler.fit_transform(coded)
        steps.append((vars(encoder).copy(), coded, samples, vars(sampler).copy()))
    assert steps[0][1].on_disk
    for one, other in zip(*steps, strict=True):
        assert_same(one, other)
    pd.testing.assert_frame_equal(steps[0][2].decode(), steps[1][2].decode())


TABLES = {
    "all kinds": lambda events: events,
    "late values": late_values,
    "text ids": lambda events: events.assign(
        user_id="u" + events["user_id"].astype(str), item_id=events["item_id"].astype("category")
    ),
    "datetimes": lambda events: events.assign(
        timestamp=pd.to_datetime(events["timestamp"], unit="D").dt.tz_localize("Europe/Oslo")
    ),
    "order": lambda events: events.drop(columns="timestamp"),
}


@pytest.mark.parametrize("table", TABLES)
def test_pieces_give_what_a_frame_gives(table, tmp_path):
    paths = written(TABLES[table](events_of_all_kinds()), tmp_path)
    assert_same_fit(paths, pd.read_parquet(paths), MatchEncoder(**FEATURES))


def test_tables_give_what_they_give_with_a_frame(tmp_path):
    events = events_of_all_kinds()
    paths = written(events, tmp_path)
    users = pd.DataFrame({"user_id": [7, 1000], "segment": ["new", "segment_0"]})
    items = pd.DataFrame({"item_id": [2.5, 1.0], "price": [3.0, np.nan]})
    one, other = (
        MatchEncoder(**FEATURES).fit(X, users=users, items=items)
        for X in (paths, pd.read_parquet(paths))
    )
    assert_same(vars(one), vars(other))


def test_events_come_as_a_path_paths_a_folder_or_a_dataset(tmp_path):
    events = events_of_all_kinds()
    paths = written(events, tmp_path)
    whole = tmp_path / "whole" / "events.parquet"
    whole.parent.mkdir()
    events.to_parquet(whole)
    expected = vars(MatchEncoder(**FEATURES).fit(pd.read_parquet(whole)))
    in_memory = ds.dataset(pq.read_table(whole))
    forms = (whole, str(whole), whole.parent, tuple(map(str, paths)), ds.dataset(paths), in_memory)
    for X in forms:
        assert_same(vars(MatchEncoder(**FEATURES).fit(X)), expected)


def test_folders_named_by_a_column_give_it(tmp_path):
    events = events_of_all_kinds().sort_values("visits", kind="stable", ignore_index=True)
    for visits, rows in events.groupby("visits"):
        folder = tmp_path / f"visits={visits}"
        folder.mkdir()
        rows.drop(columns="visits").to_parquet(folder / "events.parquet", index=False)
    one, other = (MatchEncoder(**FEATURES).fit(X) for X in (tmp_path, events))
    # pandas would read integers from names of folders as categories
    assert_same(one.schema_.user_table, other.schema_.user_table)


def test_files_of_few_and_of_many_categories_go_together(tmp_path):
    events = make_events(300, 30, 600, random_state=0).sort_values("user_id")
    ids = events["user_id"].astype("str")
    paths = [tmp_path / "few.parquet", tmp_path / "many.parquet"]
    for path, rows in zip(paths, (slice(0, 20), slice(20, None)), strict=True):
        events.iloc[rows].assign(user_id=ids.iloc[rows].astype("category")).to_parquet(path)
    encoder = MatchEncoder().fit(paths)
    assert encoder.schema_.users.values.tolist() == ids.unique().tolist()
    decoded = encoder.inverse_transform(encoder.fit_transform(paths))["user_id"]
    assert isinstance(decoded.dtype, pd.CategoricalDtype)
    assert decoded.tolist() == ids.tolist()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("retriever", [PopularityRetriever(), DSSMRetriever(**SMALL)])
def test_a_pipeline_of_parquet_answers_and_is_saved_as_one_of_a_frame(
    retriever, tmp_path, temporary
):
    paths = written(events_of_all_kinds(), tmp_path)
    pipes = [
        make_match_pipeline(MatchEncoder(**FEATURES), SequenceSampler(), clone(retriever)).fit(X)
        for X in (paths, pd.read_parquet(paths))
    ]
    expected = pipes[1].recommend(k=3)
    pd.testing.assert_frame_equal(pipes[0].recommend(k=3), expected)
    saved = temporary / "pipe.joblib"
    joblib.dump(pipes.pop(0), saved)
    assert list(temporary.iterdir()) == [saved]
    pd.testing.assert_frame_equal(joblib.load(saved).recommend(k=3), expected)


def test_a_retriever_alone_takes_parquet_and_grows(tmp_path):
    events = events_of_all_kinds()
    paths = written(events, tmp_path)
    news = pd.DataFrame({"user_id": [1, 999], "item_id": [3, 4], "timestamp": [10**6, 10**6]})
    answers = [
        DSSMRetriever(**SMALL).fit(X).partial_fit(news).recommend([1, 2, 999], k=3)
        for X in (paths, pd.read_parquet(paths))
    ]
    pd.testing.assert_frame_equal(*answers)


def without_item(events):
    return events.drop(columns="item_id")


def with_text(events):
    return events.assign(price="cheap")


def with_a_user_missing(events):
    return events.assign(user_id=events["user_id"].where(events.index != 410))


WRONG_FILES = {
    "no column": (without_item, r"column 'item_id' is missing in '.*2\.parquet'.*leave the file"),
    "type": (with_text, r"'price' has type \w*string in '.*2\.parquet', and double.*same type"),
    "missing id": (
        lambda events: with_a_user_missing(events).astype({"user_id": "Int64"}),
        r"2\.parquet', counted from row 0: The user column 'user_id' has 1 missing.*row 10\. Drop",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_wrong_file_is_named_and_nothing_is_left(wrong, tmp_path, temporary):
    change, message = WRONG_FILES[wrong]
    events = events_of_all_kinds()
    paths = written(events, tmp_path)
    change(events.iloc[400:]).to_parquet(paths[2], index=False)
    encoder = MatchEncoder(item_features=["price"])
    with pytest.raises(ValueError, match=message):
        encoder.fit(paths)
    assert not hasattr(encoder, "schema_")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("form", ["paths", "folder", "dataset"])
@pytest.mark.parametrize("column", ["timestamp", "age"])
@pytest.mark.parametrize("i", [0, 2])
def test_a_column_that_a_file_lacks_is_no_reason_to_drop_it(i, column, form, tmp_path):
    paths = written(events_of_all_kinds(), tmp_path)
    pd.read_parquet(paths[i]).drop(columns=column).to_parquet(paths[i], index=False)
    X = {"paths": paths, "folder": tmp_path, "dataset": ds.dataset(paths)}[form]
    message = rf"column '{column}' is missing in '.*{i}\.parquet'.*leave the file out"
    with pytest.raises(ValueError, match=message):
        MatchEncoder(user_features=["age"]).fit(X)
    if column == "timestamp":  # the order of rows is asked for
        assert MatchEncoder(time=None).fit(X).schema_.time is None


def test_what_is_no_parquet_of_events_is_said(tmp_path, monkeypatch):
    events = events_of_all_kinds()
    (path,) = written(events, tmp_path, n_files=1)
    for absent in (tmp_path / "absent", [path, tmp_path / "absent"]):
        with pytest.raises(FileNotFoundError, match=r"no file '.*absent'.*path of Parquet. Check"):
            MatchEncoder().fit(absent)
    with pytest.raises(ValueError, match="user column 'customer' is missing; X has 'user_id'"):
        MatchEncoder(user="customer").fit(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty.*holds no Parquet file"):
        MatchEncoder().fit(tmp_path / "empty")
    events[:0].to_parquet(tmp_path / "empty" / "none.parquet")
    with pytest.raises(ValueError, match=r"0 sample.*at least one event"):
        MatchEncoder().fit(tmp_path / "empty")
    text = tmp_path / "events.csv"
    events.to_csv(text)
    with pytest.raises(ValueError, match=r"events\.csv'. Is this a 'parquet' file"):
        MatchEncoder().fit(text)
    monkeypatch.setitem(sys.modules, "pyarrow.dataset", None)
    with pytest.raises(ImportError, match=r"needs pyarrow.*pip install pyarrow"):
        MatchEncoder().fit(path)
