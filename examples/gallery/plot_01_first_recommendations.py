"""
First recommendations
=====================

A table of events in, a table of recommendations out. An event is a user, an item and a time.
"""

from skmatch import DSSMRetriever, TrainingCurveDisplay
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
events[["user_id", "item_id", "timestamp", "title"]].head(3)

# %%
# A retriever reads such a table as it is: ``user_id``, ``item_id`` and ``timestamp`` are the
# default names. By default it finds the number of epochs on held-out events; three will do here.

retriever = DSSMRetriever(max_epochs=3, random_state=0).fit(events)

# %%
# Recommend to user 15, whose last ratings were these:

title = events.drop_duplicates("item_id").set_index("item_id")["title"]
mine = events[events["user_id"] == 15].sort_values("timestamp")
print(*title[mine["item_id"].tail(5)], sep="\n")

# %%
# Movies that the user has seen are left out. The column ``source`` says what the recommendations
# are based on.

recommended = retriever.recommend([15], k=5)
recommended.assign(title=recommended["item_id"].map(title))

# %%
# Movies whose vectors are near that of a given movie:

neighbours = retriever.similar_items([1], k=5)
print("similar to", title[1])
neighbours.assign(title=neighbours["similar"].map(title))

# %%
# The loss in each epoch:

display = TrainingCurveDisplay.from_estimator(retriever)
