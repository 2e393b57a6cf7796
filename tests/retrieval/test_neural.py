"""What the neural retrievers learn, and what they refuse."""

import tracemalloc
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_topk_scorer,
)
from skmatch._nn.pooling import POOLINGS
from skmatch._nn.training import PRECISIONS, Trainer
from skmatch.datasets import make_events
from skmatch.retrieval import _trend
from skmatch.retrieval._neural_fit import make_options

EVENTS = make_events(n_users=80, n_items=60, n_events=2500, random_state=1)
SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 256, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])


@BOTH
def test_learns_more_than_popularity(cls):
    train, test = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))
    scorer = make_topk_scorer("ndcg", k=10)
    learned = cls(max_epochs=15, batch_size=256, random_state=0).fit(train)
    assert scorer(learned, test) > 1.3 * scorer(PopularityRetriever().fit(train), test)


@BOTH
def test_bfloat16_learns_as_much_as_float32(cls):
    train, test = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))
    scorer = make_topk_scorer("ndcg", k=10)
    exact, close = (
        cls(max_epochs=6, batch_size=256, random_state=0, precision=precision).fit(train)
        for precision in PRECISIONS
    )
    assert close.loss_curve_ != exact.loss_curve_
    assert close.loss_curve_ == pytest.approx(exact.loss_curve_, rel=0.02)
    assert scorer(close, test) == pytest.approx(scorer(exact, test), rel=0.1)
    assert {weight.dtype for weight in close.weights_.values()} == {np.dtype(np.float32)}
    assert close.item_vectors_.dtype == close.transform(test).dtype == np.float32


def test_precision_is_searched_over():
    search = GridSearchCV(
        DSSMRetriever(**SMALL),
        {"precision": PRECISIONS},
        cv=LeaveLastOut(),
        scoring=make_topk_scorer("ndcg", k=10),
        error_score="raise",
    ).fit(EVENTS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@BOTH
@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity", "log", "zipf", "in_batch", "all"])
def test_every_loss_takes_every_way_of_drawing(cls, loss, negatives):
    samples = SequenceSampler(max_length=5, negatives=negatives).fit_transform(EVENTS)
    curve = cls(**SMALL, loss=loss).fit(samples).loss_curve_
    assert np.isfinite(curve).all()
    assert curve[1] < curve[0]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ["relu", "prelu", "gelu", "tanh"])
def test_every_pooling_and_activation(pooling, activation):
    fitted = DSSMRetriever(**SMALL, pooling=pooling, activation=activation, batch_norm=True)
    vectors = fitted.fit(EVENTS).transform(EVENTS[:3])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("n_rows", "expected"),
    [(10, 64), (40_000, 100), (100_004, 250), (10**6, 512), (2 * 10**6, 1000), (10**7, 2048)],
)
def test_auto_makes_400_to_2000_steps_of_an_epoch_within_bounds(n_rows, expected):
    assert make_options(DSSMRetriever(), n_rows).batch_size == expected
    assert make_options(DSSMRetriever(batch_size=7), n_rows).batch_size == 7


def test_auto_is_the_size_that_it_stands_for():
    by_name, by_size = (
        DSSMRetriever(**SMALL | {"batch_size": size}).fit(EVENTS) for size in ("auto", 64)
    )
    assert by_name.loss_curve_ == by_size.loss_curve_


def test_early_stopping_keeps_the_best_weights():
    retriever = DSSMRetriever(
        **{**SMALL, "max_epochs": 30}, early_stopping=True, n_iter_no_change=2,
        validation_fraction=0.5, lr=0.05,
    ).fit(EVENTS)  # fmt: skip
    curve = retriever.validation_curve_
    assert len(curve) == retriever.n_iter_ < 30
    assert retriever.n_iter_ == int(np.argmax(curve)) + 3


