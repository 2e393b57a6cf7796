"""Frames of any library: read by the names of their columns, and answered in their kind."""

import datetime as dt

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import sklearn
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    make_match_pipeline,
)
from skmatch.metrics import evaluate, make_topk_scorer
from skmatch.model_selection import LeaveLastOut, TemporalSplit

# In an order in which no position is that of its role.
EVENTS = pd.DataFrame(
    {
        "price": [3.0, 1, 2, 5, 4, 7, 6, 8],
        "timestamp": range(8),
        "item_id": list("abacbdca"),
        "user_id": ["ann", "ann", "bob", "bob", "cyd", "cyd", "ann", "dan"],
    }
)
ITEMS = pd.DataFrame({"kind": list("xyxyz"), "item_id": list("abcde")})
QUERIES = pd.DataFrame({"history": [["a", "b"], None], "user_id": ["eve", "ann"]})
BIG = 2**53  # above, floats hold even numbers only


def to_dask(frame):
    dask = pytest.importorskip("dask.dataframe")
    with config_of_dask():
        return dask.from_pandas(frame, npartitions=2)


def config_of_dask():
    import dask

    return dask.config.set({"dataframe.convert-string": False})


# library -> how a pandas frame becomes one of its own, and the kind of its answers
LIBRARIES = {
    "pandas": (lambda frame: frame, pd.DataFrame),
    "polars": (pl.from_pandas, pl.DataFrame),
    "lazy polars": (lambda frame: pl.from_pandas(frame).lazy(), pl.DataFrame),
    "pyarrow": (pa.Table.from_pandas, pa.Table),
    "record batch": (pa.RecordBatch.from_pandas, pa.Table),
    "dask": (to_dask, pd.DataFrame),
}
every_library = pytest.mark.parametrize(
    ("convert", "kind"), LIBRARIES.values(), ids=LIBRARIES.keys()
)


def to_rows(answer):
    return nw.from_native(answer).rows()


def make_pipe(retriever=None):
    encoder = MatchEncoder(user_features=["price"], item_features=["kind"])
    return make_match_pipeline(encoder, SequenceSampler(), retriever or PopularityRetriever(k=3))


@every_library
def test_columns_are_read_by_name(convert, kind):
    pipe = make_pipe().fit(convert(EVENTS), matchencoder__items=convert(ITEMS))
    answer = pipe.recommend(convert(QUERIES))
    assert type(answer) is kind
    # eve brings a and b along; ann has seen a, b and c
    assert [(user, item, rank) for user, item, _, rank, _ in to_rows(answer)] == [
        ("eve", "c", 1), ("eve", "d", 2), ("eve", "e", 3), ("ann", "d", 1), ("ann", "e", 2)
    ]  # fmt: skip
    batches = [*pipe.recommend_batches(convert(QUERIES), batch_size=1)]
    assert [type(batch) for batch in batches] == [kind, kind]
    assert [row for batch in batches for row in to_rows(batch)] == to_rows(answer)
    pipe.observe(convert(EVENTS[-1:].assign(item_id="d", timestamp=9, user_id="ann")))
    assert [row[1] for row in to_rows(pipe.recommend(convert(QUERIES[1:])))] == ["e"]
    pipe.add_items(convert(pd.DataFrame({"kind": ["x"], "item_id": ["f"]})))
    assert [row[1] for row in to_rows(pipe.recommend(convert(QUERIES[1:])))] == ["e", "f"]
    pipe.partial_fit(convert(EVENTS[:1].assign(item_id="g", user_id="fay", timestamp=10)))
    assert pipe[-1].item_ids_.tolist() == list("abcdefg")


@every_library
def test_a_retriever_alone_reads_frames_too(convert, kind):
    model = DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1, random_state=0)
    model.fit(convert(EVENTS))
    expected = DSSMRetriever(**model.get_params()).fit(EVENTS)
    np.testing.assert_array_equal(model.item_vectors_, expected.item_vectors_)
    np.testing.assert_array_equal(model.transform(convert(EVENTS)), expected.transform(EVENTS))
    assert model.predict(convert(EVENTS)).tolist() == expected.predict(EVENTS).tolist()
    assert model.score(convert(EVENTS)) == expected.score(EVENTS)
    assert type(model.recommend(convert(QUERIES))) is kind


