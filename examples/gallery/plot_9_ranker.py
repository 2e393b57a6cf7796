"""
A ranker after the retriever
============================

Retrieval narrows thousands of items down to a hundred; a ranker looks at each of these closely and
orders them. Both are plain pipelines of scikit-learn here.
"""

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skmatch import LeaveLastOut, MatchEncoder, SequenceSampler, YoutubeDNNRetriever
from skmatch.datasets import load_movielens_small
from skmatch.metrics import ndcg_at_k

events = load_movielens_small()
year = events.drop_duplicates("item_id").set_index("item_id")["year"]
folds = list(LeaveLastOut(n_last=5, n_splits=2).split(events))


def features(candidates, past):
    """Describe each candidate, by what is known in the past only."""
    ratings = past.groupby("item_id")["rating"].agg(["size", "mean"])
    return candidates.join(ratings, on="item_id")[["place", "year", "size", "mean"]]


def retrieve(fold):
    """Return a fold's candidates, which of them came true, its past and its future."""
    past, future = (events.iloc[rows] for rows in fold)
    retriever = YoutubeDNNRetriever(max_epochs=3, random_state=0)
    stage = make_pipeline(MatchEncoder(), SequenceSampler(), retriever).fit(past)
    users = future[["user_id"]].drop_duplicates()
    table = pd.DataFrame(stage.predict(users, k=100), index=users["user_id"]).stack()
    table = table.rename_axis(["user_id", "place"]).rename("item_id").reset_index()
    table["year"] = table["item_id"].map(year)
    came = table.merge(future, on=["user_id", "item_id"], how="left")["rating"].notna()
    return table, came.to_numpy(), past, future


# %%
# The ranker learns from the earlier fold which candidates came true, and is judged on the later.

candidates, came_true, past, _ = retrieve(folds[0])
ranker = make_pipeline(
    FunctionTransformer(features, kw_args={"past": past}),
    HistGradientBoostingClassifier(max_iter=40, learning_rate=0.05, random_state=0),
).fit(candidates, came_true)

later, _, past, future = retrieve(folds[1])
ranker.set_params(functiontransformer__kw_args={"past": past})
later["chance"] = ranker.predict_proba(later)[:, 1]
truth = future.groupby("user_id", sort=False)["item_id"].agg(list)
for order, ascending in (("place", True), ("chance", False)):
    ranked = later.sort_values(order, ascending=ascending, kind="stable")
    lists = ranked.groupby("user_id")["item_id"].agg(list).loc[truth.index]
    print(f"by {order}: ndcg@10 = {ndcg_at_k(truth.tolist(), lists.tolist(), k=10):.4f}")
