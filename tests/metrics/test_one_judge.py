"""Validation, `score`, the scorer and `evaluate` agree for the same rows and rules."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    evaluate,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.metrics import ndcg_at_k

SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 3, "random_state": 0, "lr": 0.05}


def make_events(seed=0, n_users=60, n_items=40, n_events=900):
    """Make events with repeats and ties in time, also of one user and one item."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, n_users, n_events)
    item = (user * 7 + (rng.random(n_events) ** 2 * n_items / 2).astype(int)) % n_items
    events = pd.DataFrame({"user_id": user, "item_id": item})
    events["timestamp"] = rng.integers(0, 40, n_events)
    return events.assign(rating=rng.integers(1, 6, n_events))


EVENTS = make_events()
ONCE = pd.DataFrame({"user_id": [900, 901], "item_id": [3, 4], "timestamp": 5, "rating": 1})


def four_figures(model, X, k=10, **rules):
    """Return the figures of `score`, of two scorers and of `evaluate`."""
    scorer = make_topk_scorer("ndcg", k=k, **rules)
    many = make_topk_scorer(["hit", "ndcg"], k=[k, 3], **rules)(model, X)[f"ndcg_at_{k}"]
    table = evaluate(model, X, ["ndcg", "map"], k=k, **rules)
    return [model.score(X, **rules), scorer(model, X), many, table["value"].iloc[0]]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
@pytest.mark.parametrize("form", ["samples", "events"])
def test_validation_is_the_score_of_the_same_rows(cls, exclude_seen, form):
    events = pd.concat([EVENTS, ONCE])
    validation = {"validation": "next", "validation_fraction": 1.0}
    retriever = cls(**SMALL, early_stopping=True, **validation, exclude_seen=exclude_seen, k=100)
    events = events.sort_values("timestamp", kind="stable", ignore_index=True)
    # Repeats are no targets where seen items are left out.
    targets = events.drop_duplicates(["user_id", "item_id"]) if exclude_seen else events
    last = targets.groupby("user_id").tail(1)
    if form == "samples":
        samples = SequenceSampler().fit_transform(events)
        retriever.fit(samples)
        held_out = samples[last.index.to_numpy()]
    else:
        retriever.fit(events)
        held_out = last
    best = max(retriever.validation_curve_)
    assert 0 < best < 1
    assert four_figures(retriever, held_out, k=100) == [best] * 4
    other = four_figures(retriever, held_out, k=100, exclude_seen=not exclude_seen)
    assert len(set(other)) == 1
    assert other[0] != best


def test_repeats_are_held_out_only_where_they_can_be_recommended():
    user = np.repeat(np.arange(30), 6)
    events = pd.DataFrame({"user_id": user, "item_id": (user + np.tile([0, 1, 2] * 2, 30)) % 30})
    options = SMALL | {"early_stopping": True, "validation_fraction": 1.0}
    for exclude_seen, last in ((True, 2), (False, 5)):
        retriever = DSSMRetriever(**options, exclude_seen=exclude_seen, k=100).fit(events)
        samples = SequenceSampler().fit_transform(events)
        assert max(retriever.validation_curve_) == retriever.score(samples[last::6])


MODELS = {
    "popularity": PopularityRetriever(),
    "dssm alone": DSSMRetriever(**SMALL),
    "dssm": make_match_pipeline(MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL)),
    "framed": make_match_pipeline(
        MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL)
    ).set_output(transform="pandas"),
}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    train, _ = split()
    return MODELS[request.param].fit(train)


def split():
    """Hold out the last events, of which many are repeats, tie with stored ones or are unknown."""
    [(train, test)] = LeaveLastOut(n_last=2).split(EVENTS)
    train, test = EVENTS.iloc[train], EVENTS.iloc[test].copy()
    test.iloc[::5, 1] = 1000 + np.arange(len(test))[::5] % 3
    twice = pd.DataFrame({"user_id": [3, 3, 999, 999], "item_id": [7777, 7777, 7777, 5]})
    return train, pd.concat([test, twice.assign(timestamp=99, rating=2)], ignore_index=True)


