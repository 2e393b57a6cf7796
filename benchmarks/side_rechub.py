"""torch-rechub's side: its public functions, called as its tutorial "Matching" calls them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch._dynamo  # the first optimizer of a process imports it
from _side import (
    DSSM_BATCH,
    DSSM_DIMS,
    DSSM_TEMPERATURE,
    EMBEDDING_DIM,
    ITEM_FEATURE,
    LR,
    MAX_LENGTH,
    NEG_RATIO,
    TOP_K,
    USER_FEATURES,
    WEIGHT_DECAY,
    YOUTUBE_DNN_BATCH,
    YOUTUBE_DNN_DIMS,
    YOUTUBE_DNN_TEMPERATURE,
    Clock,
    accuracy,
    main,
    read_events,
    read_needed,
    read_training,
    with_category,
    write_lists,
)
from sklearn.preprocessing import LabelEncoder
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.basic.metric import topk_metrics
from torch_rechub.models.matching import DSSM, YoutubeDNN
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator, df_to_dict
from torch_rechub.utils.match import Annoy, gen_model_input, generate_seq_feature_match

POINT_WISE, LIST_WISE = 0, 2
POPULARITY = 1  # count ** 0.75
USER_COLUMNS = ["user_id", *USER_FEATURES]
ITEM_COLUMNS = ["movie_id", ITEM_FEATURE]


@dataclass
class Prepared:
    """The arrays that the tutorial's preparation returns."""

    x: dict[str, np.ndarray]
    y: np.ndarray
    test_user: dict[str, np.ndarray]
    all_item: dict[str, np.ndarray]
    sizes: dict[str, int]  # codes of each feature
    ids: dict[str, np.ndarray]  # the ids of users and movies, by code - 1


def prepare(events: pd.DataFrame, mode: int) -> Prepared:
    """Encode, cut histories, draw negatives, pad: from events to arrays."""
    data = events.copy()
    sizes, ids = {}, {}
    user_columns, item_columns = (present(names, data) for names in (USER_COLUMNS, ITEM_COLUMNS))
    for name in [*user_columns, *item_columns]:
        encoder = LabelEncoder()
        data[name] = encoder.fit_transform(data[name]) + 1
        sizes[name] = int(data[name].max()) + 1
        ids[name] = encoder.classes_
    users = data[user_columns].drop_duplicates("user_id")
    items = data[item_columns].drop_duplicates("movie_id")
    train, test = generate_seq_feature_match(
        data,
        "user_id",
        "movie_id",
        time_col="timestamp",
        item_attribute_cols=[],
        sample_method=POPULARITY,
        mode=mode,
        neg_ratio=NEG_RATIO,
        min_item=0,
    )
    x = gen_model_input(train, users, "user_id", items, "movie_id", seq_max_len=MAX_LENGTH)
    # List-wise, the positive stands first in every row: its place is the label.
    y = x["label"] if mode == POINT_WISE else np.zeros(len(train), dtype=np.int64)
    test_user = gen_model_input(test, users, "user_id", items, "movie_id", seq_max_len=MAX_LENGTH)
    names = ("user_id", "movie_id")
    return Prepared(
        x, y, test_user, df_to_dict(items), sizes, {name: np.asarray(ids[name]) for name in names}
    )


def present(names: list[str], columns: Iterable[str]) -> list[str]:
    """Return the names that a set of events has."""
    return [name for name in names if name in columns]


def loaders(prepared: Prepared, batch_size: int) -> tuple:
    """Return the loaders of training rows, of test users and of items, as the tutorial does."""
    generator = MatchDataGenerator(x=prepared.x, y=prepared.y)
    return generator.generate_dataloader(
        prepared.test_user, prepared.all_item, batch_size=batch_size
    )


def dssm(prepared: Prepared) -> DSSM:
    tower = {"dims": list(DSSM_DIMS), "activation": "prelu"}
    return DSSM(
        user_features(prepared),
        sparse(prepared, present(ITEM_COLUMNS, prepared.sizes)),
        temperature=DSSM_TEMPERATURE,
        user_params=dict(tower),
        item_params=dict(tower),
    )


