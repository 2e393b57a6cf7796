"""Time searches: with one worker and two, with and without memory, and the scoring alone.

python benchmarks/search.py [PATH of a MovieLens zip or folder] [--epochs N] [--repeats N]
"""

import argparse
import os
import tempfile
import time

import joblib
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    evaluate,
    make_topk_scorer,
)
from skmatch.datasets import load_movielens, load_movielens_small, make_events
from skmatch.neighbors import ItemIndex

GRID = {  # 8 candidates
    "sequencesampler__neg_ratio": [1, 3],
    "dssmretriever__temperature": [0.02, 0.05, 0.1, 0.2],
}


class RandomRetriever(PopularityRetriever):
    """Returns random vectors at once, so that the time is that of everything but the model."""

    def fit(self, X, y=None):
        """Draw the vectors."""
        super().fit(X)
        rng = np.random.default_rng(0)
        self.users_ = rng.standard_normal((len(self.schema_.users), 64), dtype=np.float32)
        items = rng.standard_normal((len(self.schema_.items.values), 64), dtype=np.float32)
        self.item_vectors_, self.index_ = items, ItemIndex().fit(items)
        return self

    def _encode(self, samples):
        return self.users_[samples.user]


def search(events, epochs, n_jobs=1, memory=None):
    """Return the seconds of a search and the share of them that scoring took."""
    pipe = make_pipeline(
        MatchEncoder(item_features=["genres"]),
        SequenceSampler(),
        DSSMRetriever(max_epochs=epochs, random_state=0),
        memory=memory,
    )
    scorer = make_topk_scorer(["recall", "hit", "ndcg"], k=[10, 100])
    grid = GridSearchCV(
        pipe, GRID, cv=LeaveLastOut(), scoring=scorer, refit=False, n_jobs=n_jobs,
        error_score="raise",
    )  # fmt: skip
    started = time.perf_counter()
    results = grid.fit(events).cv_results_
    seconds = time.perf_counter() - started
    score, fit = results["mean_score_time"].sum(), results["mean_fit_time"].sum()
    return seconds, score / (score + fit), results["mean_test_ndcg_at_10"]


def time_evaluate():
    """Return the seconds of an evaluation of the size of MovieLens-1M, without vectors."""
    events = make_events(n_users=6040, n_items=3706, n_events=1_000_209, random_state=0)
    train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
    pipe = make_pipeline(MatchEncoder(), SequenceSampler(), RandomRetriever()).fit(train)
    started = time.perf_counter()
    evaluate(pipe, test, ["recall", "hit", "ndcg", "mrr", "precision", "map"], k=[10, 100])
    return time.perf_counter() - started, len(test)


def main() -> None:
    """Run everything in turn, several times, so that a noisy machine shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="MovieLens zip or folder; else the embedded set")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the events")
    parser.add_argument("--repeats", type=int, default=2, help="how often all is timed")
    options = parser.parse_args()
    for _ in range(options.repeats):
        seconds, n_queries = time_evaluate()
        print(f"evaluate, {n_queries:,} users, k=100, vectors left out: {seconds:.2f} s")

    events = load_movielens(options.path) if options.path else load_movielens_small()
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"{joblib.cpu_count()} cores, OMP_NUM_THREADS {threads}, {len(events):,} events")
    joblib.Parallel(2)(joblib.delayed(search)(events[:5000], 1) for _ in range(2))  # warm workers
    search(events[:5000], 1)
    for _ in range(options.repeats):
        one_worker, share, ndcg = search(events, options.epochs)
        print(f"n_jobs=1 {one_worker:.1f} s, of which scoring {share:.1%}")
        two_workers, _, ndcg_of_two = search(events, options.epochs, n_jobs=2)
        difference = np.abs(ndcg - ndcg_of_two).max()
        print(
            f"n_jobs=2 {two_workers:.1f} s: {one_worker / two_workers:.2f} times as fast; NDCG@10 "
            f"differs by {difference:.2g}"
        )
        with tempfile.TemporaryDirectory() as folder:
            cached, _, ndcg_of_cached = search(events, options.epochs, memory=folder)
        difference = np.abs(ndcg - ndcg_of_cached).max()
        print(f"memory   {cached:.1f} s: {one_worker / cached:.2f} times as fast as n_jobs=1 "
              f"without; NDCG@10 differs by {difference:.2g}")  # fmt: skip


if __name__ == "__main__":
    main()