def histories_as_of(train, test):
    """Return each user's earliest held-out row and the items stored by then."""
    first = test.sort_values("timestamp", kind="stable").drop_duplicates("user_id")
    stored = train.sort_values("timestamp", kind="stable")
    for row in first.itertuples():
        own = stored[(stored["user_id"] == row.user_id) & (stored["timestamp"] <= row.timestamp)]
        # An equal event that is stored stands for the held-out one: what follows it is not known.
        is_same = (own["item_id"] == row.item_id) & (own["timestamp"] == row.timestamp)
        yield row.user_id, own["item_id"][is_same.cumsum() == 0].tolist()


@pytest.mark.parametrize(
    "rules",
    [{}, {"exclude_seen": False}, {"candidates": list(range(0, 40, 2))}, {"gain": "rating"}],
    ids=str,
)
def test_the_four_agree_to_the_bit(model, rules):
    _, test = split()
    figures = four_figures(model, test, **rules)
    assert len(set(figures)) == 1
    shuffled = test.sample(frac=1, random_state=0)
    assert four_figures(model, shuffled, **rules) == figures


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_the_figure_is_that_of_the_recommendations_as_of_the_held_out_events(cls):
    train, test = split()
    # Without visits, of which a query's own history would count as one.
    model = make_match_pipeline(MatchEncoder(), SequenceSampler(gap=None), cls(**SMALL)).fit(train)
    users, histories = zip(*histories_as_of(train, test), strict=True)
    queries = pd.DataFrame({"user_id": users, "history": histories})
    relevant = test.groupby("user_id")["item_id"].agg(set).loc[list(users)]
    lists = model.predict(queries, k=10, exclude_seen=False)
    expected = ndcg_at_k(relevant, lists, 10)
    assert model.score(test, exclude_seen=False) == pytest.approx(expected, rel=1e-12)
    exclude = dict(zip(users, histories, strict=True))
    lists = model.predict(queries, k=10, exclude=exclude, exclude_seen=False)
    assert model.score(test) == pytest.approx(ndcg_at_k(relevant, lists, 10), rel=1e-12)


def test_queries_do_not_know_later_events():
    later = pd.DataFrame({"user_id": "ann", "item_id": ["a", "b", "c"], "timestamp": [1, 5, 9]})
    others = pd.DataFrame({"user_id": "bob", "item_id": ["a", "b", "c", "d"], "timestamp": 0})
    model = PopularityRetriever(k=4).fit(pd.concat([later, others]))
    table = {}
    for time in (0, 1, 5, 9):
        held_out = pd.DataFrame({"user_id": ["ann"], "item_id": ["d"], "timestamp": [time]})
        (table[time],) = evaluate(model, held_out, "mrr", k=4, average=False)["mrr_at_4"]
    # What is stored at the time of the held-out event comes before it, and what is later does not.
    assert table == {0: 1 / 4, 1: 1 / 3, 5: 1 / 2, 9: 1}
    # A stored event itself is not in its own history, nor are later ones of its time.
    held_out = pd.DataFrame({"user_id": ["ann"], "item_id": ["b"], "timestamp": [5]})
    (value,) = evaluate(model, held_out, "mrr", k=4, average=False)["mrr_at_4"]
    assert value == 1
    # A user's query is as of the earliest row, in whatever order they come.
    held_out = pd.DataFrame({"user_id": "ann", "item_id": ["c", "b"], "timestamp": [9, 5]})
    (value,) = evaluate(model, held_out, "recall", k=2, average=False)["recall_at_2"]
    assert value == 1


