"""Saved files: content, size, loading, and errors of damaged and foreign files.

A file of a fitted pipeline must hold: the weights of the network, the vectors and popularity of
the items, the items (and times) of all events in the order of users with the offset of each user,
the count of each item, the ids of users and items, and the table of each side's features. The
optimizer's state, training rows and batches are not among them.
"""

import io
import os
import pickle
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.decomposition import PCA
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    TemporalSplit,
    YoutubeDNNRetriever,
    make_match_pipeline,
    make_topk_scorer,
    persistence,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=300, n_items=200, n_events=6000, random_state=0)
QUERIES = EVENTS[:20]
SMALL = {"embedding_dim": 32, "dims": (32,), "max_epochs": 1, "random_state": 0}


def make_encoder():
    return MatchEncoder(
        user_features=["segment"],
        item_features=["category", "price", "tags"],
        kinds={"tags": "multi_valued"},
    )


def make_search():
    pipe = make_match_pipeline(make_encoder(), SequenceSampler(), DSSMRetriever(**SMALL))
    return GridSearchCV(
        pipe,
        {"dssmretriever__dims": [(32,), (16, 8)]},
        cv=LeaveLastOut(),
        scoring=make_topk_scorer(["recall", "ndcg"], k=[10]),
        refit="ndcg_at_10",
    )


MAKERS = {
    "encoder": make_encoder,
    "sampler": SequenceSampler,
    "popularity": PopularityRetriever,
    "dssm": lambda: DSSMRetriever(**SMALL),
    "youtube": lambda: YoutubeDNNRetriever(**SMALL),
    "plain_pipeline": lambda: Pipeline(make_search().estimator.steps),
    "match_pipeline": lambda: make_search().estimator,
    "search": make_search,
}
FORMATS = {
    "saved": persistence.save,
    "joblib": joblib.dump,
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
    "cloudpickle": lambda value, path: path.write_bytes(cloudpickle.dumps(value)),
    "skops": skops.io.dump,
}


def load(path):
    if path.suffix == ".skops":
        return skops.io.load(path, trusted=persistence.TRUSTED_TYPES)
    return persistence.load(path)


def answer(fitted):
    return np.asarray(getattr(fitted, "predict", fitted.transform)(QUERIES))


