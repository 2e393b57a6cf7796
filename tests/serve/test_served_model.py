"""`Model`: batches of queries are answered as the pipeline answers each."""

import json

import numpy as np
import pandas as pd
import pytest
from served import EVENTS, Model, make_model, make_pipe

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    persistence,
)
from skmatch.datasets import make_events
from skmatch.export import to_onnx
from skmatch.serve._model import load_model
from skmatch.serve._requests import Event, Query

SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 1, "random_state": 0}
RETRIEVERS = {
    "popularity": PopularityRetriever(),
    "items": ItemToItemRetriever(),
    "dssm": DSSMRetriever(**SMALL),
    "youtube": YoutubeDNNRetriever(**SMALL),
    "fusion": FusionRetriever(
        [("dssm", DSSMRetriever(**SMALL)), ("items", ItemToItemRetriever())], weights=None
    ),
}


@pytest.mark.parametrize("form", ["saved", "exported"])
@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_batch_is_answered_as_the_pipeline_recommends(name, form, tmp_path):
    events = make_events(n_users=40, n_items=60, n_events=800, random_state=0)
    encoder = MatchEncoder(user_features=["segment", "age"], item_features=["category"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), RETRIEVERS[name]).fit(events)
    users, items = (events[column].unique().tolist() for column in ("user_id", "item_id"))
    queries = [
        Query(user=users[0]),
        Query(user=users[0], exclude_seen=False, k=3),
        Query(user=users[1], candidates=items[:20], k=5),
        Query(user=users[2], exclude=items[20:], k=4),
        Query(history=items[:3]),
        Query(user=-5, features={"segment": events["segment"][0], "age": 30}),
        Query(user=users[3], time=int(events["timestamp"].median())),
        Query(user=2**70),
        Query(candidates=items[:2]),
    ]
    if form == "saved":
        persistence.save(pipe, tmp_path / "model")
    else:
        pytest.importorskip("onnxruntime")
        to_onnx(pipe, tmp_path / "model")
    answers = load_model(tmp_path / "model").recommend(queries)
    for query, answer in zip(queries, answers, strict=True):
        frame = pd.DataFrame({"user_id": pd.Series([query.user], dtype=object)})
        if query.history is not None:
            frame["history"] = [query.history]
        if query.time is not None:
            frame["timestamp"] = query.time
        for feature, value in query.features.items():
            frame[feature] = value
        table = pipe.recommend(
            frame,
            query.k,
            exclude_seen=query.exclude_seen,
            candidates=query.candidates,
            exclude=query.exclude or None,
        )
        assert answer["source"] == table["source"].iloc[0]
        np.testing.assert_allclose(answer["scores"], table["score"], rtol=1e-4, atol=1e-6)
        assert answer["items"] == table["item_id"].tolist()


def test_times_texts_and_history_features_reach_the_model(tmp_path):
    events = EVENTS.assign(
        user_id=EVENTS["user_id"].map("u{}".format),
        timestamp=pd.date_range("2026-01-01", periods=6, tz="Europe/Oslo"),
    )
    pipe = make_pipe(ItemToItemRetriever()).fit(events)
    model = Model(pipe, "v1")
    early = Query(user="u3", time="2026-01-05T12:00:00+01:00", exclude_seen=False)
    late = Query(user="u3", time="2026-02-05T12:00:00Z", exclude_seen=False)
    rated = Query(history=["tea", "jam"], history_features={"rating": [None, 5]})
    answers = model.recommend([early, late, rated])
    to_onnx(pipe, tmp_path / "model")
    exported = load_model(tmp_path / "model").recommend([early, late, rated])
    assert [one["items"] for one in exported] == [one["items"] for one in answers]
    assert [answer["source"] for answer in answers] == ["history"] * 3
    assert answers[0]["items"] != answers[1]["items"]
    (error,) = model.recommend([Query(user="u3", time="2026-01-05")])
    assert "with a time zone" in str(error)
    (error,) = model.recommend([Query(user="u3", time="9999-12-31T00:00:00Z")])
    assert "'9999-12-31T00:00:00Z': send a time of the years 1678 to 2261" in str(error)


