"""
Cold start
==========

Users and items without training events: their recommendations, and what these are based on.
"""

import matplotlib.pyplot as plt
import pandas as pd

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, make_match_pipeline
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
movies = events.drop_duplicates("item_id").set_index("item_id")
title = movies["title"]

# %%
# A new item
# ----------
# "Toy Story 2" is removed from the events, as if it came out tomorrow. The item tower has learned
# what genres and years mean, and computes its vector from these.

new = 3114
pipe = make_match_pipeline(
    MatchEncoder(item_features=["genres", "year"]),
    SequenceSampler(),
    DSSMRetriever(max_epochs=3, random_state=0),
).fit(events[events["item_id"] != new])
pipe.add_items(movies.loc[[new], ["genres", "year"]].reset_index())

neighbours = pipe.similar_items([new], k=8)
names = neighbours["similar"].map(title)
plt.barh(names, neighbours["score"])
plt.gca().invert_yaxis()
plt.gca().set(title=f"Movies near {title[new]}", xlabel="cosine of the vectors")
plt.tight_layout()

# %%
# New users
# ---------
# One query has a history, another nothing. ``source`` says what was used: the visitor's history, or
# the popularity of the items.

queries = pd.DataFrame({"user_id": ["visitor", "nobody"], "history": [[1, 2355, 588], None]})
print("the visitor liked", *title[queries["history"][0]], sep="\n- ")
recommended = pipe.recommend(queries, k=4)
recommended.assign(title=recommended["item_id"].map(title))

# %%
# ``observe`` stores later events, and the next recommendations use them:

pipe.observe(pd.DataFrame({"user_id": [9999], "item_id": [260], "timestamp": [1_500_000_000]}))
recommended = pipe.recommend([9999], k=3)
recommended.assign(title=recommended["item_id"].map(title))
