"""`FusionRetriever`: lists merged by hand, members as parameters, and all verbs."""

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from scipy.special import softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
    persistence,
)
from skmatch.datasets import make_events
from skmatch.neighbors import ItemIndex
from skmatch.retrieval import BaseRetriever, _fusion

EVENTS = make_events(n_users=60, n_items=40, n_events=1500, random_state=0)
PLAIN = EVENTS[["user_id", "item_id", "timestamp"]]
SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 1, "random_state": 0}
SMALL_EVENTS = pd.DataFrame({"user_id": ["u", "v", "v"], "item_id": ["seen", "a", "b"]})
SMALL_EVENTS = pd.concat(
    [SMALL_EVENTS, pd.DataFrame({"user_id": "w", "item_id": ["c", "d"]})], ignore_index=True
)  # the catalogue is seen, a, b, c, d


class Fixed(BaseRetriever):
    """Scores items as it is told; it neither grows nor knows similar items."""

    def __init__(self, scores=(), k=10, exclude_seen=True):
        self.scores = scores
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples, weight):
        return {"index_": ItemIndex().fit(np.array(self.scores, dtype=np.float32)[:, None])}

    def _top_k(self, samples, k, allowed):
        return self.index_.search(np.ones((len(samples), 1), np.float32), k, allowed)


FIRST = Fixed((9, 4, 3, 2, 1))  # a, b, c, d
SECOND = Fixed((9, 1, 2, 3, 4))  # d, c, b, a


def make_fusion(**options):
    members = [("items", ItemToItemRetriever()), ("popular", PopularityRetriever())]
    return FusionRetriever(members, **options)


def test_reciprocal_ranks_by_hand():
    members = [("one", FIRST), ("two", SECOND)]
    fusion = FusionRetriever(members, weights=[2, 1], rule="ranks", k=4).fit(SMALL_EVENTS)
    found = fusion.recommend(["u"])
    expected = {"a": 2 / 61 + 1 / 64, "b": 2 / 62 + 1 / 63, "c": 2 / 63 + 1 / 62}
    assert found["item_id"].tolist() == ["a", "b", "c", "d"]
    assert found["score"].tolist() == pytest.approx([*expected.values(), 2 / 64 + 1 / 61])
    assert found["rank"].tolist() == [1, 2, 3, 4]
    # Weighed alike, a and d are equal and the first in the catalogue comes first.
    alike = FusionRetriever(members, weights=None, rule="ranks").fit(SMALL_EVENTS)
    assert alike.recommend(["u"])["item_id"].tolist() == ["a", "d", "b", "c"]
    alone = FusionRetriever(members, weights=[0, 1]).fit(SMALL_EVENTS)
    assert alone.recommend(["u"])["item_id"].tolist() == ["d", "c", "b", "a"]


def test_equal_scores_are_in_the_order_of_the_catalogue():
    # Ranks of a are 1, 2, 3 and of b 3, 1, 2: the same summands in another order.
    members = [
        ("x", Fixed((9, 3, 1, 2, 0))), ("y", Fixed((9, 2, 3, 1, 0))), ("z", Fixed((9, 1, 2, 3, 0))),
    ]  # fmt: skip
    fusion = FusionRetriever(members, weights=None, rule="ranks").fit(SMALL_EVENTS)
    found = fusion.recommend(["u"])
    assert found["item_id"].tolist() == ["a", "b", "c", "d"]
    assert found["score"].nunique() == 2


def test_probabilities_by_hand():
    # Shares of a, b, c, d: 4, 3, 2, 1 of 10 and 1, 1, 1, 5 of 8; items that are not listed have
    # half of the smallest.
    class Counted(Fixed):
        def _shares(self, scores):
            finite = np.where(np.isfinite(scores), scores, 0)
            return finite / finite.sum(1, keepdims=True)

    members = [("one", Counted(FIRST.scores)), ("two", Counted((9, 1, 1, 1, 5)))]
    fusion = FusionRetriever(members, weights=[1, 3]).fit(SMALL_EVENTS)
    found = fusion.recommend(["u"])
    assert found["item_id"].tolist() == ["d", "a", "b", "c"]
    expected = np.log([2, 8, 6, 4]) + 3 * np.log([10, 2, 2, 2])
    assert found["score"].tolist() == pytest.approx(expected)


