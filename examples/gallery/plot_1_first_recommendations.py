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
# A retriever takes such a table as it is: ``user_id``, ``item_id`` and ``timestamp`` are the
# default names. Fewer epochs than the default of ten, to be quick:

retriever = DSSMRetriever(max_epochs=3, random_state=0).fit(events)

# %%
# What to show to user 15, whose last ratings were these?

title = events.drop_duplicates("item_id").set_index("item_id")["title"]
mine = events[events["user_id"] == 15].sort_values("timestamp")
print(*title[mine["item_id"].tail(5)], sep="\n")

# %%
# Movies that the user has seen are left out. ``source`` says what they are based on.

recommended = retriever.recommend([15], k=5)
recommended.assign(title=recommended["item_id"].map(title))

# %%
# And what is near a movie?

neighbours = retriever.similar_items([1], k=5)
print(title[1], "is near:")
neighbours.assign(title=neighbours["similar"].map(title))

# %%
# How training went:

display = TrainingCurveDisplay.from_estimator(retriever)
