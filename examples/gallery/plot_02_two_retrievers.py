"""
DSSM and YoutubeDNN compared
============================

`~skmatch.DSSMRetriever` has an item tower, layers over an item's id and features;
`~skmatch.YoutubeDNNRetriever` compares users with that encoding itself. Popularity is the baseline
that both have to beat.
"""

import pandas as pd

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    TopKCurveDisplay,
    YoutubeDNNRetriever,
    evaluate,
    make_match_pipeline,
)
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))

# %%
# The last rating of each user is held out. All movies are ranked but those that the user has seen.

pipes, tables = {}, {}
for retriever in (
    PopularityRetriever(),
    YoutubeDNNRetriever(max_epochs=3, random_state=0),
    DSSMRetriever(max_epochs=3, random_state=0),
):
    encoder = MatchEncoder(item_features=["genres", "year"])
    name = type(retriever).__name__
    pipes[name] = make_match_pipeline(encoder, SequenceSampler(), retriever).fit(train)
    tables[name] = evaluate(pipes[name], test, "recall", k=[10, 100], confidence=0.95)
pd.concat(tables)[["k", "value", "low", "high"]].round(3)

# %%
# ``low`` and ``high`` bound a 95% interval over the 671 users tested: where intervals overlap, the
# difference may be chance.
#
# The same as a curve over the number of recommended items:

display = TopKCurveDisplay.from_estimator(pipes, test, metric="recall")
