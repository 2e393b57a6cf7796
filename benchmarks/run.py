"""Compare skmatch with torch-rechub, RecTools and bare torch, side by side, on MovieLens-1M.

python benchmarks/run.py ml-1m.zip [--repeats N] [--only NAME ...]

README.md lists the settings that are equal between the sides and those that are not.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _harness import (
    ONE_BLAS_THREAD,
    OWN,
    RECHUB,
    RECTOOLS,
    RESULTS,
    ROOT,
    Side,
    run_side,
    save,
    spread,
)
from _side import TOP_K

from skmatch import LeaveLastOut, PopularityRetriever
from skmatch.datasets import load_movielens

CACHE = ROOT / ".cache" / "benchmarks"
WIDTH_OF_VECTORS = 64


def skmatch(name: str) -> Side:
    return Side(OWN, "side_skmatch.py", name)


def rechub(name: str) -> Side:
    return Side(RECHUB, "side_rechub.py", name)


def rectools(name: str) -> Side:
    return Side(RECTOOLS, "side_rectools.py", name, ONE_BLAS_THREAD)


# comparison -> its title, its sides; skmatch comes first
COMPARISONS: dict[str, tuple[str, dict[str, Side]]] = {
    "preparation": (
        "Preparation for DSSM: events in memory to the first batch",
        {"skmatch": skmatch("preparation"), "torch-rechub": rechub("preparation")},
    ),
    "dssm-epoch": (
        "One DSSM epoch",
        {"skmatch": skmatch("dssm-epoch"), "torch-rechub": rechub("dssm-epoch")},
    ),
    "youtube-dnn-epoch": (
        "One YoutubeDNN epoch",
        {"skmatch": skmatch("youtube-dnn-epoch"), "torch-rechub": rechub("youtube-dnn-epoch")},
    ),
    "whole-job": (
        "The tutorial's whole job, one DSSM epoch",
        {"skmatch": skmatch("whole-job"), "torch-rechub": rechub("whole-job")},
    ),
    "top-k": (
        "Top-100 of all 6,040 users",
        {
            "skmatch": skmatch("top-k"),
            "RecTools, implicit": rectools("top-k"),
            "RecTools, torch": rectools("top-k-torch"),
            "bare torch, seen kept": Side(OWN, "side_torch.py", "top-k"),
        },
    ),
    "evaluation": (
        "Six metrics of these at 10, 50 and 100",
        {
            "skmatch": skmatch("evaluation"),
            "skmatch, functions": skmatch("evaluation-functions"),
            "RecTools": rectools("evaluation"),
        },
    ),
}


def main() -> None:
    """Run the comparisons; print, save and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="ml-1m.zip, as GroupLens gives it out")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, in turn")
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    options = parser.parse_args()
    inputs = make_inputs(options.archive.resolve())
    for name in options.only:
        title, sides = COMPARISONS[name]
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for repeat in range(options.repeats):
            for side, its in sides.items():
                runs[side].append(run_side(its, inputs, repeat))
                seconds = runs[side][-1]["seconds"]["total"]
                print(f"  {name}, {side}: {np.median(seconds):.3f} s", flush=True)
        if name == "top-k":
            check_top_k(inputs)
        if name == "evaluation":
            check_evaluation(runs)
        result = summarise(title, runs)
        save(name, result)
        print(as_text(result), flush=True)
    draw(RESULTS / "comparisons.png")


def make_inputs(archive: Path) -> Path:
    """Write the inputs of all sides, once: events, split, vectors to search, a ranking to judge."""
    folder = CACHE / archive.stem
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "archive.txt").write_text(str(archive))
    if (folder / "done").exists():
        return folder
    events = load_movielens(archive)
    events["genres"] = events["genres"].str.join("|")
    # torch-rechub sorts by time with an unstable sort: a time without ties gives all sides the
    # same order, that of skmatch (time, then row).
    events = events.sort_values("timestamp", kind="stable")
    events["timestamp"] = np.arange(len(events))
    events = events.sort_index()
    train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
    columns = ["user_id", "item_id", "rating", "timestamp", "title", "genres"]
    columns += ["gender", "age", "occupation", "zip"]
    csv = events[columns].rename(columns={"item_id": "movie_id"})
    csv.to_csv(folder / "events.csv", index=False)
    np.savez(
        folder / "split.npz",
        train_user=train["user_id"],
        train_item=train["item_id"],
        test_user=test["user_id"],
        test_item=test["item_id"],
    )
    users, items = (pd.Index(np.unique(train[name])) for name in ("user_id", "item_id"))
    row, column = users.get_indexer(train["user_id"]), items.get_indexer(train["item_id"])
    by_user = np.lexsort((column, row))
    rng = np.random.default_rng(0)
    np.savez(
        folder / "vectors.npz",
        users=rng.normal(size=(len(users), WIDTH_OF_VECTORS)).astype(np.float32),
        items=rng.normal(size=(len(items), WIDTH_OF_VECTORS)).astype(np.float32),
        seen_item=column[by_user].astype(np.int32),
        seen_start=np.searchsorted(row[by_user], np.arange(len(users) + 1)),
    )
    popular = PopularityRetriever().fit(train[["user_id", "item_id", "timestamp"]])
    np.savez(
        folder / "ranking.npz",
        ranking=popular.predict(test[["user_id"]], k=TOP_K),
        test_user=test["user_id"],
        test_item=test["item_id"],
    )
    (folder / "done").touch()
    return folder


