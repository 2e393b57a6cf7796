"""
Which movies are ever shown?
============================

Accuracy says nothing about movies that are never recommended. The curves show which share of the
recommendations goes to the most popular movies (bestsellers); the grey one is that of the ratings.
"""

from skmatch import (
    ExposureDisplay,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    TradeOffDisplay,
    diversify,
    evaluate,
    make_match_pipeline,
)
from skmatch.datasets import load_movielens_small
from skmatch.metrics import compare, diversity_at_k

events = load_movielens_small()
train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
steps = MatchEncoder(item_features=["genres"], kinds={"genres": "multi_valued"}), SequenceSampler()
models = {
    "popularity": make_match_pipeline(*steps, PopularityRetriever()).fit(train),
    "item-to-item": make_match_pipeline(*steps, ItemToItemRetriever()).fit(train),
    "smoothed": make_match_pipeline(*steps, ItemToItemRetriever(smoothing=1000)).fit(train),
}
ExposureDisplay.from_estimator(models)

# %%
# Accuracy against coverage, the share of the catalogue that is recommended to anyone.

TradeOffDisplay.from_estimator(models, test)

# %%
# More metrics by groups of users, and whether two retrievers differ by more than chance.

names = ["ndcg", "novelty", "popularity_lift", "diversity", "gini"]
evaluate(models["item-to-item"], test, names, feature="genres", by="activity").round(3)

# %%
compare(models["item-to-item"], models["popularity"], test, ["ndcg", "novelty"]).round(3)

# %%
# More diverse lists: ten movies chosen from fifty by their genres.

users = test["user_id"].tolist()
long = models["item-to-item"].recommend(users, k=50)
genres = events.drop_duplicates("item_id").set_index("item_id")["genres"]
for weight in (0.0, 0.3, 0.6):
    lists = diversify(long, models["item-to-item"], weight=weight, feature="genres")
    rows = lists.groupby("user_id")["item_id"].agg(list).tolist()
    print(weight, round(diversity_at_k(rows, 10, feature=genres), 2))
