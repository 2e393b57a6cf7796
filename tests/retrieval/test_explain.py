"""`explain`, `trace`, `score_pairs`, `users_for` and `similar_users` of every kind of retriever."""

import numpy as np
import pandas as pd
import pytest
from contract import EVENTS, PLAIN, make_steps
from test_ease import EASERetriever

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)

SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 1, "batch_size": 256, "random_state": 0}
RETRIEVERS = {
    "popularity": PopularityRetriever(),
    "items": ItemToItemRetriever(),
    "ease": EASERetriever(),
    "dssm": DSSMRetriever(**SMALL),
    "youtube": YoutubeDNNRetriever(**SMALL),
    "probabilities": FusionRetriever(
        [("dssm", DSSMRetriever(**SMALL)), ("items", ItemToItemRetriever())]
    ),
    "ranks": FusionRetriever(
        [("items", ItemToItemRetriever()), ("ease", EASERetriever())],
        [1, 2], rule="ranks", n_candidates=8, k=8,
    ),
}  # fmt: skip
USERS = EVENTS["user_id"].unique()[:3].tolist()
ITEMS = EVENTS["item_id"].unique()


@pytest.fixture(params=RETRIEVERS, scope="module")
def pipe(request):
    return make_match_pipeline(*make_steps(RETRIEVERS[request.param])).fit(EVENTS)


# Contract


def test_scores_of_pairs_are_those_of_recommend(pipe):
    found = pipe.recommend([*USERS, "nobody"], k=7)
    scores = pipe.score_pairs(found[["item_id", "user_id"]])
    pd.testing.assert_frame_equal(
        scores[["user_id", "item_id", "source"]], found[["user_id", "item_id", "source"]]
    )
    np.testing.assert_allclose(scores["score"], found["score"], rtol=1e-5)


def test_users_for_an_item_are_those_with_the_highest_scores(pipe):
    item = ITEMS[5]
    everyone = EVENTS["user_id"].unique()
    scores = pipe.score_pairs(pd.DataFrame({"user_id": everyone, "item_id": item}))
    seen = EVENTS.loc[EVENTS["item_id"] == item, "user_id"]
    found = pipe.users_for([item, ITEMS[0]], k=4)
    assert list(found.columns) == ["item_id", "user_id", "score", "rank"]
    best = scores[~scores["user_id"].isin(seen)].dropna().sort_values("score", ascending=False)
    own = found[found["item_id"] == item]
    np.testing.assert_allclose(own["score"], best["score"].head(4), rtol=1e-5)
    assert not set(own["user_id"]) & set(seen)
    everyone = pipe.users_for([item], k=1000, exclude_seen=False)
    if not isinstance(pipe[-1], FusionRetriever):  # whose members rank what the filter leaves
        assert len(everyone) == len(scores)


def test_trace_says_what_became_of_each_item(pipe):
    user = USERS[0]
    found = pipe.recommend([user], k=5)["item_id"].tolist()
    seen = EVENTS.loc[EVENTS["user_id"] == user, "item_id"].iloc[0]
    rest = [item for item in ITEMS if item not in found]
    out = next(
        item for item in rest if item not in set(EVENTS.loc[EVENTS["user_id"] == user, "item_id"])
    )
    wanted = [*found, seen, out, -1]
    table = pipe.trace([user, "nobody"], wanted, k=5).iloc[: len(wanted)]
    assert table["item_id"].tolist() == wanted
    assert table["rank"].tolist()[:5] == [1, 2, 3, 4, 5]
    assert table["outcome"].tolist()[:6] == ["recommended"] * 5 + ["seen"]
    assert table["outcome"].tolist()[6] in ("beyond k", "not retrieved")
    assert table["outcome"].tolist()[7] == "unknown item"
    assert np.isnan(table["score"].iloc[7])
    rules = {"candidates": [*found[1:], seen], "exclude": [found[2]]}
    table = pipe.trace([user], found, k=2, **rules).set_index("item_id")
    assert table["outcome"][found[0]] == "not a candidate"
    assert table["outcome"][found[2]] == "excluded"
    kept = pipe.recommend([user], k=2, **rules)["item_id"]
    assert (table["outcome"][kept] == "recommended").all()
    assert (table["rank"][kept] == [1, 2]).all()
    assert (pipe.trace([user], [seen], exclude_seen=False)["outcome"] != "seen").all()


