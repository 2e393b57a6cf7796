"""Measure recommendations, by their content, of items that training has not seen.

python benchmarks/cold_items.py PATH ... [--split validation] [--seeds N] [--users N]
                                [--id-dropout RATE ...]

A path is a MovieLens zip or folder, a folder of Online Retail, or one of MovieTweetings. With each
seed, a tenth of the items is withheld with all of its events, and added to the fitted model with
its features: genres, and the words of title or description as a projection of TF-IDF. Half of the
users are asked about new items: the target is the last event with one, the query knows the events
before it, and training none of that user after it. The others are asked for their last event, with
an item that is not new. Validation withholds other items, and half of the users are others.

- "content kNN": cosine of the TF-IDF of an item's words and genres to the mean of the history's.
- "without content": the default DSSM, which cannot add items.
- "content": the same with item features, for each rate of `id_dropout`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _harness import RESULTS, save
from quality import is_tweetings, load, read_tweetings
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, make_match_pipeline

K, K_SHARE = 10, 100
N_ASKED_FOR_SHARE = 2000


class Task(NamedTuple):
    """Events to train on, new items, and the queries."""

    train: pd.DataFrame
    items: pd.DataFrame
    is_new: np.ndarray  # of `items`
    cold: pd.DataFrame  # the next event with a new item
    warm: pd.DataFrame
    share: float  # of the events, with new items


def main() -> None:
    """Run all and print, save and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--users", type=int, help="read the events of so many users at most")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--id-dropout", type=float, nargs="+", default=[0.1])
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "all its values are unknown")
    rows = []
    for path in options.paths:
        events, items = read(path, options.users)
        for seed in range(options.seeds):
            task = make_task(events, items, seed + 1000 * (options.split == "validation"))
            systems = {
                "content kNN": content_knn(task),
                "without content": fit(task, [], 0.02, options.epochs),
            }
            for rate in options.id_dropout:
                systems[f"content, id_dropout={rate}"] = fit(
                    task, list(items.columns[1:]), rate, options.epochs
                )
            chance = K / int(task.is_new.sum())
            for name, figures in systems.items():
                about = {"data": path.stem, "seed": seed, "system": name, "chance": chance}
                rows.append(about | {"share of events": task.share} | figures)
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).drop(columns="seed").groupby(["data", "system"], sort=False).mean()
    print(f"\n{options.split}\n{table.round(4).to_string()}")
    save(f"cold_items_{options.split}", table.reset_index().to_dict("records"))
    draw(table, RESULTS / f"cold_items_{options.split}.svg")


