"""The runtime recommends what the exported pipeline does."""

import numpy as np
import pandas as pd
import pytest
from exported import EVENTS, ITEMS, LAST, USERS, assert_same, make_pipe

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    PopularityRetriever,
    YoutubeDNNRetriever,
)
from skmatch.export import to_onnx
from skmatch.runtime import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

MONTH = 30 * 86_400.0
RETRIEVERS = {
    "dssm": DSSMRetriever(
        max_epochs=1, batch_size=300, embedding_dim=8, dims=(16, 8), random_state=0
    ),
    "youtube": YoutubeDNNRetriever(
        max_epochs=1, batch_size=300, embedding_dim=8, dims=(16,), n_estimators=2, batch_norm=True,
        activation="prelu", pooling="attention", trend=MONTH, random_state=0,
    ),
    "items": ItemToItemRetriever(trend=MONTH),
    "popular": PopularityRetriever(half_life=1e6),
    "fusion": FusionRetriever(weights=[0.7, 0.3], n_candidates=20),
    "ranks": FusionRetriever(
        [("items", ItemToItemRetriever()), ("popular", PopularityRetriever())], rule="ranks"
    ),
}  # fmt: skip
RETRIEVERS["fusion"].set_params(
    retrievers=[("dssm", RETRIEVERS["dssm"]), ("items", ItemToItemRetriever())]
)


@pytest.fixture(scope="module", params=RETRIEVERS)
def pair(request, tmp_path_factory):
    """Return a fitted pipeline, and the recommender that was exported from it."""
    pipe = make_pipe(RETRIEVERS[request.param]).fit(EVENTS)
    folder = tmp_path_factory.mktemp("export") / request.param
    to_onnx(pipe, folder)
    return pipe, load(folder)


def draw_queries(rng, n_rows=12):
    """Return a random frame of queries of known and unknown users, with any of the columns."""
    rows = pd.DataFrame({"user_id": rng.choice([*USERS, "new", None], n_rows).astype(object)})
    if rng.random() < 0.6:
        time = rng.integers(EVENTS["timestamp"].min(), LAST + 9, n_rows).astype(object)
        time[rng.random(n_rows) < 0.2] = None
        rows["timestamp"] = time
    if rng.random() < 0.6:
        items = [*ITEMS.tolist(), -7]
        lists = [rng.choice(items, rng.integers(0, 12)).tolist() for _ in range(n_rows)]
        rows["history"] = [None if rng.random() < 0.3 else one for one in lists]
        if rng.random() < 0.6:
            rows["history_stars"] = [
                [None if rng.random() < 0.2 else float(rng.integers(1, 6)) for _ in one or ()]
                for one in rows["history"]
            ]
    values = {
        "segment": [*EVENTS["segment"].unique(), "other", None],
        "age": [30, 41.5, None, float("inf")],
        "tags_of_user": [["t1", "t3"], [], "t2|t9", None],
        "taste": [(0.1, 0.2, -1.0), None],
    }
    for name, own in values.items():
        if rng.random() < 0.4:
            index = rng.integers(0, len(own), n_rows)
            rows[name] = pd.Series([own[i] for i in index], dtype=object)
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_random_queries_get_the_recommendations_of_the_pipeline(pair, seed):
    pipe, recommender = pair
    rng = np.random.default_rng(seed)
    queries = draw_queries(rng)
    rules = {}
    if rng.random() < 0.6:
        lists = [rng.choice(ITEMS, 20, replace=False).tolist() for _ in range(len(queries))]
        some = [None if rng.random() < 0.3 else one[: rng.integers(1, 20)] for one in lists]
        rules["candidates"] = some if rng.random() < 0.5 else lists[0]
    if rng.random() < 0.6:
        rules["exclude"] = {u: rng.choice(ITEMS, 3).tolist() for u in queries["user_id"][:3]}
    if rng.random() < 0.5:
        rules["exclude_seen"] = bool(rng.random() < 0.5)
    k = int(rng.integers(1, 60))
    expected = pipe.recommend(queries, k, **rules)
    assert_same(recommender.recommend(queries.to_dict("list"), k, **rules), expected)
    assert_same(recommender.recommend(queries.to_dict("records"), k, **rules), expected)


def test_no_queries_get_no_recommendations(pair):
    pipe, recommender = pair
    found = recommender.recommend([])
    assert list(found) == list(pipe.recommend([USERS[0]]).columns)
    assert all(len(column) == 0 for column in found.values())


def test_all_known_users_get_the_recommendations_of_the_pipeline(pair):
    pipe, recommender = pair
    assert_same(recommender.recommend(), pipe.recommend())