def test_explanations_name_what_is_known_of_each_query(pipe):
    queries = pd.DataFrame({"user_id": [*USERS, "nobody"]})
    reasons = pipe.explain(queries, k=4, n_reasons=2)
    assert list(reasons.columns) == ["user_id", "item_id", "reason", "kind", "contribution"]
    counts = reasons.groupby(["user_id", "item_id"], sort=False)["contribution"].agg(
        ["size", "min"]
    )
    assert counts["size"].max() <= 2
    assert counts["min"].min() > 0
    recommended = pipe.recommend(queries, k=4)[["user_id", "item_id"]]
    named = reasons[["user_id", "item_id"]].drop_duplicates()
    assert len(named.merge(recommended)) == len(named)
    for user, rows in reasons[reasons["kind"] == "history"].groupby("user_id"):
        assert set(rows["reason"]) <= set(EVENTS.loc[EVENTS["user_id"] == user, "item_id"])
    if not isinstance(pipe[-1], FusionRetriever):
        cold = reasons[reasons["user_id"] == "nobody"]
        assert (cold["kind"] == "popularity").all()
        assert cold["reason"].isna().all()
        np.testing.assert_allclose(
            cold["contribution"], pipe.recommend(["nobody"], k=4)["score"], rtol=1e-6
        )


def test_explanations_do_not_depend_on_the_other_queries(pipe):
    alone = pipe.explain([USERS[1]], ITEMS[:3], n_reasons=None)
    together = pipe.explain(USERS, ITEMS[:3], n_reasons=None)
    together = together[together["user_id"] == USERS[1]].reset_index(drop=True)
    columns = ["item_id", "kind"]
    pd.testing.assert_frame_equal(
        alone.sort_values([*columns, "contribution"])[columns].reset_index(drop=True),
        together.sort_values([*columns, "contribution"])[columns].reset_index(drop=True),
    )
    np.testing.assert_allclose(
        np.sort(alone["contribution"]), np.sort(together["contribution"]), atol=1e-6
    )


# What the numbers are


@pytest.mark.parametrize("name", ["items", "ranks", "probabilities"])
def test_contributions_add_up_to_the_score(name):
    pipe = make_match_pipeline(*make_steps(RETRIEVERS[name])).fit(EVENTS)
    found = pipe.recommend(USERS, k=6)
    reasons = pipe.explain(USERS, k=6, n_reasons=None)
    sums = reasons.groupby(["user_id", "item_id"], sort=False)["contribution"].sum()
    np.testing.assert_allclose(sums, found["score"], rtol=1e-5)


def test_leaving_out_an_item_of_a_linear_model_takes_its_weight():
    retriever = EASERetriever().fit(PLAIN)
    history = ITEMS[:4].tolist()
    query = pd.DataFrame({"user_id": ["new"], "history": [[*history, history[1]]]})
    reasons = retriever.explain(query, [ITEMS[9]], n_reasons=None)
    place = {item: i for i, item in enumerate(retriever.item_ids_)}
    for row in reasons.itertuples():
        weight = retriever.weights_[place[row.reason], place[ITEMS[9]]]
        n_events = 2 if row.reason == history[1] else 1
        assert row.contribution == pytest.approx(n_events * weight, abs=1e-6)
    assert set(reasons["reason"]) == set(history)


