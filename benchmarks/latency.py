"""Time the recommendations to a single known user on one core, and their parts.

python benchmarks/latency.py [--items N] [--queries N]

The same call is timed for item-to-item and for its fusion with the network, whose scores have a
trend, in CPU time. Then time a call for many users with each kind of filter, in turn with the call
without filter: in CPU time, reading the lists of ids included.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    SequenceSampler,
    make_match_pipeline,
)
from skmatch._ranking import top_k
from skmatch.neighbors import ItemFilter, ItemLists

FILTER_QUERIES, FILTER_REPEATS = 64, 5
LISTED = 1000  # items of a list, at most
HALF_LIFE = 10_000.0  # of the trend: events at random have none that "auto" would find


def make_retrievers() -> dict[str, Any]:
    """Return retrievers of default sizes with a trend."""
    network = DSSMRetriever(max_epochs=1, random_state=0, trend=HALF_LIFE)
    items = ItemToItemRetriever(trend=HALF_LIFE)
    fusion = FusionRetriever([("dssm", network), ("items", items)], weights=None)
    return {"item-to-item": items, "fusion": fusion}


def make_pipe(n_items: int, retriever: Any) -> Any:
    """Fit with default sizes; the quality of the model does not matter here."""
    rng = np.random.default_rng(0)
    items = pd.DataFrame({"item_id": "item-" + pd.Series(np.arange(n_items)).astype(str)})
    events = pd.DataFrame(
        {
            "user_id": "user-" + pd.Series(np.repeat(np.arange(2000), 60)).astype(str),
            "item_id": items["item_id"].to_numpy()[rng.integers(0, n_items, 120_000)],
            "timestamp": np.arange(120_000),
        }
    )
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever)
    pipe.fit(events[::40], matchencoder__items=items)
    return pipe.observe(events)


def milliseconds(
    call: Callable[[Any], Any],
    arguments: Iterable[Any],
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Return the time of a call with each argument, after a few calls that do not count."""
    arguments = list(arguments)
    for argument in arguments[:5]:
        call(argument)
    seconds = []
    for argument in arguments:
        start = clock()
        call(argument)
        seconds.append(clock() - start)
    return 1e3 * np.array(seconds)


def main() -> None:
    """Time the whole, then its parts, each over the same users."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000, help="size of the catalogue")
    parser.add_argument("--queries", type=int, default=500, help="how many users ask")
    options = parser.parse_args()
    with threadpool_limits(1):
        pipe = make_pipe(options.items, DSSMRetriever(max_epochs=1, random_state=0))
        report(pipe, options.queries)
        for name, retriever in make_retrievers().items():
            report_call(name, make_pipe(options.items, retriever), options.queries)
        report_filters(pipe)


def report(pipe: Any, n_queries: int) -> None:
    """Print the time of the call and of its parts."""
    encoder, sampler, retriever = (step for _, step in pipe.steps)
    users = pipe.schema_.users.values[:n_queries]
    frames = [pd.DataFrame({"user_id": [user]}) for user in users]
    coded = [encoder.transform(frame) for frame in frames]
    samples = [sampler.transform(events) for events in coded]
    vectors = [retriever.transform(rows) for rows in samples]
    searches = [
        (vector, 10, ItemFilter(exclude=(ItemLists.seen_by(rows),)))
        for vector, rows in zip(vectors, samples, strict=True)
    ]
    product = [vector @ retriever.item_vectors_.T for vector in vectors[:50]]
    total = milliseconds(lambda user: pipe.recommend([user]), users)
    print(
        f"recommend([user]) of {len(retriever.item_vectors_):,} items, one core: "
        f"median {np.median(total):.2f} ms, 90% within {np.quantile(total, 0.9):.2f} ms"
    )
    parts = {
        "query to codes and history": milliseconds(
            lambda frame: sampler.transform(encoder.transform(frame)), frames
        ),
        "user vector": milliseconds(retriever.transform, samples),
        "scores and the best of them": milliseconds(
            lambda search: retriever.index_.search(*search), searches
        ),
    }
    for name, times in parts.items():
        print(f"  {name:28} {np.median(times):6.2f} ms  {np.median(times) / np.median(total):4.0%}")
    between = np.median(total) - sum(np.median(times) for times in parts.values())
    print(
        f"  {'frames, and what is between':28} {between:6.2f} ms  {between / np.median(total):4.0%}"
    )
    scored = milliseconds(lambda vector: vector @ retriever.item_vectors_.T, vectors)
    chosen = milliseconds(lambda scores: top_k(scores, 10), product)
    print(
        f"of the search: product {np.median(scored):.2f} ms, selection {np.median(chosen):.2f} ms"
    )


def report_call(name: str, pipe: Any, n_queries: int) -> None:
    """Print the CPU time of the call."""
    users = pipe.schema_.users.values[:n_queries]
    cpu = milliseconds(lambda user: pipe.recommend([user]), users, time.process_time)
    print(f"{name}: median {np.median(cpu):.2f} ms, 90% within {np.quantile(cpu, 0.9):.2f} ms")


def report_filters(pipe: Any) -> None:
    """Print the cost of each kind of filter in a call."""
    rng = np.random.default_rng(0)
    users = pipe.schema_.users.values[:FILTER_QUERIES].tolist()
    items = pipe[-1].item_ids_
    n_listed = min(LISTED, len(items))
    listed = rng.choice(items, n_listed, replace=False).tolist()
    half = rng.choice(items, len(items) // 2, replace=False).tolist()
    list_of_user = {user: rng.choice(items, n_listed, replace=False).tolist() for user in users}
    filters: dict[str, dict[str, Any]] = {
        "none": {},
        f"candidates: {n_listed:,} items for all": {"candidates": listed},
        "candidates: half of the items for all": {"candidates": half},
        f"candidates: {n_listed:,} items a user": {"candidates": list_of_user},
        f"exclude: {n_listed:,} items for all": {"exclude": listed},
        f"exclude: {n_listed:,} items a user": {"exclude": list_of_user},
    }
    seconds: dict[str, list[float]] = {name: [] for name in filters}
    for _ in range(FILTER_REPEATS + 1):
        for name, filter_ in filters.items():
            start = time.process_time()
            pipe.recommend(users, **filter_)
            seconds[name].append(time.process_time() - start)
    print(f"recommend of {len(users)} users: CPU time, and times that without a filter")
    without = np.array(seconds["none"][1:])  # the first round does not count
    for name, filter_seconds in seconds.items():
        times = np.median(np.array(filter_seconds[1:]) / without)
        print(f"  {name:40} {1e3 * np.median(filter_seconds[1:]):8.1f} ms {times:6.2f}")


if __name__ == "__main__":
    main()
