"""
A map of the items
==================

The vectors of items lie near each other where the same users watch them. t-SNE draws them in two
dimensions; the retriever has read no genre.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.manifold import TSNE

from skmatch import YoutubeDNNRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
retriever = YoutubeDNNRetriever(max_epochs=4, random_state=0).fit(events)

# %%
# The 400 movies with the most ratings:

movies = events.drop_duplicates("item_id").set_index("item_id").loc[retriever.item_ids_]
best = np.argsort(-retriever.popularity_)[:400]
place = TSNE(metric="cosine", init="pca", random_state=0).fit_transform(
    retriever.item_vectors_[best]
)

# %%
# Colours and marks by the first of three genres that a movie has:

genres = movies["genres"].iloc[best]
rest = np.ones(len(best), dtype=bool)
plt.figure(figsize=(8, 7))
for genre, marker, color in (
    ("Children", "^", "#D55E00"),
    ("Sci-Fi", "s", "#0072B2"),
    ("Romance", "o", "#CC79A7"),
):
    here = np.array([genre in names for names in genres]) & rest
    plt.scatter(*place[here].T, marker=marker, color=color, s=25, label=genre)
    rest &= ~here
plt.scatter(*place[rest].T, marker=".", color="0.75", s=15, label="others", zorder=0)
for i in range(25):
    plt.annotate(movies["title"].iloc[best[i]], place[i], fontsize=7)
plt.axis("off")
plt.legend()
plt.show()
