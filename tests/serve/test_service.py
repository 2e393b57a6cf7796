"""The endpoints of the service: answers, errors, limits, metrics and reloads."""

import json
import logging
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import EVENTS, Model, ask, error_of, make_model, make_pipe, serving

from skmatch import ItemToItemRetriever
from skmatch.serve import _app
from skmatch.serve._reports import JsonFormatter, JsonLines
from skmatch.serve._requests import Query


@pytest.fixture(scope="module")
def pipe():
    return make_pipe().fit(EVENTS)


@pytest.fixture
def client(pipe):
    with serving(Model(pipe, "v1")) as client:
        yield client


@pytest.fixture
def writer():
    with serving(make_model(), observes=True) as client:
        yield client


@pytest.fixture(scope="module")
def writer_of_items():
    with serving(make_model(ItemToItemRetriever()), observes=True) as client:
        yield client


def test_known_users_unknown_ones_and_sessions_are_answered(client):
    assert ask(client, user=2)["items"] == ["jam"]
    assert ask(client, user=99, k=2)["items"] == ["tea", "jam"]
    assert ask(client, user=99, features={"country": "NO"}, k=1)["items"] == ["tea"]
    assert ask(client, history=["tea"]) == {
        "items": ["jam", "rye"],
        "scores": pytest.approx([1 / 3, 1 / 6]),
        "source": "popularity",
        "model": "v1",
    }
    assert ask(client, user=2, exclude_seen=False)["items"] == ["tea", "jam", "rye"]
    assert ask(client, user=None, k=None)["items"] == ["tea", "jam", "rye"]


def test_filters_hold_and_no_item_may_be_left(client):
    assert ask(client, user=99, exclude=["tea"])["items"] == ["jam", "rye"]
    assert ask(client, user=99, candidates=["rye", "jam"], k=1)["items"] == ["jam"]
    nothing = {"items": [], "scores": [], "source": None, "model": "v1"}
    assert ask(client, user=2, candidates=["tea"]) == nothing


def test_ids_that_the_catalogue_lacks_are_counted(client):
    answer = ask(client, candidates=["nut", "tea", "fig"], exclude=["oat"], history=["nut", "jam"])
    assert answer["items"] == ["tea"]
    assert answer["unknown"] == {"history": 1, "candidates": 2, "exclude": 1}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ('{"user": 1, "k": 0}', "k", "integer from 1 to 1000"),
        ('{"user": 1, "k": true}', "k", "integer from 1 to 1000"),
        ('{"user": 1, "candidates": []}', "candidates", "leave the field out"),
        ('{"user": 1, "k": NaN}', None, "NaN is not a finite number"),
        ('{"user": 1e999}', "user", "finite number"),
        ('{"usr": 1}', "usr", "'usr' is unknown; the fields are: user, time, history"),
        ('{"features": {"contry": "NO"}}', "features.contry", "has: country, age, likes, mood"),
        ('{"features": {"country": 5}}', "features.country", 'send text such as "a"'),
        ('{"features": {"country": ["NO"]}}', "features.country", "one value: send that"),
        ('{"features": {"country": {"a": 1}}}', "features.country", "text, a number or a boolean"),
        ('{"features": {"age": "old"}}', "features.age", "a numeric feature: send a number"),
        ('{"features": {"age": 1%s}}' % ("0" * 400), "features.age", "send a number"),
        ('{"features": {"mood": [1.0]}}', "features.mood", "a list of 2 numbers of 32 bits"),
        ('{"features": {"mood": [1.0, 1e39]}}', "features.mood", "numbers of 32 bits"),
        ('{"features": {"mood": [1.0, 1%s]}}' % ("0" * 400), "features.mood", "2 numbers"),
        ('{"features": {"likes": ["a", 1]}}', "features.likes", "send text"),
        ('{"user": "1"}', "user", "was fitted on integers: send an integer such as 1"),
        ('{"user": 1.5}', "user", "send an integer"),
        ('{"user": true}', "user", "text or a number"),
        ('{"history": [5]}', "history", "send text"),
        ('{"history": "tea"}', "history", "must be a list"),
        ('{"time": "noon"}', "time", "times are numbers"),
        ('{"time": 1%s}' % ("0" * 30), "time", "beyond 64 bits"),
        ('{"history": ["tea"], "history_features": {"rating": []}}', "history_features.rating",
         "send one value per item"),
        ('{"history_features": {"stars": []}}', "history_features.stars", "has: rating"),
        ('{"user": "\\ud800"}', "user", "surrogate"),
        ('{"features": {"\\ud800": 1}}', "features", "surrogate"),
        (json.dumps({"user": "a" * 1001}), "user", "at most 1000 characters"),
        (json.dumps({"history": ["a"] * 1001}), "history", "at most 1000"),
        (json.dumps({"candidates": ["a"] * 10_001}), "candidates", "at most 10000"),
        (json.dumps({"exclude": ["a"] * 10_001}), "exclude", "at most 10000"),
        (json.dumps({"features": dict.fromkeys("abc" * 40, 1)}), "features.a", "no feature"),
        (json.dumps({"features": {str(i): 1 for i in range(101)}}), "features", "at most 100"),
        (json.dumps({"features": {"likes": ["a"] * 4097}}), "features.likes", "at most 4096"),
        ('{"user": 1, "user": 2}', None, "same name twice"),
        ("[1]", None, "JSON object"),
        ("[" * 100_000, None, "nested too deeply"),
        ("1" * 5000, None, "no valid JSON"),
        ("no json", None, "no valid JSON"),
        (b"\xff", None, "no valid JSON"),
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_answered_says_which_field_and_why(client, body, field, message):
    response = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    error = error_of(response)
    assert error["field"] == field
    assert message in error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
