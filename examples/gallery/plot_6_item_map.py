"""
A map of the items
==================

Items that the same users watch have vectors near each other. The retriever has read no genre; the
colours show that similar movies are neighbours nevertheless.
"""

import numpy as np
from sklearn.manifold import TSNE

from skmatch import ItemMapDisplay, YoutubeDNNRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
retriever = YoutubeDNNRetriever(max_epochs=3, random_state=0).fit(events)
movies = events.drop_duplicates("item_id").set_index("item_id")

# %%
# The 300 movies with the most ratings, by their first genre, projected by t-SNE, which keeps
# neighbours together. (Two principal components of 64 show a blob.)

best = np.argsort(-retriever.popularity_)[:300]
chosen = movies.loc[retriever.item_ids_[best]]
tsne = TSNE(metric="cosine", init="pca", perplexity=15, random_state=0)
display = ItemMapDisplay(
    coordinates=tsne.fit_transform(retriever.item_vectors_[best]),
    values=chosen["genres"],
    labels=chosen["title"],
    value_name="first genre",
).plot(max_labels=25)
display.figure_.set_size_inches(10, 7)