@pytest.mark.parametrize("name", ["dssm", "youtube"])
def test_a_contribution_of_a_tower_is_the_score_less_that_without_the_item(name):
    pipe = make_match_pipeline(*make_steps(RETRIEVERS[name])).fit(EVENTS)
    history = [ITEMS[3], ITEMS[8], ITEMS[3], ITEMS[20]]
    item = ITEMS[30]

    def score(items):
        rows = {"user_id": ["new"], "history": [items], "segment": ["s"], "item_id": [item]}
        return pipe.score_pairs(pd.DataFrame(rows))["score"][0]

    query = pd.DataFrame({"user_id": ["new"], "history": [history], "segment": ["s"]})
    reasons = pipe.explain(query, [item], n_reasons=None).set_index("reason")["contribution"]
    for reason in set(history):
        without = [one for one in history if one != reason]
        assert reasons[reason] == pytest.approx(score(history) - score(without), abs=1e-5)


def test_events_are_left_out_with_their_features():
    events = EVENTS.assign(kind=np.where(np.arange(len(EVENTS)) % 3, "view", "buy"))
    steps = MatchEncoder(event_features=["kind"]), SequenceSampler(), DSSMRetriever(**SMALL)
    pipe = make_match_pipeline(*steps).fit(events)
    history, kinds, item = [ITEMS[3], ITEMS[8]], ["view", "buy"], ITEMS[30]

    def rows(kept):
        cells = {
            "history": [history[one] for one in kept],
            "history_kind": [kinds[one] for one in kept],
        }
        return pd.DataFrame({"user_id": ["new"], **{name: [cell] for name, cell in cells.items()}})

    def score(kept):
        return pipe.score_pairs(rows(kept).assign(item_id=item))["score"][0]

    reasons = pipe.explain(rows([0, 1]), [item], n_reasons=None).set_index("reason")
    for one, other in ((0, 1), (1, 0)):
        expected = score([0, 1]) - score([other])
        assert reasons["contribution"][history[one]] == pytest.approx(expected, abs=1e-5)


def test_the_event_and_the_feature_that_decide_are_named():
    pipe = make_match_pipeline(*make_steps(RETRIEVERS["items"])).fit(EVENTS)
    shares, ids = pipe[-1].shares_.toarray(), pipe[-1].item_ids_
    deciding, item = np.unravel_index(shares.argmax(), shares.shape)
    others = [i for i in np.argsort(shares[:, item])[:3] if i not in (deciding, item)]
    history = [ids[i] for i in (*others, deciding)]
    query = pd.DataFrame({"user_id": ["new"], "history": [history]})
    reasons = pipe.explain(query, [ids[item]], n_reasons=1)
    assert reasons["reason"].tolist() == [ids[deciding]]
    dssm = make_match_pipeline(*make_steps(RETRIEVERS["dssm"])).fit(EVENTS)
    segment = EVENTS["segment"].iloc[0]
    cold = pd.DataFrame({"user_id": ["new"], "segment": [segment]})
    reasons = dssm.explain(cold, k=1)
    assert set(reasons["kind"]) == {"feature", "item feature"}
    assert "segment" in reasons["reason"].tolist()


@pytest.mark.parametrize("name", ["dssm", "youtube", "two networks"])
def test_a_contribution_of_an_item_feature_is_the_score_less_that_of_an_item_without_it(name):
    two = DSSMRetriever(**SMALL, n_estimators=2)
    pipe = make_match_pipeline(*make_steps(RETRIEVERS.get(name, two))).fit(EVENTS)
    values = {"category": EVENTS["category"].iloc[0], "price": 3.0, "tags": EVENTS["tags"].iloc[0]}
    # New items differ by their features only: the ids that stand in for theirs are all equal.
    for key, weights in pipe[-1].weights_.items():
        if key.endswith("item_encoder.embedding.weight"):
            weights[:] = 0
    items = pd.DataFrame([values] * 4).assign(item_id=[1001, 1002, 1003, 1004])
    for row, feature in enumerate(values, start=1):
        items.loc[row, feature] = None
    pipe.add_items(items)
    reasons = pipe.explain(USERS, [1001, 1002], n_reasons=None)
    reasons = reasons[reasons["kind"] == "item feature"]
    assert len(reasons) == len(USERS) * (3 + 2)  # a missing value is no reason
    own = reasons[reasons["item_id"] == 1001].set_index(["user_id", "reason"])["contribution"]
    for user in USERS:
        pairs = pd.DataFrame({"user_id": user, "item_id": items["item_id"]})
        scores = pipe.score_pairs(pairs)["score"]
        for row, feature in enumerate(values, start=1):
            assert own[user, feature] == pytest.approx(scores[0] - scores[row], abs=1e-5)