ITEM = st.sampled_from(["tea", "jam", "rye", "nut"])
FIELDS = {
    "user": st.integers() | JSON,
    "time": st.integers() | st.floats(),
    "history": st.lists(ITEM) | JSON,
    "history_features": st.dictionaries(st.just("rating"), st.lists(st.floats() | st.none())),
    "features": st.fixed_dictionaries(
        {},
        optional={
            "country": st.sampled_from(["NO", "XX"]) | JSON,
            "age": st.floats() | st.integers() | JSON,
            "likes": st.lists(st.sampled_from("abcd")) | JSON,
            "mood": st.lists(st.floats() | st.integers(), min_size=2, max_size=2) | JSON,
        },
    ),
    "k": st.integers(-1, 2000),
    "exclude_seen": st.booleans(),
    "candidates": st.lists(ITEM) | JSON,
    "exclude": st.lists(ITEM) | JSON,
}
EVENT = {"user": st.integers(), "item": ITEM | JSON, "time": st.integers()}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(queries=st.lists(st.fixed_dictionaries({}, optional=FIELDS) | JSON, max_size=3))
def test_no_body_makes_the_service_fail(queries, writer_of_items):
    headers = {"Content-Type": "application/json"}
    for query in queries:
        body = json.dumps(query)
        for path in ("/recommend", "/observe"):
            assert writer_of_items.post(path, content=body, headers=headers).status_code in (
                200,
                422,
            )
    events = json.dumps({"events": queries})
    assert writer_of_items.post("/observe", content=events, headers=headers).status_code == 422 or (
        not queries
    )


def test_a_body_that_is_too_large_slow_or_of_another_type_is_refused(client, monkeypatch):
    headers = {"Content-Type": "application/json"}
    large = b" " * (2**20 + 1)
    error_of(client.post("/recommend", content=large, headers=headers), 413)
    chunks = (large[i : i + 2**16] for i in range(0, len(large), 2**16))
    error_of(client.post("/recommend", content=chunks, headers=headers), 413)
    whole = b" " * (2**20 - 2) + b"{}"
    assert client.post("/recommend", content=whole, headers=headers).status_code == 200
    error = error_of(client.post("/recommend", content="{}"), 415)
    assert "Content-Type: application/json" in error["message"]


def test_other_host_names_paths_and_methods_are_refused(client):
    assert client.get("/health", headers={"Host": "elsewhere.example"}).status_code == 400
    message = error_of(client.get("/recommendations"), 404)["message"]
    assert "POST /recommend, GET /health, GET /metrics" in message
    error_of(client.get("/recommend"), 405)
    error_of(client.post("/observe", json={"events": []}), 404)


class Blocked:
    """Makes batches wait until it is released, and records their sizes."""

    def __init__(self, model):
        self.sizes, self.go, self._respond = [], threading.Event(), model.recommend
        model.recommend = self

    def __call__(self, queries):
        self.sizes.append(len(queries))
        assert self.go.wait(30)
        return self._respond(queries)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def post_all(client, n, blocked, until):
    """Post a query and, once it is computed, all others; release them when a condition holds."""
    responses, post = [], lambda user: client.post("/recommend", json={"user": user})
    threads = [threading.Thread(target=lambda i=i: responses.append(post(i % 3))) for i in range(n)]
    try:
        threads[0].start()
        wait_until(lambda: blocked.sizes)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: until(responses))
    finally:
        blocked.go.set()
    for thread in threads:
        thread.join()
    return responses


