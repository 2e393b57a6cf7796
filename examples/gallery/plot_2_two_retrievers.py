"""
DSSM and YoutubeDNN side by side
================================

`~skmatch.DSSMRetriever` has a tower for items, which reads their features;
`~skmatch.YoutubeDNNRetriever` has a table with one vector an item. Popularity is the baseline that
both have to beat.
"""

import matplotlib.pyplot as plt
import pandas as pd

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    evaluate,
    make_match_pipeline,
)
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))

# %%
# The last rating of each user is held out. All movies are ranked but those that the user has seen.

ks = [10, 20, 50, 100]
tables = {}
for retriever in (
    PopularityRetriever(),
    YoutubeDNNRetriever(max_epochs=3, random_state=0),
    DSSMRetriever(max_epochs=3, random_state=0),
):
    encoder = MatchEncoder(item_features=["genres", "year"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), retriever).fit(train)
    tables[type(retriever).__name__] = evaluate(pipe, test, "recall", k=ks, confidence=0.95)
scores = pd.concat(tables, names=["retriever"]).reset_index(level=0)
scores.pivot(index="retriever", columns="k", values="value").round(3)

# %%
# The bars are 95 % intervals over the users that were tested: of 671 users, few enough that small
# differences mean nothing.

for marker, (name, table) in zip("so^", tables.items(), strict=True):
    error = [table["value"] - table["low"], table["high"] - table["value"]]
    plt.errorbar(table["k"], table["value"], error, marker=marker, capsize=3, label=name)
plt.gca().set(xlabel="k", ylabel="recall@k", ylim=(0, None))
plt.legend()
plt.show()
