"""The example of a service, asked on the loopback interface."""

import json
import re
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skmatch import (
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    make_match_pipeline,
    persistence,
)

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
def pipeline_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "pipe.joblib"
    encoder = MatchEncoder(user_features=["country"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever())
    persistence.save(pipe.fit(EVENTS), path)
    return path


@contextmanager
def serving(path, *options, command=(str(SERVE),)):
    """Start the service on a free port; give its process and its port."""
    command = [sys.executable, *command, str(path), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        log = []
        for line in service.stderr:
            log.append(line)
            if running := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("the service did not start:\n" + "".join(log))
        yield service, int(running[1])
        service.terminate()


@pytest.fixture(scope="module")
def send(pipeline_file):
    """Start the service; give a function that posts a body and returns status and answer."""
    with serving(pipeline_file, "--name", "shop.example") as (_, port):

        def post(body, **headers):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {"Content-Type": "application/json"} | headers
            connection.request("POST", "/recommend", body, headers)
            response = connection.getresponse()
            answer = response.status, response.read().decode()
            connection.close()
            return answer

        yield post


@pytest.fixture(scope="module")
def ask(send):
    def run(**query):
        status, answer = send(json.dumps(query))
        assert status == 200, answer
        return json.loads(answer)

    return run


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
    ("body", "message"),
    [
        ('{"user": 1, "k": 0}', "greater than or equal to 1"),
        ('{"user": 1, "candidates": []}', "candidates is empty"),
        ('{"user": 1, "k": NaN}', "finite number"),
        ('{"user": 1, "k": -Infinity}', "finite number"),
        ('{"user": NaN}', "finite number"),
        ('{"history": [1e999]}', "finite number"),
        ('{"candidates": [NaN]}', "finite number"),
        ('{"features": {"country": Infinity}}', "finite number"),
        ('{"features": {"country": {"a": 1}}}', "valid"),
        ('{"user": "\\ud800"}', "valid"),
        ('{"features": {"\\ud800": 1}}', "valid"),
        (json.dumps({"user": "a" * 1001}), "at most 1000 characters"),
        (json.dumps({"history": [1] * 1001}), "at most 1000 items"),
        (json.dumps({"candidates": [1] * 10_001}), "at most 10000 items"),
        (json.dumps({"exclude": [1] * 10_001}), "at most 10000 items"),
        (json.dumps({"features": {str(i): 1 for i in range(101)}}), "at most 100 items"),
        (json.dumps({"features": {"country": ["NO"] * 101}}), "at most 100 items"),
        ("no json", "JSON"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(send, body, message):
    status, answer = send(body)
    assert status == 422, answer
    assert message in answer


def test_a_body_that_is_too_large_is_refused(send):
    large = b" " * (2**20 + 1)
    assert send(large)[0] == 413
    chunks = (large[i : i + 2**16] for i in range(0, len(large), 2**16))
    assert send(chunks)[0] == 413
    assert send(b" " * (2**20 - 2) + b"{}")[0] == 200


def test_other_host_names_are_refused(send):
    assert send("{}", Host="elsewhere.example")[0] == 400
    assert send("{}", Host="localhost")[0] == 200
    assert send("{}", Host="shop.example")[0] == 200


STALLING = (
    b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
)


def test_a_body_that_stalls_is_refused_and_does_not_keep_the_service_from_stopping(pipeline_file):
    hasty = f"import sys; sys.path.insert(0, {str(SERVE.parent)!r}); import serve; " + (
        "serve.BODY_SECONDS = 1; serve.main()"
    )
    with serving(pipeline_file, command=["-c", hasty]) as (service, port):
        for stops in (False, True):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as stalled:
                stalled.sendall(STALLING)
                assert b"100 Continue" in stalled.recv(1000)  # the service waits for the body
                if stops:
                    service.terminate()
                    service.wait(timeout=60)
                else:
                    assert b" 408 " in stalled.recv(1000)
