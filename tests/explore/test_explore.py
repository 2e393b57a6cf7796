"""The server, its errors, and the page in a browser."""

import json
import socket
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import joblib
import pandas as pd
import pytest
from sklearn.base import clone

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    evaluate,
    make_match_pipeline,
)
from skmatch.__main__ import main as skmatch_command
from skmatch.datasets import make_events
from skmatch.explore.__main__ import main, read_arguments
from skmatch.explore._explorer import Explorer
from skmatch.persistence import load

uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn: the extra 'app'")
make_app = pytest.importorskip("skmatch.explore._app", exc_type=ImportError).make_app

EVENTS = make_events(n_users=40, n_items=30, n_events=600, random_state=0)
ITEMS = pd.DataFrame(
    {
        "item_id": range(1, 31),
        "title": [f"<b>Item & {i}</b>" for i in range(1, 31)],
        "colour": ["red|blue", "green"] * 15,
        "year": range(1990, 2020),
    }
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the paths of two models and a table of items."""
    folder = tmp_path_factory.mktemp("explore")
    encoder = MatchEncoder(item_features=["category"])
    small = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 1, "random_state": 0}
    for name, retriever in (("dssm", DSSMRetriever(**small)), ("popular", PopularityRetriever())):
        pipe = make_match_pipeline(clone(encoder), SequenceSampler(max_length=5), retriever).fit(
            EVENTS
        )
        joblib.dump(pipe, folder / f"{name}.joblib")
    ITEMS.to_csv(folder / "items.csv", index=False)
    return folder


@contextmanager
def serving(*arguments):
    """Run the server of the command's arguments on a free port; return its address."""
    explorer, port = read_arguments([*map(str, arguments), "--port", "0"])
    server = uvicorn.Server(uvicorn.Config(make_app(explorer), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [port]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    host, number = port.getsockname()
    assert host == "127.0.0.1"
    yield f"http://{host}:{number}"
    server.should_exit = True
    thread.join(timeout=30)
    with socket.socket() as probe:
        assert probe.connect_ex((host, number))


@pytest.fixture(scope="module")
def address(files):
    models = files / "dssm.joblib", files / "popular.joblib"
    with serving(*models, "--items", files / "items.csv") as address:
        yield address


def ask_at(address, path, *parameters, **more):
    query = urlencode([*parameters, *more.items()])
    with urlopen(f"{address}/api/{path}?{query}") as response:
        return json.load(response)


@pytest.fixture
def ask(address):
    return partial(ask_at, address)


@pytest.fixture
def refusal(ask):
    """Return the parameter and message of an error response."""

    def run(path, *parameters, **more):
        with pytest.raises(HTTPError) as caught:
            ask(path, *parameters, **more)
        assert caught.value.code == 400
        error = json.load(caught.value)["error"]
        return error["parameter"], error["message"]

    return run


def ids(response):
    return [item["id"] for item in response["items"]]


def test_overview_lists_models_and_filters(ask):
    overview = ask("overview")
    assert overview["models"] == [
        {"name": "dssm", "kind": "DSSMRetriever"},
        {"name": "popular", "kind": "PopularityRetriever"},
    ]
    assert (overview["n_users"], overview["n_items"]) == (40, 30)
    category, colour, year = overview["features"]
    assert category["name"] == "category"
    assert set(category["values"]) == set(EVENTS["category"])
    assert colour == {"name": "colour", "values": ["blue", "green", "red"]}
    assert year == {"name": "year", "min": 1990, "max": 2019}


def test_users_are_searched_by_a_part_of_their_id(ask):
    found = ask("users", q="4")
    assert found["users"][0] == "4"
    assert set(found["users"]) == {"4", "14", "24", "34", "40"}
    assert ask("users", limit=3)["total"] == 40
    assert len(ask("users", limit=3)["users"]) == 3
    assert ask("users", q="nobody") == {"users": [], "total": 0}


def test_items_are_searched_by_label_and_id(ask):
    assert ask("items", q="7")["items"][0]["id"] == "7"
    (item,) = ask("items", q="item & 12")["items"]
    assert (item["id"], item["label"]) == ("12", "<b>Item & 12</b>")
    assert item["details"].endswith("colour: green · year: 2001")


def test_recommendations_are_those_of_the_models(ask, files):
    response = ask("recommend", user="3", k=4)
    seen = EVENTS.loc[EVENTS["user_id"] == 3].sort_values("timestamp", kind="stable")["item_id"]
    assert [item["id"] for item in response["history"]] == [str(i) for i in seen[-5:][::-1]]
    for name, one in zip(["dssm", "popular"], response["recommendations"], strict=True):
        table = load(files / f"{name}.joblib").recommend([3], k=4)
        assert one["model"] == name
        assert ids(one) == table["item_id"].astype(str).tolist()
        assert [item["score"] for item in one["items"]] == table["score"].tolist()
        assert one["source"] == table["source"].iloc[0]


def test_a_session_replaces_a_user(ask, files):
    response = ask("recommend", ("session", "5"), ("session", "9"), k=3)
    assert [item["id"] for item in response["history"]] == ["9", "5"]
    query = pd.DataFrame({"user_id": [None], "history": [[5, 9]]}, dtype=object)
    expected = load(files / "dssm.joblib").recommend(query, k=3)["item_id"]
    assert ids(response["recommendations"][0]) == expected.astype(str).tolist()
    assert response["recommendations"][0]["source"] == "history"


def test_lists_say_how_popular_items_are_and_what_they_share(ask):
    responses = ask("recommend", user="3", k=8)["recommendations"]
    both = set(ids(responses[0])) & set(ids(responses[1]))
    counts = EVENTS["item_id"].astype(str).value_counts()
    for item in (item for response in responses for item in response["items"]):
        assert item["n_events"] == counts[item["id"]]
        assert item["in_all"] == (item["id"] in both)


def test_reasons_are_those_of_the_models(ask, files, refusal):
    response = ask("explain", user="3", item="5")
    expected = load(files / "dssm.joblib").explain([3], [5])
    found = response["explanations"][0]["reasons"]
    assert [one["reason"] for one in found] == [
        f"<b>Item & {reason}</b>" if kind == "history" else kind if kind == "trend" else reason
        for kind, reason in zip(expected["kind"], expected["reason"], strict=True)
    ]
    assert [one["contribution"] for one in found] == expected["contribution"].tolist()
    assert response["explanations"][1]["reasons"][0]["kind"] == "popularity"
    assert refusal("explain", user="3") == ("item", "item is missing; pass an item id.")


def test_of_equal_matches_the_shortest_label_comes_first():
    titles = ["Toy Story 2", "Toy Story", "A Toy Story"]
    items = pd.DataFrame({"item_id": ["1", "2", "3"], "title": titles})
    explorer = Explorer({"popular": PopularityRetriever().fit(EVENTS)}, items)
    found = explorer.items("toy story")["items"]
    assert [item["label"] for item in found] == ["Toy Story", "Toy Story 2", "A Toy Story"]


def test_neighbours_are_those_of_the_models(ask, files):
    response = ask("similar", item="5", k=3)
    assert response["item"]["label"] == "<b>Item & 5</b>"
    expected = load(files / "dssm.joblib").similar_items([5], k=3)["similar"]
    assert ids(response["neighbours"][0]) == expected.astype(str).tolist()


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        (["colour:blue"], set(range(1, 31, 2))),
        (["year:2000.."], set(range(11, 31))),
        (["year:2000..2004.5"], set(range(11, 16))),
        (["colour:blue", "colour:green"], set(range(1, 31))),
        (["colour:blue", "year:2000..2004"], {11, 13, 15}),
        (["year:..1991", "colour:red", "year:2018.."], {1, 29}),
    ],
)
def test_values_of_a_feature_are_alternatives_and_features_narrow_each_other(ask, filters, allowed):
    texts = {str(item) for item in allowed}
    chosen = [("filter", text) for text in filters]
    seen = set(EVENTS.loc[EVENTS["user_id"] == 3, "item_id"].astype(str))
    for response in ask("recommend", *chosen, user="3", k=30)["recommendations"]:
        assert set(ids(response)) == texts - seen
    for response in ask("similar", *chosen, item="5", k=30)["neighbours"]:
        assert set(ids(response)) == texts - {"5"}


def test_a_feature_of_the_model_is_a_filter_too(ask):
    category = EVENTS["category"].iloc[0]
    latest = EVENTS.groupby("item_id")["category"].last()
    response = ask("similar", item="5", k=30, filter=f"category:{category}")["neighbours"][0]
    expected = set(latest.index[latest == category].astype(str)) - {"5"}
    assert set(ids(response)) == expected


@pytest.mark.parametrize(
    ("path", "parameters", "parameter", "message"),
    [
        ("users", {"limit": "0"}, "limit", "'0' must be an integer from 1"),
        ("users", {"limit": "²"}, "limit", "must be an integer from 1"),
        ("users", {"query": "a"}, "query", "query is unknown; the parameters are: q, limit"),
        ("recommend", {}, "user", "either user or session"),
        ("recommend", {"user": "3", "session": "5"}, "user", "either user or session"),
        ("recommend", {"user": "99"}, "user", "user='99' is unknown"),
        ("recommend", {"session": "99"}, "session", "session='99' is unknown"),
        ("recommend", {"user": "3", "k": "many"}, "k", "k='many' must be an integer"),
        ("recommend", {"user": "3", "k": "9" * 99}, "k", "from 1 to 1000"),
        ("similar", {}, "item", "item is missing"),
        ("similar", {"item": "<x>"}, "item", "item='<x>' is unknown"),
        ("similar", {"item": "5", "filter": "size:5"}, "filter", "features are: 'category', 'col"),
        ("similar", {"item": "5", "filter": "colour"}, "filter", "'colour' names no feature"),
        ("similar", {"item": "5", "filter": "colour:x"}, "filter", "No item has 'x' as 'colour'"),
        ("similar", {"item": "5", "filter": "year:2000"}, "filter", "'2000' is no range of 'year'"),
        ("similar", {"item": "5", "filter": "year:.."}, "filter", "'..' is no range of 'year'"),
        ("similar", {"item": "5", "filter": "year:nan.."}, "filter", "'nan..' is no range"),
        ("similar", {"item": "5", "filter": "year:9..1"}, "filter", "from 9 to 1 is empty"),
    ],
)
def test_errors_name_the_parameter(refusal, path, parameters, parameter, message):
    named, said = refusal(path, **parameters)
    assert named == parameter
    assert message in said


def test_a_parameter_given_twice_is_refused(refusal):
    assert refusal("recommend", ("user", "1"), ("user", "2"))[0] == "user"


def test_the_page_talks_to_its_own_server_only(address):
    with urlopen(address) as response:
        page = response.read().decode()
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'; connect-src 'self'" in policy
    assert "innerHTML" not in page
    assert "http" not in page


def test_another_host_name_is_refused(address):
    connection = HTTPConnection(urlsplit(address).netloc)
    connection.request("GET", "/api/users", headers={"Host": "elsewhere.example"})
    assert connection.getresponse().status == 400
    connection.close()


def test_ids_of_any_type_and_models_of_different_catalogues():
    events = pd.DataFrame(
        {"who": ["ann", "ann", "bob"], "when": pd.to_datetime(["2024-05-01", "2024-05-02"] * 2)[:3]}
    )
    encoder = MatchEncoder("who", "when", time=None)
    first, second = (
        make_match_pipeline(clone(encoder), SequenceSampler(), PopularityRetriever()).fit(part)
        for part in (events, events[2:])
    )
    explorer = Explorer({"first": first, "second": second})
    assert explorer.overview()["n_items"] == 2
    one, other = explorer.recommend(user="bob")["recommendations"]
    assert (ids(one), ids(other)) == (["2024-05-02 00:00:00"], [])
    responses = explorer.similar("2024-05-02 00:00:00")["neighbours"]
    assert [ids(response) for response in responses] == [["2024-05-01 00:00:00"], []]


def test_ids_with_the_same_text_raise():
    events = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": pd.Series([1, "1"], dtype=object)})
    with pytest.raises(ValueError, match="The ids 1 and '1' have the same text"):
        Explorer({"one": PopularityRetriever().fit(events)})


def test_a_retriever_that_was_fitted_on_plain_events_needs_no_pipeline():
    retriever = PopularityRetriever().fit(EVENTS)
    response = Explorer({"one": retriever}).recommend(user="3", k=2)["recommendations"][0]
    assert ids(response) == retriever.recommend([3], k=2)["item_id"].astype(str).tolist()


def test_infinite_numbers_of_items_pass_the_filters_that_they_fit(files, tmp_path):
    prices = ["inf", "-inf", "1e999", "", *map(str, range(26))]
    items = pd.DataFrame({"item_id": range(1, 31), "price": prices})
    items.to_csv(tmp_path / "items.csv", index=False)
    with serving(files / "popular.joblib", "--items", tmp_path / "items.csv") as address:
        features = {one.pop("name"): one for one in ask_at(address, "overview")["features"]}
        assert features["price"] == {"min": 0, "max": 25}

        def similar(prices):
            response = ask_at(address, "similar", item="9", k=30, filter=f"price:{prices}")
            return set(ids(response["neighbours"][0]))

        assert similar("24..") == {"1", "3", "29", "30"}
        assert similar("..1") == {"2", "5", "6"}
        assert similar("24..25") == {"29", "30"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dssm.joblib"] * 3, "3 models; pass one or two"),
        (["none.joblib"], "none.joblib"),
        (["items.csv"], "is not a joblib or pickle file"),
        (["alone.joblib"], "fitted on Samples, without its MatchEncoder"),
        (["unfitted.joblib"], "has no counts_"),
        (["dssm.joblib", "--items", "other.csv"], "has no column 'item_id'"),
        (
            ["dssm.joblib", "--items", "foreign.csv"],
            "holds no item of the models in the column 'item_id'",
        ),
        (["dssm.joblib", "--events", "other.csv"], "events has no column 'item_id'"),
        (["dssm.joblib", "--events", "nobody.csv"], "no user of the models in 'user_id'"),
        (["dssm.joblib", "--port", "70000"], "--port 70000"),
    ],
)
def test_the_command_reports_errors(files, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(files)
    joblib.dump(load("popular.joblib")[-1], "alone.joblib")
    joblib.dump(DSSMRetriever(), "unfitted.joblib")
    ITEMS.rename(columns={"item_id": "id"}).assign(user_id=1).to_csv("other.csv")
    EVENTS.assign(user_id="nobody").to_csv("nobody.csv")
    ITEMS.assign(item_id="x").to_csv("foreign.csv")
    with pytest.raises(SystemExit):
        read_arguments(arguments)
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_reported(files, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit):
            read_arguments([str(files / "dssm.joblib"), "--port", port])
    assert f"--port {port}: " in capsys.readouterr().err


def test_without_the_extra_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit, match=r"uvicorn.* pip install starlette uvicorn"):
        main([])


