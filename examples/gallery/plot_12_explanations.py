"""
Why this movie, and why not that one?
=====================================

`explain` names the events of the history behind each recommendation, `trace` what became of a movie
that is not recommended.
"""

from skmatch import ItemToItemRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
title = events.drop_duplicates("item_id").set_index("item_id")["title"]
retriever = ItemToItemRetriever().fit(events)
user = events["user_id"].iloc[0]

# %%
# Of item-to-item, a contribution is a term of the score: how often the movie follows the one in the
# history, by the weight of that event.

reasons = retriever.explain([user], k=5, n_reasons=2)
reasons.assign(movie=reasons["item_id"].map(title), because_of=reasons["reason"].map(title))[
    ["movie", "because_of", "contribution"]
].round(4)

# %%
# Movies that are not recommended: the rank that they have or would have, and why.

wanted = [*events["item_id"].value_counts().index[:5], -1]
table = retriever.trace([user], wanted)
table.assign(movie=table["item_id"].map(title))[["movie", "score", "rank", "outcome"]]

# %%
# The other way round: to whom should this movie be recommended?

movie = title.index[title.str.startswith("Fargo")][0]
retriever.users_for([movie], k=5)