@every_library
@pytest.mark.parametrize("cv", [LeaveLastOut(1, 2), TemporalSplit(2), LeaveLastOut(time=None)])
def test_splits_and_scores_read_frames(convert, kind, cv):
    folds = [(train.tolist(), test.tolist()) for train, test in cv.split(convert(EVENTS))]
    assert folds == [(train.tolist(), test.tolist()) for train, test in cv.split(EVENTS)]
    model = PopularityRetriever().fit(EVENTS)
    new = EVENTS.assign(user_id="new", history="text")
    table = evaluate(model, convert(new), k=2)
    assert isinstance(table, pd.DataFrame)
    assert (
        table["value"].tolist()
        == evaluate(model, new[["user_id", "item_id"]], k=2)["value"].tolist()
    )


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_searches_slice_frames(library):
    if library == "pyarrow" and tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9):
        pytest.skip("scikit-learn is too old to slice Arrow tables")
    X = LIBRARIES[library][0](pd.concat([EVENTS, EVENTS[::-1]], ignore_index=True))
    scorer = make_topk_scorer("hit", k=2)
    params = {"scoring": scorer, "cv": LeaveLastOut(), "error_score": "raise"}
    expected = cross_validate(PopularityRetriever(), X, **params)["test_score"]
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever())
    for model in (PopularityRetriever(), pipe):
        found = cross_validate(model, X, **params)["test_score"]
        search = GridSearchCV(model, {}, **params).fit(X)
        assert search.best_score_ == found[0] == expected[0]


def test_the_answer_to_ids_has_their_kind():
    model = PopularityRetriever(k=1).fit(EVENTS)
    for ids, kind in (
        (pl.Series(["eve", None]), pl.DataFrame),
        (pa.chunked_array([["eve", None]]), pa.Table),
        (["eve", None], pd.DataFrame),
        (np.array(["eve", None], dtype=object), pd.DataFrame),
    ):
        answer = model.recommend(ids)
        assert type(answer) is kind
        rows = to_rows(answer)
        assert [(row[0] if pd.notna(row[0]) else None, row[1]) for row in rows] == [
            ("eve", "a"),
            (None, "a"),
        ]
    similar = make_pipe(DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1))
    similar.fit(EVENTS, matchencoder__items=ITEMS)
    assert type(similar.similar_items(pl.Series(["a"]), k=1)) is pl.DataFrame
    assert type(similar[-1].similar_items(pa.chunked_array([["a"]]), k=1)) is pa.Table
    assert type(similar.similar_items(["a"], k=1)) is pd.DataFrame
    assert type(model.recommend()) is pd.DataFrame


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_candidates_are_columns_of_any_library(library):
    model = PopularityRetriever().fit(EVENTS)
    lists = LIBRARIES[library][0](pd.DataFrame({"own": [["d"], None]}))["own"]
    found = model.recommend(["eve", "fay"], k=1, candidates=lists)
    assert found["item_id"].tolist() == ["d", "a"]
    ids = LIBRARIES[library][0](pd.DataFrame({"own": ["a", "b"]}))["own"]
    assert model.recommend(["eve"], k=9, exclude=ids)["item_id"].tolist() == ["c", "d"]


def test_set_output_decides_on_vectors():
    model = DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1).fit(pl.from_pandas(EVENTS))
    assert type(model.transform(pl.from_pandas(EVENTS))) is np.ndarray
    with config_context(transform_output="polars"):
        vectors = model.transform(EVENTS)
    assert type(vectors) is pl.DataFrame
    assert vectors.shape == (8, 4)


