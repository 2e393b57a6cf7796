"""
Vectors in another index
========================

A retriever searches its own vectors. Where another engine serves them, such as faiss or a vector
database, give it two things: ``item_vectors_``, and what ``transform`` makes of a query. Their
inner product is the score.
"""

import faiss
import pandas as pd

from skmatch import DSSMRetriever
from skmatch.datasets import load_movielens_small

events = load_movielens_small()
retriever = DSSMRetriever(max_epochs=2, random_state=0).fit(events)

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
# The retriever itself recommends the same where seen items stay in; to leave them out is the
# business of the engine now.

own = retriever.recommend(queries, k=5, exclude_seen=False)
print((own["item_id"].to_numpy().reshape(found.shape) == found).all())
own.head(5)
