"""
Several retrievers, one list
============================

Item-to-item counts know which items follow which; a network knows tastes and features.
`~skmatch.FusionRetriever` merges the candidates of both.
"""

import matplotlib.pyplot as plt
import pandas as pd

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    PopularityRetriever,
    evaluate,
)
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
events = events[events["user_id"] <= 250]  # to keep the example short
train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))

# %%
# The fusion fits its members on the same events. Here each is fitted alone as well, to compare.

dssm = DSSMRetriever(max_epochs=3, random_state=0)
retrievers = {
    "popularity": PopularityRetriever(),
    "item-to-item": ItemToItemRetriever(),
    "DSSM": dssm,
    "fusion": FusionRetriever([("dssm", dssm), ("items", ItemToItemRetriever())]),
}
recall = {
    name: evaluate(retriever.fit(train), test, "recall", k=[10, 20, 50, 100]).set_index("k")[
        "value"
    ]
    for name, retriever in retrievers.items()
}
pd.DataFrame(recall).plot.bar(ylabel="recall@k", rot=0)
plt.show()

# %%
# The column ``retrievers`` names the members that had the item among their candidates:

retrievers["fusion"].recommend(test["user_id"].iloc[:2], k=3)
