"""Recommendations of all retrievers to queries of every kind."""

import numpy as np
import pandas as pd
import pytest

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
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=40, n_events=1500, random_state=0)
SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 256, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
ALL = pytest.mark.parametrize(
    ("retriever", "reads_features"),
    [
        (PopularityRetriever(), False),
        (ItemToItemRetriever(), False),
        (DSSMRetriever(**SMALL), True),
        (YoutubeDNNRetriever(**SMALL), True),
        (FusionRetriever([("a", DSSMRetriever(**SMALL)), ("b", ItemToItemRetriever())]), True),
        (FusionRetriever([("a", PopularityRetriever()), ("b", ItemToItemRetriever())]), False),
    ],
)


def test_popularity_counts_weights():
    events = pd.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "y"]})
    assert PopularityRetriever().fit(events).popularity_ == pytest.approx([1 / 3, 2 / 3])
    weighted = PopularityRetriever().fit(events, sample_weight=[3, 1, 0])
    assert weighted.popularity_ == pytest.approx([3 / 4, 1 / 4])
    assert weighted.recommend(["c"])["item_id"].tolist() == ["x", "y"]


@BOTH
def test_features_of_an_unknown_user_change_the_ranking(cls):
    pipe = make_match_pipeline(
        MatchEncoder(user_features=["segment", "age"]), SequenceSampler(), cls(**SMALL, trend=None)
    ).fit(EVENTS)
    first, second = EVENTS["segment"].cat.categories[:2]
    queries = pd.DataFrame({"user_id": [-1, -1, -1], "segment": [first, second, None]})
    rankings = pipe.recommend(queries, k=40)["item_id"].to_numpy().reshape(3, 40)
    assert (rankings[0] != rankings[1]).any()
    # Nothing is known of the last query, which gets popular items.
    counts = EVENTS["item_id"].value_counts()
    assert counts[rankings[2]].is_monotonic_decreasing


SOURCES = [
    # user, time, history, segment, age -> source
    (EVENTS["user_id"][0], None, None, None, None, "history"),
    (EVENTS["user_id"][0], -1e9, None, "segment_0", None, "features"),
    (EVENTS["user_id"][0], -1e9, None, None, None, "popularity"),  # nothing was known by then
    (EVENTS["user_id"][0], -1e9, [EVENTS["item_id"][0]], None, None, "history"),
    (-1, None, [EVENTS["item_id"][0]], None, None, "history"),
    (-1, None, [EVENTS["item_id"][0], "unknown"], "segment_0", None, "history"),
    (-1, None, ["unknown"], "segment_0", None, "features"),
    (-1, None, ["unknown"], None, None, "popularity"),
    (-1, None, [], None, 30.0, "features"),
    (-1, None, None, "unknown", None, "popularity"),
    (-1, None, None, None, None, "popularity"),
]


@ALL
def test_every_row_has_its_source(retriever, reads_features):
    pipe = make_match_pipeline(
        MatchEncoder(user_features=["segment", "age"]), SequenceSampler(), retriever
    )
    # Popular items are then those with the most events.
    pipe.set_params(**{name: None for name in pipe.get_params() if name.endswith("__trend")})
    pipe.fit(EVENTS)
    columns = ["user_id", "timestamp", "history", "segment", "age", "source"]
    queries = pd.DataFrame(SOURCES, columns=columns).astype({"timestamp": float, "age": float})
    expected = queries.pop("source").to_numpy()
    table = pipe.recommend(queries, k=3)
    assert len(table) == 3 * len(queries)
    by_query = table["source"].to_numpy().reshape(-1, 3)
    if isinstance(retriever, PopularityRetriever):
        expected[:] = "popularity"
    elif not reads_features:
        expected[expected == "features"] = "popularity"
    np.testing.assert_array_equal(by_query, np.broadcast_to(expected[:, None], by_query.shape))
    # A query does not depend on others; without known features it gets popular items.
    counts = EVENTS["item_id"].value_counts()
    for row, source in enumerate(expected):
        alone = pipe.recommend(queries[row : row + 1], k=3)
        beside = table[3 * row : 3 * row + 3].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, beside, atol=1e-6)  # scores are cosines
        if source == "popularity":
            assert counts[alone["item_id"]].is_monotonic_decreasing


@BOTH
def test_early_stopping_ends_with_the_weights_of_the_best_epoch(cls):
    pytest.importorskip("sklearn.callback", reason="scikit-learn is older than 1.9")
    vectors = []

    class Keep:
        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name == "epoch":
                vectors.append(fitted_estimator.item_vectors_)

    options = SMALL | {"max_epochs": 5, "lr": 0.05, "validation_fraction": 0.5}
    retriever = cls(**options, early_stopping=True).set_callbacks(Keep()).fit(EVENTS)
    best = int(np.argmax(retriever.validation_curve_))
    assert len(vectors) == 5
    np.testing.assert_array_equal(retriever.item_vectors_, vectors[best])


@pytest.mark.parametrize("users", ["ann", 5, {1, 2}, {1: 2}])
def test_a_single_user_that_is_not_in_a_list_raises(users):
    with pytest.raises(ValueError, match="pass a list"):
        PopularityRetriever().fit(EVENTS).recommend(users)


@BOTH
@pytest.mark.parametrize("dims", [(), (0,), ("a",), (8.0,), (True,)])
def test_layer_sizes_are_integers(cls, dims):
    with pytest.raises(ValueError, match=r"dims=.*at least one layer"):
        cls(**SMALL | {"dims": dims}).fit(EVENTS)


@BOTH
@pytest.mark.parametrize("lr", [1e10, 1e30])
@pytest.mark.parametrize("max_epochs", [1, 2])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_divergence_in_any_step_is_an_error(cls, lr, max_epochs, early_stopping):
    retriever = cls(**SMALL).fit(EVENTS)
    before = retriever.predict(EVENTS[:5])
    retriever.set_params(lr=lr, max_epochs=max_epochs, early_stopping=early_stopping)
    with pytest.raises(FloatingPointError, match=r"lr=.*temperature="):
        retriever.fit(EVENTS)
    np.testing.assert_array_equal(retriever.predict(EVENTS[:5]), before)