def test_an_item_that_a_member_does_not_list_gets_nothing_from_it():
    members = [("one", FIRST), ("two", SECOND)]
    fusion = FusionRetriever(members, weights=None, n_candidates=2, k=2).fit(SMALL_EVENTS)
    found = fusion.recommend(["u"], k=2)
    assert found["item_id"].tolist() == ["a", "d"]
    # The scores of a retriever may have any scale: its shares fall as 1 / (60 + rank).
    assert found["score"].tolist() == pytest.approx([np.log(2 * 62 / 61)] * 2)


def test_a_short_list_says_that_other_items_are_unlikely():
    # One of two candidates is left to recommend: its share is 1, that of others half of 1 / 2.
    fusion = FusionRetriever([("one", FIRST)], n_candidates=2, k=2).fit(SMALL_EVENTS)
    found = fusion.recommend(["u"], candidates=["b"])
    assert found["score"].tolist() == pytest.approx([np.log(4)])


def test_probabilities_of_a_network_are_those_of_the_softmax():
    dssm = DSSMRetriever(**SMALL, trend=None)
    members = [("dssm", dssm), ("popular", PopularityRetriever())]
    fusion = FusionRetriever(members, weights=[1, 0], k=40).fit(PLAIN)
    user = PLAIN["user_id"][0]
    for options in ({}, {"exclude_seen": False}):
        found = fusion.recommend([user], **options)
        cosines = clone(dssm).fit(PLAIN).recommend([user], k=200, **options)
        assert found["item_id"].tolist() == cosines["item_id"].tolist()[: len(found)]
        probability = softmax(cosines["score"].to_numpy() / dssm.temperature)
        probability = np.maximum(probability, 1e-8)
        expected = np.log(2 * probability / probability.min())[: len(found)]
        np.testing.assert_allclose(found["score"], expected, rtol=1e-3)
    # Nothing is known of a new user: the scores are popularities, and no cosines.
    counts = PLAIN["item_id"].value_counts(normalize=True)
    nobody = fusion.recommend([-1])
    np.testing.assert_allclose(
        nobody["score"], np.log(2 * counts[nobody["item_id"]] / counts.min()), rtol=1e-5
    )


@pytest.mark.parametrize("rule", ["probabilities", "ranks"])
def test_a_user_who_has_seen_everything_gets_nothing(rule):
    events = pd.concat([PLAIN, pd.DataFrame({"user_id": -5, "item_id": PLAIN["item_id"].unique()})])
    events["timestamp"] = events["timestamp"].fillna(0)
    members = [("dssm", DSSMRetriever(**SMALL)), ("items", ItemToItemRetriever())]
    fusion = FusionRetriever(members, rule=rule).fit(events)
    empty, found = fusion.recommend([-5]), fusion.recommend([PLAIN["user_id"][0]])
    assert empty.empty
    assert empty.dtypes.astype(str).tolist() == found.dtypes.astype(str).tolist()


def test_the_column_names_the_members_that_have_the_item():
    members = [("one", FIRST), ("two", SECOND)]
    fusion = FusionRetriever(members, weights=None, n_candidates=2, k=2).fit(SMALL_EVENTS)
    found = fusion.recommend(["u"], k=2)
    assert found["item_id"].tolist() == ["a", "d"]
    assert found["retrievers"].tolist() == ["one", "two"]
    found = fusion.recommend(["u"], k=3)  # at least k candidates
    assert dict(zip(found["item_id"], found["retrievers"], strict=True)) == {
        "b": "one, two", "c": "one, two", "a": "one",
    }  # fmt: skip