@pytest.mark.parametrize("make", [make_pipeline, make_match_pipeline])
def test_a_pipeline_returns_vectors_as_polars_and_all_else_as_without(make):
    retriever = DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1, random_state=0)
    plain = make(MatchEncoder(), SequenceSampler(), retriever).fit(EVENTS)
    pipe = make(MatchEncoder(), SequenceSampler(), clone(retriever))
    pipe.set_output(transform="polars").fit(EVENTS)
    vectors = pipe.transform(EVENTS)
    assert type(vectors) is pl.DataFrame
    np.testing.assert_array_equal(vectors.to_numpy(), plain.transform(EVENTS))
    assert len(pipe[:-1].transform(EVENTS).decode()) == len(EVENTS)
    assert pipe.predict(EVENTS).tolist() == plain.predict(EVENTS).tolist()
    assert pipe.score(EVENTS) == plain.score(EVENTS)
    popular = make(MatchEncoder(), SequenceSampler(), PopularityRetriever())  # has no transform
    assert len(popular.set_output(transform="polars").fit(EVENTS).predict(EVENTS)) == len(EVENTS)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_integers_beside_nulls_stay_what_they_are(library):
    of_polars = {
        "user_id": [BIG, BIG + 1, BIG + 1],
        "item_id": [BIG, BIG + 1, BIG + 2],
        "timestamp": [BIG, BIG + 1, BIG + 2],
    }
    make = pl.DataFrame if library == "polars" else pa.table
    model = PopularityRetriever(k=2).fit(make(of_polars))
    queries = make({"user_id": [BIG, BIG + 1, None], "timestamp": [None, BIG + 2, None]})
    answer = model.recommend(queries)
    assert [row[:2] for row in to_rows(answer)] == [
        (BIG, BIG + 1), (BIG, BIG + 2), (BIG + 1, BIG),
        (BIG + 1, BIG + 2), (None, BIG), (None, BIG + 1),
    ]  # fmt: skip


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_dates_and_times_of_polars(zone):
    days = pl.DataFrame({"timestamp": [dt.date(2024, 1, day) for day in (3, 1, 2)]})
    if zone:
        days = days.select(pl.col("timestamp").cast(pl.Datetime).dt.replace_time_zone(zone))
    X = days.with_columns(item_id=pl.Series(["c", "a", "b"]), user_id=pl.lit("ann"))
    assert MatchEncoder().fit_transform(X).time.argsort().tolist() == [1, 2, 0]
    assert [test.tolist() for _, test in LeaveLastOut().split(X)] == [[0]]


def test_records_are_read_by_their_fields():
    for records in (EVENTS.to_records(index=False), EVENTS[:4].to_records().reshape(2, 2)):
        encoder = MatchEncoder().fit(records)
        assert encoder.schema_.items.values.tolist()[:3] == ["a", "b", "c"]
        assert encoder.feature_names_in_.tolist()[-4:] == EVENTS.columns.tolist()


class Columns:
    """A table whose columns have names, and that only numpy can read."""

    columns = ["item_id", "user_id"]
    shape = (3, 2)

    def __array__(self, dtype=None, copy=None):
        return np.array([["a", "ann"], ["b", "bob"], ["c", "ann"]], dtype=object)


def test_names_that_cannot_be_read_are_not_ignored():
    model = PopularityRetriever().fit(EVENTS)
    for call in (
        model.fit,
        model.predict,
        model.recommend,
        model.observe,
        model.add_items,
        MatchEncoder().fit,
        lambda X: MatchEncoder().fit(EVENTS, items=X),
        lambda X: list(LeaveLastOut().split(X)),
        lambda X: evaluate(model, X),
    ):
        with pytest.raises(TypeError, match=r"Columns cannot be read by name: convert it"):
            call(Columns())


