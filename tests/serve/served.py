"""A small model with features of every kind, and a client of its service."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from skmatch import MatchEncoder, PopularityRetriever, SequenceSampler, make_match_pipeline

pytest.importorskip("prometheus_client", reason="needs the extra serve")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs the extra test")

from starlette.testclient import TestClient

from skmatch.serve._app import Service
from skmatch.serve._pipeline import PipelineModel as Model

EVENTS = pd.DataFrame(
    {
        "user_id": [1, 1, 2, 2, 3, 3],
        "item_id": ["tea", "jam", "tea", "rye", "tea", "jam"],
        "timestamp": np.arange(6),
        "country": ["NO", "NO", "PE", "PE", "NO", "NO"],
        "age": [30.0, 30.0, 40.0, 40.0, 50.0, 50.0],
        "likes": ["a|b", "a", "b", "b", "a", "c"],
        "mood": [[0.5, 1.0]] * 6,
        "rating": [1.0, 2.0, 3.0, 4.0, 5.0, 4.0],
    }
)


def make_pipe(retriever=None):
    encoder = MatchEncoder(
        user_features=["country", "age", "likes", "mood"],
        event_features=["rating"],
        kinds={"likes": "multi_valued"},
    )
    return make_match_pipeline(encoder, SequenceSampler(), retriever or PopularityRetriever())


def make_model(retriever=None, events=EVENTS, version="v1"):
    return Model(make_pipe(retriever).fit(events), version)


@contextmanager
def serving(model, hosts=("testserver",), **options):
    """Start a service of a model, or of what a function loads; yield its client."""
    load = model if callable(model) else lambda: model
    service = Service(load, **{"timeout": 30} | options)
    with TestClient(service.make_app(hosts), raise_server_exceptions=False) as client:
        client.service = service
        yield client


def ask(client, **query):
    response = client.post("/recommend", json=query)
    assert response.status_code == 200, response.text
    return response.json()


def error_of(response, status=422):
    assert response.status_code == status, response.text
    return response.json()["error"]
