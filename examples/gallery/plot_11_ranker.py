"""
A ranker after the retriever
============================

Retrieval reduces thousands of movies to a hundred per user; a ranker orders these by further
features. It learns from the past which of the candidates were watched next.
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmatch import ItemToItemRetriever, LeaveLastOut, YoutubeDNNRetriever
from skmatch.datasets import load_movielens_small
from skmatch.metrics import ndcg_at_k

events = load_movielens_small()
year = events.drop_duplicates("item_id").set_index("item_id")["year"]


def candidates_of(past, users):
    """Return a hundred candidates per user, with features known from the past only."""
    table = ItemToItemRetriever().fit(past).recommend(users, k=100)
    network = YoutubeDNNRetriever(max_epochs=3, random_state=0).fit(past)
    table["cosine"] = network.score_pairs(table[["user_id", "item_id"]])["score"]
    rank = table.groupby("user_id")["cosine"].rank(ascending=False)
    table["ranks"] = 1 / (60 + table["rank"]) + 1 / (60 + rank)
    table["log_score"] = np.log(table["score"] + 1e-9)
    recent = past[past["timestamp"] > past["timestamp"].quantile(0.9)]
    for name, part in {"popularity": past, "popularity_now": recent}.items():
        counts = table["item_id"].map(part["item_id"].value_counts())
        table[name] = np.log1p(counts.fillna(0))
    table["rating"] = table["item_id"].map(past.groupby("item_id")["rating"].mean())
    usual = table["user_id"].map(past.groupby("user_id")["year"].mean())
    table["years_off"] = (table["item_id"].map(year) - usual).abs()
    return table.drop(columns=["rank", "source"]).fillna(0)


# %%
# Of each user's last ten ratings, the ranker is trained on the first five and tested on the others.

folds = [[events.iloc[rows] for rows in fold] for fold in LeaveLastOut(5, n_splits=2).split(events)]
earlier, later = (candidates_of(past, future["user_id"].unique()) for past, future in folds)
watched = pd.MultiIndex.from_frame(folds[0][1][["user_id", "item_id"]])
is_watched = pd.MultiIndex.from_frame(earlier[["user_id", "item_id"]]).isin(watched)
ranker = make_pipeline(StandardScaler(), LogisticRegression())
ranker.fit(earlier.iloc[:, 2:], is_watched)
later["ranker"] = ranker.predict_proba(later.iloc[:, 2:])[:, 1]

relevant, scores = folds[1][1].groupby("user_id")["item_id"].agg(list), {}
for by in ("score", "cosine", "ranker"):
    lists = later.sort_values(by, ascending=False).groupby("user_id")["item_id"].agg(list)
    scores[by] = ndcg_at_k(relevant.tolist(), lists[relevant.index].tolist(), k=10)
pd.Series(scores).plot.barh(xlabel="NDCG@10 of the hundred candidates, in the order of each score")
pd.Series(scores).round(4)
