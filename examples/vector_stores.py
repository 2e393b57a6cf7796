"""Write item vectors and ids to vector stores, and search them as `recommend` does.

pip install faiss-cpu hnswlib lancedb qdrant-client usearch
python examples/vector_stores.py demo-output/movies.joblib [--k K]

Each store that is installed is filled, searched for the first users without the items that they
have seen, and compared with the recommendations of the pipeline. Users of whom nothing is known
have no vector: `recommend` ranks by popularity for them. The trend is not in the vectors: fit with
``trend=None`` for equal lists.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skmatch import persistence

# Takes the vectors of users, k, and the items allowed to each user, (n_users, n_items).
Search = Callable[[np.ndarray, int, np.ndarray], np.ndarray]


def in_faiss(vectors: np.ndarray, ids: np.ndarray) -> Search:
    """Return a search of a flat index of inner products."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        found = []
        for query, mask in zip(queries, allowed, strict=True):
            selector = faiss.IDSelectorBatch(np.flatnonzero(mask))
            _, rows = index.search(query[None], k, params=faiss.SearchParameters(sel=selector))
            found.append(ids[rows[0]])
        return np.array(found)

    return search


def in_hnswlib(vectors: np.ndarray, ids: np.ndarray) -> Search:
    """Return a search of a graph of inner products."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=200, M=32)
    index.add_items(vectors)

    def search(queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        # The graph has to find k items that pass the filter.
        index.set_ef(min(len(vectors), k + int((~allowed).sum(axis=1).max()) + 100))
        rows = [
            index.knn_query(query, k, num_threads=1, filter=lambda row, mask=mask: bool(mask[row]))
            for query, mask in zip(queries, allowed, strict=True)
        ]
        return ids[np.concatenate([found for found, _ in rows]).astype(int)]

    return search


def in_usearch(vectors: np.ndarray, ids: np.ndarray) -> Search:
    """Return an exact search; usearch has no filter, so more are found and some dropped."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)

    def search(queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        found = []
        for query, mask in zip(queries, allowed, strict=True):
            rows = index.search(query, k + int((~mask).sum()), exact=True).keys.astype(int)
            found.append(ids[rows[mask[rows]][:k]])
        return np.array(found)

    return search


def in_qdrant(vectors: np.ndarray, ids: np.ndarray) -> Search:
    """Return a search of a collection in memory, whose payload holds the ids."""
    from qdrant_client import QdrantClient, models

    client, name = QdrantClient(":memory:"), "items"
    size = vectors.shape[1]
    params = models.VectorParams(size=size, distance=models.Distance.DOT)
    client.create_collection(name, vectors_config=params)
    payload = [{"item": item} for item in ids.tolist()]
    client.upload_collection(name, vectors=vectors, payload=payload, ids=range(len(ids)))

    def search(queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        found = []
        for query, mask in zip(queries, allowed, strict=True):
            seen = models.HasIdCondition(has_id=np.flatnonzero(~mask).tolist())
            rule = models.Filter(must_not=[seen])
            points = client.query_points(name, query=query, query_filter=rule, limit=k).points
            found.append([point.payload["item"] for point in points])
        return np.array(found)

    return search


def in_lancedb(vectors: np.ndarray, ids: np.ndarray) -> Search:
    """Return a search of a table in a temporary folder, whose rows hold the ids."""
    import lancedb

    database = lancedb.connect(tempfile.mkdtemp())
    table = database.create_table(
        "items", pd.DataFrame({"row": range(len(ids)), "item": ids, "vector": list(vectors)})
    )

    def search(queries: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
        found = []
        for query, mask in zip(queries, allowed, strict=True):
            request = table.search(query).distance_type("dot").limit(k)
            if not mask.all():
                out = ", ".join(map(str, np.flatnonzero(~mask)))
                request = request.where(f"row NOT IN ({out})", prefilter=True)
            found.append(request.to_pandas()["item"])
        return np.array(found)

    return search


STORES = {
    "faiss": in_faiss,
    "hnswlib": in_hnswlib,
    "usearch": in_usearch,
    "qdrant_client": in_qdrant,
    "lancedb": in_lancedb,
}


def allowed_items(pipe: Any, users: Sequence, candidates: Sequence | None = None) -> np.ndarray:
    """Return which items each user may get, (n_users, n_items): unseen candidates."""
    samples, ids = pipe[:-1].transform(pd.DataFrame({pipe.schema_.user: users})), pipe[-1].item_ids_
    allowed = np.tile(np.isin(ids, ids if candidates is None else candidates), (len(users), 1))
    for mask, start, stop in zip(allowed, samples.seen, samples.stop, strict=True):
        seen = pipe.schema_.items.decode(samples.log.items[start:stop])
        mask &= ~np.isin(ids, seen)
    return allowed


def main() -> None:
    """Compare each store that is installed with the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a fitted MatchPipeline whose retriever has item vectors")
    parser.add_argument("--k", type=int, default=10, help="number of items per user")
    options = parser.parse_args()
    pipe = persistence.load(options.path)
    users = pipe.schema_.users.values[:20]
    queries = pipe.transform(pd.DataFrame({pipe.schema_.user: users}))
    expected = pipe.recommend(users, k=options.k, exclude_seen=True)[pipe.schema_.item].to_numpy()
    for name, store in STORES.items():
        try:
            search = store(pipe[-1].item_vectors_, pipe[-1].item_ids_)
        except ImportError:
            print(f"{name}: not installed")
            continue
        found = search(queries, options.k, allowed_items(pipe, users))
        share = (found.ravel() == expected).mean()
        print(f"{name}: {share:.0%} of the items are those of recommend, at their ranks")


if __name__ == "__main__":
    main()