# The page


@pytest.fixture(params=[(1200, 900), (375, 700)], ids=["desktop", "phone"])
def page(request, browser, address):
    """Open the page; console errors and overflowing elements fail the test."""
    width, height = request.param
    opened = browser.new_page(viewport={"width": width, "height": height})
    complaints = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(address)
    yield opened
    assert complaints == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


TEST = pd.DataFrame(
    {"user_id": [3, 3, 4, 77], "item_id": [9, 2, 99, 1], "timestamp": ["2040", "2039"] * 2}
)
IMAGES = [f"http://127.0.0.1:9/{number}.png" for number in range(1, 31)]


@pytest.fixture(scope="module")
def address_with_events(files):
    """Serve both models with images of items, next events and an item that was never seen."""
    TEST.to_csv(files / "test.csv", index=False)
    ITEMS.assign(picture=IMAGES).to_csv(files / "pictures.csv", index=False)
    models = files / "dssm.joblib", files / "popular.joblib"
    events = "--events", files / "test.csv"
    with serving(*models, "--items", files / "pictures.csv", *events) as address:
        yield address


def test_next_events_stand_beside_the_lists_and_mark_hits(address_with_events, files):
    ask = partial(ask_at, address_with_events)
    response = ask("recommend", user="3", k=30)
    assert [item["id"] for item in response["next"]] == ["2", "9"]  # in the order of time
    for one in response["recommendations"]:
        hits = {item["id"] for item in one["items"] if item["is_hit"]}
        assert hits == {"2", "9"} & {item["id"] for item in one["items"]}
    assert [item["id"] for item in ask("recommend", user="4")["next"]] == ["99"]
    assert ask("recommend", user="5")["next"] == []
    assert ask("recommend", ("session", "12"))["next"] == []


