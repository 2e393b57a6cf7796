"""skmatch's side: the public estimators, called as a user calls them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from _side import (
    CUTOFFS,
    DSSM_BATCH,
    DSSM_DIMS,
    DSSM_TEMPERATURE,
    EMBEDDING_DIM,
    ITEM_FEATURE,
    LR,
    MAX_LENGTH,
    METRICS,
    NEG_RATIO,
    TOP_K,
    USER_FEATURES,
    WEIGHT_DECAY,
    YOUTUBE_DNN_BATCH,
    YOUTUBE_DNN_DIMS,
    YOUTUBE_DNN_TEMPERATURE,
    Clock,
    accuracy,
    as_lists,
    main,
    read_needed,
    read_training,
    write_lists,
)
from torch.nn.modules.module import register_module_forward_pre_hook

import skmatch
from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    MatchPipeline,
    SequenceSampler,
    YoutubeDNNRetriever,
    evaluate,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch import metrics as skmatch_metrics
from skmatch.datasets import load_movielens
from skmatch.neighbors import ItemFilter, ItemIndex, ItemLists


def dssm(seed: int) -> DSSMRetriever:
    return DSSMRetriever(
        dims=DSSM_DIMS,
        activation="prelu",
        loss="bce",
        batch_size=DSSM_BATCH,
        temperature=DSSM_TEMPERATURE,
        **common(seed),
    )


def youtube_dnn(seed: int) -> YoutubeDNNRetriever:
    return YoutubeDNNRetriever(
        dims=YOUTUBE_DNN_DIMS,
        activation="relu",
        loss="softmax",
        batch_size=YOUTUBE_DNN_BATCH,
        temperature=YOUTUBE_DNN_TEMPERATURE,
        **common(seed),
    )


def common(seed: int) -> dict:
    return {
        "embedding_dim": EMBEDDING_DIM,
        "batch_norm": True,
        "skip_connection": False,
        "init": "random",
        "dropout": 0.0,
        "id_dropout": 0.0,
        "pooling": "mean",
        "max_epochs": 1,
        "lr": LR,
        "weight_decay": WEIGHT_DECAY,
        "device": "cpu",
        "random_state": seed,
    }


def pipeline(retriever: object, item: str = "movie_id") -> MatchPipeline:
    return make_match_pipeline(
        MatchEncoder(item=item, user_features=USER_FEATURES, item_features=[ITEM_FEATURE]),
        SequenceSampler(
            max_length=MAX_LENGTH,
            min_history=1,
            neg_ratio=NEG_RATIO,
            negatives="popularity",
            exclude_history=False,
            gap=None,
        ),
        retriever,
    )


def split(events: pd.DataFrame, item: str = "movie_id") -> tuple[pd.DataFrame, pd.DataFrame]:
    train, test = next(LeaveLastOut().split(events))
    return events.iloc[train], events.iloc[test]


class FirstBatchError(Exception):
    """Raised when the first batch enters the network, to stop there."""


def preparation(clock: Clock, inputs: Path, seed: int) -> None:
    events = read_needed(inputs)

    def stop(module: object, batch: object) -> None:
        raise FirstBatchError

    handle = register_module_forward_pre_hook(stop)
    with clock("total"):
        train, _ = split(events)
        try:
            pipeline(dssm(seed)).fit(train)
        except FirstBatchError:
            pass
        else:
            raise RuntimeError("No batch entered a network.")
    handle.remove()


def epoch(
    clock: Clock, inputs: Path, seed: int, make: Callable[[int], DSSMRetriever]
) -> dict[str, float]:
    train, _ = split(read_needed(inputs))
    model = pipeline(make(seed))
    samples = model[:-1].fit_transform(train)
    with clock("total"):
        model[-1].fit(samples)
    return judge(inputs, model, train)


def judge(inputs: Path, model: MatchPipeline, train: pd.DataFrame) -> dict[str, float]:
    user = model[0].user
    queries = train[[user]].drop_duplicates()
    retriever = model[-1]
    return accuracy(
        inputs,
        queries[user].to_numpy(),
        model.transform(queries),
        np.asarray(retriever.item_ids_),
        retriever.item_vectors_,
    )


def dssm_epoch(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    return epoch(clock, inputs, seed, dssm)


def youtube_dnn_epoch(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    return epoch(clock, inputs, seed, youtube_dnn)


def whole_job(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    path = (inputs / "archive.txt").read_text()
    with clock("total"):
        with clock("read"):
            events = load_movielens(path)
            events[ITEM_FEATURE] = events["genres"].str[0]
        with clock("prepare"):
            train, test = split(events)
            model = pipeline(dssm(seed), item="item_id")
            samples = model[:-1].fit_transform(train)
        with clock("train"):
            model[-1].fit(samples)
        with clock("top-100 and metrics"):
            metrics = evaluate(model, test, ["ndcg", "mrr", "recall", "hit", "precision"], k=TOP_K)
    print(metrics)
    return judge(inputs, model, train)


def top_k(clock: Clock, inputs: Path, seed: int) -> None:
    data = np.load(inputs / "vectors.npz")
    index = ItemIndex().fit(data["items"])
    # Codes of items start at 2: 0 is padding and 1 unknown.
    lists = ItemLists(data["seen_item"] + 2, data["seen_start"][:-1], data["seen_start"][1:])
    seen = ItemFilter(exclude=(lists,))
    positions, _ = clock.repeat("total", lambda: index.search(data["users"], TOP_K, seen))
    np.save(inputs / "top-k-skmatch.npy", positions)


def evaluation(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    """Compute all metrics of a ranking, by a scorer of a retriever that returns this ranking."""
    data = np.load(inputs / "ranking.npz")
    held_out = pd.DataFrame({"user_id": data["test_user"], "item_id": data["test_item"]})
    schema = SimpleNamespace(user="user_id", item="item_id", time=None)
    ready = SimpleNamespace(schema_=schema, predict=lambda X, k: data["ranking"][:, :k])
    scorer = make_topk_scorer(METRICS, CUTOFFS)
    return clock.repeat("total", lambda: scorer(ready, held_out))


def evaluation_functions(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    """Compute each metric at each cutoff by a function call."""
    data = np.load(inputs / "ranking.npz")
    ranking, held_out = data["ranking"], data["test_item"]

    def call() -> dict[str, float]:
        return {
            f"{name}_at_{k}": getattr(skmatch_metrics, f"{name}_at_k")(held_out, ranking, k)
            for name in METRICS
            for k in CUTOFFS
        }

    return clock.repeat("total", call)


def quality(
    clock: Clock,
    inputs: Path,
    seed: int,
    *,
    retriever: str,
    encoder: dict,
    sampler: dict,
    parameters: dict,
) -> None:
    """Fit the named retriever and write its recommendations."""
    events = read_training(inputs)
    estimator = getattr(skmatch, retriever)(**parameters)
    if retriever == "FusionRetriever":
        members = {"dssm": DSSMRetriever(random_state=seed), "items": skmatch.ItemToItemRetriever()}
        estimator.set_params(retrievers=list(members.items()))
    elif "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    encode = MatchEncoder(time="second", **encoder)
    model = make_match_pipeline(encode, SequenceSampler(**sampler), estimator)
    with clock("total"):
        model.fit(events)
    # Events of the same second as the target come before it.
    as_of = np.load(inputs / "seconds.npy") + 0.5
    write_lists(
        inputs,
        lambda users, exclude_seen: as_lists(
            model.recommend(
                pd.DataFrame({"user_id": users, "second": as_of}),
                k=TOP_K,
                exclude_seen=exclude_seen,
            ),
            users,
        ),
    )


if __name__ == "__main__":
    main(
        {
            "preparation": preparation,
            "dssm-epoch": dssm_epoch,
            "youtube-dnn-epoch": youtube_dnn_epoch,
            "whole-job": whole_job,
            "top-k": top_k,
            "evaluation": evaluation,
            "evaluation-functions": evaluation_functions,
            "quality": quality,
        }
    )