@pytest.fixture(scope="module")
def everything():
    return {name: make().fit(EVENTS) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def fitted(everything):
    return everything["match_pipeline"]


@pytest.fixture(scope="module")
def folder(everything, tmp_path_factory):
    """Save all estimators in all formats, and recommend with them in a new process."""
    folder = tmp_path_factory.mktemp("saved")
    for name, estimator in everything.items():
        for suffix, dump in FORMATS.items():
            dump(estimator, folder / f"{name}.{suffix}")
    QUERIES.to_pickle(folder / "queries")
    code = """if True:
        import sys
        from pathlib import Path
        import numpy as np, pandas as pd, skops.io
        from skmatch import persistence
        folder = Path(sys.argv[1])
        queries = pd.read_pickle(folder / "queries")
        for path in sorted(folder.glob("*.*")):
            if path.suffix == ".skops":
                loaded = skops.io.load(path, trusted=persistence.TRUSTED_TYPES)
            else:
                loaded = persistence.load(path)
            answer = getattr(loaded, "predict", loaded.transform)(queries)
            np.save(f"{path}.npy", np.asarray(answer))
    """
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    return folder


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_new_process_recommends_the_same(everything, folder, name, suffix):
    expected = answer(everything[name])
    np.testing.assert_array_equal(np.load(folder / f"{name}.{suffix}.npy"), expected)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_loaded_estimator_is_saved_again_before_and_after_predicting(fitted, tmp_path, suffix):
    path = tmp_path / f"pipe.{suffix}"
    FORMATS[suffix](fitted, path)
    loaded = load(path)
    FORMATS[suffix](loaded, path)
    np.testing.assert_array_equal(answer(loaded), answer(fitted))
    FORMATS[suffix](loaded, path)
    pd.testing.assert_frame_equal(load(path).recommend(k=3), fitted.recommend(k=3))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", MAKERS)
def test_an_unfitted_estimator_is_loaded_with_its_parameters(tmp_path, name, suffix):
    estimator = MAKERS[name]()
    path = tmp_path / f"unfitted.{suffix}"
    FORMATS[suffix](estimator, path)
    again = load(path)
    assert type(again) is type(estimator)
    plain = (str, int, float, bool, tuple, list, dict, type(None))
    expected = {k: v for k, v in estimator.get_params().items() if isinstance(v, plain)}
    for parameter, value in expected.items():
        assert repr(again.get_params()[parameter]) == repr(value), parameter


def test_skops_stores_a_search_with_any_splitter(tmp_path):
    search = make_search().set_params(cv=TemporalSplit(n_splits=2))
    skops.io.dump(search, tmp_path / "search.skops")
    assert repr(load(tmp_path / "search.skops").cv) == repr(search.cv)


@pytest.mark.parametrize(
    "ids",
    [
        ["", "a\0", "a", "é", "日本", "a|b"],
        [uuid.UUID(int=i << 70) for i in range(6)],
        pd.date_range("2024-01-01", periods=6, tz="Europe/Oslo"),
        pd.date_range("2024-01-01", periods=6).date,
        pd.Categorical(list("abcdef")),
        pd.array(range(6), dtype="Int64"),
        [(i, "x") for i in range(6)],
        np.array([1, "a", 2.5, True, b"b", (1, 2)], dtype=object),
    ],
    ids=["str", "uuid", "zoned", "date", "categorical", "nullable", "tuple", "mixed"],
)
def test_ids_of_many_types_are_loaded(tmp_path, ids):
    events = pd.DataFrame({"user_id": ids, "item_id": ids})
    fitted = PopularityRetriever(k=3).fit(events)
    for suffix in ("joblib", "skops"):
        FORMATS[suffix](fitted, tmp_path / f"popular.{suffix}")
        loaded = load(tmp_path / f"popular.{suffix}")
        pd.testing.assert_frame_equal(loaded.recommend(), fitted.recommend())


def test_a_memory_mapped_estimator_recommends_the_same(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "pipe.joblib")
    mapped = joblib.load(tmp_path / "pipe.joblib", mmap_mode="r")
    np.testing.assert_array_equal(answer(mapped), answer(fitted))


def test_the_file_holds_little_more_than_its_arrays(fitted):
    retriever, log = fitted[-1], fitted[1].log_.items
    sampler = fitted[1]
    schema = fitted.schema_
    arrays = [
        *retriever.weights_.values(), retriever.item_vectors_, retriever.popularity_, log,
        sampler.times_, sampler.offsets_, sampler.item_counts_,
        schema.users.values, schema.items.values,
    ]  # fmt: skip
    over_time = retriever.counts_over_time_
    arrays += [retriever.trend_, over_time.items, over_time.counts, over_time.offsets]
    for column in [*schema.user_table.values(), *schema.item_table.values()]:
        arrays += [column] if isinstance(column, np.ndarray) else [column.values, column.offsets]
    answer(fitted)
    assert len(pickle.dumps(fitted)) < 1.2 * sum(array.nbytes for array in arrays)


def test_the_file_holds_nothing_of_training():
    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            found.append(f"{module}.{name}")
            return super().find_class(module, name)

    found = []
    pipe = make_search().estimator.set_params(dssmretriever__early_stopping=True).fit(EVENTS)
    Recorder(io.BytesIO(pickle.dumps(pipe))).load()
    assert not [name for name in found if name.startswith("torch")]
    own = {name for name in found if name.startswith("skmatch")}
    assert own <= set(persistence.TRUSTED_TYPES)  # neither Events nor Samples among them


def test_a_loaded_popularity_needs_no_torch(tmp_path):
    joblib.dump(PopularityRetriever().fit(EVENTS), tmp_path / "popular.joblib")
    code = (
        "import sys; from skmatch.persistence import load; load(sys.argv[1]).recommend(k=3);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "popular.joblib")], check=True)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["encoder", "sampler", "popularity", "dssm", "plain_pipeline"])
def test_a_file_from_another_version_warns(everything, tmp_path, monkeypatch, name, suffix):
    path = tmp_path / f"old.{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(persistence, "__version__", "0.0.7")
        FORMATS[suffix](everything[name], path)
    with pytest.warns(persistence.SkmatchVersionWarning, match=r"0\.0\.7.*fit and save") as caught:
        loaded = load(path)
    assert persistence.__version__ in str(caught[0].message)
    assert isinstance(caught[0].message, InconsistentVersionWarning)
    np.testing.assert_array_equal(answer(loaded), answer(everything[name]))


@pytest.mark.parametrize("compress", [0, "zlib", "gzip", "bz2", "lzma"])
@pytest.mark.parametrize("part", [0.001, 0.2, 0.5, 0.98])
def test_a_truncated_file_raises_with_its_name(tmp_path, fitted, compress, part):
    path = tmp_path / "cut.joblib"
    joblib.dump(fitted, path, compress=compress)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.joblib.*truncated or damaged.*again"):
        persistence.load(path)


@pytest.mark.parametrize("n_bytes", [1, 2, -1])
def test_a_file_without_its_last_bytes_raises_with_its_name(tmp_path, fitted, n_bytes):
    path = tmp_path / "cut.joblib"
    path.write_bytes(pickle.dumps(fitted)[:n_bytes])
    with pytest.raises(ValueError, match=r"cut\.joblib.*truncated or damaged.*again"):
        persistence.load(path)


def test_any_flipped_bit_of_a_saved_file_is_found(tmp_path, fitted):
    path = tmp_path / "pipe.saved"
    persistence.save(fitted, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(whole) - 1, *rng.integers(len(whole) - 40, size=60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"pipe\.saved.*again|pipe\.saved.*not a joblib or pickle file"
        ):
            persistence.load(path)


def test_joblib_reads_a_saved_file(tmp_path, fitted):
    persistence.save(fitted, tmp_path / "pipe.saved")
    for mmap_mode in (None, "r"):
        loaded = joblib.load(tmp_path / "pipe.saved", mmap_mode=mmap_mode)
        np.testing.assert_array_equal(answer(loaded), answer(fitted))
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.saved"]


def test_saving_through_a_link_replaces_its_target(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "model").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    persistence.save(PopularityRetriever(k=3), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert persistence.load(tmp_path / "disk" / "model").k == 3
    (tmp_path / "dangling").symlink_to(tmp_path / "disk" / "new")
    persistence.save(PopularityRetriever(k=4), tmp_path / "dangling")
    assert persistence.load(tmp_path / "disk" / "new").k == 4
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "dangling", "disk", "link", "model", "new",
    ]  # fmt: skip


def test_concurrent_saves_to_one_path_leave_it_readable(tmp_path):
    path = tmp_path / "model"

    def save(k):
        for _ in range(150):
            persistence.save(PopularityRetriever(k=k), path)

    save(1)
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(save, k) for k in (1, 2)]
        while not all(writer.done() for writer in writers):
            assert persistence.load(path).k in (1, 2)
    for writer in writers:
        writer.result()
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_temporary_file_of_a_killed_process_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "model"
    for _ in range(2):
        if not (child := os.fork()):
            monkeypatch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            persistence.save(PopularityRetriever(), path)
        os.waitpid(child, 0)
        assert len(list(tmp_path.iterdir())) == 1  # the next process removes what this one left
    for name in ("model.tmp", "model.backup.tmp", "model2.0123456789abcdef.tmp"):
        (tmp_path / name).touch()
    persistence.save(PopularityRetriever(), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model", "model.backup.tmp", "model.tmp", "model2.0123456789abcdef.tmp",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["popularity", "plain_pipeline", "match_pipeline", "search"])
def test_a_file_without_a_parameter_of_this_version_raises(tmp_path, name, suffix):
    estimator = MAKERS[name]()
    part = getattr(estimator, "estimator", estimator)
    part = part.steps[1][1] if hasattr(part, "steps") else part
    parameter = next(iter(part.get_params()))
    vars(part).pop(parameter)
    FORMATS[suffix](estimator, tmp_path / f"old.{suffix}")
    message = rf"{type(part).__name__} was saved by .* without the parameters {parameter} of .*fit"
    with pytest.raises(ValueError, match=message):
        load(tmp_path / f"old.{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "change",
    [
        lambda offsets: np.where(np.arange(len(offsets)) % 2, 0, offsets.max()),
        lambda offsets: offsets[::-1],
        lambda offsets: offsets + 1,
        lambda offsets: offsets // 2,
        lambda offsets: offsets - np.where(np.arange(len(offsets)) == 5, 2**40, 0),
    ],
    ids=["fall and rise", "reversed", "first", "last", "negative"],
)
@pytest.mark.parametrize("where", ["tags", "history"])
def test_offsets_that_do_not_ascend_are_refused(tmp_path, fitted, suffix, change, where):
    crafted = pickle.loads(pickle.dumps(fitted))
    offsets = (
        crafted[1].offsets_ if where == "history" else crafted.schema_.item_table["tags"].offsets
    )
    offsets[:] = change(offsets.copy())
    path = tmp_path / f"crafted.{suffix}"
    FORMATS[suffix](crafted, path)
    with pytest.raises(ValueError, match="offsets of its rows do not ascend from 0"):
        load(path)


FOREIGN = {
    "empty": (b"", "is empty.*again"),
    "text": (b"user_id,item_id\n1,2\n", r"not a joblib or pickle file.*user_id.*path"),
    "random": (b"\x93" + np.random.default_rng(0).bytes(999), r"not a joblib or pickle file.*path"),
    "dict": (pickle.dumps({"a": 1}), r"holds a builtins\.dict.*joblib\.load"),
    "sklearn": (pickle.dumps(make_pipeline(PCA())), r"holds a sklearn\.pipeline\.Pipeline"),
    "skops": (skops.io.dumps(SequenceSampler()), r"skops\.io\.load\(path, trusted="),
    "module": (b"\x80\x04cno_such_module\nThing\n.", r"no_such_module.*Install"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file_raises_with_its_kind(tmp_path, what):
    content, message = FOREIGN[what]
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.bin.*" + message):
        persistence.load(tmp_path / "file.bin")


def test_a_missing_file_raises_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.joblib"):
        persistence.load(tmp_path / "gone.joblib")


def test_a_folder_raises_with_the_remedy(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder.*skmatch\.runtime\.load"):
        persistence.load(tmp_path)


def test_saving_to_a_missing_folder_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*gone' does not exist: create it"):
        persistence.save(PopularityRetriever(), tmp_path / "gone" / "popular.joblib")
