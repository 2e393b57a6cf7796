"""Measure recommendations to users that training has not seen, by the number of their events.

python benchmarks/cold_start.py PATH [--seeds N] [--retriever NAME] [--epochs N]

A path is a MovieLens zip or folder. With seed s, a tenth of the users (another tenth with every
seed) is withheld from training altogether. The target is the item that a withheld user touches next
after n events; the figures are HR@10 and NDCG@10 of the target in the ranking of the whole
catalogue without the items that the user has touched before. The models compared:

- "popularity": the most frequent training items.
- "history": the model, asked about an unknown user with the n events in the column ``history``.
- "history, features": the same, and the query brings the user's features, too.
- "known user": a model that has trained on the user's first n events. For a fair comparison it has
  exactly these events of the user: for each n another model is fitted, on the same events of all
  other users and the first n events of the withheld users. Queries and users are the same as in
  the other columns, so that the difference is the gain from training on the user's n events.

A user with more than n events is a query after n events. An item that training did not have is a
miss for every model. Events are ordered by (time, row).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _harness import RESULTS, save

import skmatch
from skmatch import MatchEncoder, MatchPipeline, PopularityRetriever, SequenceSampler
from skmatch.datasets import load_movielens
from skmatch.metrics import ndcg_at_k, recall_at_k

N_EVENTS = (0, 1, 3, 5, 10, 20, 50)
N_PARTS = 10  # the users of one part are withheld
NOBODY = "nobody"
USER_FEATURES = ["gender", "age", "occupation"]
METRICS = {"HR@10": recall_at_k, "NDCG@10": ndcg_at_k}
POPULARITY, HISTORY, FEATURES, KNOWN = ANSWERS = (
    "popularity",
    "history",
    "history, features",
    "known user",
)
LINES = {POPULARITY: "o:", HISTORY: "s-", FEATURES: "^--", KNOWN: "x-."}
ENOUGH_EVENTS = 10  # from this number on, unknown users should score nearly as well as known users
ALLOWED_LOSS = 0.1

Gains = dict[str, dict[int, dict[str, np.ndarray]]]  # of each question, by answer, n and metric


def main() -> None:
    """Fit, ask and judge; print, save and draw the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="MovieLens zip or folder")
    parser.add_argument("--seeds", type=int, default=1, help=f"fits, up to {N_PARTS}")
    parser.add_argument(
        "--retriever", choices=["DSSMRetriever", "YoutubeDNNRetriever"], default="DSSMRetriever"
    )
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    events = read(options.path)
    parts = [
        ask(events, seed, getattr(skmatch, options.retriever), options.epochs)
        for seed in range(options.seeds)
    ]
    table = summarise(parts)
    name = f"cold-start-{options.path.resolve().stem}-{options.retriever}"
    settings = {key: value for key, value in vars(options).items() if key != "path"}
    save(name, {"n_cores": os.cpu_count(), **settings, "table": table})
    print(f"\n{name}, {options.seeds} seed(s), {options.epochs} epochs\n")
    print(as_markdown(table) + "\n")
    print("\n".join(verdicts(table)))
    draw(table, RESULTS / f"{name}.svg")


def read(path: Path) -> pd.DataFrame:
    """Read the events in the order of (time, row)."""
    return load_movielens(path).sort_values("timestamp", kind="stable", ignore_index=True)


def ask(events: pd.DataFrame, seed: int, retriever: type, epochs: int) -> Gains:
    """Withhold a part of the users, fit without and with their first events, and ask."""
    order = np.random.default_rng(0).permutation(events["user_id"].unique())
    withheld = events["user_id"].isin(order[seed::N_PARTS])
    training, withheld_events = events[~withheld], events[withheld]
    index = withheld_events.groupby("user_id").cumcount()
    popularity = PopularityRetriever().fit(training[["user_id", "item_id", "timestamp"]])
    cold = fit(retriever, training, seed, epochs)
    gains: Gains = {answer: {} for answer in ANSWERS}

    def judge_answers(n: int, answers: dict[str, tuple[Any, pd.DataFrame]]) -> None:
        items = withheld_events.loc[index == n, "item_id"].to_numpy()
        for answer, (model, queries) in answers.items():
            gains[answer][n] = judge(model.predict(queries, k=10), items)
            ndcg = gains[answer][n]["NDCG@10"].mean()
            print(f"  seed {seed}, {n} events, {answer}: NDCG@10 {ndcg:.4f}", flush=True)

    for n in N_EVENTS:
        targets = withheld_events[index == n]
        history = withheld_events[index < n].groupby("user_id")["item_id"].agg(list)
        histories = [history.get(user, []) for user in targets["user_id"]]
        plain = pd.DataFrame({"user_id": NOBODY, "history": histories})
        full = pd.concat([plain, targets[USER_FEATURES].reset_index(drop=True)], axis=1)
        judge_answers(
            n, {POPULARITY: (popularity, plain), HISTORY: (cold, plain), FEATURES: (cold, full)}
        )
    for n in N_EVENTS[1:]:  # nobody is known without an event
        model_of_known = fit(
            retriever, pd.concat([training, withheld_events[index < n]]), seed, epochs
        )
        targets = withheld_events.loc[index == n, ["user_id", "timestamp"]]
        # Events of the same second count.
        targets = targets.assign(timestamp=targets["timestamp"] + 0.5)
        judge_answers(n, {KNOWN: (model_of_known, targets)})
    return gains


