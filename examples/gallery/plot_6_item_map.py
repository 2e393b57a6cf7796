"""
A map of the items
==================

The vectors of items lie near each other where the same users watch them. The retriever has read no
genre; the colours tell whether it found some nevertheless.
"""

import numpy as np
from sklearn.manifold import TSNE

from skmatch import ItemMapDisplay, YoutubeDNNRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
retriever = YoutubeDNNRetriever(max_epochs=3, random_state=0).fit(events)
movies = events.drop_duplicates("item_id").set_index("item_id")

# %%
# The two directions in which the vectors differ most. The first genre of a movie counts.

display = ItemMapDisplay.from_estimator(
    retriever, feature=movies["genres"], labels=movies["title"], max_labels=15
)

# %%
# Two of 64 dimensions show little. t-SNE keeps neighbours together instead; here the 400 movies
# with the most ratings.

best = np.argsort(-retriever.popularity_)[:400]
chosen = movies.loc[retriever.item_ids_[best]]
tsne = TSNE(metric="cosine", init="pca", random_state=0)
display = ItemMapDisplay(
    coordinates=tsne.fit_transform(retriever.item_vectors_[best]),
    values=chosen["genres"],
    labels=chosen["title"],
    value_name="first genre",
).plot(max_labels=30)
