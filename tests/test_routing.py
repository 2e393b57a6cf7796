"""Metadata on its way to the step that asks for it, with scikit-learn's routing on and off."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

SMALL = {"embedding_dim": 8, "dims": (8,), "max_epochs": 2, "random_state": 0, "batch_size": 256}
EVENTS = make_events(n_users=40, n_items=30, n_events=600, random_state=0)
WEIGHT = np.random.default_rng(0).uniform(0.5, 2, len(EVENTS))
ITEMS = pd.DataFrame({"item_id": [999, *EVENTS["item_id"].unique()]}).assign(colour="red")
USERS = pd.DataFrame({"user_id": [999], "city": ["Oslo"]})

both = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
every_class = pytest.mark.parametrize(
    "cls", [DSSMRetriever, YoutubeDNNRetriever, PopularityRetriever]
)
every_pipeline = pytest.mark.parametrize("make", [make_pipeline, make_match_pipeline])


def make_retriever(cls):
    return cls() if cls is PopularityRetriever else cls(**SMALL)


@pytest.fixture(params=[False, True], ids=["prefixes", "routing"])
def routing(request):
    with config_context(enable_metadata_routing=request.param):
        yield request.param


def prefixed(pipe, step, metadata, routing):
    name = pipe.steps[step][0]
    return metadata if routing else {f"{name}__{key}": value for key, value in metadata.items()}


@every_class
@every_pipeline
def test_tables_reach_the_encoder(cls, make, routing):
    encoder = MatchEncoder(user_features=["city"], item_features=["colour"])
    pipe = make(encoder, SequenceSampler(), make_retriever(cls))
    pipe.fit(EVENTS, **prefixed(pipe, 0, {"users": USERS, "items": ITEMS}, routing))
    schema = pipe[-1].schema_
    assert 999 in schema.users.values
    assert 999 in schema.items.values
    assert [feature.name for feature in schema.item_features] == ["colour"]


@every_class
def test_ids_of_tables_reach_a_lone_retriever(cls, routing):
    retriever = make_retriever(cls).fit(EVENTS, users=USERS[["user_id"]], items=ITEMS[["item_id"]])
    assert 999 in retriever.schema_.users.values
    assert 999 in retriever.item_ids_


@every_class
@every_pipeline
def test_weights_reach_the_retriever(cls, make, routing):
    retriever = make_retriever(cls)
    if routing:
        retriever.set_fit_request(sample_weight=True)
    pipe = make(MatchEncoder(), SequenceSampler(), retriever)
    pipe.fit(EVENTS, **prefixed(pipe, 2, {"sample_weight": WEIGHT}, routing))
    expected = make_retriever(cls).fit(EVENTS, sample_weight=WEIGHT)
    np.testing.assert_array_equal(pipe[-1].item_vectors_, expected.item_vectors_)
    plain = make_retriever(cls).fit(EVENTS)
    assert not np.array_equal(pipe[-1].item_vectors_, plain.item_vectors_)


@every_class
@every_pipeline
def test_k_reaches_predict(cls, make, routing):
    pipe = make(MatchEncoder(), SequenceSampler(), make_retriever(cls)).fit(EVENTS)
    assert pipe.predict(EVENTS[:3], k=4).shape == (3, 4)
    search = GridSearchCV(pipe, {}, cv=LeaveLastOut(), scoring=make_topk_scorer("ndcg", k=4))
    best = search.fit(EVENTS).best_estimator_
    assert best.predict(EVENTS[:3], k=4).shape == (3, 4)


@both
def test_weights_go_through_searches_where_routing_is_on(cls):
    scorer = make_topk_scorer("ndcg", k=10)
    with config_context(enable_metadata_routing=True):
        retriever = make_retriever(cls).set_fit_request(sample_weight=True)
        pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever)
        weights = {"sample_weight": WEIGHT}
        grid = {"sequencesampler__neg_ratio": [1, 3]}
        search = GridSearchCV(pipe, grid, cv=LeaveLastOut(), scoring=scorer)
        search.fit(EVENTS, **weights)
        again = cross_validate(
            pipe, EVENTS, cv=LeaveLastOut(), scoring=scorer, params=weights, return_estimator=True
        )
    # A fold's events keep their own weights.
    train, test = next(LeaveLastOut().split(EVENTS))
    fold = make_retriever(cls).fit(EVENTS.iloc[train], sample_weight=WEIGHT[train])
    np.testing.assert_array_equal(again["estimator"][0][-1].item_vectors_, fold.item_vectors_)
    assert again["test_score"][0] == scorer(fold, EVENTS.iloc[test])
    # The default neg_ratio of 3 is the grid's second candidate, and what is refitted has all.
    assert search.cv_results_["mean_test_score"][1] == again["test_score"][0]
    sampler = SequenceSampler(neg_ratio=search.best_params_["sequencesampler__neg_ratio"])
    best = make_retriever(cls).fit(sampler.fit_transform(EVENTS), sample_weight=WEIGHT)
    refitted = search.best_estimator_[-1].item_vectors_
    np.testing.assert_array_equal(refitted, best.item_vectors_)


@both
def test_weights_go_through_searches_by_prefix(cls):
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), make_retriever(cls))
    search = GridSearchCV(pipe, {}, cv=LeaveLastOut(), scoring=make_topk_scorer("ndcg", k=10))
    search.fit(EVENTS, **{f"{pipe.steps[-1][0]}__sample_weight": WEIGHT})
    expected = make_retriever(cls).fit(EVENTS, sample_weight=WEIGHT)
    vectors = search.best_estimator_[-1].item_vectors_
    np.testing.assert_array_equal(vectors, expected.item_vectors_)


def test_metadata_that_nobody_asked_for_is_an_error():
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever())
    with config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            pipe.fit(EVENTS, sample_weight=WEIGHT)
        with pytest.raises(TypeError, match="colours"):
            pipe.fit(EVENTS, colours=ITEMS)
    with pytest.raises(ValueError, match=r"does not accept the colours parameter.*stepname__"):
        pipe.fit(EVENTS, colours=ITEMS)


@every_class
def test_metadata_without_its_step_is_an_error_that_names_the_step(cls):
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), make_retriever(cls))
    last = pipe.steps[-1][0]
    with pytest.raises(ValueError, match=f"pass it as {last}__sample_weight"):
        pipe.fit(EVENTS, sample_weight=WEIGHT)
    for name, table in {"users": USERS, "items": ITEMS}.items():
        with pytest.raises(ValueError, match=f"pass it as matchencoder__{name}, or use metadata"):
            pipe.fit(EVENTS, **{name: table})


# What weights do

LOSSES = pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
NEGATIVES = pytest.mark.parametrize("negatives", ["uniform", "in_batch", "all"])


def fit(cls, loss, negatives, weight=None, **parameters):
    pipe = Pipeline(
        [
            ("encode", MatchEncoder()),
            ("sample", SequenceSampler(negatives=negatives)),
            ("retrieve", cls(**SMALL | parameters, loss=loss)),
        ]
    )
    return pipe.fit(EVENTS, retrieve__sample_weight=weight)[-1]


@both
@LOSSES
@NEGATIVES
def test_only_the_proportions_of_weights_count(cls, loss, negatives):
    plain = fit(cls, loss, negatives, WEIGHT)
    doubled = fit(cls, loss, negatives, 2 * WEIGHT)
    np.testing.assert_array_equal(doubled.item_vectors_, plain.item_vectors_)
    assert doubled.loss_curve_ == plain.loss_curve_
    ones = fit(cls, loss, negatives, np.ones(len(EVENTS)))
    np.testing.assert_array_equal(ones.item_vectors_, fit(cls, loss, negatives).item_vectors_)


@both
@LOSSES
def test_an_event_of_weight_zero_is_no_target(cls, loss):
    samples = SequenceSampler(negatives="uniform").fit_transform(EVENTS)
    weight = np.where(np.arange(len(EVENTS)) % 3 == 0, 0.0, 1.0)
    weighted = cls(**SMALL, loss=loss).fit(samples, sample_weight=weight)
    without = cls(**SMALL, loss=loss).fit(samples[weight > 0])
    np.testing.assert_array_equal(weighted.item_vectors_, without.item_vectors_)
    assert weighted.loss_curve_ == without.loss_curve_


@both
@LOSSES
def test_heavy_events_draw_their_item_up(cls, loss):
    item = EVENTS["item_id"].value_counts().index[-1]
    is_rare = (EVENTS["item_id"] == item).to_numpy()
    ranks = []
    for weight in (None, np.where(is_rare, 200.0, 1.0)):
        model = fit(cls, loss, "uniform", weight, max_epochs=10)
        samples = SequenceSampler().fit_transform(MatchEncoder().fit_transform(EVENTS))
        answer = model.recommend(samples, k=30, exclude_seen=False)
        ranks.append(answer.loc[answer["item_id"] == item, "rank"].mean())
    assert ranks[1] < ranks[0]
