"""The example of a service, asked on the loopback interface."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from skmatch import MatchEncoder, PopularityRetriever, SequenceSampler, make_match_pipeline

pytest.importorskip("fastapi", reason="the service needs fastapi: install the extra 'test'")
pytest.importorskip("uvicorn", reason="the service needs uvicorn: install the extra 'test'")

SERVE = Path(__file__).parents[1] / "examples" / "serve.py"
EVENTS = pd.DataFrame(
    {
        "user_id": [1, 1, 2, 2, 3, 3],
        "item_id": ["tea", "jam", "tea", "rye", "tea", "jam"],
        "timestamp": np.arange(6),
        "country": ["NO", "NO", "PE", "PE", "NO", "NO"],
    }
)


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Start the service on a free port; give a function that posts a query to it."""
    path = tmp_path_factory.mktemp("serve") / "pipe.joblib"
    encoder = MatchEncoder(user_features=["country"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever())
    joblib.dump(pipe.fit(EVENTS), path)
    command = [sys.executable, str(SERVE), str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        log = []
        for line in service.stderr:
            log.append(line)
            if running := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("the service did not start:\n" + "".join(log))

        def post(**query):
            request = urllib.request.Request(
                running[1] + "/recommend",
                json.dumps(query).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)

        yield post
        service.terminate()


def test_known_users_unknown_ones_and_sessions_are_answered(ask):
    assert ask(user=2)["items"] == ["jam"]
    assert ask(user=99, k=2)["items"] == ["tea", "jam"]
    assert ask(user=99, features={"country": "NO"}, k=1)["items"] == ["tea"]
    answer = ask(history=["tea"])
    assert answer == {
        "items": ["jam", "rye"],
        "scores": pytest.approx([1 / 3, 1 / 6]),
        "source": "popularity",
    }
    assert ask(user=2, exclude_seen=False)["items"] == ["tea", "jam", "rye"]


def test_filters_hold_and_no_item_may_be_left(ask):
    assert ask(user=99, exclude=["tea"])["items"] == ["jam", "rye"]
    assert ask(user=99, candidates=["rye", "jam"], k=1)["items"] == ["jam"]
    assert ask(user=2, candidates=["tea"]) == {"items": [], "scores": [], "source": None}


@pytest.mark.parametrize(
    ("query", "message"),
    [({"k": 0}, "greater than or equal to 1"), ({"candidates": []}, "candidates is empty")],
)
def test_a_query_that_cannot_be_answered_says_why(ask, query, message):
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(user=1, **query)
    with caught.value as response:
        assert response.code == 422
        assert message in response.read().decode()