def test_figures_are_those_of_evaluate(address_with_events, files):
    responses = ask_at(address_with_events, "metrics")["metrics"]
    known = TEST[TEST["user_id"] != 77].sort_values("timestamp", kind="stable")
    for one in responses:
        pipe = load(files / f"{one['model']}.joblib")
        names = [figure["name"].removesuffix("@10") for figure in one["figures"]]
        table = evaluate(pipe, known[["user_id", "item_id"]], names, k=10)
        assert [figure["value"] for figure in one["figures"]] == pytest.approx(
            table["value"].tolist()
        )
        assert one["n_users"] == 2
    assert {"recall", "ndcg", "coverage", "gini", "novelty"} <= set(names)


def test_images_come_from_addresses_alone(address, address_with_events):
    items = ask_at(address_with_events, "items", q="1", limit=1)["items"]
    assert items[0]["image"] == IMAGES[0]
    assert "picture" not in items[0]["details"]
    for where, policy in ((address, "img-src data:;"), (address_with_events, "http: https:;")):
        with urlopen(where) as response:
            assert policy in response.headers["Content-Security-Policy"]
    assert "image" not in ask_at(address, "items", q="1", limit=1)["items"][0]


@pytest.mark.parametrize(("width", "height"), [(1200, 900), (375, 700)])
def test_page_shows_what_came_next_figures_and_images(browser, address_with_events, width, height):
    page = browser.new_page(viewport={"width": width, "height": height})
    page.route("**/*.png", lambda route: route.fulfill(status=200, content_type="image/png"))
    page.goto(f"{address_with_events}?user=3&k=30")
    page.get_by_role("status").get_by_text("of dssm").wait_for()
    assert labels(page, "What came next") == ["<b>Item & 2</b>", "<b>Item & 9</b>"]
    response = ask_at(address_with_events, "recommend", user="3", k=30)["recommendations"][0]
    n_hits = sum(item["is_hit"] for item in response["items"])
    assert page.get_by_role("region", name="dssm").get_by_text("came next").count() == n_hits
    image = page.get_by_role("region", name="dssm").locator("img").first
    properties = [image.get_attribute(name) for name in ("loading", "referrerpolicy", "alt")]
    assert properties == ["lazy", "no-referrer", ""]
    page.get_by_text("How good are they").click()
    page.get_by_role("rowheader", name="coverage@10").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def labels(page, region):
    return page.get_by_role("region", name=region).locator(".label").all_inner_texts()