def test_an_unknown_item_held_out_twice_counts_once(model):
    held_out = pd.DataFrame({"user_id": [3, 3, 3], "item_id": [7777, 7777, 8888], "timestamp": 99})
    table = evaluate(model, held_out, "recall", average=False)
    assert table["n_relevant"].tolist() == [2]
    assert table["n_unknown_items"].tolist() == [2]
    [item] = model.predict(held_out[:1], k=1)[0].tolist()
    held_out.loc[2, "item_id"] = item
    assert model.score(held_out) == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_held_out_items_of_a_catalogue_without_events_are_counted():
    train = pd.DataFrame({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]})
    held_out = train.assign(item_id=["c", "b", "x"], timestamp=9)
    catalogue = pd.DataFrame({"item_id": ["a", "b", "c"]})
    for items in (None, catalogue):
        model = PopularityRetriever().fit(train, items=items)
        assert evaluate(model, held_out, "recall")["n_unknown_items"].tolist() == [2]
        rows = evaluate(model, held_out, "recall", average=False)
        assert rows["n_unknown_items"].tolist() == [1, 1]


def test_a_plain_pipeline_of_scikit_learn_scores_alike():
    train, test = split()
    ours = MODELS["dssm"].fit(train)
    theirs = make_pipeline(MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL)).fit(train)
    assert theirs.score(test) == ours.score(test)
    with config_context(enable_metadata_routing=True):
        assert theirs.score(test, exclude_seen=False) == ours.score(test, exclude_seen=False)


def test_gains_weigh_the_held_out_events():
    events = pd.DataFrame({"user_id": [1, 2, 2, 3], "item_id": ["a", "a", "b", "c"]})
    model = PopularityRetriever(exclude_seen=False).fit(events)  # a, then b, then c
    held_out = pd.DataFrame({"user_id": 9, "item_id": ["b", "c", "b"], "stars": [1, 4, 2]})
    ideal = 4 + 2 / np.log2(3)
    expected = (2 / np.log2(3) + 4 / 2) / ideal
    assert model.score(held_out, gain="stars") == pytest.approx(expected)
    scorer = make_topk_scorer(["ndcg", "recall"], k=2, gain="stars")
    assert scorer(model, held_out) == pytest.approx(
        {"ndcg_at_2": (2 / np.log2(3)) / ideal, "recall_at_2": 1 / 2}
    )
    assert eval(repr(scorer)).gain == "stars"
    for wrong, message in (
        ([1, -1, 2], r"'stars'.* -1"),
        ([1, None, 2], r"'stars'.* nan"),
        ([0, 0, 0], r"user 9 has no gain above 0 in the column 'stars' \(1 such"),
    ):
        with pytest.raises(ValueError, match=message):
            model.score(held_out.assign(stars=wrong), gain="stars")
    with pytest.raises(ValueError, match="column 'sars' is missing"):
        model.score(held_out, gain="sars")
    with pytest.raises(ValueError, match=r"gain='stars' has no effect on \['recall'\]"):
        make_topk_scorer("recall", gain="stars")
    with pytest.raises(ValueError, match=r"gain='stars' names a column, and X holds Samples"):
        model.score(SequenceSampler().fit_transform(events), gain="stars")


@pytest.mark.filterwarnings("ignore:Ignored 2 id")
def test_ids_of_another_dtype_warn(model):
    _, test = split()
    with pytest.warns(UserWarning, match=r"'item_id' holds '.*', and fit got .* Convert it to int"):
        assert evaluate(model, test.astype({"item_id": str}))["value"].eq(0).all()
    with pytest.warns(UserWarning, match=r"'user_id' holds '.*', and fit got"):
        model.score(test.astype({"user_id": str}))
    with pytest.warns(UserWarning, match=r"'candidates' holds '0', and fit got 0"):
        model.predict(test[:3], candidates=["0", "2"])


def test_features_of_another_dtype_warn():
    encoder = MatchEncoder(user_features=["rating", "tags"])
    events = EVENTS.assign(tags=[[rating, 9] for rating in EVENTS["rating"]])
    encoder.fit(events)
    with pytest.warns(UserWarning, match=r"'rating' holds '.', and fit got"):
        encoder.transform(events.astype({"rating": str}))
    with pytest.warns(UserWarning, match=r"'tags' holds '.', and fit got"):
        encoder.transform(events.assign(tags=[[str(rating)] for rating in events["rating"]]))


def test_a_history_among_the_held_out_events_is_dropped(model):
    _, test = split()
    with_history = test.assign(history=[[0, 1]] * len(test))
    assert four_figures(model, with_history) == four_figures(model, test)
