"""
Events from a shop
==================

Any table will do: `~skmatch.MatchEncoder` is told once which column is what. Here the lines of
invoices in the layout of UCI's Online Retail, made up on the spot. For the real ones see
`skmatch.datasets.load_online_retail`.
"""

import pandas as pd

import skmatch
from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, TemporalSplit
from skmatch.datasets import make_events

made_up = make_events(n_users=800, n_items=400, n_events=20_000, random_state=0)
day = pd.to_datetime(made_up["timestamp"], unit="s")
lines = pd.DataFrame(
    {
        "InvoiceNo": made_up["user_id"].astype(str) + day.dt.strftime("-%j"),
        "StockCode": made_up["item_id"].map("S{:05d}".format),
        "InvoiceDate": day,
        "CustomerID": made_up["user_id"].map("C{:04d}".format),
        "Country": made_up["segment"].astype(str).str.replace("segment", "country"),
        "UnitPrice": made_up["price"],
        "Description": made_up["tags"].astype(str).str.replace("|", " "),
    }
)
lines.head(3)

# %%
# A shop wants to know how it would have done had it trained on a given day.
# `~skmatch.TemporalSplit` trains on what is before, and tests on what is after.

split = TemporalSplit(cutoffs=["2021-07-01"], user="CustomerID", time="InvoiceDate")
train, test = (lines.iloc[rows] for rows in next(split.split(lines)))

pipe = skmatch.make_match_pipeline(
    MatchEncoder(
        user="CustomerID",
        item="StockCode",
        time="InvoiceDate",
        user_features=["Country"],
        item_features=["UnitPrice", "Description"],
        kinds={"Description": "multi_valued"},
        delimiter=" ",
    ),
    SequenceSampler(),
    DSSMRetriever(max_epochs=3, random_state=0),
).fit(train)
skmatch.evaluate(pipe, test, ["recall", "precision", "ndcg"], k=[10, 50]).round(3)

# %%
# Some customers buy for the first time after that day: they are recommended items by their country.
# What is out of stock is not offered.

new = pd.DataFrame({"CustomerID": ["C9999"], "Country": ["country_3"]})
pipe.recommend(new, k=3, exclude=["S00001", "S00003"])