def titles(response):
    return [item["label"] for item in response]


def test_page_shows_a_user_by_keyboard_alone(page, ask):
    page.get_by_label("User id").focus()
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("10 of dssm").wait_for()
    response = ask("recommend", user="3")
    assert labels(page, "History") == titles(response["history"])
    for one in response["recommendations"]:
        assert labels(page, one["model"]) == titles(one["items"])  # markup in data is text
    page.get_by_role("region", name="dssm").get_by_role("button").first.focus()
    page.keyboard.press("Enter")
    best = response["recommendations"][0]["items"][0]
    dialog = page.get_by_role("dialog", name=f"Neighbours of {best['label']}")
    dialog.get_by_role("region", name="dssm").wait_for()
    neighbours = ask("similar", item=best["id"])["neighbours"][0]["items"]
    shown = dialog.get_by_role("region", name="dssm").locator(".label").all_inner_texts()
    assert shown == titles(neighbours)
    assert page.evaluate("document.activeElement.id") == "neighbours-title"
    page.keyboard.press("Escape")
    assert best["label"] in page.evaluate("document.activeElement.innerText")


def test_page_shows_a_filtered_session(page, ask):
    page.get_by_label("A session of items").check()
    for number, text in enumerate(["item & 12", "7"], start=1):
        page.get_by_label("Add an item").fill(text)
        page.get_by_role("button", name="Add", exact=True).click()
        page.get_by_role("button", name="Remove").nth(number - 1).wait_for()
    page.get_by_text("colour: any").click()
    page.get_by_label("blue").check()
    page.get_by_role("button", name="Show").click()
    page.get_by_role("status").get_by_text("of dssm").wait_for()
    assert labels(page, "History") == ["<b>Item & 7</b>", "<b>Item & 12</b>"]
    response = ask("recommend", ("session", "12"), ("session", "7"), filter="colour:blue")
    assert labels(page, "dssm") == titles(response["recommendations"][0]["items"])


