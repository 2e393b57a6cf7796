"""
Vectors in another index
========================

A retriever searches its own vectors. Where another engine serves them, such as faiss or a vector
database, give it two things: ``item_vectors_``, and what ``transform`` makes of a query. Their
inner product is the score.
"""

import faiss
import numpy as np

from skmatch import DSSMRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
retriever = DSSMRetriever(max_epochs=2, random_state=0).fit(events)

index = faiss.IndexFlatIP(retriever.item_vectors_.shape[1])
index.add(retriever.item_vectors_)

# %%
# Positions in the index are places in ``item_ids_``.

users = np.array([15, 30, 73])
vectors = retriever.transform(events[events["user_id"].isin(users)].drop_duplicates("user_id"))
print(vectors.shape)

# %%
# A query with a time is answered as of that time. Those rows are each user's first, before which
# nothing is known; to ask as of now, leave the time out:

queries = events[["user_id"]].drop_duplicates().set_index("user_id").loc[users].reset_index()
scores, positions = index.search(retriever.transform(queries), 5)
found = retriever.item_ids_[positions]
print(found)

# %%
# It is what the retriever itself answers where seen items stay in; to leave them out is the
# business of the engine now.

own = retriever.recommend(queries, k=5, exclude_seen=False)
print((own["item_id"].to_numpy().reshape(found.shape) == found).all())
own.head(5)