def youtube_dnn(prepared: Prepared) -> YoutubeDNN:
    return YoutubeDNN(
        user_features(prepared),
        sparse(prepared, ["movie_id"]),
        [sequence(prepared, "neg_items", "concat")],
        user_params={"dims": list(YOUTUBE_DNN_DIMS)},
        temperature=YOUTUBE_DNN_TEMPERATURE,
    )


def sparse(prepared: Prepared, names: list[str]) -> list[SparseFeature]:
    return [
        SparseFeature(name, vocab_size=prepared.sizes[name], embed_dim=EMBEDDING_DIM)
        for name in names
    ]


def sequence(prepared: Prepared, name: str, pooling: str) -> SequenceFeature:
    return SequenceFeature(
        name,
        vocab_size=prepared.sizes["movie_id"],
        embed_dim=EMBEDDING_DIM,
        pooling=pooling,
        shared_with="movie_id",
    )


def user_features(prepared: Prepared) -> list:
    features = sparse(prepared, present(USER_COLUMNS, prepared.sizes))
    return [*features, sequence(prepared, "hist_movie_id", "mean")]


def make_trainer(model: torch.nn.Module, mode: int, folder: str, n_epoch: int = 1) -> MatchTrainer:
    return MatchTrainer(
        model,
        mode=mode,
        optimizer_params={"lr": LR, "weight_decay": WEIGHT_DECAY},
        n_epoch=n_epoch,
        device="cpu",
        model_path=folder,
    )


def vectors(trainer: MatchTrainer, model: torch.nn.Module, test: object, item: object) -> tuple:
    folder = trainer.model_path
    user_vectors, item_vectors = (
        trainer.inference_embedding(model=model, mode=mode, data_loader=loader, model_path=folder)
        for mode, loader in (("user", test), ("item", item))
    )
    return user_vectors, item_vectors


def judge(inputs: Path, prepared: Prepared, user_vectors: object, item_vectors: object) -> dict:
    return accuracy(
        inputs,
        prepared.ids["user_id"][prepared.test_user["user_id"] - 1],
        user_vectors.numpy(),
        prepared.ids["movie_id"][prepared.all_item["movie_id"] - 1],
        item_vectors.numpy(),
    )


def set_seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (torch-rechub draws from it)
    torch.manual_seed(seed)


def preparation(clock: Clock, inputs: Path, seed: int) -> None:
    events = read_needed(inputs)
    set_seed(seed)
    with clock("total"):
        prepared = prepare(events, POINT_WISE)
        train, _, _ = loaders(prepared, DSSM_BATCH * (1 + NEG_RATIO))
        next(iter(train))


def cached(inputs: Path, mode: int) -> Prepared:
    """Prepare once for all runs: an epoch is measured without the preparation."""
    folder = inputs / f"rechub-{mode}"
    marker = folder / "done"
    parts = ("x", "test_user", "all_item", "ids")
    if not marker.exists():
        set_seed(0)
        prepared = prepare(read_needed(inputs), mode)
        for part in parts:
            (folder / part).mkdir(parents=True, exist_ok=True)
            for name, values in getattr(prepared, part).items():
                np.save(folder / part / f"{name}.npy", values)
        np.save(folder / "y.npy", prepared.y)
        pd.Series(prepared.sizes).to_json(folder / "sizes.json")
        marker.touch()
    columns = {
        part: {path.stem: np.load(path) for path in sorted((folder / part).glob("*.npy"))}
        for part in parts
    }
    sizes = pd.read_json(folder / "sizes.json", typ="series").astype(int).to_dict()
    return Prepared(**columns, y=np.load(folder / "y.npy"), sizes=sizes)


