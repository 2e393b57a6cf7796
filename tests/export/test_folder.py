"""The exported folder: what it holds, how it is written, and what is refused."""

import datetime
import json
import subprocess
import uuid

import numpy as np
import pandas as pd
import pytest
from contract import run_in_a_fresh_process
from exported import EVENTS, ITEMS, assert_same, make_pipe
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skmatch import (
    DSSMRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    make_match_pipeline,
)
from skmatch.export import to_onnx
from skmatch.retrieval import BaseRetriever
from skmatch.runtime import _load as runtime_load
from skmatch.runtime import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PLAIN = EVENTS[["user_id", "item_id", "timestamp"]]
SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 1, "batch_size": 300, "random_state": 0}


@pytest.fixture(scope="module")
def dssm():
    return make_pipe(DSSMRetriever(**SMALL)).fit(EVENTS)


@pytest.fixture(scope="module")
def folder(dssm, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model"
    to_onnx(dssm, path)
    return path


def test_a_fresh_process_recommends_without_torch_scikit_learn_and_pandas(dssm, folder, tmp_path):
    expected = dssm.recommend(["u1", "new"], k=4)
    program = """if True:
        import json, sys
        from skmatch.runtime import load
        found = load(sys.argv[1]).recommend(["u1", "new"], k=4)
        heavy = {"torch", "sklearn", "pandas", "scipy", "pynndescent", "numba", "pyarrow", "joblib"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        table = {name: column.tolist() for name, column in found.items()}
        open(sys.argv[2], "w").write(json.dumps(table))
    """
    run_in_a_fresh_process(program, folder, tmp_path / "found.json")
    assert_same(json.loads((tmp_path / "found.json").read_text()), expected)


IDS = {
    "integers": [7, 3, 2**62],
    "text": ["a", "ü", "a b"],
    "floats": [0.5, 1.25, -3.0],
    "UUIDs": [uuid.UUID(int=n) for n in (1, 2, 3)],
    "dates": [datetime.date(2024, 1, n) for n in (1, 2, 3)],
    "mixed": [1, "1", 2.5],
    "datetimes": list(pd.to_datetime(["2024-01-01", "2024-01-02", "1969-05-05"])),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_come_back_with_their_types(ids, tmp_path):
    events = pd.DataFrame({"user_id": ids, "item_id": ids})
    retriever = PopularityRetriever(exclude_seen=False).fit(events)
    to_onnx(retriever, tmp_path / "model")
    recommender = load(tmp_path / "model")
    expected = retriever.recommend(ids, candidates=ids[:2])
    found = recommender.recommend(ids, candidates=ids[:2])
    right = expected["item_id"].astype(object).tolist()
    assert found["item_id"].tolist() == right
    assert all(
        isinstance(b, type(a)) for a, b in zip(found["item_id"].tolist(), right, strict=True)
    )
    assert found["user_id"].tolist() == expected["user_id"].tolist()
    assert len(recommender.recommend()["user_id"]) == 9


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        ([(1, 2), (3, 4)], "tuple"),
        ([b"a", b"b"], "bytes"),
        (list(pd.to_datetime(["2024-01-01", "2024-01-02"], utc=True)), "time zone"),
    ],
)
def test_ids_that_json_cannot_hold_raise_with_the_remedy(ids, named, tmp_path):
    events = pd.DataFrame({"user_id": [1, 2], "item_id": pd.Series(ids)})
    retriever = PopularityRetriever().fit(events)
    with pytest.raises(ValueError, match=rf"'item_id' holds.*{named}.*astype"):
        to_onnx(retriever, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("zone", [None, "Europe/Oslo"])
@pytest.mark.parametrize("gap", ["visit", "3D", None])
def test_datetimes_decide_whether_a_query_begins_a_visit(tmp_path, zone, gap):
    events = PLAIN.assign(
        timestamp=pd.to_datetime(PLAIN["timestamp"], unit="s").dt.tz_localize(zone)
    )
    pipe = make_match_pipeline(
        MatchEncoder(), SequenceSampler(gap=gap), ItemToItemRetriever(half_life=0.5)
    ).fit(events)
    to_onnx(pipe, tmp_path / "model")
    recommender = load(tmp_path / "model")
    last = events.groupby("user_id")["timestamp"].max()
    for pause in ("1s", "1h", "2D", "40D"):
        queries = pd.DataFrame({"user_id": last.index, "timestamp": last + pd.Timedelta(pause)})
        expected = pipe.recommend(queries, k=5)
        assert_same(recommender.recommend(queries.to_dict("list"), k=5), expected)
    times = [time.to_pydatetime() for time in queries["timestamp"]]
    assert_same(
        recommender.recommend({"user_id": last.index.tolist(), "timestamp": times}, 5), expected
    )
    wrong = datetime.datetime(2024, 1, 1, tzinfo=None if zone else datetime.UTC)
    for value in (datetime.datetime.max, np.datetime64("9999-01-01"))[: 0 if zone else 2]:
        with pytest.raises(ValueError, match=r"outside the range of nanoseconds"):
            recommender.recommend({"user_id": ["u1"], "timestamp": [value]})
    for value in (wrong, 17, "2024-01-01"):
        with pytest.raises(ValueError, match=r"'timestamp' holds.*datetime"):
            recommender.recommend({"user_id": ["u1"], "timestamp": [value]})


def test_estimators_of_each_form_are_exported(tmp_path):
    search = GridSearchCV(
        make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever()),
        {"popularityretriever__k": [3]},
        cv=LeaveLastOut(),
    )
    forms = [
        ItemToItemRetriever(k=3),
        make_pipeline(MatchEncoder(), SequenceSampler(), ItemToItemRetriever(k=3)),
        make_pipeline(SequenceSampler(), ItemToItemRetriever(k=3)),
        make_pipeline(MatchEncoder(), ItemToItemRetriever(k=3)),
        search,
    ]
    for number, estimator in enumerate(forms):
        estimator.fit(PLAIN)
        to_onnx(estimator, tmp_path / str(number))
        items = load(tmp_path / str(number)).recommend(["u1"])["item_id"]
        assert len(items) == 3
        if number < 4:
            assert items.tolist() == forms[0].recommend(["u1"])["item_id"].tolist()