class Constant(Fixed):
    """Recommends the same items to everybody, from the first in `order` on."""

    def _fit_samples(self, samples, weight):
        ids = samples.schema.items.values.tolist()
        scores = [-self.scores.index(one) if one in self.scores else -1e6 for one in ids]
        return {"index_": ItemIndex().fit(np.array(scores, dtype=np.float32)[:, None])}


def test_learned_weights_prefer_the_better_member():
    events = make_events(300, 300, 3000, n_clusters=1, random_state=0)  # popularity alone
    good = events["item_id"].value_counts().index.tolist()
    members = [("bad", Constant(good[::-1])), ("good", Constant(good))]
    fusion = FusionRetriever(members).fit(events)
    assert fusion.weights_.sum() == pytest.approx(1)
    assert fusion.weights_[1] > fusion.weights_[0]
    assert FusionRetriever(members, weights=None).fit(events).weights_.tolist() == [1, 1]


def test_weights_are_learned_from_events_that_no_member_trained_on():
    fitted = make_fusion().fit(PLAIN)
    n_held_out = PLAIN["user_id"].nunique() // 2
    for member in fitted.retrievers_:
        assert member.counts_.sum() == len(PLAIN) - n_held_out
    assert fitted.counts_.sum() == len(PLAIN)
    # Without members to weigh nothing is held out.
    alone = FusionRetriever([("popular", PopularityRetriever())]).fit(PLAIN)
    assert alone.retrievers_[0].counts_.sum() == len(PLAIN)
    assert alone.weights_.tolist() == [1]


def test_a_fitted_fusion_recommends_whatever_its_parameters_become():
    fusion = make_fusion().fit(PLAIN)
    before = fusion.recommend([PLAIN["user_id"][0]])
    fusion.set_params(popular="drop", weights=[1, 2])
    pd.testing.assert_frame_equal(fusion.recommend([PLAIN["user_id"][0]]), before)


def test_dropped_members():
    members = [("one", FIRST), ("gone", "drop"), ("two", SECOND)]
    fusion = FusionRetriever(members, weights=[1, 100, 3]).fit(SMALL_EVENTS)
    assert list(fusion.named_retrievers_) == ["one", "two"]
    assert fusion.recommend(["u"], k=1)["item_id"].tolist() == ["d"]
    assert fusion.set_params(two="drop").fit(SMALL_EVENTS).named_retrievers_.keys() == {"one"}


def test_members_are_parameters():
    fusion = make_fusion()
    params = fusion.get_params()
    assert params["items__window"] == 15
    assert params["items"] is fusion.retrievers[0][1]
    assert "items__window" not in fusion.get_params(deep=False)
    fusion.set_params(items__window=3, popular=PopularityRetriever(half_life=2), weights=[1, 2])
    assert fusion.retrievers[0][1].window == 3
    assert fusion.retrievers[1][1].half_life == 2
    copy = clone(fusion)
    assert copy.get_params()["items__window"] == 3
    assert copy.retrievers[0][1] is not fusion.retrievers[0][1]
    with pytest.raises(ValueError, match="windows"):
        fusion.set_params(items__windows=3)


def test_members_are_cloned_and_fitted():
    fusion = make_fusion(weights=None).fit(PLAIN)
    assert not hasattr(fusion.retrievers[0][1], "schema_")
    assert list(fusion.named_retrievers_.values()) == fusion.retrievers_
    alone = ItemToItemRetriever().fit(PLAIN)
    np.testing.assert_array_equal(
        fusion.retrievers_[0].transitions_.toarray(), alone.transitions_.toarray()
    )


def test_without_members_it_is_a_network_and_transitions():
    fusion = FusionRetriever()
    assert fusion.get_params()["retrievers"] is None
    assert clone(fusion).set_params(k=3).k == 3
    fusion.fit(PLAIN[:200])
    assert list(fusion.named_retrievers_) == ["dssm", "items"]
    assert isinstance(fusion.named_retrievers_["dssm"], DSSMRetriever)
    assert len(fusion.recommend([PLAIN["user_id"][0]], k=3)) == 3