def test_queries_that_arrive_while_one_is_computed_are_answered_together(client):
    blocked = Blocked(client.service.model)
    responses = post_all(client, 9, blocked, lambda _: len(client.service._queries) >= 8)
    assert [response.status_code for response in responses] == [200] * 9
    assert blocked.sizes == [1, 8]
    assert "skmatch_batch_size_count 2.0" in client.get("/metrics").text


def test_queries_beyond_the_queue_get_429(pipe):
    with serving(Model(pipe, "v1"), limit=2) as client:
        blocked = Blocked(client.service.model)
        responses = post_all(client, 5, blocked, lambda found: len(found) == 2)
    assert sorted(response.status_code for response in responses) == [200] * 3 + [429] * 2
    late = next(response for response in responses if response.status_code == 429)
    assert late.headers["Retry-After"] == "1"


def test_queries_that_wait_too_long_get_503(pipe):
    with serving(Model(pipe, "v1"), timeout=0.05) as client:
        blocked = Blocked(client.service.model)
        message = error_of(client.post("/recommend", json={"user": 1}), 503)["message"]
        blocked.go.set()
    assert "No response within 0.05 seconds" in message


def test_a_fault_is_a_500_whose_log_holds_no_user_data(client, caplog):
    client.service.model.recommend = lambda queries: [KeyError("secret") for _ in queries]
    with caplog.at_level("INFO", "skmatch.serve"):
        message = error_of(client.post("/recommend", json={"user": 1}), 500)["message"]
    assert "secret" not in message
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    error = next(line for line in lines if line["event"] == "error")
    assert error["exception"] == "KeyError"
    assert any("_app.py" in place for place in error["trace"])
    request = next(line for line in lines if line["event"] == "request")
    assert (request["endpoint"], request["status"]) == ("recommend", 500)
    assert "secret" not in json.dumps(lines)


def test_metrics_count_requests_by_status(client):
    ask(client, user=1)
    client.post("/recommend", json={"usr": 1})
    client.get("/nowhere")
    text = client.get("/metrics").text
    for line in (
        'skmatch_requests_total{endpoint="recommend",status="200"} 1.0',
        'skmatch_requests_total{endpoint="recommend",status="422"} 1.0',
        'skmatch_requests_total{endpoint="other",status="404"} 1.0',
        "skmatch_requests_waiting 0.0",
    ):
        assert line in text
    assert client.head("/health").status_code == 200
    health = client.get("/health").json()
    assert (health["status"], health["model"]) == ("ok", "v1")


def observe(client, *events):
    return client.post("/observe", json={"events": events})


def test_observed_events_are_history_from_the_next_query_on(writer):
    event = {"user": 2, "item": "jam", "time": 10, "features": {"country": "FR", "rating": 5}}
    new = {"user": 7, "item": "nut", "time": 11}
    assert observe(writer, event, new).json() == {"observed": 2, "model": "v1"}
    assert ask(writer, user=2)["items"] == []
    assert writer.service.model.estimator.schema_.users.lookup([7]).tolist() == [5]
    assert "skmatch_events_observed_total 2.0" in writer.get("/metrics").text


@pytest.mark.parametrize(
    ("event", "field", "message"),
    [
        ({"user": 1, "time": 1}, "events[0].item", "is missing; add it"),
        ({"user": 1, "item": "tea"}, "events[0].time", "add the time"),
        ({"user": 2**70, "item": "tea", "time": 1}, "events[0].user", "beyond 64 bits"),
        ({"user": "a", "item": "tea", "time": 1}, "events[0].user", "send an integer"),
        ({"user": 1, "item": 1, "time": 1}, "events[0].item", "send text"),
        ({"user": 1, "item": "tea", "time": "x"}, "events[0].time", "numbers"),
        ({"user": 1, "item": "tea", "time": 1, "rating": 1}, "events[0].rating", "is unknown"),
        ({"user": 1, "item": "tea", "time": 1, "features": {"colour": 1}},
         "events[0].features.colour", "has: country, age, likes, mood, rating"),
    ],
)  # fmt: skip
def test_events_that_cannot_be_observed_say_why_and_change_nothing(writer, event, field, message):
    good = {"user": 2, "item": "jam", "time": 10}
    error = error_of(observe(writer, event, good))
    assert error["field"] == field
    assert message in error["message"]
    assert ask(writer, user=2)["items"] == ["jam"]


