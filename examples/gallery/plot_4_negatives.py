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
events = events[events["user_id"] <= 250]  # to be quick
train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
popularity = train["item_id"].value_counts(normalize=True)

rows = []
for loss in ("softmax", "bce"):
    for negatives in ("uniform", "log", "popularity", "zipf", "in_batch"):
        pipe = make_match_pipeline(
            MatchEncoder(),
            SequenceSampler(negatives=negatives),
            YoutubeDNNRetriever(loss=loss, max_epochs=3, batch_size=512, random_state=0),
        ).fit(train)
        recommended = pipe.predict(test[["user_id"]], k=100)
        recall = evaluate(pipe, test, "recall", k=100)["value"].iloc[0]
        shown = popularity.reindex(recommended.ravel())
        rows.append([loss, negatives, recall, shown.median(), shown.index.nunique()])
columns = ["loss", "negatives", "recall_at_100", "median popularity", "items ever shown"]
table = pd.DataFrame(rows, columns=columns)
table.round(5)

# %%
# The median popularity is the share of events that the median of the recommended items has. The
# more the draws favour popular items, the rarer is what "bce" recommends: nothing corrects for it.
# In three epochs one sees how quickly each way learns, not where it leads.

for marker, (loss, part) in zip("so", table.groupby("loss"), strict=True):
    plt.scatter(part["median popularity"], part["recall_at_100"], marker=marker, label=loss)
    for _, row in part.iterrows():
        plt.annotate(row["negatives"], (row["median popularity"], row["recall_at_100"]))
plt.gca().set(xlabel="median popularity of what is recommended", ylabel="recall_at_100")
plt.legend()
plt.show()