def test_members_fitted_at_a_time_are_the_same():
    one = make_fusion().fit(PLAIN)
    with joblib.parallel_config("threading"):  # processes take seconds to start
        two = make_fusion(n_jobs=2).fit(PLAIN)
    pd.testing.assert_frame_equal(two.recommend(k=5), one.recommend(k=5), check_exact=True)


def test_a_search_in_a_pipeline():
    search = GridSearchCV(
        make_match_pipeline(MatchEncoder(), SequenceSampler(), make_fusion()),
        {
            "fusionretriever__weights": [None, [1, 0]],
            "fusionretriever__items__window": [1, 15],
            "fusionretriever__popular": ["drop"],
        },
        cv=LeaveLastOut(),
        scoring=make_topk_scorer("ndcg", k=5),
    ).fit(PLAIN)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert list(search.best_estimator_[-1].named_retrievers_) == ["items"]


@pytest.mark.parametrize("rule", ["probabilities", "ranks"])
def test_predict_recommend_and_batches_agree(rule, monkeypatch):
    fusion = make_fusion(rule=rule).fit(PLAIN)
    queries = pd.DataFrame({"user_id": [*PLAIN["user_id"].unique()[:9], -1]})
    found = fusion.recommend(queries, k=4)
    whole = fusion.predict(queries, k=4)
    np.testing.assert_array_equal(whole, found["item_id"].to_numpy().reshape(10, 4))
    monkeypatch.setattr(_fusion, "BATCH_SIZE", 3)
    np.testing.assert_array_equal(fusion.predict(queries, k=4), whole)
    parts = [*fusion.recommend_batches(queries, k=4, batch_size=3)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), found)


def test_filters_hold_for_all_members():
    fusion = make_fusion(n_candidates=1).fit(PLAIN)
    items, user = PLAIN["item_id"].unique(), PLAIN["user_id"][0]
    seen = set(PLAIN.loc[PLAIN["user_id"] == user, "item_id"])
    options = {"candidates": items[:20].tolist(), "exclude": items[:5].tolist()}
    assert set(fusion.recommend([user], k=40, **options)["item_id"]) == set(items[5:20]) - seen
    everything = fusion.recommend([user], k=40, exclude_seen=False, **options)
    assert set(everything["item_id"]) == set(items[5:20])


def test_unknown_users_get_popular_items():
    found = make_fusion().set_params(items__trend=None).fit(PLAIN).recommend([-1], k=5)
    top = PLAIN["item_id"].value_counts()
    assert found["source"].tolist() == ["popularity"] * 5
    assert top[found["item_id"]].tolist() == top.head(5).tolist()


def test_what_all_members_can():
    news = pd.DataFrame({"user_id": [-7, -7], "item_id": PLAIN["item_id"][:2], "timestamp": 10**12})
    fusion = make_fusion().fit(PLAIN)
    before = fusion.named_retrievers_.popular.counts_.copy()
    fusion.observe(news)
    found = fusion.recommend([-7], k=100)
    assert found["source"].unique().tolist() == ["history"]
    assert not set(found["item_id"]) & set(news["item_id"])
    np.testing.assert_array_equal(fusion.named_retrievers_.popular.counts_, before)
    fusion.partial_fit(news.assign(item_id=[-1, -2], user_id=-8), sample_weight=[1, 3])
    assert fusion.named_retrievers_.popular.counts_[-2:].tolist() == [1, 3]
    assert fusion.counts_[-2:].tolist() == [1, 3]
    assert fusion.named_retrievers_["items"].transitions_.toarray()[-2, -1] == 3
    assert fusion.retrievers_[0] is fusion.named_retrievers_["items"]
    fusion.add_items(pd.DataFrame({"item_id": [-3]}))
    assert -3 in fusion.recommend([-7], k=100)["item_id"].tolist()
    similar = fusion.similar_items([-1], k=100)
    assert similar["similar"].tolist()[0] == -2
    assert -1 not in similar["similar"].tolist()


