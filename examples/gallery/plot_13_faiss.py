"""
Vectors in another index
========================

A retriever searches its own vectors. To serve them with another engine, such as faiss or a vector
database, pass it ``item_vectors_``, and query it with the vectors that ``transform`` returns. The
score is their inner product.
"""

import faiss
import numpy as np
import pandas as pd

from skmatch import DSSMRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
# The trend is added to the scores and is not in the vectors.
retriever = DSSMRetriever(max_epochs=2, trend=None, random_state=0).fit(events)

index = faiss.IndexFlatIP(retriever.item_vectors_.shape[1])
index.add(retriever.item_vectors_)

# %%
# The queries are three known users, as of now. Positions in the index are those in
# ``item_ids_``.

queries = pd.DataFrame({"user_id": [15, 30, 73]})
scores, positions = index.search(retriever.transform(queries), 5)
found = retriever.item_ids_[positions]
print(found)

# %%
# The retriever itself recommends the same items, as long as seen items are not excluded: excluding
# them is up to the engine.

own = retriever.recommend(queries, k=5, exclude_seen=False)
print((own["item_id"].to_numpy().reshape(found.shape) == found).all())
own.head(5)

# %%
# An approximate index visits a part of the vectors only. How many of the exact neighbours it finds
# depends on how much it visits:

graph = faiss.IndexHNSWFlat(index.d, 16, faiss.METRIC_INNER_PRODUCT)
graph.add(retriever.item_vectors_)
users = retriever.transform(events.drop_duplicates("user_id")[["user_id"]])
exact = index.search(users, 10)[1]
recall = {}
for effort in (4, 8, 16, 32, 64):
    graph.hnsw.efSearch = effort
    found = graph.search(users, 10)[1]
    recall[effort] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
pd.Series(recall).plot(marker="o", xlabel="efSearch", ylabel="share of the exact ten found")
pd.Series(recall).round(3)
