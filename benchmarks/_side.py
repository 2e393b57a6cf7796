"""Shared parts of the sides of a comparison: equal settings, the clock and the result.

A side is a script that runs in the environment of its own library, so this file needs only numpy
and pandas, which every environment has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

# The settings of torch-rechub's tutorial, which both sides of a comparison get.
USER_FEATURES = ["gender", "age", "occupation", "zip"]
ITEM_FEATURE = "cate_id"  # a movie's first genre
MAX_LENGTH = 50
NEG_RATIO = 3
EMBEDDING_DIM = 16
LR = 1e-3  # ten times the tutorial's; README.md says why
WEIGHT_DECAY = 1e-6
DSSM_DIMS = (256, 128, 64)
DSSM_BATCH = 1024  # positives a step; with their negatives 4,096 pairs
# torch-rechub 0.9.0 takes a temperature for DSSM and does not apply it: it computes with 1.
DSSM_TEMPERATURE = 1.0
YOUTUBE_DNN_DIMS = (128, 64, 16)
YOUTUBE_DNN_BATCH = 2048
YOUTUBE_DNN_TEMPERATURE = 0.02
TOP_K = 100
CUTOFFS = (10, 50, 100)
METRICS = ("recall", "hit", "ndcg", "mrr", "precision", "map")
N_CALLS = 7  # of calls that take less than a second, after a call that is not counted


class Clock:
    """Measures named phases, and the peak memory of the process while they run."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.cpu_seconds: dict[str, list[float]] = {}  # of all threads and ended children
        self.spans: list[tuple[float, float]] = []
        self.peak_bytes = 0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Measure a block."""
        _reset_peak()
        start, cpu_start = time.monotonic(), _cpu_seconds()
        yield
        stop, cpu_stop = time.monotonic(), _cpu_seconds()
        self.seconds.setdefault(phase, []).append(stop - start)
        self.cpu_seconds.setdefault(phase, []).append(cpu_stop - cpu_start)
        self.spans.append((start, stop))
        self.peak_bytes = max(self.peak_bytes, _peak())

    def repeat(self, phase: str, call: Callable[[], object]) -> object:
        """Measure a short call several times; return its last result."""
        result = call()
        for _ in range(N_CALLS):
            with self(phase):
                result = call()
        return result


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _reset_peak() -> None:
    with suppress(OSError):  # not Linux: the samples of the harness alone tell the peak
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


Side = Callable[..., "dict | None"]  # of the clock, the inputs, the seed and settings by name


def main(sides: dict[str, Side]) -> None:
    """Run a side of a comparison, chosen on the command line, and write its result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("comparison", choices=sides)
    parser.add_argument("inputs", type=Path, help="folder of the inputs that all sides share")
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={}, help="of this side, as JSON")
    options = parser.parse_args()
    clock = Clock()
    side = sides[options.comparison]
    values = side(clock, options.inputs, options.seed, **options.settings) or {}
    write_result(options.result, clock, values)


def write_result(path: Path, clock: Clock, values: dict) -> None:
    """Write the measurements, and further values of the side."""
    result = {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "spans": clock.spans,
        "peak_bytes": clock.peak_bytes,
        "values": values,
        "versions": versions(),
    }
    path.write_text(json.dumps(result))


def versions() -> dict[str, str]:
    """Return the versions of the sides' packages, where installed."""
    versions_of_packages = {"python": platform.python_version()}
    for name in ("skmatch", "torch-rechub", "rectools", "implicit", "torch", "numpy", "pandas"):
        try:
            versions_of_packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions_of_packages


def read_events(inputs: Path) -> pd.DataFrame:
    """Read the events as torch-rechub's tutorial does: a table with a row per rating."""
    return pd.read_csv(inputs / "events.csv", dtype={"zip": str})


def read_needed(inputs: Path) -> pd.DataFrame:
    """Read the events with the columns that preparation needs, and no others."""
    return with_category(read_events(inputs)).drop(columns=["rating", "title", "genres"])


def read_training(inputs: Path) -> pd.DataFrame:
    """Read the events of the quality table that a side may learn from, in the order of time.

    Users and items are numbers, and so are the times: places in the order of time.
    """
    return pd.read_csv(inputs / "train.csv", keep_default_na=False)


def write_lists(inputs: Path, recommend: Callable[[np.ndarray, bool], np.ndarray]) -> None:
    """Write the best items of every query's user, with seen items left out and kept.

    `recommend` gets the users and whether to leave out what is seen, and gives a row of `TOP_K`
    items a user, best first, -1 where there is none.
    """
    users = np.load(inputs / "users.npy")
    for name, exclude_seen in (("left_out", True), ("kept", False)):
        np.save(inputs / f"{name}.npy", recommend(users, exclude_seen))


def as_lists(recommended: pd.DataFrame, users: np.ndarray) -> np.ndarray:
    """Turn a table with a row per recommended item into the lists of `write_lists`."""
    lists = np.full((len(users), TOP_K), -1)
    row = pd.Index(users).get_indexer(recommended["user_id"])
    lists[row, recommended["rank"] - 1] = recommended["item_id"]
    return lists


def with_category(events: pd.DataFrame) -> pd.DataFrame:
    """Add the first genre, as the tutorial does, where the events have genres."""
    if "genres" not in events:
        return events
    return events.assign(**{ITEM_FEATURE: events["genres"].str.split("|").str[0]})


def accuracy(
    inputs: Path,
    users: np.ndarray,
    user_vectors: np.ndarray,
    items: np.ndarray,
    item_vectors: np.ndarray,
) -> dict[str, float]:
    """Return NDCG@100 of the held-out events under an exact ranking of the whole catalogue.

    The same code judges the vectors of every side. A held-out item without a vector is a miss,
    and so is an item that ties with other items for the last rank.
    """
    split = np.load(inputs / "split.npz")
    column = pd.Index(items)
    row = pd.Index(users).get_indexer(split["test_user"])
    target = column.get_indexer(split["test_item"])
    gains = {"ndcg@100, seen left out": [], "ndcg@100, seen kept": []}
    by_user = pd.Series(split["train_item"]).groupby(split["train_user"])
    seen = {user: column.get_indexer(ids) for user, ids in by_user}
    for i in range(len(row)):
        scores = item_vectors @ user_vectors[row[i]]
        score = scores[target[i]] if target[i] >= 0 else -np.inf
        scores[target[i]] = -np.inf
        gains["ndcg@100, seen kept"].append(_gain(scores, score))
        left_out = seen[split["test_user"][i]]
        scores[left_out[left_out >= 0]] = -np.inf
        gains["ndcg@100, seen left out"].append(_gain(scores, score))
    return {name: float(np.mean(values)) for name, values in gains.items()}


def _gain(scores: np.ndarray, target_score: float) -> float:
    rank = int((scores >= target_score).sum())
    return 1 / np.log2(rank + 2) if rank < TOP_K and target_score > -np.inf else 0.0
