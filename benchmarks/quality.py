"""Compare skmatch and other libraries by their ranking of the user's next item, on real events.

python benchmarks/quality.py PATH ... [--seeds N] [--split validation] [--only NAME ...]
                             [--slow] [--ablation] [--fast]

A path is a MovieLens zip or folder, or a folder of Online Retail or MovieTweetings. README.md has
the protocol.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _harness import (
    ONE_BLAS_THREAD,
    OWN,
    RECHUB,
    RECTOOLS,
    RESULTS,
    Side,
    run_side,
    save,
    spread,
)

from skmatch import LeaveLastOut
from skmatch.datasets import load_movielens, load_online_retail
from skmatch.metrics import ndcg_at_k, recall_at_k

# The best recipe of skmatch for the next event: its differences from the defaults, chosen on
# MovieLens-1M with `--split validation`.
BEST: dict[str, dict[str, Any]] = {
    "parameters": {
        "embedding_dim": 128,
        "max_epochs": 4,
        "id_dropout": 0.0,  # the users of the test have trained
    },
    "sampler": {"gap_rate": 0, "neg_ratio": 8},
}
# The same recipe with four networks: better still, in four times the time.
ENSEMBLE = BEST | {"parameters": BEST["parameters"] | {"n_estimators": 4}}
# Further settings of both recipes on a set, chosen in the same way.
OF_SET: dict[str, dict[str, Any]] = {
    "online-retail": {"dropout": 0.2, "temperature": 0.07},
}
# The changes of the rows of `--ablation` to the defaults, with features.
ABLATION: dict[str, dict[str, dict[str, Any]]] = {
    "mean": {"parameters": {"pooling": "mean"}},
    "attention": {"parameters": {"pooling": "attention"}},
    "history-100": {"sampler": {"max_length": 100}},
    "embedding-32": {"parameters": {"embedding_dim": 32}},
    "embedding-128": {"parameters": {"embedding_dim": 128}},
    "dims-512-128": {"parameters": {"dims": (512, 128)}},
    "batch-512": {"parameters": {"batch_size": 512}},
    "neg-ratio-1": {"sampler": {"neg_ratio": 1}},
    "neg-ratio-8": {"sampler": {"neg_ratio": 8}},
    "seen-as-negatives": {"sampler": {"exclude_history": False}},
    "bce": {"parameters": {"loss": "bce"}},
    "bpr": {"parameters": {"loss": "bpr"}},
    "random-start": {"parameters": {"init": "random"}},
    "no-skip-connection": {"parameters": {"skip_connection": False}},
    "no-dropout": {"parameters": {"dropout": 0.0}},
    "no-unknown": {"parameters": {"id_dropout": 0.0}},
    "lr-0.003": {"parameters": {"lr": 3e-3}},
    "half-the-epochs": {"parameters": {"max_epochs": 3}},
    "twice-the-epochs": {"parameters": {"max_epochs": 12}},
    "2-members": {"parameters": {"n_estimators": 2}},
}
# Rows that find the epoch at which skmatch reaches SASRec, and their epochs.
CURVE = {f"dssm-{epochs}-epochs": epochs for epochs in (1, 2, 3, 4, 6)}
USER_FEATURES = ["gender", "age", "occupation", "country"]
ITEM_FEATURES = ["genres", "words"]
FAST_USERS, FAST_EPOCHS = 1000, 2
CUTOFFS = (10, 20, 50, 100)
FIGURES = {f"HR@{k}": (recall_at_k, k) for k in CUTOFFS} | {
    f"NDCG@{k}": (ndcg_at_k, k) for k in (10, 100)
}
RANKINGS = {"left_out": "seen left out", "kept": "seen kept"}


@dataclass
class Row:
    """A model of the table."""

    side: Side
    settings: dict[str, Any]
    group: str = "main"  # or "slow" or "ablation", by options of the same names
    features: bool = False  # whether it reads features, where the set has them
    library: str = "skmatch"
    is_best: bool = False  # whether the best settings of the set apply


def rows() -> dict[str, Row]:
    """Return the models of the table by name."""
    table = {
        "popularity": skmatch_row("PopularityRetriever"),
        "item-to-item": skmatch_row("ItemToItemRetriever"),
        "fusion": skmatch_row("FusionRetriever"),
    }
    for name, retriever in {"dssm": "DSSMRetriever", "youtube-dnn": "YoutubeDNNRetriever"}.items():
        table[name] = skmatch_row(retriever)
        table[f"{name}-features"] = skmatch_row(retriever, features=True)
        for best, recipe, group in (("best", BEST, "main"), ("ensemble", ENSEMBLE, "slow")):
            options = {"group": group, "is_best": True}
            table[f"{name}-{best}"] = skmatch_row(retriever, recipe, **options)
            table[f"{name}-{best}-features"] = skmatch_row(
                retriever, recipe, features=True, **options
            )
        for change, recipe in ABLATION.items():
            table[f"{name}-{change}"] = skmatch_row(
                retriever, recipe, group="ablation", features=True
            )
    matrix = {
        "als": ("implicit", {"factors": 64}, ONE_BLAS_THREAD),
        "item-knn": ("implicit", {"K": 100}, ONE_BLAS_THREAD),
        "ease": ("RecTools", {}, None),
    }
    for name, (library, settings, environment) in matrix.items():
        side = Side(RECTOOLS, "side_rectools.py", name, environment)
        table[name] = Row(side, settings, library=library)
    side = Side(RECTOOLS, "side_rectools.py", "sasrec")
    table["sasrec"] = Row(side, {"epochs": 20}, "slow", library="RecTools")
    for name, epochs in CURVE.items():
        recipe = {"parameters": {"max_epochs": epochs}}
        table[name] = skmatch_row("DSSMRetriever", recipe, group="slow")
    # RecTools' epoch has a row per user.
    side = Side(RECTOOLS, "side_rectools.py", "dssm")
    table["rectools-dssm"] = Row(side, {"max_epochs": 100}, "slow", True, library="RecTools")
    for name in ("dssm", "youtube-dnn"):  # the epochs of the tutorial's scripts
        side = Side(RECHUB, "side_rechub.py", f"{name}-quality")
        table[f"rechub-{name}"] = Row(side, {"epochs": 10}, "slow", library="torch-rechub")
    return table


def skmatch_row(retriever: str, recipe: dict[str, Any] | None = None, **options: Any) -> Row:
    """Return a row of skmatch."""
    settings = {"retriever": retriever, "parameters": {}, "sampler": {}} | (recipe or {})
    return Row(Side(OWN, "side_skmatch.py", "quality"), settings, **options)


ROWS = rows()


@dataclass
class Task:
    """A set of events, split."""

    name: str
    train: pd.DataFrame  # with numbers for users and items, in the order of time
    users: np.ndarray  # of the queries
    items: np.ndarray  # their next items
    seconds: np.ndarray  # the times of these events
    features: dict[str, Any] = field(default_factory=dict)  # parameters of the encoder


def main() -> None:
    """Fit and judge the models on each set; print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="MovieLens zip, Online Retail folder")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each model")
    parser.add_argument(
        "--split",
        choices=["validation", "test"],
        default="test",
        help="what is to be found: the event before a user's last, to choose by, or the last",
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--slow", action="store_true", help="also ensembles, networks of others")
    parser.add_argument("--ablation", action="store_true", help="also changes of the defaults")
    parser.add_argument(
        "--fast",
        action="store_true",
        help=f"{FAST_USERS:,} users and {FAST_EPOCHS} epochs: shows that it runs, not how well",
    )
    options = parser.parse_args()
    groups = {"main"} | {name for name in ("slow", "ablation") if getattr(options, name)}
    names = options.only or [name for name, row in ROWS.items() if row.group in groups]
    for path in options.paths:
        run_set(read_task(path, options.split, options.fast), names, options)


def run_set(task: Task, names: list[str], options: argparse.Namespace) -> None:
    """Fit and judge the models on a set."""
    file = f"quality-{task.name}-{options.split}" + ("-fast" if options.fast else "")
    result: dict[str, Any] = {
        "set": task.name,
        "split": options.split,
        "n_users": int(task.train["user_id"].nunique()),
        "n_items": int(task.train["item_id"].nunique()),
        "n_events": len(task.train),
        "n_asked": len(task.users),
        "n_cores": os.cpu_count(),
    }
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        task.train.to_csv(inputs / "train.csv", index=False)
        np.save(inputs / "users.npy", task.users)  # the targets are not written
        np.save(inputs / "seconds.npy", task.seconds)
        for name in names:
            row = ROWS[name]
            if row.features and row.group == "main" and not task.features:
                continue  # it would equal the row without features
            if not Path(row.side.python).exists():
                print(f"  {name} is left out: {row.library} has no environment; see README.md.")
                continue
            settings = settings_of(row, task, options.fast)
            runs = [
                run_row(name, row, task, inputs, seed, settings) for seed in range(options.seeds)
            ]
            models[name] = summarise(row, settings, runs)
            save(file, result | {"models": saved_models(file) | models})
    print(as_markdown(result, models), flush=True)
    if "sasrec" in models and models.keys() & CURVE.keys():
        print(when_reached(models), flush=True)


def when_reached(models: dict[str, Any]) -> str:
    """Return the first of the fits of few epochs that ranks as well as SASRec, and its time."""
    (quality, seconds), *ours = (
        (models[name]["left_out"]["NDCG@10"]["mean"], models[name]["fit_seconds"]["mean"])
        for name in ["sasrec", *CURVE]
        if name in models
    )
    times = [own_seconds for own_quality, own_seconds in ours if own_quality >= quality]
    if not times:
        return f"No fit of few epochs reaches SASRec's NDCG@10 of {quality:.4f}."
    return (
        f"skmatch reaches SASRec's NDCG@10 of {quality:.4f} after {min(times):.0f} s, SASRec after "
        f"{seconds:.0f} s: {seconds / min(times):.1f} times faster."
    )


def read_task(path: Path, split: str, fast: bool) -> Task:
    """Read a set and split it: the last held-out event is the test, the event before validation.

    A user's events are in the order of time, and of the rows where times are equal.
    """
    events = load(path)
    if fast:
        users = events["user_id"].unique()
        users = np.random.default_rng(0).permutation(users)[:FAST_USERS]
        events = events[events["user_id"].isin(users)]
    events = events.sort_values("timestamp", kind="stable", ignore_index=True)
    user_features, item_features = (
        [name for name in names if name in events] for names in (USER_FEATURES, ITEM_FEATURES)
    )
    table = pd.DataFrame(
        {
            "user_id": pd.factorize(events["user_id"])[0],
            "item_id": pd.factorize(events["item_id"])[0],
            "timestamp": np.arange(len(events)),  # for models that read the order
            "second": seconds_of(events["timestamp"]),  # for models that read times
        }
    )
    table[user_features] = events[user_features]
    for name in item_features:
        table[name] = events[name].str.join("|")
    validation_fold, test_fold = LeaveLastOut(n_splits=2).split(table)
    train, held_out = (
        table.iloc[rows] for rows in (test_fold if split == "test" else validation_fold)
    )
    features = {
        "user_features": user_features,
        "item_features": item_features,
        "kinds": dict.fromkeys(item_features, "multi_valued"),
    }
    return Task(
        name=path.resolve().stem,
        train=train,
        users=held_out["user_id"].to_numpy(),
        items=held_out["item_id"].to_numpy(),
        seconds=held_out["second"].to_numpy(),
        features=features if user_features or item_features else {},
    )


def seconds_of(times: pd.Series) -> pd.Series:
    """Return times as seconds."""
    if pd.api.types.is_datetime64_any_dtype(times):
        return (times - times.min()).dt.total_seconds()
    return times


def load(path: Path) -> pd.DataFrame:
    """Read a set with the loader of its layout."""
    if is_tweetings(path):
        return read_tweetings(path / "ratings.dat", ["user_id", "item_id", "rating", "timestamp"])
    try:
        return load_movielens(path)
    except ValueError as no_movielens:
        try:
            events = load_online_retail(path)
            return events.assign(words=events["description"].str.split())
        except (ValueError, FileNotFoundError) as no_retail:
            raise ValueError(
                f"{path} is no MovieLens ({no_movielens}) and no Online Retail ({no_retail})"
            ) from None


def is_tweetings(path: Path) -> bool:
    """Return whether a folder is MovieTweetings: MovieLens-1M has a third file."""
    return (path / "ratings.dat").exists() and not list(path.glob("**/users.dat"))


def read_tweetings(path: Path, names: list[str]) -> pd.DataFrame:
    """Read a file of MovieTweetings, whose columns are delimited by two colons."""
    return pd.read_csv(path, sep="::", engine="python", names=names)


def settings_of(row: Row, task: Task, fast: bool) -> dict[str, Any]:
    """Return the settings of a row on a set."""
    settings = dict(row.settings)
    if row.library == "RecTools" and row.features:
        settings["features"] = task.features
    if row.library == "skmatch":
        settings["encoder"] = task.features if row.features else {}
        if row.is_best:
            of_set = OF_SET.get(task.name, {})
            settings["parameters"] = settings["parameters"] | of_set
        if fast and settings["retriever"] in ("DSSMRetriever", "YoutubeDNNRetriever"):
            settings["parameters"] = settings["parameters"] | {"max_epochs": FAST_EPOCHS}
    elif fast:
        settings |= dict.fromkeys({"epochs", "max_epochs"} & settings.keys(), FAST_EPOCHS)
    return settings


def run_row(
    name: str, row: Row, task: Task, inputs: Path, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Fit a model in a fresh process and judge its lists."""
    run = run_side(row.side, inputs, seed, settings)
    lists = {ranking: np.load(inputs / f"{ranking}.npy") for ranking in RANKINGS}
    for ranking in RANKINGS:
        (inputs / f"{ranking}.npy").unlink()
    check_unseen(name, task, lists["left_out"])
    run["figures"] = {
        ranking: {figure: metric(task.items, items, k) for figure, (metric, k) in FIGURES.items()}
        for ranking, items in lists.items()
    }
    figures = run["figures"]["left_out"]
    print(
        f"  {task.name}, {name}, seed {seed}: HR@10 {figures['HR@10']:.4f}, "
        f"NDCG@10 {figures['NDCG@10']:.4f}, fit {run['seconds']['total'][0]:.1f} s",
        flush=True,
    )
    return run


def check_unseen(name: str, task: Task, lists: np.ndarray) -> None:
    """Raise if a model recommends an item that should be left out."""
    n_items = int(task.train["item_id"].max()) + 1
    seen = task.train["user_id"] * n_items + task.train["item_id"]
    listed = task.users[:, None] * n_items + lists
    n_wrong = int(np.isin(listed[lists >= 0], seen).sum())
    if n_wrong:
        raise RuntimeError(f"{name} recommends {n_wrong:,} items that were to be left out.")


def summarise(row: Row, settings: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a model over its seeds."""
    return {
        "library": row.library,
        "settings": settings,
        "n_seeds": len(runs),
        **{
            ranking: {
                figure: spread([run["figures"][ranking][figure] for run in runs])
                for figure in FIGURES
            }
            for ranking in RANKINGS
        },
        "fit_seconds": spread([run["seconds"]["total"][0] for run in runs]),
        "peak_bytes": spread([run["peak_bytes"] for run in runs]),
        "versions": runs[0]["versions"],
    }


def saved_models(file: str) -> dict[str, Any]:
    """Return the models that earlier runs have saved: a slow model need not run again."""
    path = RESULTS / f"{file}.json"
    return json.loads(path.read_text())["models"] if path.exists() else {}


def as_markdown(result: dict[str, Any], models: dict[str, Any]) -> str:
    """Tabulate the models of this run."""
    columns = [f"{figure}, {label}" for label in RANKINGS.values() for figure in FIGURES]
    lines = [
        f"\n### {result['set']}, {result['split']}: {result['n_users']:,} users, "
        f"{result['n_items']:,} items, {result['n_events']:,} events to learn from, "
        f"{result['n_asked']:,} to find; {result['n_cores']} cores\n",
        "| " + " | ".join(["model", "library", *columns, "fit s", "peak GB"]) + " |",
        "|---|---|" + "---:|" * (len(columns) + 2),
    ]
    for name, model in models.items():
        cells = [name, model["library"]]
        cells += [cell(model[ranking][figure], ".4f") for ranking in RANKINGS for figure in FIGURES]
        cells.append(cell(model["fit_seconds"], ".1f"))
        cells.append(f"{model['peak_bytes']['mean'] / 2**30:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(figure: dict[str, float], form: str) -> str:
    """Return a mean, with half the distance from least to greatest where there are several."""
    half = (figure["max"] - figure["min"]) / 2
    return f"{figure['mean']:{form}}" + (f" ±{half:{form}}" if half else "")


if __name__ == "__main__":
    main()
