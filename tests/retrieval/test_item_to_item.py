"""`ItemToItemRetriever`: counts and scores by hand, and all verbs."""

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from contract import run_in_a_fresh_process
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
    persistence,
)
from skmatch.datasets import make_events
from skmatch.retrieval import _item_to_item

EVENTS = make_events(n_users=60, n_items=40, n_events=1500, random_state=0)
PLAIN = EVENTS[["user_id", "item_id", "timestamp"]]
# The catalogue is tea, jam, rye, oat; ann's pauses are all alike, so that there are no visits.
TABLE = pd.DataFrame(
    {
        "user_id": ["ann", "ann", "ann", "ann", "bob", "bob"],
        "item_id": ["tea", "jam", "rye", "tea", "tea", "oat"],
        "timestamp": [1, 2, 3, 4, 1, 2],
    }
)


def counts_of(retriever):
    return retriever.transitions_.toarray()


def fitted(events=TABLE, sample_weight=None, **options):
    options = {"smoothing": 0.0, "reverse": 0.0, "decay": 0.5} | options
    return ItemToItemRetriever(**options).fit(events, sample_weight=sample_weight)


def scores_of(retriever, query, **options):
    found = retriever.recommend(query, k=100, exclude_seen=False, **options)
    return dict(zip(found["item_id"], found["score"].astype(float), strict=True))


def test_counts_fall_with_the_distance_within_the_window():
    expected = np.zeros((4, 4))
    expected[0] = [0.25, 1, 0.5, 1]  # tea: itself three events later, jam, rye, and bob's oat
    expected[1] = [0.5, 0, 1, 0]
    expected[2] = [1, 0, 0, 0]
    np.testing.assert_allclose(counts_of(fitted(window=3)), expected, rtol=1e-9)
    expected[0, 0] = 0
    np.testing.assert_allclose(counts_of(fitted(window=2)), expected, rtol=1e-9)
    expected[0, 2] = expected[1, 0] = 0
    np.testing.assert_allclose(counts_of(fitted(window=1)), expected, rtol=1e-9)
    alike = counts_of(fitted(window=3, decay=1.0))
    np.testing.assert_array_equal(alike[0], [1, 1, 1, 1])


def test_the_opposite_direction_has_a_weight_of_its_own():
    retriever = fitted(window=1, reverse=0.5)
    # Of jam: rye follows, tea came before.
    assert retriever.shares_.toarray()[1] == pytest.approx([0.5 / 1.5, 0, 1 / 1.5, 0])
    assert scores_of(retriever, history_of("jam")) == pytest.approx(
        {"rye": 1 / 1.5, "tea": 0.5 / 1.5, "jam": 0, "oat": 0}, abs=1e-6
    )


def history_of(*items):
    return pd.DataFrame({"user_id": ["new"], "history": [list(items)]})


def test_smoothing_adds_events_by_popularity():
    retriever = fitted(window=1, smoothing=3.0)
    popularity = np.array([3, 1, 1, 1]) / 6
    # Jam was followed once by rye; three further events are spread by popularity.
    expected = (3 * popularity + [0, 0, 1, 0]) / 4
    found = scores_of(retriever, history_of("jam"))
    assert [found[item] for item in ["tea", "jam", "rye", "oat"]] == pytest.approx(expected)
    # An item without a transition ends at popularity.
    found = scores_of(retriever, history_of("oat"))
    assert [found[item] for item in ["tea", "jam", "rye", "oat"]] == pytest.approx(popularity)


def test_items_that_never_followed_are_ranked_by_popularity():
    events = pd.DataFrame({"user_id": list("aabccc"), "item_id": list("xyzwww")})
    found = fitted(events, window=1).recommend(history_of("x"), k=4, exclude_seen=False)
    assert found["item_id"].tolist() == ["y", "w", "x", "z"]