def test_page_filters_by_several_values_with_the_keyboard_and_in_a_link(page, ask):
    for name in ("colour", "year"):
        page.locator("summary", has_text=name).focus()
        page.keyboard.press("Enter")
    colours = page.get_by_role("group", name="colour")
    for value in ("blue", "green"):
        colours.get_by_label(value).focus()
        page.keyboard.press("Space")
    page.get_by_label("From").fill("2010")
    page.get_by_label("User id").fill("3")
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("of dssm").wait_for()
    filters = [("filter", text) for text in ("colour:blue", "colour:green", "year:2010..")]
    expected = titles(ask("recommend", *filters, user="3")["recommendations"][0]["items"])
    assert labels(page, "dssm") == expected
    page.reload()
    page.get_by_role("status").get_by_text("of dssm").wait_for()
    assert labels(page, "dssm") == expected
    page.get_by_text("colour: blue or green").wait_for()
    page.get_by_text("year: from 2010").wait_for()
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_role("status").get_by_text("10 of dssm").wait_for()
    assert "filter" not in page.url
    assert labels(page, "dssm") == titles(ask("recommend", user="3")["recommendations"][0]["items"])


def test_page_searches_the_values_of_a_feature_with_many(page, ask):
    values = ask("overview")["features"][0]["values"]
    page.get_by_text("category: any").click()
    page.get_by_label("Search category").fill(f"{values[-1].upper()} ")
    shown = page.get_by_role("group", name="category").get_by_role("checkbox")
    shown.nth(1).wait_for(state="hidden")
    shown.check()
    page.get_by_label("Search category").fill("")
    assert shown.count() == len(values)
    page.get_by_text(f"category: {values[-1]}").wait_for()
    page.get_by_label("User id").fill("3")
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_role("status").get_by_text("of dssm").wait_for()
    expected = ask("recommend", user="3", filter=f"category:{values[-1]}")["recommendations"][0][
        "items"
    ]
    assert labels(page, "dssm") == titles(expected)


