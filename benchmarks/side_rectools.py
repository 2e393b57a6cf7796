"""RecTools' side: its rankers, its metrics, its models, and implicit's models that it wraps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch._dynamo  # noqa: F401 (the first optimizer of a process imports it)
from _side import (
    CUTOFFS,
    METRICS,
    TOP_K,
    Clock,
    as_lists,
    main,
    read_training,
    write_lists,
)
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import MAP, MRR, NDCG, HitRate, Precision, Recall, calc_metrics
from rectools.models import (
    DSSMModel,
    EASEModel,
    ImplicitALSWrapperModel,
    ImplicitItemKNNWrapperModel,
    SASRecModel,
)
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
    _, items_of_lists, _ = clock.repeat(
        "total", lambda: ranker.rank(subjects, k=TOP_K, filter_pairs_csr=seen)
    )
    return np.asarray(items_of_lists).reshape(len(users), TOP_K)


def top_k(clock: Clock, inputs: Path, seed: int) -> None:
    ranking = rank(clock, inputs, lambda users, items: ImplicitRanker(Distance.DOT, users, items))
    np.save(inputs / "top-k-RecTools.npy", ranking)


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
        f"{name}_at_{k}": CLASSES[name](k, divide_by_achievable=True)
        if name == "ndcg"
        else CLASSES[name](k)
        for name in METRICS
        for k in CUTOFFS
    }
    values = clock.repeat("total", lambda: calc_metrics(metrics, recommended, held_out))
    return {name: float(value) for name, value in values.items()}


def als(clock: Clock, inputs: Path, seed: int, **parameters: float) -> None:
    model = AlternatingLeastSquares(random_state=seed, **parameters)
    answer(clock, inputs, ImplicitALSWrapperModel(model), read_pairs(inputs))


def item_knn(clock: Clock, inputs: Path, seed: int, **parameters: int) -> None:
    model = ImplicitItemKNNWrapperModel(CosineRecommender(**parameters))
    answer(clock, inputs, model, read_pairs(inputs))


def ease(clock: Clock, inputs: Path, seed: int, **parameters: float) -> None:
    answer(clock, inputs, EASEModel(**parameters), read_pairs(inputs))


def sasrec(clock: Clock, inputs: Path, seed: int, **parameters: float) -> None:
    seed_everything(seed)
    answer(clock, inputs, SASRecModel(**parameters), read_interactions(inputs))


def dssm(
    clock: Clock, inputs: Path, seed: int, *, features: dict[str, list[str]], max_epochs: int
) -> None:
    """RecTools' towers know ids only as features: the ids are among the features."""
    seed_everything(seed)
    events = read_training(inputs)
    tables = {
        "user_features_df": as_features(events, Columns.User, features.get("user_features", [])),
        "item_features_df": as_features(events, Columns.Item, features.get("item_features", [])),
    }
    categories = {
        f"cat_{name.removesuffix('_df')}": list(table["feature"].unique())
        for name, table in tables.items()
    }
    model = DSSMModel(max_epochs=max_epochs, loggers=False, callbacks=[])
    answer(clock, inputs, model, read_pairs(inputs), **tables, **categories)


def as_features(events: pd.DataFrame, key: str, names: list[str]) -> pd.DataFrame:
    """Return RecTools' long table of an id's features, a row per value of a cell."""
    rows = events.drop_duplicates(key)
    parts = [
        pd.DataFrame({"id": rows[key], "feature": name, "value": rows[name].astype(str)})
        for name in [key, *names]
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(value=table["value"].str.split("|")).explode("value", ignore_index=True)


def read_interactions(inputs: Path) -> pd.DataFrame:
    events = read_training(inputs)
    return pd.DataFrame(
        {
            Columns.User: events["user_id"],
            Columns.Item: events["item_id"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(events["timestamp"], unit="s"),
        }
    )


def read_pairs(inputs: Path) -> pd.DataFrame:
    """Return each pair once, for models of a binary matrix."""
    return read_interactions(inputs).drop_duplicates([Columns.User, Columns.Item])


def answer(
    clock: Clock, inputs: Path, model: object, interactions: pd.DataFrame, **features: object
) -> None:
    """Fit a model and write its recommendations."""
    with clock("total"):
        dataset = Dataset.construct(interactions, **features)
        model.fit(dataset)

    def recommend(users: np.ndarray, exclude_seen: bool) -> np.ndarray:
        table = model.recommend(
            users, dataset, TOP_K, filter_viewed=exclude_seen, on_unsupported_targets="ignore"
        )
        return as_lists(table, users)

    write_lists(inputs, recommend)


if __name__ == "__main__":
    main(
        {
            "top-k": top_k,
            "top-k-torch": top_k_torch,
            "evaluation": evaluation,
            "als": als,
            "item-knn": item_knn,
            "ease": ease,
            "sasrec": sasrec,
            "dssm": dssm,
        }
    )