@pytest.mark.parametrize("half_life", [0.5, 1.0, 4.0])
def test_the_history_counts_by_its_half_life(half_life):
    retriever = fitted(window=1, half_life=half_life)
    factor = 0.5 ** (1 / half_life)
    found = scores_of(retriever, history_of("jam", "rye"))  # rye is followed by tea, jam by rye
    assert found["tea"] == pytest.approx(1 / (1 + factor))
    assert found["rye"] == pytest.approx(factor / (1 + factor))
    # Items that are not in the catalogue take their place in the history and no weight.
    found = scores_of(retriever, history_of("jam", "nut", "rye"))
    assert found["rye"] == pytest.approx(factor**2 / (1 + factor**2))


def test_queries_that_begin_a_visit_have_a_half_life_of_their_own():
    pipe = make_match_pipeline(
        MatchEncoder(),
        SequenceSampler(gap=10),
        ItemToItemRetriever(window=1, reverse=0, smoothing=0, half_life=1, visit_half_life=2),
    ).fit(TABLE)
    # Ann ends with rye, tea: tea is followed by jam (half) and oat (half), rye by tea, jam by rye.
    for time, half_life in ((5, 1), (13.5, 1), (14, 2), (100, 2), (None, 2)):
        query = pd.DataFrame({"user_id": ["ann"], "timestamp": [time]}, dtype=object)
        query["timestamp"] = query["timestamp"].astype(float)
        weight = 0.5 ** (np.arange(4) / half_life)  # of tea, rye, jam, tea
        weight /= weight.sum()
        found = scores_of(pipe, query)
        assert found["rye"] == pytest.approx(weight[2]), time
        assert found["tea"] == pytest.approx(weight[1]), time
        assert found["jam"] == pytest.approx((weight[0] + weight[3]) / 2), time


def test_a_query_does_not_depend_on_the_queries_beside_it():
    """An old event of a query of short half-life counted only beside one of a long half-life."""
    long = pd.DataFrame({"user_id": "eve", "item_id": np.arange(30), "timestamp": np.arange(30)})
    pipe = make_match_pipeline(
        MatchEncoder(), SequenceSampler(gap=10), ItemToItemRetriever(smoothing=0.0, window=1)
    ).fit(long)
    queries = pd.DataFrame({"user_id": ["eve", "eve"], "timestamp": [30.0, 1000.0]})
    beside = pipe.recommend(queries, k=30, exclude_seen=False)
    alone = pipe.recommend(queries[:1], k=30, exclude_seen=False)
    pd.testing.assert_frame_equal(alone, beside[:30], check_exact=True)


def test_only_the_strongest_neighbours_are_kept():
    everything = fitted(window=3, decay=0.5)
    kept = fitted(window=3, decay=0.5, n_neighbors=2)
    np.testing.assert_array_equal(counts_of(kept), counts_of(everything))
    # Tea: jam 1, oat 1, rye .5, tea .25.
    assert kept.shares_.toarray()[0] == pytest.approx([0, 0.5, 0, 0.5])
    assert (np.diff(kept.shares_.indptr) <= 2).all()
    one = fitted(window=3, decay=0.5, n_neighbors=1)  # of equal counts the first item
    assert one.shares_.toarray()[0] == pytest.approx([0, 1, 0, 0])