def test_page_names_a_filter_of_a_link_that_does_not_exist(page, address):
    page.goto(f"{address}?user=3&filter=colour:blue&filter=colour:pink")
    page.get_by_role("alert").get_by_text("cannot filter by “colour:pink”").wait_for()
    page.goto(address)


def test_page_shows_a_wrong_number_of_a_closed_filter(page):
    page.get_by_text("year: any").click()
    page.get_by_label("From").press_sequentially("1e")  # the beginning of a number
    page.locator("summary", has_text="year").click()
    page.get_by_label("User id").fill("3")
    page.keyboard.press("Enter")
    page.locator("details[open]", has_text="From").wait_for()
    page.get_by_label("From").fill("2000")


def test_page_explains_shares_and_saves_what_an_example_shows(page, ask):
    page.get_by_role("button", name="Show user").first.click()
    page.get_by_role("status").get_by_text("10 of dssm").wait_for()
    shown = labels(page, "dssm")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download as CSV").click()
    assert len(saved.value.path().read_text().splitlines()) == 21
    page.get_by_role("region", name="popular").get_by_role("button").first.click()
    page.get_by_role("dialog").get_by_text("Why, in popular: its popularity").wait_for()
    page.reload()
    page.get_by_role("status").get_by_text("10 of dssm").wait_for()
    assert labels(page, "dssm") == shown


def test_page_shows_errors_as_alerts(page):
    page.get_by_label("A session of items").check()
    page.get_by_role("button", name="Show").click()
    page.get_by_role("alert").get_by_text("Add an item").wait_for()
    page.get_by_label("Add an item").fill("nothing like it")
    page.get_by_label("Add an item").press("Enter")
    page.get_by_role("alert").get_by_text("No item fits “nothing like it”").wait_for()