def read(path: Path, n_users: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read events in order of time, and the items' texts and genres."""
    events = load(path).rename(columns={"description": "text", "title": "text"})
    if is_tweetings(path):
        items = read_tweetings(path / "movies.dat", ["item_id", "text", "genres"])
        items = items.drop_duplicates("item_id")
        events = events[events["item_id"].isin(items["item_id"])]
    else:
        columns = [name for name in ("item_id", "text", "genres") if name in events]
        items = events.drop_duplicates("item_id")[columns]
        if "genres" in items:
            items = items.assign(genres=items["genres"].str.join("|"))
    events = events[["user_id", "item_id", "timestamp"]]
    users = pd.Series(events["user_id"].unique())
    if n_users is not None and n_users < len(users):
        events = events[events["user_id"].isin(users.sample(n_users, random_state=0))]
    items = items.astype(dict.fromkeys(items.columns[1:], object)).fillna("")
    events = events.sort_values("timestamp", kind="stable", ignore_index=True)
    return events, items[items["item_id"].isin(events["item_id"])].reset_index(drop=True)


def make_task(events: pd.DataFrame, items: pd.DataFrame, seed: int) -> Task:
    """Withhold items, and the last event of users."""
    rng = np.random.default_rng(seed)
    is_new = np.zeros(len(items), dtype=bool)
    is_new[rng.choice(len(items), len(items) // 10, replace=False)] = True
    users = events["user_id"].unique()
    asks_cold = events["user_id"].isin(rng.choice(users, len(users) // 2, replace=False))
    event = pd.Series(np.arange(len(events)))
    is_new_event = events["item_id"].isin(items["item_id"][is_new])
    last_event = event[is_new_event & asks_cold].groupby(events["user_id"]).max()
    train = events[~is_new_event & ~(event > events["user_id"].map(last_event).fillna(len(events)))]
    n_events = train.groupby("user_id")["item_id"].transform("size")
    warm = train[~asks_cold[train.index] & (n_events > 1)].drop_duplicates("user_id", keep="last")
    train = train.drop(index=warm.index)
    cold = events.loc[last_event][lambda frame: frame["user_id"].isin(train["user_id"])]
    warm = warm[warm["item_id"].isin(train["item_id"])]
    return Task(train, items, is_new, cold, warm, float(is_new_event.mean()))


def content_knn(task: Task) -> dict[str, float]:
    """Rank new items by the cosine to the mean content of the history."""
    words = task.items["text"]
    if "genres" in task.items:
        words = words + " " + task.items["genres"].str.replace("|", " ")
    vectors = normalize(TfidfVectorizer().fit_transform(words))
    row = pd.Series(np.arange(len(task.items)), index=task.items["item_id"])
    histories = row[task.train["item_id"]].groupby(task.train["user_id"].to_numpy()).agg(list)
    queries = [vectors[histories[user]].mean(0) for user in task.cold["user_id"]]
    scores = np.asarray(vectors[task.is_new] @ np.vstack(queries).T).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    items = task.items["item_id"].to_numpy()[task.is_new][best]
    return {"new, HR@10": hits(items, task.cold).any(1).mean()}


def fit(task: Task, features: list[str], id_dropout: float, epochs: int) -> dict[str, Any]:
    """Fit a DSSM, add the new items and ask."""
    text = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(64, random_state=0))
    kinds = {"text": text, "genres": "multi_valued"}
    pipe = make_match_pipeline(
        MatchEncoder(item_features=features, kinds={name: kinds[name] for name in features}),
        SequenceSampler(),
        DSSMRetriever(id_dropout=id_dropout, max_epochs=epochs, random_state=0),
    )
    known_items = task.items[~task.is_new & task.items["item_id"].isin(task.train["item_id"])]
    start = time.process_time()
    pipe.fit(task.train, matchencoder__items=known_items if features else None)
    figures: dict[str, Any] = {"CPU seconds": time.process_time() - start}
    query = ["user_id", "timestamp"]
    warm = pipe.predict(task.warm[query], k=K)
    is_hit = hits(warm, task.warm)
    figures["warm, NDCG@10"] = (is_hit / np.log2(np.arange(2, K + 2))).sum(1).mean()
    if features:
        new_items = task.items[task.is_new]
        pipe.add_items(new_items)
        recommended = pipe.predict(task.cold[query], k=K, candidates=new_items["item_id"].tolist())
        figures["new, HR@10"] = hits(recommended, task.cold).any(1).mean()
        queries = pd.concat([task.cold, task.warm])[query]
        queries = queries.sample(min(N_ASKED_FOR_SHARE, len(queries)), random_state=0)
        recommended = pipe.predict(queries, k=K_SHARE)
        figures["share of new in top 100"] = np.isin(recommended, new_items["item_id"]).mean()
    return figures


def hits(recommended: np.ndarray, targets: pd.DataFrame) -> np.ndarray:
    """Return which recommended items are the targets, (n_queries, k)."""
    return recommended == targets["item_id"].to_numpy()[:, None]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw HR@10 among new items, a group of bars per set."""
    style = {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    figures = (
        table["new, HR@10"]
        .unstack()
        .dropna(axis=1)[[name for name in table.index.unique(1) if name != "without content"]]
    )
    with plt.style.context(["seaborn-v0_8-colorblind", style]):
        figure, axis = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
        figures.plot.bar(ax=axis, rot=0, xlabel="", ylabel="HR@10 among new items")
        chance = table["chance"].groupby("data").first()[figures.index]
        axis.plot(range(len(chance)), chance, "k_", markersize=40, label="chance")
        axis.spines[["top", "right"]].set_visible(False)
        axis.get_legend().remove()
        figure.legend(loc="outside upper center", ncols=2, frameon=False, markerscale=0.3)
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
