"""Compare the defaults with simpler models on several tables: next event and next visit.

python benchmarks/panel.py [PATH ...] [--split validation] [--seeds N] [--only NAME ...]
                           [--fast]

A path is a MovieLens zip or folder, a folder of Online Retail, or one of MovieTweetings; four
made-up tables with known structure are always part of the panel. README.md has the protocol.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _harness import RESULTS, save
from matplotlib.lines import Line2D
from quality import load

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    PopularityRetriever,
    TemporalSplit,
    make_topk_scorer,
)
from skmatch.datasets import make_events

SIZES = {"n_users": 3000, "n_items": 2000, "n_events": 60_000, "n_clusters": 20}
MADE_UP: dict[str, dict[str, Any]] = {
    "stable tastes": {"drift": 1.0, "visit_size": 4},
    "drift": {"drift": 0.1, "visit_size": 4},
    "repeat purchases": {"drift": 0.5, "visit_size": 8, "repeats": 0.5},
    "popularity alone": {"n_clusters": 1, "visit_size": 4},
}
SCORER = make_topk_scorer(("ndcg", "recall"), k=(10, 100))
FIGURES = ("ndcg_at_10", "recall_at_100")
EPOCHS = (1, 2, 4, 8)


def rows() -> dict[str, Callable[[int, bool], Any]]:
    """Return the models by name: functions of the seed and of whether the run is short."""

    def dssm(seed: int, fast: bool, **parameters: Any) -> DSSMRetriever:
        parameters |= {"max_epochs": 1} if fast else {}
        return DSSMRetriever(random_state=seed, **parameters)

    def fusion(seed: int, fast: bool) -> FusionRetriever:
        return FusionRetriever([("dssm", dssm(seed, fast)), ("items", ItemToItemRetriever())])

    return {
        "popularity": lambda seed, fast: PopularityRetriever(),
        "popular now": lambda seed, fast: PopularityRetriever(half_life="auto"),
        "item-to-item": lambda seed, fast: ItemToItemRetriever(),
        "dssm": dssm,
        "fusion": fusion,
        "dssm, mean": lambda seed, fast: dssm(seed, fast, pooling="mean"),
        **{
            f"dssm, {n} epochs": lambda seed, fast, n=n: dssm(seed, fast, max_epochs=n)
            for n in EPOCHS
        },
    }


ROWS = rows()
MAIN = ("popularity", "popular now", "item-to-item", "dssm", "fusion")


class Cell(NamedTuple):
    """A question about a table: events to train on and held-out events."""

    table: str
    question: str
    train: pd.DataFrame
    test: pd.DataFrame


def main() -> None:
    """Fit and judge the models in each cell; print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="MovieLens, Online Retail, Tweetings")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each model")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=MAIN, metavar="NAME")
    parser.add_argument("--fast", action="store_true", help="one epoch: shows that it runs")
    options = parser.parse_args()
    results = []
    for table, events in tables(options.paths):
        for cell in cells(table, events, options.split):
            for name in options.only:
                runs = [run(cell, ROWS[name](n, options.fast)) for n in range(options.seeds)]
                result = {"table": cell.table, "question": cell.question, "model": name}
                result |= {
                    figure: np.mean([figures[figure] for figures in runs]) for figure in runs[0]
                }
                results.append(result)
                print("  " + ", ".join(map(as_text, result.values())), flush=True)
    if not options.fast:
        save(f"panel-{options.split}", results)
        draw(pd.DataFrame(results), RESULTS / f"panel-{options.split}.svg")
    print(as_markdown(pd.DataFrame(results)))


def tables(paths: list[Path]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Read the tables, in the order of time, and make the others."""
    for name, parameters in MADE_UP.items():
        yield name, make_events(**SIZES | parameters, random_state=0)
    for path in paths:
        events = load(path).sort_values("timestamp", kind="stable", ignore_index=True)
        yield path.resolve().stem, events[["user_id", "item_id", "timestamp"]]


def cells(table: str, events: pd.DataFrame, split: str) -> Iterator[Cell]:
    """Split a table in both ways; the last held-out part is the test, the part before validation.

    Queries of the next visit are known users, and targets are items that they did not have before.
    """
    fold = 1 if split == "test" else 0
    train, test = list(LeaveLastOut(n_splits=2).split(events))[fold]
    yield Cell(table, "next event", events.iloc[train], events.iloc[test])
    train, test = list(TemporalSplit(n_splits=2, test_size=0.1).split(events))[fold]
    train_events, held_out = events.iloc[train], events.iloc[test]
    keys = ["user_id", "item_id"]
    held_out = held_out.drop_duplicates(keys)
    is_repeat = pd.MultiIndex.from_frame(held_out[keys]).isin(
        pd.MultiIndex.from_frame(train_events[keys])
    )
    is_known = held_out["user_id"].isin(train_events["user_id"]) & held_out["item_id"].isin(
        train_events["item_id"]
    )
    yield Cell(table, "next visit", train_events, held_out[is_known & ~is_repeat])


def run(cell: Cell, retriever: Any) -> dict[str, float]:
    """Fit a model and compute its figures on the held-out events."""
    start = time.process_time()
    retriever.fit(cell.train)
    seconds = time.process_time() - start
    scores = SCORER(retriever, cell.test)
    return {**{figure: scores[figure] for figure in FIGURES}, "cpu_seconds": seconds}


def as_text(value: Any) -> str:
    """Return a figure with four digits, other values unchanged."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def as_markdown(results: pd.DataFrame) -> str:
    """Tabulate the figures, a row per table and a column per question and model."""
    results["figures"] = [
        " / ".join(f"{value:.3f}"[1:] for value in values)
        for values in results[list(FIGURES)].to_numpy()
    ]
    table = results.pivot(index=["table", "question"], columns="model", values="figures")
    models = results["model"].unique().tolist()
    lines = [
        " | ".join(["| table | question", *models]) + " |",
        "|---|---|" + "---:|" * len(models),
    ]
    for (name, question), cell in table.iterrows():
        lines.append("| " + " | ".join([name, question, *cell[models]]) + " |")
    return "\n".join(lines)


def draw(results: pd.DataFrame, path: Path) -> None:
    """Draw NDCG@10 against the time of a fit, a panel per question and a line per table."""
    results = results[~results["table"].isin(MADE_UP)]
    style = {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    with plt.style.context(["seaborn-v0_8-colorblind", style]):
        figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
        markers = dict(zip(results["model"].unique(), "osD^vP*Xd", strict=False))
        for axis, (question, of_question) in zip(axes, results.groupby("question"), strict=True):
            for table, of_table in of_question.groupby("table"):
                of_table = of_table.sort_values("cpu_seconds")
                axis.plot(of_table["cpu_seconds"], of_table["ndcg_at_10"], lw=1, label=table)
                color = axis.lines[-1].get_color()
                for model, of_model in of_table.groupby("model"):
                    axis.plot(
                        of_model["cpu_seconds"], of_model["ndcg_at_10"], markers[model], color=color
                    )
            axis.set(xscale="log", title=question, xlabel="CPU seconds of the fit")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("NDCG@10")
        lines = [
            Line2D([], [], color="k", marker=markers[name], ls="", label=name) for name in markers
        ]
        figure.legend(
            handles=[*axes[0].get_legend_handles_labels()[0], *lines],
            loc="outside lower center", ncols=4, frameon=False,
        )  # fmt: skip
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