def fit(retriever: type, events: pd.DataFrame, seed: int, epochs: int) -> MatchPipeline:
    """Fit a retriever with its defaults on events with features."""
    pipe = skmatch.make_match_pipeline(
        MatchEncoder(user_features=USER_FEATURES, item_features=["genres"]),
        SequenceSampler(),
        retriever(max_epochs=epochs, random_state=seed),
    )
    return pipe.fit(events)


def judge(recommended: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of each query."""
    return {
        name: np.array(
            [metric([item], row[None], 10) for item, row in zip(items, recommended, strict=True)]
        )
        for name, metric in METRICS.items()
    }


def summarise(parts: list[Gains]) -> list[dict[str, Any]]:
    """Return a row for each n: the mean of each answer over the questions of all parts.

    The standard error of a difference from known users is that of the paired questions.
    """
    rows = []
    for n in N_EVENTS:
        row: dict[str, Any] = {
            "n_events": n,
            "n_asked": sum(len(p[HISTORY][n]["HR@10"]) for p in parts),
        }
        for answer in ANSWERS:
            if n not in parts[0][answer]:
                continue
            row[answer] = {}
            for name in METRICS:
                gains = np.concatenate([part[answer][n][name] for part in parts])
                row[answer][name] = float(gains.mean())
                if answer in (HISTORY, FEATURES) and n in parts[0][KNOWN]:
                    known_gains = np.concatenate([part[KNOWN][n][name] for part in parts])
                    error = (gains - known_gains).std(ddof=1) / np.sqrt(len(gains))
                    row[answer][f"{name}, error of difference from {KNOWN}"] = float(error)
        rows.append(row)
    return rows


def as_markdown(table: list[dict[str, Any]]) -> str:
    """Tabulate the answers."""
    columns = [(answer, name) for name in METRICS for answer in ANSWERS]
    lines = [
        "| events | users | " + " | ".join(f"{name}, {answer}" for answer, name in columns) + " |",
        "|---:|---:|" + "---:|" * len(columns),
    ]
    for row in table:
        cells = [str(row["n_events"]), f"{row['n_asked']:,}"]
        cells += [f"{row[answer][name]:.4f}" if answer in row else "" for answer, name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(table: list[dict[str, Any]]) -> list[str]:
    """Return whether all bounds hold."""
    lines = []
    for name in METRICS:
        for answer in (HISTORY, FEATURES):
            with_history = [row for row in table if row["n_events"] > 0]
            worst = min(with_history, key=lambda row: row[answer][name] - row[POPULARITY][name])
            holds = worst[answer][name] > worst[POPULARITY][name]
            lines.append(
                f"{'holds' if holds else 'MISSED'}: {name} of {answer!r} is above popularity from "
                f"the first event on; least so after {worst['n_events']}: "
                f"{worst[answer][name]:.4f} and {worst[POPULARITY][name]:.4f}"
            )
            with_enough = [row for row in with_history if row["n_events"] >= ENOUGH_EVENTS]
            worst = min(with_enough, key=lambda row: row[answer][name] / row[KNOWN][name])
            ratio = worst[answer][name] / worst[KNOWN][name]
            error = worst[answer][f"{name}, error of difference from {KNOWN}"] / worst[KNOWN][name]
            lines.append(
                f"{'holds' if ratio >= 1 - ALLOWED_LOSS else 'MISSED'}: {name} of {answer!r} is "
                f"within {ALLOWED_LOSS:.0%} of {KNOWN!r} from {ENOUGH_EVENTS} events on; least so "
                f"after {worst['n_events']}: {ratio:.2f} of it, ±{error:.2f}"
            )
    return lines


def draw(table: list[dict[str, Any]], path: Path) -> None:
    """Draw both metrics over the number of events, narrow enough for a telephone."""
    # The same file from the same figures; text stays text, which is a tenth of its outlines.
    style = {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    with plt.style.context(["seaborn-v0_8-colorblind", style]):
        figure, axes = plt.subplots(
            len(METRICS), 1, sharex=True, figsize=(4, 5.5), layout="constrained"
        )
        for axis, name in zip(axes, METRICS, strict=True):
            for answer, line in LINES.items():
                rows = [row for row in table if answer in row]
                axis.plot(
                    [row["n_events"] for row in rows],
                    [row[answer][name] for row in rows],
                    line,
                    label=answer,
                )
            axis.set(xscale="symlog", ylim=(0, None), ylabel=name)
            axis.set_xticks(N_EVENTS, [str(n) for n in N_EVENTS])
            axis.spines[["top", "right"]].set_visible(False)
        axes[-1].set_xlabel("events of the user")
        figure.legend(axes[0].lines, LINES, loc="outside upper center", ncols=2, frameon=False)
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(f"\nThe figure is in {path.name}.")


if __name__ == "__main__":
    main()
