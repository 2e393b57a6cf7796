"""
Cold start
==========

Users and items of whom training knew nothing: what answers, and from what.
"""

import pandas as pd

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, make_match_pipeline
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
title = events.drop_duplicates("item_id").set_index("item_id")["title"]

# %%
# A new item
# ----------
# "Toy Story 2" is taken out of the events, as if it came out tomorrow. It stays in the catalogue
# through a table of items, from which the item tower reads its genres and year.

new = 3114
catalogue = events.drop_duplicates("item_id")[["item_id", "genres", "year"]]
past = events[events["item_id"] != new]
pipe = make_match_pipeline(
    MatchEncoder(item_features=["genres", "year"]),
    SequenceSampler(),
    DSSMRetriever(max_epochs=3, random_state=0),
).fit(past, matchencoder__items=catalogue)

neighbours = pipe.similar_items([new], k=5)
print("near", title[new])
neighbours.assign(title=neighbours["similar"].map(title))

# %%
# New users
# ---------
# A visitor brings a history in the query; another brings nothing. ``source`` says what answered:
# the visitor's history, or the popularity of the items.

queries = pd.DataFrame({"user_id": ["visitor", "nobody"], "history": [[1, 2355, 588], None]})
print("the visitor liked", *title[queries["history"][0]], sep="\n- ")
answers = pipe.recommend(queries, k=4)
answers.assign(title=answers["item_id"].map(title))

# %%
# An item of which all but the id is unknown is never an error, and says nothing:

pipe.recommend(pd.DataFrame({"user_id": ["visitor"], "history": [["no such movie"]]}), k=2)
