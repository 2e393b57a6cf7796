"""What holds for every table of events."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skmatch import DSSMRetriever, PopularityRetriever

USERS, ITEMS = st.sampled_from(["ann", "bob", "cyd", "dee"]), st.integers(0, 6)
TABLES = st.lists(st.tuples(USERS, ITEMS, st.integers(0, 3)), min_size=1, max_size=20)


def check_answers(retriever, rows, item_dtype, k):
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events["item_id"] = events["item_id"].astype(item_dtype)
    retriever.fit(events)
    catalogue = set(events["item_id"])
    queries = [*events["user_id"].unique(), "nobody"]
    answer = retriever.recommend(queries, k=k)
    assert answer["item_id"].dtype == events["item_id"].dtype
    assert np.isfinite(answer["score"]).all()
    for user in queries:
        own = answer[answer["user_id"] == user]
        unseen = catalogue - set(events.loc[events["user_id"] == user, "item_id"])
        assert own["item_id"].is_unique
        assert set(own["item_id"]) <= unseen
        assert own["rank"].tolist() == list(range(1, min(k, len(unseen)) + 1))
    ids = retriever.predict(pd.DataFrame({"user_id": queries}), k=k)
    assert ids.shape == (len(queries), min(k, len(catalogue)))
    assert list(ids[~pd.isna(ids)]) == list(answer["item_id"])


@pytest.mark.parametrize("item_dtype", ["int64", "str", "category", "Int64", "datetime64[ns]"])
@settings(max_examples=25, deadline=None)
@given(rows=TABLES, k=st.integers(1, 9))
def test_popularity_answers_any_table(item_dtype, rows, k):
    check_answers(PopularityRetriever(), rows, item_dtype, k)


@pytest.mark.filterwarnings("ignore:No event has min_history")
@settings(max_examples=25, deadline=None)
@given(
    rows=TABLES.filter(lambda rows: len({item for _, item, _ in rows}) > 1),
    k=st.integers(1, 9),
    loss=st.sampled_from(["bce", "bpr", "softmax"]),
)
def test_dssm_answers_any_table(rows, k, loss):
    retriever = DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1, random_state=0, loss=loss)
    check_answers(retriever, rows, "int64", k)