def test_what_was_learnt_later_is_exported(dssm, tmp_path):
    pipe = make_pipe(DSSMRetriever(**SMALL)).fit(EVENTS)
    news = EVENTS.head(20).assign(user_id="later", item_id=[*range(1000, 1010), *ITEMS[:10]])
    pipe.partial_fit(news)
    pipe.observe(EVENTS.head(5).assign(user_id="latest", timestamp=2_000_000_000))
    item = EVENTS[["item_id", "category", "price", "tags"]].head(1).assign(item_id=2000)
    pipe.add_items(item)
    to_onnx(pipe, tmp_path / "model")
    queries = pd.DataFrame({"user_id": ["later", "latest", "u1", "new"]})
    expected = pipe.recommend(queries, k=30)
    assert_same(load(tmp_path / "model").recommend(queries.to_dict("list"), k=30), expected)


def test_quantised_vectors_recommend_the_same(dssm, folder, tmp_path):
    to_onnx(dssm, tmp_path / "model", quantize="int8")
    recommender = load(tmp_path / "model")
    assert_same(recommender.recommend(k=20), dssm.recommend(k=20))
    bytes_of = {path.name: path.stat().st_size - 128 for path in (tmp_path / "model").iterdir()}
    assert bytes_of["item_codes.npy"] * 4 == bytes_of["item_vectors.npy"]
    with pytest.raises(ValueError, match=r"quantize='int4' is not known.*int8"):
        to_onnx(dssm, tmp_path / "model", quantize="int4")


def test_without_histories_known_users_bring_theirs(dssm, tmp_path):
    to_onnx(dssm, tmp_path / "model", histories=False)
    recommender = load(tmp_path / "model")
    assert not (tmp_path / "model" / "histories").exists()
    with pytest.raises(ValueError, match=r"'u1' has no 'history'.*histories=True"):
        recommender.recommend(["new", "u1"])
    assert set(recommender.recommend(["new"])["source"]) == {"popularity"}
    queries = {"user_id": ["u1", "new"], "history": [ITEMS[:3].tolist(), None]}
    with pytest.raises(ValueError, match=r"exclude_seen='no' is not a boolean"):
        recommender.recommend(queries, exclude_seen="no")
    expected = dssm.recommend(pd.DataFrame(queries), exclude_seen=False)
    assert_same(recommender.recommend(queries, exclude_seen=False), expected)


def test_vectors_that_a_transformer_makes_are_passed_as_vectors(tmp_path):
    words = ["tea and jam", "rye bread", "green tea", "jam"]
    events = PLAIN.assign(bio=[words[hash(user) % 4] for user in PLAIN["user_id"]])
    dense = make_pipeline(
        TfidfVectorizer(), FunctionTransformer(lambda x: x.toarray(), accept_sparse=True)
    )
    encoder = MatchEncoder(user_features=["bio"], kinds={"bio": dense})
    pipe = make_match_pipeline(encoder, SequenceSampler(), DSSMRetriever(**SMALL)).fit(events)
    to_onnx(pipe, tmp_path / "model")
    recommender = load(tmp_path / "model")
    assert_same(recommender.recommend(["u1", "new"]), pipe.recommend(["u1", "new"]))
    with pytest.raises(ValueError, match=r"'bio' holds 'jam'.*a Pipeline made these vectors"):
        recommender.recommend({"user_id": ["new"], "bio": ["jam"]})
    made = pipe[0].schema_.user_features[0].transformer.transform(pd.Series(["jam"]))
    expected = pipe.recommend(pd.DataFrame({"user_id": ["new"], "bio": ["jam"]}))
    assert_same(recommender.recommend({"user_id": ["new"], "bio": list(made)}), expected)