def test_rows_keep_the_types_of_their_columns():
    rows = [[1, "tea", 0.5], [2, "jam", 1], [1, "jam", 2]]
    answer = PopularityRetriever(k=1).fit(rows).recommend([2, 1, 3])
    assert answer["user_id"].tolist() == [2, 3]
    assert answer["user_id"].dtype == "int64"
    assert answer["item_id"].tolist() == ["tea", "jam"]
    [(train, test)] = LeaveLastOut().split(rows)
    assert (train.tolist(), test.tolist()) == ([0, 1], [2])


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.set_flags(allows_duplicate_labels=False),
        lambda frame: with_attrs(frame),
        lambda frame: frame.astype({"user_id": ">i8", "item_id": ">i4", "timestamp": ">f8"}),
    ],
    ids=["flags", "attrs", "big-endian"],
)
def test_what_pandas_cannot_compute_with(change):
    plain = EVENTS.assign(
        user_id=[1, 1, 2, 2, 3, 3, 1, 4], item_id=[1, 2, 1, 3, 2, 4, 3, 1], price=range(8)
    )
    frame = change(plain.copy())
    model = PopularityRetriever(k=2).fit(frame)
    expected = PopularityRetriever(k=2).fit(plain)
    for asked in (frame, frame["user_id"]):
        own = plain if asked.ndim == 2 else plain["user_id"]
        found = model.recommend(asked)
        pd.testing.assert_frame_equal(found, expected.recommend(own), check_dtype=False)
    items = model.recommend(frame["user_id"][:1], candidates=frame["item_id"])
    assert items["item_id"].tolist() == [4]
    for cv in (LeaveLastOut(), TemporalSplit(2)):
        assert len(list(cv.split(frame))) == cv.get_n_splits()
    pd.testing.assert_frame_equal(evaluate(model, frame), evaluate(expected, plain))
    others = [name for name in frame if name not in ("item_id", "timestamp")]
    tables = {"users": pd.DataFrame({name: frame[name][6:] for name in others})}
    encoder = MatchEncoder(user_features=["price"]).fit(frame[:6], **tables)
    assert encoder.schema_.users.values.tolist() == [1, 2, 3, 4]
    if isinstance(frame.attrs.get("source"), pd.DataFrame):
        assert list(frame.attrs) == ["source", "other"]  # the input is as it was


def with_attrs(frame):
    frame.attrs = {"source": frame.copy(), "other": frame.copy()}
    return frame


def test_strings_in_views(tmp_path):
    columns = {name: pa.array(EVENTS[name], pa.string_view()) for name in ("item_id", "user_id")}
    table = pa.table(columns | {"timestamp": list(range(8))})
    path = tmp_path / "views.parquet"
    try:
        pq.write_table(table, path)
    except pa.ArrowNotImplementedError:
        pytest.skip("pyarrow is too old to write views")
    for X in (table, path, ds.dataset(table)):
        answer = PopularityRetriever(k=1).fit(X).recommend(["ann"])
        assert answer["item_id"].tolist() == ["d"]


@pytest.mark.parametrize("as_given", [str, lambda path: path, lambda path: [path], ds.dataset])
def test_only_fit_reads_parquet(tmp_path, as_given):
    path = tmp_path / "events.parquet"
    EVENTS.to_parquet(path)
    X = as_given(path)
    model = PopularityRetriever().fit(X)
    for call in (
        lambda: list(LeaveLastOut().split(X)),
        lambda: list(TemporalSplit().split(X)),
        lambda: evaluate(model, X),
        lambda: model.predict(X),
        lambda: model.observe(X),
    ):
        with pytest.raises(ValueError, match=r"Only fit reads Parquet.*pandas.read_parquet"):
            call()


def test_tables_of_any_library_that_cross_validation_has_cut():
    events = pl.from_pandas(pd.concat([EVENTS] * 20, ignore_index=True)).with_columns(
        timestamp=pl.int_range(160), item_id=pl.int_range(160) % 40
    )
    items = pl.DataFrame({"item_id": range(159, -1, -1), "kind": ["x", "y"] * 80})
    encoder = MatchEncoder(item_features=["kind"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever())
    params = {"cv": TemporalSplit(1, test_size=0.25), "error_score": "raise"}
    with pytest.raises(ValueError, match="items has as many rows as X, 120, and lacks ids of X"):
        cross_validate(pipe, events, params={"matchencoder__items": items}, **params)
    few = {"matchencoder__items": items[100:]}
    assert len(cross_validate(pipe, events, params=few, **params)["test_score"]) == 1
