"""Compare exact and approximate search for neighbours, and measure the cost of filters.

python benchmarks/neighbors.py [--items N ...] [--queries N] [--seconds S]

The vectors have 64 dimensions and unit length, are clustered, and vary less in each further
dimension, as embeddings do; queries come from the same clusters. `ItemIndex` stands against faiss
(HNSW) and hnswlib where they are installed. All times are CPU times of all threads together, which
hardly change on a shared machine. Queries per second are measured in a call with many queries
("batch") and in calls with one query each ("single"), after a call that does not count; recall is
the share of the exact 10 best. Then `ItemIndex` searches exactly with each kind of filter: the same
queries should take less than 1.3 times as long as without a filter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from _harness import save
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

from skmatch.neighbors import ItemFilter, ItemIndex, ItemLists

ITEMS = (10**4, 10**5, 10**6)
N_DIMS = 64
K = 10
N_SINGLE = 100
ITEMS_PER_CLUSTER = 100
LISTED, SEEN = 1000, 100  # items of a list of candidates, and of a user's events
FILTER_QUERIES, FILTER_REPEATS = 64, 5
ALLOWED_COST = 1.3
HNSW = {"neighbours": 32, "construction": 200, "search": 64}

Search = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure each size; print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", nargs="+", type=int, default=ITEMS)
    parser.add_argument("--queries", type=int, default=2000, help="of a batch, at most")
    parser.add_argument("--seconds", type=float, default=20, help="for the batches of an engine")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    filters: list[dict[str, Any]] = []
    started = time.process_time()
    vectors, queries = make_vectors(10**4, 10)  # of fewer, not all is compiled
    build_pynndescent(vectors)(queries)
    seconds = time.process_time() - started
    print(f"pynndescent compiles for {seconds:.0f} s, once in a process; it is not counted below.")
    for n_items in options.items:
        vectors, queries = make_vectors(n_items, options.queries)
        print(f"\n{n_items:,} items\n", flush=True)
        rows += compare(vectors, queries, options.seconds)
        filters += cost_of_filters(vectors, queries)
        result = {"compile_seconds": seconds, "engines": rows, "filters": filters}
        save("neighbors", {"n_cores": os.cpu_count(), **result})


def make_vectors(n_items: int, n_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Make items, and queries from the same clusters, of unit length."""
    rng = np.random.default_rng(0)
    scales = np.arange(1, N_DIMS + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((n_items // ITEMS_PER_CLUSTER, N_DIMS), dtype=np.float32)

    def draw(n: int) -> np.ndarray:
        centre = centres[rng.integers(len(centres), size=n)]
        vectors = (centre + 0.7 * rng.standard_normal((n, N_DIMS), dtype=np.float32)) * scales
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return draw(n_items), draw(n_queries)


def compare(vectors: np.ndarray, queries: np.ndarray, seconds: float) -> list[dict[str, Any]]:
    """Build and query each engine."""
    rows = []
    print("| engine | build s | queries/s, batch | queries/s, single | recall@10 |")
    print("|---|---:|---:|---:|---:|")
    truth = None
    for name, build in engines().items():
        started = time.process_time()
        search = build(vectors)
        row: dict[str, Any] = {"n_items": len(vectors), "engine": name}
        row["build_seconds"] = time.process_time() - started
        search(queries[:2])  # starts threads
        started = time.process_time()
        search(queries[:N_SINGLE])
        per_query = (time.process_time() - started) / N_SINGLE
        batch = queries[: max(N_SINGLE, int(seconds / per_query))]
        row["n_queries"] = len(batch)
        started = time.process_time()
        positions = search(batch)
        row["batch"] = len(batch) / (time.process_time() - started)
        row["single"] = 1 / statistics.median(
            timed(search, queries[i : i + 1]) for i in range(N_SINGLE)
        )
        truth = positions if truth is None else truth  # the exact engine comes first
        n = min(len(truth), len(positions))
        hits = [
            len({*a} & {*b})
            for a, b in zip(truth[:n].tolist(), positions[:n].tolist(), strict=True)
        ]
        row["recall"] = sum(hits) / (n * K)
        rows.append(row)
        print(
            f"| {name} | {row['build_seconds']:.1f} | {row['batch']:,.0f} | {row['single']:,.0f} "
            f"| {row['recall']:.3f} |",
            flush=True,
        )
    return rows


def timed(search: Search, queries: np.ndarray) -> float:
    """Return the CPU seconds of a search."""
    started = time.process_time()
    search(queries)
    return time.process_time() - started


def engines() -> dict[str, Callable[[np.ndarray], Search]]:
    """Return the builders of the installed engines, the exact engine first."""
    builders = {"exact": build_exact, "pynndescent": build_pynndescent}
    if find_spec("faiss"):
        builders["faiss HNSW"] = build_faiss
    if find_spec("hnswlib"):
        builders["hnswlib"] = build_hnswlib
    return builders


def build_exact(vectors: np.ndarray) -> Search:
    """Build skmatch's exact index."""
    index = ItemIndex().fit(vectors)
    return lambda queries: index.search(queries, K)[0]


def build_pynndescent(vectors: np.ndarray) -> Search:
    """Build skmatch's approximate index."""
    index = ItemIndex("pynndescent", random_state=0).fit(vectors)
    return lambda queries: index.search(queries, K)[0]


def build_faiss(vectors: np.ndarray) -> Search:
    """Build faiss' graph of neighbours."""
    import faiss

    index = faiss.IndexHNSWFlat(N_DIMS, HNSW["neighbours"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW["construction"]
    index.hnsw.efSearch = HNSW["search"]
    index.add(vectors)
    return lambda queries: index.search(queries, K)[1]


def build_hnswlib(vectors: np.ndarray) -> Search:
    """Build hnswlib's graph of neighbours."""
    import hnswlib

    index = hnswlib.Index("ip", N_DIMS)
    # The other engines use this number by default.
    index.set_num_threads(_openmp_effective_n_threads())
    index.init_index(len(vectors), M=HNSW["neighbours"], ef_construction=HNSW["construction"])
    index.add_items(vectors)
    index.set_ef(HNSW["search"])
    return lambda queries: index.knn_query(queries, K)[0]


def cost_of_filters(vectors: np.ndarray, queries: np.ndarray) -> list[dict[str, Any]]:
    """Time the exact search with each kind of filter, in turn with the search without filter."""
    queries = queries[:FILTER_QUERIES]
    index = ItemIndex().fit(vectors)
    filters = make_filters(len(vectors), len(queries))
    seconds: dict[str, list[float]] = {name: [] for name in filters}
    for _ in range(FILTER_REPEATS + 1):
        for name, allowed in filters.items():
            started = time.process_time()
            index.search(queries, K, allowed)
            seconds[name].append(time.process_time() - started)
    rows = []
    print("\n| filter of the exact search | ms a query | times that without |")
    print("|---|---:|---:|")
    # The first round does not count; ratios are of pairs of the same round.
    without = np.array(seconds["none"][1:])
    for name, filter_seconds in seconds.items():
        times = float(np.median(np.array(filter_seconds[1:]) / without))
        per_query = 1000 * statistics.median(filter_seconds[1:]) / len(queries)
        verdict = "" if times < ALLOWED_COST else f"; MISSED: {ALLOWED_COST} is allowed"
        print(f"| {name} | {per_query:.2f} | {times:.2f}{verdict} |", flush=True)
        rows.append({"n_items": len(vectors), "filter": name, "ms": per_query, "times": times})
    return rows


def make_filters(n_items: int, n_queries: int) -> dict[str, ItemFilter | None]:
    """Return a filter of each kind, as a retriever makes it."""
    rng = np.random.default_rng(0)
    listed, half = np.zeros((2, n_items), dtype=bool)
    listed[rng.choice(n_items, LISTED, replace=False)] = True
    half[rng.choice(n_items, n_items // 2, replace=False)] = True

    def lists(n: int) -> ItemLists:
        codes = rng.integers(2, n_items + 2, n_queries * n).astype(np.int32)
        start = np.arange(n_queries) * n
        return ItemLists(codes, start, start + n)

    everybody = np.ones(n_queries, dtype=bool)
    seen = lists(SEEN)
    return {
        "none": None,
        f"seen: {SEEN} items a query": ItemFilter(exclude=(seen,)),
        f"candidates: {LISTED:,} items for all": ItemFilter(mask=listed),
        "candidates: half of the items for all": ItemFilter(mask=half),
        f"candidates: {LISTED:,} items a query": ItemFilter(
            candidates=lists(LISTED), has_candidates=everybody
        ),
        f"exclude: {LISTED:,} items for all": ItemFilter(mask=~listed),
        f"exclude: {LISTED:,} items a query": ItemFilter(exclude=(lists(LISTED),)),
        "candidates and exclude for all, seen": ItemFilter(mask=half & ~listed, exclude=(seen,)),
        "candidates and exclude a query, seen": ItemFilter(
            candidates=lists(LISTED), has_candidates=everybody, exclude=(lists(LISTED), seen)
        ),
    }


if __name__ == "__main__":
    main()
