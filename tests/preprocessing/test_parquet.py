"""Events in Parquet: what is learnt of pieces is what is learnt of one frame."""

import numpy as np
import pandas as pd
import pytest

from skmatch import (
    MatchEncoder,
    SequenceSampler,
)
from skmatch._columns import Bag, Vocabulary
from skmatch.datasets import make_events
from skmatch.preprocessing import _event_source, _sequence_sampler

FEATURES = {
    "user_features": ["segment", "age", "likes", "visits"],
    "item_features": ["category", "price", "tags", "in_stock"],
    "kinds": {"tags": "multi_valued"},
}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Cut 600 events into several pieces, blocks of rows and blocks of users."""
    monkeypatch.setattr(_event_source, "PIECE_SIZE", 90)
    monkeypatch.setattr(_sequence_sampler, "BLOCK_SIZE", 100)


def events_of_all_kinds(n_events=600, seed=0):
    """Give events in no order of time, many at the same one, with missing values of all kinds."""
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
    elif isinstance(one, (Bag, Vocabulary)) or hasattr(one, "__dataclass_fields__"):
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