def test_warm_start_continues():
    retriever = DSSMRetriever(**SMALL, warm_start=True).fit(EVENTS)
    first = list(retriever.loss_curve_)
    retriever.fit(EVENTS)
    assert retriever.n_iter_ == 4
    assert retriever.loss_curve_[:2] == first
    assert retriever.loss_curve_[2] < first[0]
    with pytest.raises(ValueError, match="warm_start=False"):
        retriever.fit(EVENTS[EVENTS["item_id"] != EVENTS["item_id"][0]])


def test_an_event_without_weight_is_no_target():
    item = EVENTS["item_id"].mode()[0]
    weight = (EVENTS["item_id"] != item).to_numpy(float)
    queries = EVENTS[["user_id"]].drop_duplicates()
    ranks = []
    for sample_weight in (None, weight):
        answer = YoutubeDNNRetriever(**SMALL | {"max_epochs": 10})
        answer.fit(EVENTS, sample_weight=sample_weight)
        table = answer.recommend(queries, k=60, exclude_seen=False)
        ranks.append(table.loc[table["item_id"] == item, "rank"].mean())
    assert ranks[1] > ranks[0]


def test_a_history_in_the_query_replaces_the_stored_one():
    retriever = DSSMRetriever(**SMALL).fit(EVENTS)
    items = EVENTS["item_id"].unique()[:3].tolist()
    queries = pd.DataFrame({"user_id": [-1, -1], "history": [items, items[::-1]]})
    answer = retriever.recommend(queries, k=60)
    assert not set(answer["item_id"]) & set(items)
    assert not np.allclose(*retriever.transform(queries))


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_grid_search_in_a_plain_pipeline_outlives_a_diverging_candidate():
    pipe = make_pipeline(MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL))
    grid = {
        "sequencesampler__neg_ratio": [1, 3],
        "dssmretriever__temperature": [0.05, 1e-40],
        "dssmretriever__dims": [(8,), (16, 8)],
    }
    scorer = make_topk_scorer(["recall", "ndcg"], k=[5, 10])
    search = GridSearchCV(pipe, grid, cv=LeaveLastOut(), scoring=scorer, refit="ndcg_at_10")
    with pytest.warns(FitFailedWarning, match="diverged"):
        search.fit(EVENTS)
    scores = pd.DataFrame(search.cv_results_).groupby("param_dssmretriever__temperature")[
        "mean_test_ndcg_at_10"
    ]
    assert scores.count().to_dict() == {1e-40: 0, 0.05: 4}
    assert search.best_estimator_.predict(EVENTS[:2]).shape == (2, 10)


@BOTH
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "hinge"}, "loss='hinge'.*'softmax'"),
        ({"pooling": "median"}, "pooling='median'.*'decay'"),
        ({"activation": "selu"}, "activation='selu'.*'gelu'"),
        ({"index": "annoy"}, "index='annoy'.*'exact'"),
        ({"device": "abacus"}, "device='abacus'.*auto"),
        ({"temperature": 0}, "'temperature'.*0"),
        ({"dims": ()}, "dims=.*at least one layer"),
        ({"dims": (8, 0)}, r"dims=\(8, 0\)"),
        ({"k": 0}, "'k'.*0"),
    ],
)
def test_bad_parameters(cls, parameters, message):
    with pytest.raises(ValueError, match=message):
        cls(**{**SMALL, **parameters}).fit(EVENTS)


@BOTH
@pytest.mark.parametrize(
    ("events", "message"),
    [
        (EVENTS.drop(columns="user_id"), "user column 'user_id' is missing"),
        (EVENTS.drop(columns="item_id"), "item column 'item_id' is missing"),
        (EVENTS[:0], "0 sample"),
        (EVENTS.assign(item_id=1), "item_id.*single item"),
        (EVENTS.assign(user_id=EVENTS["user_id"].where(EVENTS.index > 2)), "user_id.*missing"),
        (EVENTS.assign(item_id=EVENTS["item_id"].where(EVENTS.index > 2)), "item_id.*missing"),
        (EVENTS.assign(timestamp="noon"), "timestamp.*noon.*to_datetime"),
        (pd.concat([EVENTS, EVENTS[["item_id"]]], axis=1), "'item_id' occurs more than once"),
    ],
)
def test_bad_events(cls, events, message):
    with pytest.raises(ValueError, match=message):
        cls(**SMALL).fit(events)