def test_growth_is_a_fit_on_all():
    events = PLAIN.sort_values("timestamp", kind="stable")
    fusion = make_fusion(weights=None).set_params(items__trend=None)
    steps = MatchEncoder(), SequenceSampler(gap=None), fusion
    grown = make_match_pipeline(*clone(steps)).fit(events[:1000]).partial_fit(events[1000:])
    whole = make_match_pipeline(*steps).fit(events)
    pd.testing.assert_frame_equal(grown.recommend(k=7), whole.recommend(k=7))


@pytest.mark.parametrize("verb", ["observe", "partial_fit", "add_items", "similar_items"])
def test_what_a_member_cannot(verb):
    with_fixed = FusionRetriever([("one", FIRST), ("items", ItemToItemRetriever())])
    assert not hasattr(with_fixed, verb)
    with pytest.raises(AttributeError, match=verb):
        getattr(with_fixed.fit(SMALL_EVENTS), verb)
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), with_fixed)
    assert not hasattr(pipe, verb)
    assert hasattr(with_fixed.set_params(one="drop"), verb)


def test_saved_files(tmp_path):
    members = [("dssm", DSSMRetriever(**SMALL)), ("items", ItemToItemRetriever())]
    fusion = FusionRetriever(members).fit(PLAIN)
    joblib.dump(fusion, tmp_path / "a.joblib")
    skops.io.dump(fusion, tmp_path / "b.skops")
    trusted = persistence.TRUSTED_TYPES
    for loaded in (
        joblib.load(tmp_path / "a.joblib"),
        skops.io.load(tmp_path / "b.skops", trusted=trusted),
    ):
        pd.testing.assert_frame_equal(loaded.recommend(k=5), fusion.recommend(k=5))
        assert list(loaded.named_retrievers_) == ["dssm", "items"]
        loaded.partial_fit(PLAIN[:5])


POPULAR = PopularityRetriever()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retrievers": []}, "retrievers has no member"),
        ({"retrievers": [("a", "drop")]}, "retrievers has no member"),
        ({"retrievers": [POPULAR]}, r"holds PopularityRetriever\(\): pass tuples.*\('items'"),
        ({"retrievers": [("a", POPULAR), ("a", POPULAR)]}, r"not unique: \['a', 'a'\]"),
        ({"retrievers": [("k", POPULAR)]}, r"conflict with constructor arguments: \['k'\]"),
        ({"retrievers": [("a__b", POPULAR)]}, "must not contain __: got.*a__b"),
        ({"retrievers": [("a", "dorp")]}, "'a'='dorp' is not known; choose one of 'drop'"),
        ({"retrievers": [("a", MatchEncoder())]}, "member 'a' is a MatchEncoder"),
        ({"retrievers": [("a", 3)]}, "member 'a' is a int"),
        ({"weights": [1]}, r"weights=\[1\] does not weigh 2 retrievers"),
        ({"weights": [1, -1]}, r"weights=\[1, -1\] does not weigh"),
        ({"weights": [0, 0]}, r"weights=\[0, 0\] does not weigh"),
        ({"weights": [1, np.nan]}, r"weights=\[1, nan\] does not weigh"),
        ({"weights": [1, np.inf]}, r"weights=\[1, inf\] does not weigh"),
        ({"weights": ["x", "y"]}, r"weights=\['x', 'y'\] does not weigh"),
        ({"retrievers": [("a", PopularityRetriever)]}, "is the class PopularityRetriever: pass"),
        ({"rule": "votes"}, "rule"),
        ({"n_candidates": 0}, "n_candidates"),
    ],
)
def test_wrong_parameters_raise(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_fusion().set_params(**options).fit(PLAIN)