def test_weights():
    twice = fitted(window=2, sample_weight=[1, 2, 1, 1, 1, 1])
    expected = counts_of(fitted(window=2))
    expected[:, 1] *= 2
    np.testing.assert_allclose(counts_of(twice), expected)
    assert twice.counts_.tolist() == [3, 2, 1, 1]
    without = fitted(window=2, sample_weight=[1, 0, 1, 1, 1, 1])
    expected[:, 1] = 0  # no target, but in the histories of the events after it
    np.testing.assert_allclose(counts_of(without), expected)
    assert counts_of(without)[1, 2] == 1


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_partial_fit_in_order_is_a_fit_on_all(data):
    events = PLAIN.sort_values("timestamp", kind="stable")[:300]
    cuts = sorted(data.draw(st.lists(st.integers(20, 299), min_size=1, max_size=3, unique=True)))
    # What a visit is, and the half-life of the trend, are learned by the first fit.
    options = {"decay": data.draw(st.sampled_from([0.85, 0.5, 1.0, 0.3])), "trend": None}
    parts = np.split(np.arange(300), cuts)
    steps = MatchEncoder(), SequenceSampler(gap=None), ItemToItemRetriever(**options)
    grown = make_match_pipeline(*steps)
    for rows in parts:
        grown.partial_fit(events.iloc[rows])
    steps = MatchEncoder(), SequenceSampler(gap=None), ItemToItemRetriever(**options)
    whole = make_match_pipeline(*steps).fit(events)
    np.testing.assert_array_equal(counts_of(grown[-1]), counts_of(whole[-1]))
    np.testing.assert_array_equal(grown[-1].shares_.toarray(), whole[-1].shares_.toarray())
    pd.testing.assert_frame_equal(grown.recommend(k=9), whole.recommend(k=9), check_exact=True)