@BOTH
def test_a_diverging_fit_leaves_the_last_one_whole(cls):
    retriever = cls(**SMALL).fit(EVENTS)
    before = retriever.predict(EVENTS[:5])
    retriever.set_params(temperature=1e-40)
    with pytest.raises(FloatingPointError, match=r"lr=.*temperature="):
        retriever.fit(EVENTS)
    np.testing.assert_array_equal(retriever.predict(EVENTS[:5]), before)
    assert clone(retriever).temperature == 1e-40


def test_bad_calls():
    retriever = DSSMRetriever(**SMALL).fit(EVENTS)
    with pytest.raises(ValueError, match="k=0 must be"):
        retriever.recommend(k=0)
    with pytest.raises(ValueError, match="-7 is not in the catalogue"):
        retriever.similar_items([-7])
    samples = SequenceSampler().fit_transform(EVENTS)
    with pytest.raises(ValueError, match=r"fitted on Samples.*make_match_pipeline"):
        DSSMRetriever(**SMALL).fit(samples).predict(EVENTS)


@pytest.mark.filterwarnings("error")
def test_a_full_softmax_that_cannot_scale_is_told(monkeypatch):
    samples = SequenceSampler(negatives="all").fit_transform(EVENTS)
    DSSMRetriever(**SMALL).fit(samples)
    monkeypatch.setattr("skmatch.retrieval._neural_fit.FULL_SOFTMAX_BYTES", 1000)
    n_items = EVENTS["item_id"].nunique()
    with pytest.warns(UserWarning, match=rf"64 rows against {n_items} items .* 0\.0 GiB"):
        DSSMRetriever(**SMALL | {"batch_size": "auto"}).fit(samples)
    DSSMRetriever(**SMALL).fit(SequenceSampler().fit_transform(EVENTS))


# What a fit holds


@contextmanager
def counting_bytes(peaks):
    """Append the peak of what Python and numpy hold for the block."""
    tracemalloc.start()
    yield
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()


def test_bytes_of_an_event(monkeypatch):
    # An epoch takes the same for any number of events, and torch, which does, is not counted.
    monkeypatch.setattr(_trend, "BLOCK_ROWS", 10_000)  # events that are counted at a time
    monkeypatch.setattr(Trainer, "run_epoch", lambda trainer: 0.0)
    encoder, sampler = MatchEncoder(), SequenceSampler()
    DSSMRetriever(**SMALL).fit(sampler.fit_transform(encoder.fit_transform(EVENTS)))  # loads code
    prepared, fitted = [], []
    n_events = (50_000, 150_000)
    for n in n_events:
        events = make_events(n_users=50, n_items=60, n_events=n, random_state=0)
        with counting_bytes(prepared):
            samples = sampler.fit_transform(encoder.fit_transform(events))
        with counting_bytes(fitted):
            DSSMRetriever(**SMALL).fit(samples)
    # Of these 32 stay: codes of user and item, three indices, the item in the log, and where the
    # visit of each event began, in the log and in the rows.
    for peaks, most in ((prepared, 90), (fitted, 60)):
        assert (peaks[1] - peaks[0]) / (n_events[1] - n_events[0]) < most


@BOTH
def test_a_fitted_one_serves_from_the_weights_that_it_shows(cls):
    retriever = cls(**SMALL).fit(EVENTS)
    for fitted in (retriever, retriever.partial_fit(EVENTS[:50])):
        served = fitted._serving_engine().weights(copy=False)
        assert all(np.shares_memory(fitted.weights_[name], own) for name, own in served.items())


def test_training_on_leaves_the_weights_of_before():
    retriever = DSSMRetriever(**SMALL, warm_start=True).fit(EVENTS)
    weights = retriever.weights_
    before = {name: value.copy() for name, value in weights.items()}
    retriever.fit(EVENTS)
    retriever.partial_fit(EVENTS[:50])
    for name, value in before.items():
        np.testing.assert_array_equal(weights[name], value)
