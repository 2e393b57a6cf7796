"""
Ways of drawing negatives compared
==================================

`~skmatch.SequenceSampler` says how negatives are drawn. What is drawn often is pushed down more
often, unless the loss corrects for it: "softmax" does (logQ correction), "bpr" and "bce" do not.
"""

import matplotlib.pyplot as plt
import pandas as pd

from skmatch import (
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    YoutubeDNNRetriever,
    evaluate,
    make_match_pipeline,
)
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
events = events[events["user_id"] <= 200]  # to keep the example short
train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
popularity = train["item_id"].value_counts(normalize=True)

rows = []
for loss in ("softmax", "bce"):
    for negatives in ("uniform", "popularity", "in_batch"):
        pipe = make_match_pipeline(
            MatchEncoder(),
            SequenceSampler(negatives=negatives),
            YoutubeDNNRetriever(loss=loss, max_epochs=3, batch_size=512, random_state=0),
        ).fit(train)
        recommended = pipe.predict(test[["user_id"]], k=100)
        recall = evaluate(pipe, test, "recall", k=100)["value"].iloc[0]
        shown = popularity.reindex(recommended.ravel())
        rows.append([loss, negatives, recall, 1000 * shown.median(), shown.index.nunique()])
columns = ["loss", "negatives", "recall_at_100", "median popularity", "items ever shown"]
table = pd.DataFrame(rows, columns=columns)
table.round(3)

# %%
# The median popularity is the share of the events that the median recommended item has, in
# thousandths. The more the draws favour popular items, the rarer are the items that "bce"
# recommends, since nothing corrects for the draws.

pivot = table.pivot(index="negatives", columns="loss", values=columns[2:4])
for column in columns[2:4]:
    ax = pivot.plot.barh(y=column, xlabel=column, figsize=(7, 4))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.tight_layout()
