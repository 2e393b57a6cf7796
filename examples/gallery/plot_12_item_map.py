"""
A map of the items
==================

Items that the same users watch have vectors near each other. The retriever has read neither years
nor genres; the colours show that movies of the same years are neighbours nevertheless.
"""

import numpy as np
from sklearn.manifold import TSNE

from skmatch import ItemMapDisplay, YoutubeDNNRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
retriever = YoutubeDNNRetriever(max_epochs=3, random_state=0).fit(events)
movies = events.drop_duplicates("item_id").set_index("item_id")

# %%
# The 300 movies with the most ratings, projected by t-SNE, which keeps neighbours together. (Two
# principal components of 64 show a blob.)

best = np.argsort(-retriever.popularity_)[:300]
chosen = movies.loc[retriever.item_ids_[best]]
tsne = TSNE(metric="cosine", init="pca", perplexity=15, random_state=0)
display = ItemMapDisplay(
    coordinates=tsne.fit_transform(retriever.item_vectors_[best]),
    values=chosen["year"].clip(1970),
    labels=chosen["title"],
    value_name="year, 1970 and before as one",
).plot(max_labels=25)
display.figure_.set_size_inches(10, 7)

# %%
# In figures: how many years lie between a movie and its five nearest movies, and between random
# ones, in the mean.

years = chosen["year"].to_numpy(dtype=float)
cosine = retriever.item_vectors_[best] @ retriever.item_vectors_[best].T
nearest = np.argsort(-cosine, axis=1)[:, 1:6]
differences = np.abs(years[:, None] - years)
print(f"nearest: {np.nanmean(np.take_along_axis(differences, nearest, 1)):.1f} years")
print(f"random: {np.nanmean(differences):.1f} years")
