"""The exported towers compute what the networks do."""

import numpy as np
import pytest
from exported import EVENTS, make_pipe

from skmatch import DSSMRetriever, YoutubeDNNRetriever
from skmatch._columns import RaggedArray
from skmatch._nn.layers import ACTIVATIONS
from skmatch._nn.pooling import POOLINGS
from skmatch.export import to_onnx
from skmatch.runtime import load
from skmatch.runtime._models import as_input, padded

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


SETTINGS = [
    *({"pooling": name} for name in POOLINGS),
    *({"activation": name, "batch_norm": name != "gelu"} for name in ACTIVATIONS),
    {"dims": (8,), "skip_connection": False},
    {"dims": (12, 10, 8), "skip_connection": False, "n_estimators": 2},
    {"embedding_dim": 6, "pooling": "attention"},  # two heads
]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((DSSMRetriever, settings) for settings in SETTINGS),
        *((YoutubeDNNRetriever, settings) for settings in SETTINGS[-2:]),
    ],
    ids=str,
)
def test_towers_return_the_vectors_of_the_network(tmp_path, kind, settings):
    few = {"embedding_dim": 8, "dims": (12, 8), "max_epochs": 1, "batch_size": 300}
    pipe = make_pipe(kind(**few | settings, random_state=0)).fit(EVENTS)
    retriever, folder = pipe[-1], tmp_path / "model"
    rng = np.random.default_rng(0)
    for name, array in retriever.weights_.items():  # all weights matter, also those that begin at 0
        if array.dtype.kind == "f" and "running" not in name and array.ndim:
            array += rng.normal(scale=0.2, size=array.shape).astype(array.dtype)
    for name, array in retriever.weights_.items():
        if ".embedding.weight" in name or ".tables." in name:
            array[0] = 0
    retriever.item_vectors_ = retriever._serving_engine().item_vectors(pipe.schema_)
    to_onnx(pipe, folder)
    recommender = load(folder)
    queries = recommender._reader.read(None)
    vectors = recommender._model.encode(queries)
    np.testing.assert_allclose(vectors, pipe.transform(EVENTS_OF_USERS), atol=2e-6)
    alone = [recommender._model.encode(queries.gather(np.array([i]))) for i in range(3)]
    np.testing.assert_allclose(np.concatenate(alone), vectors[:3], atol=2e-6)
    schema, codes = pipe.schema_, np.arange(2, len(pipe.schema_.items))
    inputs = {"item": codes}
    for feature in schema.item_features:
        column = schema.item_table[feature.name]
        own = padded(column, slice(2, None)) if isinstance(column, RaggedArray) else None
        inputs[f"feature_{feature.name}"] = as_input(column[2:]) if own is None else own
    found = run(folder / "item_tower.onnx", inputs)
    np.testing.assert_allclose(found, retriever.item_vectors_, atol=2e-6)


EVENTS_OF_USERS = EVENTS.drop_duplicates("user_id")[["user_id"]]
