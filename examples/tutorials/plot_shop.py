"""
A shop, end to end
==================

From the lines of invoices to next week's update: the roles of the columns, prices, texts and kinds
of order, validation in time, tuning, stock, repeats, new items, explanations, exposure, saving and
serving.

The events
----------

`UCI Online Retail <https://doi.org/10.24432/C5BW33>`__ holds a year of invoices of a shop for
gifts. To run this page on it, download it, save it as csv, and set the environment variable
``ONLINE_RETAIL`` to its path. Without a path, as on this site, the page uses synthetic events with
the same columns, and all figures below are of these.
"""

import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    ExposureDisplay,
    FusionRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    TemporalSplit,
    diversify,
    evaluate,
    make_match_pipeline,
    make_topk_scorer,
    persistence,
)
from skmatch.datasets import load_online_retail, make_events
from skmatch.metrics import compare

if path := os.environ.get("ONLINE_RETAIL"):
    events = load_online_retail(path)
else:
    sizes = {"n_users": 700, "n_items": 400, "n_events": 15_000}
    events = make_events(**sizes, visit_size=6, repeats=0.2, content=True, random_state=0)
    events = events.rename(columns={"segment": "country", "title": "description"})
    events["timestamp"] = pd.to_datetime(events["timestamp"], unit="s")
    events["quantity"] = events["action"].map({"view": 1, "cart": 6, "purchase": 24})
events = events.sort_values("timestamp", kind="stable", ignore_index=True)
columns = ["user_id", "item_id", "timestamp", "country", "price", "quantity", "description"]
events[columns].head(4)

# %%
# First look
# ----------
#
# Three questions decide the settings. Do customers repeat purchases? Do events come in visits? How
# many events does an item have?

is_repeat = events.duplicated(["user_id", "item_id"])
pause = events.groupby("user_id")["timestamp"].diff()
pd.Series(
    {
        "events": len(events),
        "customers": events["user_id"].nunique(),
        "items": events["item_id"].nunique(),
        "share of repeats": is_repeat.mean().round(2),
        "median events per item": events["item_id"].value_counts().median(),
        "share within an hour of the last": (pause < pd.Timedelta("1h")).mean().round(2),
    }
)

# %%
# Kinds of event
# --------------
#
# Some lines are single pieces, others are wholesale orders. A column of the kind lets the model
# read what each order of the history was, and a column of weights sets how much an event counts:
# here a single piece counts half. In a shop with views, carts and purchases, both columns work the
# same.

events["kind"] = np.where(events["quantity"] >= 12, "wholesale", "single")
events["weight"] = np.where(events["kind"] == "wholesale", 1.0, 0.5)

# %%
# Splits in time
# --------------
#
# Recommendations will be computed every week for the next visits, so each split is in time: the
# last five percent of the events are the test, the five percent before are for choosing settings.

(tune, validate), (train, test) = (
    [events.iloc[rows] for rows in fold] for fold in TemporalSplit(2, test_size=0.05).split(events)
)
print(f"{len(train)} events to train on, {len(test)} to test on, from {test['timestamp'].min()}")

# %%
# Baselines
# ---------
#
# Two models that take a second. A network has to beat them. Items that a customer has bought before
# are neither recommended nor counted as hits: this shop wants to show new ones. See
# :doc:`/howto/repeats` for the other case.


def without_bought(held_out, past):
    """Return the held-out events whose items the customer has not bought before."""
    pair = ["user_id", "item_id"]
    bought = pd.MultiIndex.from_frame(past[pair])
    return held_out[~pd.MultiIndex.from_frame(held_out[pair]).isin(bought)]


names = {"metrics": ["ndcg", "recall"], "k": [10, 50]}


def scores_of(model, held_out):
    """Return the metrics of a fitted model as one row."""
    table = evaluate(model, held_out, **names)
    return table.set_index(table["metric"] + "@" + table["k"].astype(str))["value"].round(3)


news = without_bought(validate, tune)
rows = {
    "popularity": scores_of(PopularityRetriever().fit(tune), news),
    "popular in the last 30 days": scores_of(PopularityRetriever(half_life="30D").fit(tune), news),
    "item-to-item": scores_of(ItemToItemRetriever().fit(tune), news),
}
pd.DataFrame(rows).transpose()

# %%
# A pipeline with all columns
# ---------------------------
#
# ``MatchEncoder`` takes the role of each column once. The price is a number, the country belongs to
# the customer, the kind of order to the event; the description becomes a vector of 16 numbers by
# TF-IDF and a truncated SVD, as anywhere in scikit-learn.

text = make_pipeline(TfidfVectorizer(), TruncatedSVD(16, random_state=0))
encoder = MatchEncoder(
    user_features=["country"],
    item_features=["price", "description"],
    event_features=["kind"],
    weight="weight",
    kinds={"description": text, "price": "numeric"},
)
network = DSSMRetriever(max_epochs=3, id_dropout=0.1, random_state=0)
pipe = make_match_pipeline(encoder, SequenceSampler(), network)
rows["DSSM"] = scores_of(pipe.fit(tune), news)