def test_blocks_change_nothing(monkeypatch):
    whole = ItemToItemRetriever().fit(PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(_item_to_item, "BLOCK_ROWS", 7)
        patch.setattr(_item_to_item, "BLOCK_ITEMS", 7)
        patch.setattr(_item_to_item, "BLOCK_SCORES", 100)
        parts = ItemToItemRetriever().fit(PLAIN)
        np.testing.assert_array_equal(counts_of(parts), counts_of(whole))
        np.testing.assert_array_equal(parts.shares_.toarray(), whole.shares_.toarray())
        found, similar = parts.recommend(k=5), parts.similar_items(whole.item_ids_, k=5)
        allowed = {int(item): whole.item_ids_[:9] for item in whole.item_ids_[::2]}
        few = parts.similar_items(whole.item_ids_, k=5, candidates=allowed)
    pd.testing.assert_frame_equal(found, whole.recommend(k=5), check_exact=True)
    pd.testing.assert_frame_equal(similar, whole.similar_items(whole.item_ids_, k=5))
    expected = whole.similar_items(whole.item_ids_, k=5, candidates=allowed)
    pd.testing.assert_frame_equal(few, expected)


def test_counts_and_shares_take_12_and_8_bytes_per_pair():
    retriever = fitted(PLAIN, reverse=0.3)
    for table, dtype in ((retriever.transitions_, np.float64), (retriever.shares_, np.float32)):
        assert table.dtype == dtype
        assert table.indices.dtype == table.indptr.dtype == np.int32


def test_observed_events_are_history_and_no_counts():
    retriever = fitted(window=1)
    before = counts_of(retriever)
    news = pd.DataFrame({"user_id": ["eve"], "item_id": ["jam"], "timestamp": [9]})
    retriever.observe(news)
    np.testing.assert_array_equal(counts_of(retriever), before)
    assert retriever.recommend(["eve"], k=1)["item_id"].tolist() == ["rye"]
    retriever.partial_fit(news.assign(item_id="nut", timestamp=10))
    assert retriever.similar_items(["jam"], k=2)["similar"].tolist() == ["rye", "nut"]


def test_items_can_be_added():
    retriever = fitted(window=1).add_items(pd.DataFrame({"item_id": ["nut"]}))
    assert retriever.transitions_.shape == retriever.shares_.shape == (5, 5)
    found = retriever.recommend(["ann"], k=9, exclude_seen=False)
    assert found["item_id"].tolist()[-1] == "nut"
    retriever.partial_fit(pd.DataFrame({"user_id": "ann", "item_id": ["nut"], "timestamp": 5}))
    assert counts_of(retriever)[0, 4] == 1


def test_similar_items_follow_most_often():
    retriever = fitted(window=2, reverse=0.5)
    found = retriever.similar_items(["tea", "oat"])
    # Tea: jam 1 + .5 * .5, rye .5 + .5 * 1, oat 1; the sum is 3.25. Oat: tea came before.
    assert found["item_id"].tolist() == ["tea"] * 3 + ["oat"]
    assert found["similar"].tolist() == ["jam", "rye", "oat", "tea"]
    assert found["score"].tolist() == pytest.approx([1.25 / 3.25, 1 / 3.25, 1 / 3.25, 1])
    assert found["rank"].tolist() == [1, 2, 3, 1]
    few = retriever.similar_items(["tea"], candidates=["rye", "oat"], exclude=["oat"])
    assert few["similar"].tolist() == ["rye"]
    with pytest.raises(ValueError, match="'nut' is not in the catalogue"):
        retriever.similar_items(["nut"])


def test_filters_and_seen_items():
    retriever = fitted(window=2)
    assert retriever.recommend(["bob"])["item_id"].tolist() == ["jam", "rye"]
    again = retriever.recommend(["bob"], exclude_seen=False, candidates=["tea", "jam"])
    assert again["item_id"].tolist() == ["jam", "tea"]
    found = retriever.recommend(history_of("tea"), exclude=["jam"])
    assert found["item_id"].tolist() == ["oat", "rye"]
    assert found["source"].tolist() == ["history"] * 2


def test_features_are_not_read():
    pipe = make_match_pipeline(
        MatchEncoder(user_features=["segment"]), SequenceSampler(), ItemToItemRetriever(trend=None)
    ).fit(EVENTS)
    query = pd.DataFrame({"user_id": [-1], "segment": [EVENTS["segment"][0]]})
    found = pipe.recommend(query, k=3)
    assert found["source"].tolist() == ["popularity"] * 3
    assert found["score"].tolist() == pytest.approx(
        (EVENTS["item_id"].value_counts(normalize=True)).head(3).tolist()
    )


def test_saved_files(tmp_path):
    retriever = ItemToItemRetriever().fit(PLAIN)
    expected = retriever.recommend(k=5), retriever.similar_items(PLAIN["item_id"][:3])
    joblib.dump(retriever, tmp_path / "a.joblib")
    skops.io.dump(retriever, tmp_path / "b.skops")
    trusted = persistence.TRUSTED_TYPES
    for loaded in (
        joblib.load(tmp_path / "a.joblib"),
        skops.io.load(tmp_path / "b.skops", trusted=trusted),
    ):
        pd.testing.assert_frame_equal(loaded.recommend(k=5), expected[0], check_exact=True)
        pd.testing.assert_frame_equal(loaded.similar_items(PLAIN["item_id"][:3]), expected[1])
        loaded.partial_fit(PLAIN[:5])


def test_no_verb_loads_torch():
    run_in_a_fresh_process(
        "import sys, pandas as pd\n"
        "from skmatch import FusionRetriever, ItemToItemRetriever, PopularityRetriever\n"
        "events = pd.DataFrame({'user_id': list('aabbc'), 'item_id': list('xyxyx')})\n"
        "members = [('a', ItemToItemRetriever()), ('b', PopularityRetriever())]\n"
        "for one in (ItemToItemRetriever(), FusionRetriever(members)):\n"
        "    one.fit(events).recommend(); one.similar_items(['x']); one.predict(events)\n"
        "    one.observe(events).partial_fit(events)\n"
        "assert 'torch' not in sys.modules\n"
    )


def test_a_search_tunes_it():
    search = GridSearchCV(
        make_pipeline(MatchEncoder(), SequenceSampler(), ItemToItemRetriever()),
        {"itemtoitemretriever__window": [1, 15], "itemtoitemretriever__half_life": [0.5, 5.0]},
        cv=LeaveLastOut(),
        scoring=make_topk_scorer("ndcg", k=5),
    ).fit(PLAIN)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_estimator_.predict(PLAIN[:3]).shape == (3, 10)


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0}, {"decay": 0.0}, {"decay": 1.5}, {"reverse": -1.0}, {"half_life": 0.0},
        {"visit_half_life": -1.0}, {"smoothing": -1.0}, {"n_neighbors": 0},
    ],
)  # fmt: skip
def test_wrong_parameters_raise(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ItemToItemRetriever(**options).fit(PLAIN)
