"""
Why this movie, and why not that one?
=====================================

`explain` names the events of the history that led to each recommendation, `trace` the reason why a
movie is not recommended.
"""

import matplotlib.pyplot as plt

from skmatch import ItemToItemRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
title = events.drop_duplicates("item_id").set_index("item_id")["title"]
retriever = ItemToItemRetriever().fit(events)
user = events["user_id"].iloc[0]

# %%
# For item-to-item, a contribution is a term of the score: how often the movie follows the one in
# the history, times the weight of that event.

reasons = retriever.explain([user], k=5, n_reasons=2)
reasons = reasons.assign(
    movie=reasons["item_id"].map(title), because_of=reasons["reason"].map(title)
)
pivot = reasons.pivot(index="movie", columns="because_of", values="contribution")
ax = pivot.plot.barh(stacked=True, xlabel="contribution to the score", ylabel="", figsize=(8, 5))
ax.legend(title="because of", loc="upper right", bbox_to_anchor=(1, -0.15))
plt.tight_layout()
reasons[["movie", "because_of", "contribution"]].round(4)

# %%
# For movies that are not recommended: the rank that they have or would have, and the reason.

wanted = [*events["item_id"].value_counts().index[:5], -1]
table = retriever.trace([user], wanted)
table.assign(movie=table["item_id"].map(title))[["movie", "score", "rank", "outcome"]]

# %%
# The users to whom this movie should be recommended:

movie = title.index[title.str.startswith("Fargo")][0]
retriever.users_for([movie], k=5)