# %%
# Tuning
# ------
#
# A search over the parameters of all steps, on the validation part only. ``gap_rate=1`` trains for
# the next visit alone. A real search would have more values; :doc:`/guide/tuning` lists them.

where = events.iloc[: len(tune) + len(validate)]
search = GridSearchCV(
    pipe,
    {"sequencesampler__gap_rate": [0.5, 1.0], "dssmretriever__temperature": [0.05, 0.1]},
    cv=[(np.arange(len(tune)), len(tune) + np.flatnonzero(validate.index.isin(news.index)))],
    scoring=make_topk_scorer(**names),
    refit=False,
).fit(where)
tried = pd.DataFrame(search.cv_results_)
tried["ndcg"] = tried["mean_test_ndcg_at_10"]
best = tried.sort_values("ndcg", ascending=False)["params"].iloc[0]
tried[["param_sequencesampler__gap_rate", "param_dssmretriever__temperature", "ndcg"]].round(3)

# %%
# The final model, on the test part
# ---------------------------------
#
# Counts and networks make different errors, so a fusion of both may rank better than either:
# compare. Fit all candidates on everything before the test, and look at the test part only now.

pipe.set_params(**best)
fusion = FusionRetriever([("network", pipe[-1]), ("counts", ItemToItemRetriever())], weights=(1, 1))
models = {
    "popularity": make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever()),
    "item-to-item": make_match_pipeline(encoder, SequenceSampler(), ItemToItemRetriever()),
    "DSSM": pipe,
    "fusion": make_match_pipeline(encoder, pipe[1], fusion),
}
news = without_bought(test, train)
models = {name: clone(model).fit(train) for name, model in models.items()}
table = pd.DataFrame({name: scores_of(model, news) for name, model in models.items()})
table[["popularity", "item-to-item", "DSSM", "fusion"]].T.plot.barh(y="recall@50", legend=False)
plt.xlabel("recall@50 of the customers' next visits")
plt.tight_layout()
table.transpose()

# %%
# What it recommends, and why
# ---------------------------
#
# ``recommend`` returns the shop's own ids, ``explain`` the reasons. Only what is in stock may be
# recommended: ``candidates`` takes its ids.

shop = models["DSSM"]
about = train.drop_duplicates("item_id", keep="last").set_index("item_id")
stock = pd.Series(np.random.default_rng(0).integers(0, 5, len(about)), about.index)
in_stock = stock.index[stock > 0]
customer = news["user_id"].iloc[0]
recommended = shop.recommend([customer], k=3, candidates=in_stock)
recommended.assign(description=recommended["item_id"].map(about["description"]))

# %%
reasons = shop.explain([customer], k=3, n_reasons=2, candidates=in_stock)
reasons.round(3)

# %%
# New items and new customers
# ---------------------------
#
# An item that nobody has bought yet gets its vector from its price and description. A new customer
# brings a basket, a country or nothing.

arrival = pd.DataFrame(
    {"item_id": [about.index.max()], "price": [4.95], "description": [about["description"].iloc[0]]}
)
arrival["item_id"] = "new-1" if about.index.dtype != "int64" else 100_001
shop.add_items(arrival)
shop.similar_items(arrival["item_id"].tolist(), k=3)

# %%
visitors = pd.DataFrame(
    {
        "user_id": ["basket", "abroad", "nobody"],
        "history": [about.index[:2].tolist(), None, None],
        "country": [None, events["country"].iloc[0], None],
    }
)
shop.recommend(visitors, k=2)

# %%
# Which items are ever shown
# --------------------------
#
# The curves show which share of the recommendations goes to the most popular items. ``diversify``
# chooses from longer lists, so that the items of a list differ in their vectors.

shown = ("popularity", "item-to-item", "DSSM")
ExposureDisplay.from_estimator({name: models[name] for name in shown})
long = shop.recommend(news["user_id"].unique().tolist(), k=50)
lists = diversify(long, shop, 10, weight=0.3)
print(f"{lists['item_id'].nunique()} different items in the varied lists")

# %%
# Save, load, serve
# -----------------
#
# A service loads the file and recommends, by known customer or by basket: :doc:`/guide/serving`.

with tempfile.TemporaryDirectory() as folder:
    persistence.save(shop, Path(folder) / "shop.joblib")
    served = persistence.load(Path(folder) / "shop.joblib")
served.recommend(pd.DataFrame({"user_id": ["s-17"], "history": [about.index[:3].tolist()]}), k=2)

# %%
# Next week
# ---------
#
# ``partial_fit`` stores the week's events and trains on them in one pass. New customers and items
# join the catalogue. Compare the updated model (``value``) with the old one (``other``) on the week
# after: ``low`` and ``high`` bound the difference.

weeks = test["timestamp"].quantile(0.5)
this_week, next_week = test[test["timestamp"] <= weeks], test[test["timestamp"] > weeks]
served.partial_fit(this_week)
news = without_bought(next_week, pd.concat([train, this_week]))
compare(served, shop, news, ["ndcg", "recall"], k=50, random_state=0).round(3)