def epoch(
    clock: Clock, inputs: Path, seed: int, make: object, mode: int, batch_size: int
) -> dict[str, float]:
    prepared = cached(inputs, mode)
    set_seed(seed)
    train, test, item = loaders(prepared, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        with clock("total"):
            model = make(prepared)
            trainer = make_trainer(model, mode, folder)
            trainer.fit(train)
        return judge(inputs, prepared, *vectors(trainer, model, test, item))


def dssm_epoch(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    batch_size = DSSM_BATCH * (1 + NEG_RATIO)
    return epoch(clock, inputs, seed, dssm, POINT_WISE, batch_size)


def youtube_dnn_epoch(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    return epoch(clock, inputs, seed, youtube_dnn, LIST_WISE, YOUTUBE_DNN_BATCH)


def whole_job(clock: Clock, inputs: Path, seed: int) -> dict[str, float]:
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder, clock("total"):
        with clock("read"):
            events = with_category(read_events(inputs))
        with clock("prepare"):
            prepared = prepare(events, POINT_WISE)
            train, test, item = loaders(prepared, DSSM_BATCH * (1 + NEG_RATIO))
        with clock("train"):
            model = dssm(prepared)
            trainer = make_trainer(model, POINT_WISE, folder)
            trainer.fit(train)
        with clock("vectors"):
            user_vectors, item_vectors = vectors(trainer, model, test, item)
        with clock("top-100 and metrics"):
            index = Annoy(n_trees=10)
            index.fit(item_vectors)
            catalogue = prepared.ids["movie_id"][prepared.all_item["movie_id"] - 1]
            users = prepared.ids["user_id"][prepared.test_user["user_id"] - 1]
            held_out = prepared.ids["movie_id"][prepared.test_user["movie_id"] - 1]
            recommended = {
                user: catalogue[index.query(v=vector, n=TOP_K)[0]]
                for user, vector in zip(users, user_vectors, strict=True)
            }
            truth = {user: [movie] for user, movie in zip(users, held_out, strict=True)}
            metrics = topk_metrics(y_true=truth, y_pred=recommended, topKs=[TOP_K])
    print(dict(metrics))
    return judge(inputs, prepared, user_vectors, item_vectors)


def quality(
    clock: Clock, inputs: Path, seed: int, make: object, mode: int, batch_size: int, epochs: int
) -> None:
    """Prepare, train and write the recommendations of an exact ranking of the vectors."""
    events = with_category(read_training(inputs)).rename(columns={"item_id": "movie_id"})
    # The preparation holds out the last event of each user: each user gets an event to hold out.
    stand_in = events.groupby("user_id").tail(1)
    stand_in = stand_in.assign(timestamp=len(events) + np.arange(len(stand_in)))
    padded = pd.concat([events, stand_in], ignore_index=True)
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        with clock("total"):
            prepared = prepare(padded, mode)
            train, test, item = loaders(prepared, batch_size)
            model = make(prepared)
            trainer = make_trainer(model, mode, folder, epochs)
            trainer.fit(train)
        user_vectors, item_vectors = vectors(trainer, model, test, item)
    known_users = pd.Index(prepared.ids["user_id"][prepared.test_user["user_id"] - 1])
    items = pd.Index(prepared.ids["movie_id"][prepared.all_item["movie_id"] - 1])

    def recommend(users: np.ndarray, exclude_seen: bool) -> np.ndarray:
        scores = (user_vectors[known_users.get_indexer(users)] @ item_vectors.T).numpy()
        if exclude_seen:
            row = pd.Index(users).get_indexer(events["user_id"])
            column = items.get_indexer(events["movie_id"])
            scores[row[row >= 0], column[row >= 0]] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K]
        is_left = np.take_along_axis(scores, best, axis=1) > -np.inf
        return np.where(is_left, items.to_numpy()[best], -1)

    write_lists(inputs, recommend)


def dssm_quality(clock: Clock, inputs: Path, seed: int, epochs: int) -> None:
    quality(clock, inputs, seed, dssm, POINT_WISE, DSSM_BATCH * (1 + NEG_RATIO), epochs)


def youtube_dnn_quality(clock: Clock, inputs: Path, seed: int, epochs: int) -> None:
    quality(clock, inputs, seed, youtube_dnn, LIST_WISE, YOUTUBE_DNN_BATCH, epochs)


if __name__ == "__main__":
    main(
        {
            "preparation": preparation,
            "dssm-epoch": dssm_epoch,
            "youtube-dnn-epoch": youtube_dnn_epoch,
            "whole-job": whole_job,
            "dssm-quality": dssm_quality,
            "youtube-dnn-quality": youtube_dnn_quality,
        }
    )