@pytest.mark.parametrize(
    "ids", [[1.5, 2.5, 3.5], ["a", "b", "c"], ["a", 2, 3.5], [2**63, 2**63 + 1, 2**64 - 1]]
)
@pytest.mark.parametrize("dtype", [None, "category"])
def test_ids_of_json_come_back_as_they_went_in(ids, dtype):
    items = pd.Series([ids[i] for i in (0, 1, 0, 2)], dtype=None)
    items = items if dtype is None else items.astype(dtype)
    events = pd.DataFrame({"user_id": items, "item_id": items, "timestamp": range(4)})
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever()).fit(events)
    answers = Model(pipe, "v1").recommend([Query(user=ids[1]), Query()])
    assert answers[0]["items"] == json.loads(json.dumps([ids[0], ids[2]]))
    assert answers[1]["items"] == ids


def test_models_that_cannot_be_served_are_refused_with_the_remedy():
    pipe = make_pipe().fit(EVENTS)
    days = EVENTS.assign(item_id=pd.date_range("2026-01-01", periods=6))
    with pytest.raises(ValueError, match="ids of items are of a type that JSON does not have"):
        Model(make_pipe().fit(days), "v1")
    with pytest.raises(ValueError, match="MatchEncoder, which has no recommend"):
        Model(pipe[0], "v1")
    with pytest.raises(ValueError, match="not fitted"):
        Model(make_pipe(), "v1")
    with pytest.raises(ValueError, match="fitted on Samples"):
        Model(pipe[-1], "v1")


def test_a_query_that_fails_does_not_fail_its_batch():
    model = make_model()
    search = model._recommend

    def fail_for_user_3(k, exclude_seen, queries):
        if any(query.user == 3 for query in queries):
            raise KeyError("a fault")
        return search(k, exclude_seen, queries)

    model._recommend = fail_for_user_3
    first, second, third = model.recommend([Query(user=2), Query(user=3), Query(user="x")])
    assert first["items"] == ["jam"]
    assert isinstance(second, KeyError)
    assert third.field == "user"


def test_of_events_in_one_batch_only_the_wrong_requests_fail():
    model = make_model()
    responses = model.observe(
        [[Event(2, "jam", 10)], [Event(2, 5, 10)], [Event(9, "tea", 11), Event(9, "rye", 12)]]
    )
    assert [responses[0]["observed"], responses[2]["observed"]] == [1, 2]
    assert responses[1].field == "events[0].item"
    assert model.recommend([Query(user=9)])[0]["items"] == ["jam"]


@pytest.mark.parametrize(
    ("values", "sent", "wrong"),
    [
        ([True, False, True], False, 1),
        ([3, 5, 3], 5.0, "5"),
        ([1.5, 2.5, 1.5], 2.5, "2.5"),
        (pd.array([3, 5, None], dtype="Int64"), 5, "5"),
        (pd.array(["a", "b", None], dtype="string"), "b", 1),
        (pd.Categorical(["a", "b", "a"]), "b", True),
    ],
)
def test_categories_of_every_type_are_read_as_the_pipeline_reads_them(values, sent, wrong):
    events = EVENTS[:3].assign(kind=values, user_id=[1, 2, 3])
    encoder = MatchEncoder(user_features=["kind"], kinds={"kind": "categorical"})
    pipe = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever()).fit(events)
    model = Model(pipe, "v1")
    (coded,) = pipe[:-1].transform(pd.DataFrame({"user_id": [2]})).features.values()
    queries = [Query(user=9, features={"kind": sent}), Query(user=1)]
    frames = []
    transform = pipe[0].transform
    pipe.steps[0][1].transform = lambda frame: frames.append(frame) or transform(frame)
    answers = model.recommend(queries)
    assert not any(isinstance(answer, Exception) for answer in answers)
    assert transform(frames[0]).features["kind"][0] == coded[0]
    (error,) = model.recommend([Query(features={"kind": wrong})])
    assert error.field == "features.kind"


@pytest.mark.parametrize("form", ["saved", "exported"])
def test_the_retrievers_own_k_and_exclude_seen_are_the_defaults(form, tmp_path):
    pipe = make_pipe(PopularityRetriever(k=2, exclude_seen=False)).fit(EVENTS)
    if form == "saved":
        persistence.save(pipe, tmp_path / "model")
    else:
        to_onnx(pipe, tmp_path / "model")
    model = load_model(tmp_path / "model")
    answers = model.recommend([Query(user=1), Query(user=1, k=3), Query(user=1, exclude_seen=True)])
    assert [one["items"] for one in answers] == [["tea", "jam"], ["tea", "jam", "rye"], ["rye"]]