def check_top_k(inputs: Path) -> None:
    """Raise if the lists of neighbours differ; rounding may swap neighbours."""
    lists = (np.load(inputs / f"top-k-{side}.npy") for side in ("skmatch", "RecTools"))
    shared = np.mean([len(np.intersect1d(a, b)) for a, b in zip(*lists, strict=True)]) / TOP_K
    if shared < 0.999:
        raise RuntimeError(f"skmatch and RecTools share {shared:.1%} of the items they found.")


def check_evaluation(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Raise if the sides computed different metrics."""
    values = {side: results[0].pop("values") for side, results in runs.items()}
    for side, its in values.items():
        for metric, value in values["skmatch"].items():
            if abs(value - its[metric]) > 1e-9:
                raise RuntimeError(f"{metric}: skmatch gives {value}, {side} {its[metric]}.")
    for results in runs.values():
        for result in results:
            result["values"] = {}


def summarise(title: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the figures of each side over its runs, and their ratios to skmatch's."""
    sides: dict[str, Any] = {}
    for side, results in runs.items():
        phases = results[0]["seconds"]
        values = results[0]["values"]
        sides[side] = {
            "seconds": {
                phase: spread([s for result in results for s in result["seconds"][phase]])
                for phase in phases
            },
            "cpu_seconds": spread(
                [s for result in results for s in result["cpu_seconds"]["total"]]
            ),
            "peak_bytes": spread([result["peak_bytes"] for result in results]),
            "values": {
                name: spread([result["values"][name] for result in results]) for name in values
            },
            "versions": results[0]["versions"],
        }
    skmatch_figures = sides["skmatch"]
    for figures in sides.values():
        figures["time_ratio"] = (
            figures["seconds"]["total"]["median"] / skmatch_figures["seconds"]["total"]["median"]
        )
        figures["memory_ratio"] = (
            figures["peak_bytes"]["median"] / skmatch_figures["peak_bytes"]["median"]
        )
    n_runs = len(next(iter(runs.values())))
    return {"title": title, "n_runs": n_runs, "n_cores": os.cpu_count(), "sides": sides}


def as_text(result: dict[str, Any]) -> str:
    """Tabulate a comparison."""
    sides = result["sides"]
    names = ["median s", "min", "max", "times", "CPU s", "peak GB", "times"]
    lines = [
        f"\n{result['title']} ({result['n_runs']} runs a side, {result['n_cores']} cores)",
        " " * 24 + "".join(f"{name:>10}" for name in names),
    ]
    for side, figures in sides.items():
        total = figures["seconds"]["total"]
        row = [total["median"], total["min"], total["max"], figures["time_ratio"]]
        row += [figures["cpu_seconds"]["median"], figures["peak_bytes"]["median"] / 2**30]
        row += [figures["memory_ratio"]]
        lines.append(f"{side:24}" + "".join(f"{value:10.3f}" for value in row))
        for phase, seconds in figures["seconds"].items():
            if phase != "total":
                lines.append(f"  {phase:22}{seconds['median']:10.3f}")
    for name in sides["skmatch"]["values"]:
        values = ((side, figures["values"][name]) for side, figures in sides.items())
        lines.append(
            f"{name}: "
            + ", ".join(f"{s} {v['median']:.4f} ({v['min']:.4f}-{v['max']:.4f})" for s, v in values)
        )
    return "\n".join(lines) + "\n"


def draw(path: Path) -> None:
    """Draw the time of every comparison that has a result, a panel each."""
    names = [name for name in COMPARISONS if (RESULTS / f"{name}.json").exists()]
    figure, panels = plt.subplots(
        len(names), 1, figsize=(8, 1.5 * len(names)), layout="constrained", squeeze=False
    )
    for name, panel in zip(names, panels[:, 0], strict=True):
        result = json.loads((RESULTS / f"{name}.json").read_text())
        sides = result["sides"]
        totals = [figures["seconds"]["total"] for figures in sides.values()]
        medians = np.array([total["median"] for total in totals])
        error = [
            medians - [total["min"] for total in totals],
            [total["max"] for total in totals] - medians,
        ]
        bars = panel.barh(
            list(sides), medians, xerr=error, color=["C0", *["0.7"] * (len(sides) - 1)]
        )
        labels = [
            f"{total['median']:.3g} s, {figures['peak_bytes']['median'] / 2**30:.2g} GB"
            for total, figures in zip(totals, sides.values(), strict=True)
        ]
        panel.bar_label(bars, labels, padding=4)
        panel.set_xlim(0, max(total["max"] for total in totals) * 1.4)
        panel.invert_yaxis()
        panel.set_title(result["title"], loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("seconds: median, least and greatest")
    figure.savefig(path, dpi=150)
    print(f"Figure: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
