"""Results of duckdb, in each form that it offers, are read as the same events."""

import narwhals as nw
import pandas as pd
import pytest

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, evaluate, make_match_pipeline
from skmatch.datasets import make_events

duckdb = pytest.importorskip("duckdb")

EVENTS = make_events(n_users=30, n_items=20, n_events=300, random_state=0)[
    ["user_id", "item_id", "timestamp", "age"]
]
FORMS = {
    "relation": lambda relation: relation,
    "pandas": lambda relation: relation.df(),
    "polars": lambda relation: relation.pl(),
    "arrow": lambda relation: relation.arrow(),
    "arrow table": lambda relation: relation.to_arrow_table(),
}


@pytest.mark.parametrize("form", FORMS)
def test_events_queries_and_tables(form):
    def result(sql):
        return FORMS[form](connection.cursor().sql(sql))  # one open result each

    connection = duckdb.connect()
    connection.from_df(EVENTS).create("events")
    encoder = MatchEncoder(user_features=["age"])
    retriever = DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1, random_state=0)
    pipe = make_match_pipeline(encoder, SequenceSampler(), retriever)
    expected = pipe.fit(EVENTS).recommend(EVENTS[:5], k=3)
    score = evaluate(pipe, EVENTS, "recall", k=5)
    pipe.fit(result("from events"))
    found = nw.from_native(pipe.recommend(result("from events limit 5"), k=3)).to_pandas()
    assert len(found.columns) == len(expected.columns)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    pd.testing.assert_frame_equal(evaluate(pipe, result("from events"), "recall", k=5), score)
    retriever.fit(result("from events"))
    ages = "select user_id, any_value(age) as age from events group by user_id"
    encoder.fit(result("select * exclude (age) from events"), users=result(ages))