def test_an_event_is_not_observed_after_its_request_was_refused():
    model = make_model()
    respond, go = model.observe, threading.Event()

    def slow(requests):
        assert go.wait(30)
        return respond(requests)

    model.observe = slow
    with serving(model, observes=True, timeout=0.05) as client:
        responses = []
        event = {"user": 2, "item": "jam", "time": 10}
        first = threading.Thread(target=lambda: responses.append(observe(client, event)))
        first.start()
        wait_until(lambda: client.service._writes._begun)
        late = observe(client, event | {"user": 3})
        go.set()
        first.join()
        assert [responses[0].status_code, late.status_code] == [200, 503]
        assert ask(client, user=2)["items"] == []
        assert ask(client, user=3)["items"] == ["rye"]


def test_reloads_under_load_fail_no_request_and_each_answer_is_of_one_model():
    events = [EVENTS, EVENTS.assign(item_id=EVENTS["item_id"] + "!")]
    models = [make_model(events=own, version=name) for own, name in zip(events, "ab", strict=True)]
    expected = {
        model.version: model.recommend([Query(user=2, exclude_seen=False)])[0] for model in models
    }
    loads = iter([models[0], *[models[1], models[0]] * 5])
    with serving(lambda: next(loads)) as client:
        answers, is_over = [], []

        def read():
            while not is_over:
                answers.append(ask(client, user=2, exclude_seen=False))

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for number in range(10):
            client.portal.call(client.service.reload)
            wait_until(lambda number=number: len(answers) > 4 * number)
        is_over.append(True)
        for reader in readers:
            reader.join()
        text = client.get("/metrics").text
    assert 'skmatch_reloads_total{result="done"} 10.0' in text
    assert {answer["model"] for answer in answers} == {"a", "b"}
    assert all(answer == expected[answer["model"]] for answer in answers)


def test_events_that_arrive_while_a_model_is_replaced_are_in_the_new_one():
    old, new = make_model(), make_model(version="v2")
    with serving(old, observes=True) as client:
        respond = old.observe

        def replaced_meanwhile(requests):
            client.service.model = new
            return respond(requests)

        old.observe = replaced_meanwhile
        answer = observe(client, {"user": 2, "item": "jam", "time": 10}).json()
        assert answer == {"observed": 1, "model": "v2"}
        assert ask(client, user=2)["items"] == []


def test_a_reload_that_fails_keeps_the_model_and_is_logged(caplog):
    loads = iter([make_model(), None])
    with serving(lambda: next(loads) or Model(make_pipe(), "v2")) as client:
        with caplog.at_level("INFO", "skmatch.serve"):
            client.portal.call(client.service.reload)
        assert ask(client, user=2) == ask(client, user=2) | {"items": ["jam"], "model": "v1"}
        assert 'skmatch_reloads_total{result="failed"} 1.0' in client.get("/metrics").text
    (record,) = [record for record in caplog.records if record.msg == "reload failed"]
    assert "not fitted" in record.fields["message"]


def test_a_changed_file_is_loaded_again_also_if_it_changes_meanwhile(monkeypatch):
    monkeypatch.setattr(_app, "WATCH_SECONDS", 0.01)
    stamps, loaded = [0], []

    def load():
        loaded.append(stamps[0])
        if len(loaded) == 2:  # the file changes while it is loaded
            stamps[0] = 2
        return make_model(version=f"v{loaded[-1]}")

    with serving(load, stamp=lambda: stamps[0], watches=True) as client:
        stamps[0] = 1
        wait_until(lambda: client.get("/health").json()["model"] == "v2")
    assert loaded == [0, 1, 2]


def test_lines_of_requests_are_written_together(tmp_path):
    path = tmp_path / "log"
    with path.open("w") as stream:
        handler = JsonLines(stream)
        for message in ("request", "request"):
            handler.emit(logging.makeLogRecord({"msg": message, "fields": {"status": 200}}))
        assert not path.read_text()
        handler.emit(logging.makeLogRecord({"msg": "stopped", "levelname": "INFO"}))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["request", "request", "stopped"]
    assert lines[0]["status"] == 200
