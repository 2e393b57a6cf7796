"""scikit-learn's own transformers before a MatchEncoder."""

import pytest
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skmatch import (
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    evaluate,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=40, n_items=30, n_events=500, random_state=0)
SCALED = ColumnTransformer(
    [("age", StandardScaler(), ["age"])], remainder="passthrough", verbose_feature_names_out=False
).set_output(transform="pandas")


def double_age(X):
    return X.assign(age=2 * X["age"])


@pytest.mark.parametrize("first", [SCALED, FunctionTransformer(double_age)])
def test_they_evaluate_as_without_and_name_the_remedy_for_queries_without_their_columns(first):
    plain = make_match_pipeline(
        MatchEncoder(user_features=["age"]), SequenceSampler(), PopularityRetriever()
    )
    pipe = make_match_pipeline(first, *(step for _, step in plain.steps))
    options = {"cv": LeaveLastOut(2), "scoring": make_topk_scorer("recall", k=5)}
    expected = cross_val_score(plain, EVENTS, **options)
    assert cross_val_score(pipe, EVENTS, error_score="raise", **options).tolist() == (
        expected.tolist()
    )
    pipe.fit(EVENTS)
    assert len(evaluate(pipe, EVENTS[:50], "recall", k=5)) == 1
    assert len(pipe.recommend(EVENTS[:1], k=3)) == 3
    message = f"{type(first).__name__} cannot transform the queries .* all columns"
    with pytest.raises(ValueError, match=message):
        pipe.recommend([1], k=3)