class OwnRetriever(BaseRetriever):
    def __init__(self, k=10, exclude_seen=True):
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples, weight):
        return {}

    def _top_k(self, samples, k, allowed):
        raise NotImplementedError


class OwnEncoder(MatchEncoder):
    pass


class OwnPooling(nn.Module):
    def __init__(self, dim, max_length):
        super().__init__()

    def forward(self, history):
        return history.windows()[:, -1]


def test_what_the_runtime_cannot_reproduce_is_refused(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(ValueError, match=r"OwnRetriever is a retriever of your own"):
        to_onnx(OwnRetriever().fit(PLAIN), path)
    step = make_pipeline(FunctionTransformer(), ItemToItemRetriever()).fit(PLAIN)
    with pytest.raises(ValueError, match=r"The step FunctionTransformer cannot be exported"):
        to_onnx(step, path)
    encoder = make_pipeline(OwnEncoder(), SequenceSampler(), ItemToItemRetriever()).fit(PLAIN)
    with pytest.raises(ValueError, match=r"The step OwnEncoder cannot be exported"):
        to_onnx(encoder, path)
    with pytest.raises(ValueError, match=r"does not end in a retriever"):
        to_onnx(MatchEncoder().fit(PLAIN), path)
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), ItemToItemRetriever()).fit(PLAIN)
    with pytest.raises(ValueError, match=r"fitted on the output of other steps.*pass the pipeline"):
        to_onnx(pipe[-1], path)
    pooled = DSSMRetriever(**SMALL, pooling=OwnPooling).fit(PLAIN)
    with pytest.raises(ValueError, match=r"pooling=.*cannot be exported"):
        to_onnx(pooled, path)
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_an_older_one_and_nothing_else(dssm, folder, tmp_path, monkeypatch):
    path = tmp_path / "model"
    to_onnx(PopularityRetriever().fit(PLAIN), path)
    before = load(path)
    to_onnx(dssm, path)
    assert before.recommend(["new"], k=1)["item_id"].size == 1  # what is open stays readable
    assert load(path).manifest_["model"]["class"] == "DSSMRetriever"
    assert (path / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_onnx(PopularityRetriever().fit(PLAIN), path)
    assert load(path).manifest_["model"]["class"] == "DSSMRetriever"
    assert [one.name for one in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*nowhere'.*create it"):
        to_onnx(dssm, tmp_path / "nowhere" / "model")
    with pytest.raises(FileExistsError, match=r"mine' exists and is no exported folder"):
        to_onnx(dssm, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


def test_a_folder_that_is_replaced_while_it_is_loaded_is_loaded_again(folder, dssm, monkeypatch):
    popular = PopularityRetriever().fit(PLAIN)
    path, loads = folder.parent / "replaced", []
    to_onnx(popular, path)

    class Replaced(runtime_load.Recommender):
        def __init__(self, files, n_threads):
            loads.append(files.manifest["model"]["class"])
            if len(loads) == 1:
                to_onnx(dssm, path)
            super().__init__(files, n_threads)

    monkeypatch.setattr(runtime_load, "Recommender", Replaced)
    assert_same(load(path).recommend(["u1"]), dssm.recommend(["u1"]))
    assert loads == ["PopularityRetriever", "DSSMRetriever"]


def test_a_large_tower_keeps_its_weights_in_a_file_of_its_own(dssm, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("skmatch.export._graph.MAX_FILE", 0)
    to_onnx(dssm, tmp_path / "model")
    recommender = load(tmp_path / "model")
    assert "user_tower.onnx.data" in recommender.manifest_["files"]
    assert_same(recommender.recommend(["u1", "new"]), dssm.recommend(["u1", "new"]))


def test_damaged_folders_are_refused(folder, tmp_path):
    def copy(name):
        path = tmp_path / name
        subprocess.run(["cp", "-r", folder, path], check=True)
        return path

    with pytest.raises(FileNotFoundError, match=r"holds no manifest.json"):
        load(tmp_path)
    changed = copy("changed")
    content = bytearray((changed / "item_vectors.npy").read_bytes())
    content[-1] ^= 1
    (changed / "item_vectors.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"item_vectors.npy' is damaged"):
        load(changed)
    lacking = copy("lacking")
    (lacking / "user_tower.onnx").unlink()
    with pytest.raises(ValueError, match=r"lacks the file 'user_tower.onnx'"):
        load(lacking)
    cut = copy("cut")
    text = (cut / "manifest.json").read_text()
    for wrong, error in (
        (text[:50], "is damaged"),
        (text.replace('"format": 1', '"format": 9'), "has format 9"),
    ):
        (cut / "manifest.json").write_text(wrong)
        with pytest.raises(ValueError, match=error):
            load(cut)
    outside = text.replace('"user_tower.onnx": {', '"../user_tower.onnx": {')
    (cut / "manifest.json").write_text(outside)
    with pytest.raises(ValueError, match=r"outside the folder"):
        load(cut)


BAD_QUERIES = [
    ({"user_id": ["u1"], "segmnt": ["a"]}, r"the column 'segmnt', which the model does not know"),
    ({"segment": ["a"]}, r"The user column 'user_id' is missing"),
    ({"user_id": ["u1"], "age": [1, 2]}, r"differ in length"),
    ({"user_id": ["u1"], "age": ["old"]}, r"'age' holds 'old', which is not a number"),
    ({"user_id": ["u1"], "taste": [[1.0]]}, r"'taste' holds.*vector of 3"),
    ({"user_id": ["u1"], "timestamp": ["now"]}, r"'timestamp' holds 'now'"),
    ({"user_id": ["u1"], "history": [7]}, r"'history' holds 7"),
    ({"user_id": ["u1"], "history": [{1}]}, r"'history' holds \{1\}, a set without an order"),
    (
        {"user_id": ["u1"], "history": [[1]], "history_stars": [{1.0}]},
        r"'history_stars' holds \{1.0\}, a set without an order",
    ),
    ({"user_id": ["u1"], "history_stars": [[1.0]]}, r"without a column 'history'"),
    (
        {"user_id": ["u1"], "history": [[1]], "history_stars": [[1.0, 2.0]]},
        r"one value for each item",
    ),
    ({"user_id": [["u1"]]}, r"unhashable 'list'"),
]


@pytest.mark.parametrize(("query", "message"), BAD_QUERIES)
def test_bad_queries_raise_with_the_column(folder, query, message):
    with pytest.raises(ValueError, match=message):
        load(folder).recommend(query)


def test_bad_arguments_raise(folder):
    recommender = load(folder)
    for k in (0, True, 2.5):
        with pytest.raises(ValueError, match=r"k=.*at least 1"):
            recommender.recommend(["u1"], k)
    for X in ("u1", 7, {"user_id": "u1"}):
        with pytest.raises(TypeError, match=r"pass a list"):
            recommender.recommend(X)
    for rule in ({"candidates": []}, {"candidates": 7}, {"exclude": {"u1": 7}}):
        with pytest.raises(ValueError, match=r"candidates|exclude"):
            recommender.recommend(["u1"], **rule)


def test_unknown_ids_of_filters_and_ids_of_another_type_warn(folder):
    recommender = load(folder)
    with pytest.warns(UserWarning, match=r"1 id\(s\) in candidates.*'x'"):
        recommender.recommend(["u1"], candidates=["x", int(ITEMS[0])])
    with pytest.warns(UserWarning, match=r"key\(s\) of exclude.*'nobody'"):
        recommender.recommend(["u1"], exclude={"nobody": [int(ITEMS[0])]})
    with pytest.warns(UserWarning, match=r"all its values are unknown. Convert it to int"):
        recommender.recommend({"user_id": ["new"], "history": [[str(ITEMS[0])]]})


@pytest.mark.parametrize(
    "rule",
    [[True, False], np.array([True, False]), {"u1": [np.True_, np.False_]}, [[True], None]],
    ids=["list", "array", "mapping", "lists"],
)
def test_a_mask_of_booleans_raises_as_retrievers_do(rule, tmp_path):
    # Python finds True in a dict of ids as 1.
    events = pd.DataFrame({"user_id": ["u1", "u1", "u2"], "item_id": [0, 1, 2]})
    retriever = PopularityRetriever().fit(events)
    to_onnx(retriever, tmp_path / "model")
    for model in (retriever, load(tmp_path / "model")):
        for parameter in ("candidates", "exclude"):
            message = rf"{parameter} holds True: a mask .*{parameter}=items.loc\[items\['stock'\]"
            with pytest.raises(ValueError, match=message):
                model.recommend(["u1", "u2"], **{parameter: rule})


def test_items_may_be_booleans(tmp_path):
    events = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [True, False, True]})
    to_onnx(PopularityRetriever().fit(events), tmp_path / "model")
    found = load(tmp_path / "model").recommend([3], k=2, candidates=[False])
    assert found["item_id"].tolist() == [False]