def suggested(page, ids):
    """Wait until the page suggests these ids and no others."""
    page.wait_for_function(
        "ids => ids.join() === [...document.querySelectorAll('datalist option')]"
        ".map(option => option.value).join()",
        arg=ids,
    )


def test_page_suggests_users(page, ask):
    page.get_by_label("User id").press_sequentially("4")
    suggested(page, ask("users", q="4")["users"])


@pytest.fixture
def hold(page):
    """Hold requests back: those whose URL ends with a text wait in the returned list."""

    def run(path, **parameters):
        held = []
        page.route(f"**/api/{path}?{urlencode(parameters)}", lambda route: held.append(route))
        return held

    return run


def wait_for(page, held, n=1):
    deadline = time.monotonic() + 30
    while len(held) < n:
        assert time.monotonic() < deadline
        page.wait_for_timeout(5)


def release(page, held):
    """Release the requests that were held back, and wait until the page has read the responses."""
    for route in held:
        route.continue_()
    page.evaluate("fetch('/api/overview').then(response => response.json())")
    page.wait_for_timeout(50)


def test_page_shows_no_older_suggestions_over_newer_ones(page, ask, hold):
    older = hold("users", q="4")
    page.get_by_label("User id").press_sequentially("4")
    wait_for(page, older)
    page.get_by_label("User id").press_sequentially("0")
    suggested(page, ["40"])
    release(page, older)
    suggested(page, ["40"])
    page.route("**/api/users?q=409", lambda route: route.fulfill(json={"users": []}))
    page.get_by_label("User id").press_sequentially("9")
    suggested(page, [])


def test_page_shows_no_older_recommendations_over_newer_ones(page, ask, hold):
    older = hold("recommend", user="3", k="10")
    for user in ("3", "4"):
        page.get_by_label("User id").fill(user)
        page.keyboard.press("Enter")
        wait_for(page, older)
    page.get_by_role("status").get_by_text("10 of dssm").wait_for()
    release(page, older)
    assert labels(page, "History") == titles(ask("recommend", user="4")["history"])
    assert page.locator("#results").get_attribute("aria-busy") is None


def test_page_shows_no_older_neighbours_over_newer_ones(page, ask, hold):
    page.get_by_label("User id").fill("3")
    page.keyboard.press("Enter")
    first, second = ask("recommend", user="3")["recommendations"][0]["items"][:2]
    older = hold("similar", item=first["id"], k="10")
    buttons = page.get_by_role("region", name="dssm").get_by_role("button")
    buttons.nth(0).click()
    wait_for(page, older)
    page.keyboard.press("Escape")
    buttons.nth(1).click()
    dialog = page.get_by_role("dialog", name=f"Neighbours of {second['label']}")
    dialog.get_by_role("region", name="dssm").wait_for()
    release(page, older)
    shown = dialog.get_by_role("region", name="dssm").locator(".label").all_inner_texts()
    assert shown == titles(ask("similar", item=second["id"])["neighbours"][0]["items"])
    assert dialog.get_by_role("region").count() == 2


def test_page_adds_items_in_the_order_in_which_they_were_typed(page, ask, hold):
    page.get_by_label("A session of items").check()
    slow = hold("items", q="12", limit="1")
    for text in ("12", "7"):
        page.get_by_label("Add an item").fill(text)
        page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # nothing is left to add
    page.get_by_role("button", name="Show").click()  # of the whole session
    wait_for(page, slow)
    page.get_by_label("Add an item").fill("9")
    release(page, slow)
    page.get_by_role("status").get_by_text("of dssm").wait_for()
    assert labels(page, "History") == ["<b>Item & 7</b>", "<b>Item & 12</b>"]
    assert page.get_by_label("Add an item").input_value() == "9"


def test_the_command_hands_its_options_to_explore(capsys):
    with pytest.raises(SystemExit):
        skmatch_command(["explore", "--port", "99999", "missing.joblib"])
    assert "skmatch explore: error: --port 99999 must be from 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        skmatch_command(["explorer"])
    assert "'explorer' (choose from" in capsys.readouterr().err