def test_the_item_feature_that_decides_is_named():
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 40, 1200), rng.integers(0, 30, 1200)
    item = item - item % 2 + user % 2  # odd users read odd items, of the genre "new"
    events = pd.DataFrame({"user_id": user, "item_id": item})
    items = pd.DataFrame({"item_id": range(30)})
    items["genre"] = np.where(items["item_id"] % 2, "new", "old")
    items["shelf"] = rng.choice(["a", "b", "c"], 30)
    options = SMALL | {"max_epochs": 20, "batch_size": 64, "init": "random"}
    encoder = MatchEncoder(time=None, item_features=["genre", "shelf"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), DSSMRetriever(**options))
    pipe.fit(events, matchencoder__items=items)
    pipe.add_items(pd.DataFrame({"item_id": [97], "genre": ["new"], "shelf": ["a"]}))
    assert pipe.explain([1], [97], n_reasons=1)["reason"].tolist() == ["genre"]
    reasons = pipe.explain([0], [97], n_reasons=None)
    assert reasons["reason"].iloc[-1] == "genre"  # it lowered the score of an "old" reader most


def test_without_item_features_there_are_no_such_reasons():
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL))
    reasons = pipe.fit(PLAIN).explain(USERS, k=3, n_reasons=None)
    assert set(reasons["kind"]) <= {"history", "trend"}


def test_similar_users_have_the_nearest_vectors():
    pipe = make_match_pipeline(*make_steps(RETRIEVERS["dssm"])).fit(EVENTS)
    everyone = EVENTS["user_id"].unique()
    vectors = pd.DataFrame(pipe.transform(pd.DataFrame({"user_id": everyone})), everyone)
    found = pipe.similar_users([USERS[1]], k=5)
    products = (vectors @ vectors.loc[USERS[1]]).drop(USERS[1]).nlargest(5)
    assert found["similar"].tolist() == products.index.tolist()
    np.testing.assert_allclose(found["score"], products, rtol=1e-5)
    with pytest.raises(ValueError, match="user 'nobody' is unknown"):
        pipe.similar_users(["nobody"])
    assert not hasattr(make_match_pipeline(*make_steps(ItemToItemRetriever())), "similar_users")


def test_bad_input_is_named(pipe):
    with pytest.raises(ValueError, match="item -5 is not in the catalogue"):
        pipe.explain(USERS, [-5])
    with pytest.raises(ValueError, match="k=3 has no effect"):
        pipe.explain(USERS, ITEMS[:2], k=3)
    with pytest.raises(ValueError, match="n_reasons=0"):
        pipe.explain(USERS, n_reasons=0)
    with pytest.raises(ValueError, match="item column 'item_id' is missing; pairs has"):
        pipe.score_pairs(pd.DataFrame({"user_id": USERS}))
    with pytest.raises(TypeError, match="pairs is a list"):
        pipe.score_pairs([1])


def test_frames_of_polars_come_back_as_such():
    polars = pytest.importorskip("polars")
    pipe = make_match_pipeline(*make_steps(RETRIEVERS["dssm"])).fit(EVENTS)
    queries = polars.DataFrame({"user_id": [*USERS, "nobody"]})
    for frame in (pipe.explain(queries, k=2), pipe.trace(queries, ITEMS[:2])):
        assert isinstance(frame, polars.DataFrame)
