"""scikit-learn transformers as kinds of features: vectors of texts and of anything."""

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.persistence import TRUSTED_TYPES

WORDS = ["red shoe", "blue shoe", "red hat", "green hat", "blue coat", "green coat"]
EVENTS = pd.DataFrame(
    {
        "user_id": np.repeat(["ann", "bob", "eve"], 4),
        "item_id": [1, 2, 3, 4, 2, 3, 4, 1, 4, 3, 1, 2],
        "timestamp": range(12),
    }
)
ITEMS = pd.DataFrame({"item_id": range(1, 7), "title": WORDS})
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 1, "random_state": 0}


class Counter(TransformerMixin, BaseEstimator):
    """Return the number of letters and of words; remember the values of fit."""

    def fit(self, X, y=None):
        self.values_ = X.tolist()
        return self

    def transform(self, X):
        return np.array([[len(text), len(text.split())] for text in X], dtype=float)


def text(dim=2):
    return make_pipeline(TfidfVectorizer(), TruncatedSVD(dim, random_state=0))


def make_pipe(kind):
    encoder = MatchEncoder(item_features=["title"], kinds={"title": kind})
    return make_match_pipeline(encoder, SequenceSampler(), DSSMRetriever(**SMALL))


def test_vectors_are_those_of_a_transformer_fitted_on_the_distinct_values():
    kind = Counter()
    items = pd.concat([ITEMS, pd.DataFrame({"item_id": [7, 8], "title": ["red shoe", None]})])
    encoder = MatchEncoder(item_features=["title"], kinds={"title": kind}).fit(EVENTS, items=items)
    (feature,) = encoder.schema_.item_features
    assert (feature.kind, feature.size) == ("vector", 2)
    assert feature.transformer.values_ == WORDS
    assert not hasattr(kind, "values_")
    values = encoder.schema_.item_values("title").set_axis(encoder.schema_.items.values)
    np.testing.assert_allclose(values[5], [9, 2], atol=1e-5)
    np.testing.assert_allclose(values[7], values[1])
    assert np.isnan(values[8]).all()


@pytest.mark.parametrize("in_parquet", [False, True])
def test_values_of_events_are_transformed(in_parquet, tmp_path):
    events = EVENTS.merge(ITEMS, on="item_id")
    source = events
    if in_parquet:
        source = tmp_path / "events.parquet"
        events.to_parquet(source)
    for side in ("user", "item"):
        encoder = MatchEncoder(**{f"{side}_features": ["title"]}, kinds={"title": Counter()})
        encoder.fit(source)
        (feature,) = encoder.schema_.user_features + encoder.schema_.item_features
        assert sorted(feature.transformer.values_) == sorted(WORDS[:4])
    rows = MatchEncoder(user_features=["title"], kinds={"title": Counter()}).fit_transform(source)
    (feature,) = rows.schema.user_features
    lengths = rows.features["title"] * feature.scale + feature.mean
    np.testing.assert_allclose(lengths[:, 0], events["title"].str.len(), atol=1e-5)


def test_a_query_brings_a_text_of_its_own():
    events = EVENTS.assign(search="shoe")
    events.loc[::2, "search"] = "a red hat"
    encoder = MatchEncoder(user_features=["search"], kinds={"search": Counter()}).fit(events)
    queries = pd.DataFrame({"user_id": ["ann", "new"], "search": ["never seen before", None]})
    rows = encoder.transform(queries)
    (feature,) = rows.schema.user_features
    lengths = rows.features["search"] * feature.scale + feature.mean
    np.testing.assert_allclose(lengths, [[17, 3], [np.nan, np.nan]], atol=1e-5)


def test_new_items_are_read_by_the_fitted_transformer():
    pipe = make_pipe(text()).fit(EVENTS, matchencoder__items=ITEMS[:4])
    pipe.add_items(ITEMS[4:])
    values = pipe.schema_.item_values("title")
    expected = pipe.schema_.item_features[0].transformer.transform(WORDS)
    np.testing.assert_allclose(np.stack(values), expected, atol=1e-6)
    assert np.isfinite(pipe[-1].item_vectors_).all()


def test_searches_clone_and_replace_transformers():
    pipe = make_pipe(text())
    assert clone(pipe)[0].kinds["title"] is not pipe[0].kinds["title"]
    grid = {"matchencoder__kinds": [{"title": text(2)}, {"title": text(3)}]}
    events = EVENTS.merge(ITEMS, on="item_id").sort_values("timestamp")
    search = GridSearchCV(pipe, grid, scoring=make_topk_scorer("ndcg", k=2), cv=LeaveLastOut())
    best = search.fit(events).best_estimator_
    size = search.best_params_["matchencoder__kinds"]["title"][-1].n_components
    assert best.schema_.item_features[0].size == size


def test_a_fitted_transformer_is_saved(tmp_path):
    pipe = make_pipe(text()).fit(EVENTS, matchencoder__items=ITEMS)
    joblib.dump(pipe, tmp_path / "pipe.joblib")
    skops.io.dump(pipe, tmp_path / "pipe.skops")
    unknown = skops.io.get_untrusted_types(file=tmp_path / "pipe.skops")
    loaded = [
        joblib.load(tmp_path / "pipe.joblib"),
        skops.io.load(tmp_path / "pipe.skops", trusted=TRUSTED_TYPES),
    ]
    assert set(unknown) <= set(TRUSTED_TYPES)
    new = pd.DataFrame({"item_id": [9], "title": ["green shoe"]})
    vectors = [one.add_items(new)[-1].item_vectors_ for one in (pipe, *loaded)]
    np.testing.assert_array_equal(vectors[1], vectors[0])
    np.testing.assert_array_equal(vectors[2], vectors[0])


class Flat(Counter):
    def transform(self, X):
        return np.zeros(len(X))


class Single(Counter):
    def transform(self, X):
        return np.zeros((1, 2))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TfidfVectorizer(), r"sparse matrix of 6 columns: reduce it, .*TruncatedSVD"),
        (
            StandardScaler(),
            r"transformer of the feature 'title' cannot be fitted on the Series of its 6 distinct "
            r"values, such as 'red shoe'.*reads a Series",
        ),
        (Single(), r"of the feature 'title' returns an array of shape \(1, 2\) for 6 values"),
        (Flat(), r"of shape \(1,\) for 1 values: it must return one vector"),
        (Counter, r"kinds\['title'\] is .*or a transformer that makes vectors"),
    ],
)
def test_what_makes_no_vectors_is_an_error(kind, message):
    with pytest.raises(ValueError, match=message):
        make_pipe(kind).fit(EVENTS, matchencoder__items=ITEMS)
