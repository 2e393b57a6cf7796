"""RecTools' side: its ranker over implicit's kernel, its ranker over torch, and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from _side import CUTOFFS, METRICS, TOP_K, Clock, main
from rectools import Columns
from rectools.metrics import MAP, MRR, NDCG, HitRate, Precision, Recall, calc_metrics
from rectools.models.rank import Distance, ImplicitRanker, TorchRanker
from scipy import sparse

CLASSES = {
    "recall": Recall,
    "hit": HitRate,
    "ndcg": NDCG,
    "mrr": MRR,
    "precision": Precision,
    "map": MAP,
}


def rank(
    clock: Clock, inputs: Path, make: Callable[[np.ndarray, np.ndarray], object]
) -> np.ndarray:
    data = np.load(inputs / "vectors.npz")
    users, items = data["users"], data["items"]
    ones = np.ones(len(data["seen_item"]), dtype=np.float32)
    seen = sparse.csr_matrix(
        (ones, data["seen_item"], data["seen_start"]), shape=(len(users), len(items))
    )
    ranker = make(users, items)
    subjects = np.arange(len(users))
    _, found, _ = clock.repeat(
        "total", lambda: ranker.rank(subjects, k=TOP_K, filter_pairs_csr=seen)
    )
    return np.asarray(found).reshape(len(users), TOP_K)


def top_k(clock: Clock, inputs: Path, seed: int) -> None:
    found = rank(clock, inputs, lambda users, items: ImplicitRanker(Distance.DOT, users, items))
    np.save(inputs / "top-k-RecTools.npy", found)


def top_k_torch(clock: Clock, inputs: Path, seed: int) -> None:
    rank(clock, inputs, lambda users, items: TorchRanker(Distance.DOT, "cpu", users, items))


def evaluation(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    data = np.load(inputs / "ranking.npz")
    ranking, users = data["ranking"], data["test_user"]
    recommended = pd.DataFrame(
        {
            Columns.User: np.repeat(users, ranking.shape[1]),
            Columns.Item: ranking.ravel(),
            Columns.Rank: np.tile(np.arange(1, ranking.shape[1] + 1), len(users)),
        }
    )
    held_out = pd.DataFrame({Columns.User: users, Columns.Item: data["test_item"]})
    metrics = {
        f"{name}@{k}": CLASSES[name](k, divide_by_achievable=True)
        if name == "ndcg"
        else CLASSES[name](k)
        for name in METRICS
        for k in CUTOFFS
    }
    values = clock.repeat("total", lambda: calc_metrics(metrics, recommended, held_out))
    return {name: float(value) for name, value in values.items()}


if __name__ == "__main__":
    main({"top-k": top_k, "top-k-torch": top_k_torch, "evaluation": evaluation})
