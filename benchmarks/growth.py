"""How time and memory grow with the events and with the catalogue, on made-up events.

python benchmarks/growth.py [--max-events N] [--max-items N]

Every point is an epoch of `DSSMRetriever` with its default parameters, in a fresh process.
README.md describes the measurements and the bounds.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
from _harness import HERE, RESULTS, run, save
from _side import Clock, write_result

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler
from skmatch.datasets import make_events

EVENTS = (10**5, 10**6, 10**7)
ITEMS = (10**4, 10**5, 10**6)
COMMON_EVENTS = 10**6  # of the points whose catalogues differ
EVENTS_PER_USER = 100
BATCH_SIZE = 2048
ALLOWED_RATIO = 1.5
ALLOWED_BYTES_PER_EVENT = 100
ALLOWED_COPIES_OF_PARAMETERS = 3
# Events, items and epochs of a fit of a hundred steps, whose memory is but their work space.
WORK_SPACE = (2 * BATCH_SIZE, min(ITEMS), 50)

Point = dict[str, Any]


def main() -> None:
    """Measure the points; print, save and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-events", type=int, default=max(EVENTS))
    parser.add_argument("--max-items", type=int, default=max(ITEMS))
    options = parser.parse_args()
    least = measured(*WORK_SPACE)
    work_bytes = least["peak_bytes"] - least["allowed_bytes"]
    points: list[Point] = []
    names = ["events", "items", "prepare s", "epoch s", "step ms"]
    names += ["peak MB", "work MB", "rest MB", "allowed MB"]
    print("".join(f"{name:>12}" for name in names))
    for n_events, n_items in chosen(options.max_events, options.max_items):
        points.append(measured(n_events, n_items) | {"work_bytes": work_bytes})
        print(as_row(points[-1]), flush=True)
    save("growth", {"n_cores": os.cpu_count(), "points": points})
    print("\n" + "\n".join(verdicts(points)))
    draw(points, RESULTS / "growth.png")


def chosen(max_events: int, max_items: int) -> list[tuple[int, int]]:
    """Return the points: all events with the least catalogue, all catalogues, and the largest."""
    points = [(n_events, min(ITEMS)) for n_events in EVENTS]
    points += [(COMMON_EVENTS, n_items) for n_items in ITEMS[1:]]
    points += [(max(EVENTS), max(ITEMS))]
    return [(e, i) for e, i in points if e <= max_events and i <= max_items]


def measured(n_events: int, n_items: int, n_epochs: int = 1) -> Point:
    """Make the events in a process and measure them in another, which starts small."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.pkl"
        maker = multiprocessing.get_context("spawn").Process(
            target=write_events, args=(n_events, n_items, path)
        )
        maker.start()
        maker.join()
        result = run([sys.executable, str(HERE / "growth.py"), str(path), str(n_epochs)])
    point = result["values"] | {
        name: seconds[0] for name, seconds in result["seconds"].items() if name != "fit"
    }
    point["peak_bytes"] = result["peak_bytes"] - point.pop("start_bytes")
    point["allowed_bytes"] = (
        ALLOWED_BYTES_PER_EVENT * point["n_events"]
        + ALLOWED_COPIES_OF_PARAMETERS * point["parameter_bytes"]
    )
    return point


def write_events(n_events: int, n_items: int, path: Path) -> None:
    """Write the events, and the catalogue: not every item need have an event."""
    n_users = n_events // EVENTS_PER_USER
    events = make_events(n_users, n_items, n_events, random_state=0)
    items = pd.DataFrame({"item_id": np.arange(1, n_items + 1)})
    pd.to_pickle((events[["user_id", "item_id", "timestamp", "segment"]], items), path)


class EpochTimer:
    """Callback that measures the epoch within a fit."""

    def setup(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Start the clock, last at the epoch."""
        self.start = time.monotonic()

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Stop the clock at the end of the epoch."""
        if context.task_name == "epoch":
            self.seconds = time.monotonic() - self.start


def measure(path: Path, n_epochs: int, result: Path) -> None:
    """Prepare and fit in this process, and write the figures."""
    events, items = pd.read_pickle(path)
    fit(Clock(), *warm_up(), n_epochs=1)
    start_bytes = psutil.Process().memory_info().rss
    clock = Clock()
    retriever, epoch = fit(clock, events, items, n_epochs)
    n_events = len(events) - events["user_id"].nunique()  # the first of a user has no history
    clock.seconds["epoch"] = [epoch]
    clock.seconds["step"] = [epoch / math.ceil(n_events / BATCH_SIZE)]
    values = {
        "n_events": len(events),
        "n_items": len(items),
        "start_bytes": start_bytes,
        "parameter_bytes": sum(array.nbytes for array in retriever.weights_.values()),
    }
    write_result(result, clock, values)


def warm_up() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a few events: the first fit of a process loads code and starts threads."""
    events = make_events(20, 500, 2000, random_state=0)
    return events, events[["item_id"]].drop_duplicates()


def fit(
    clock: Clock, events: pd.DataFrame, items: pd.DataFrame, n_epochs: int
) -> tuple[DSSMRetriever, float]:
    """Prepare and train; return the retriever and the seconds of the last epoch."""
    with clock("prepare"):
        encoder = MatchEncoder(user_features=["segment"]).fit(events, items=items)
        samples = SequenceSampler().fit_transform(encoder.transform(events))
    timer = EpochTimer()
    retriever = DSSMRetriever(
        max_epochs=n_epochs, batch_size=BATCH_SIZE, device="cpu", random_state=0
    )
    retriever.set_callbacks(timer)
    with clock("fit"):
        retriever.fit(samples)
    return retriever, timer.seconds


def as_row(point: Point) -> str:
    """Return a point as a line of the table."""
    cells = [f"{point['n_events']:,}", f"{point['n_items']:,}", f"{point['prepare']:.2f}"]
    cells += [f"{point['epoch']:.1f}", f"{point['step'] * 1000:.1f}"]
    rest_bytes = point["peak_bytes"] - point["work_bytes"]
    sizes = (point["peak_bytes"], point["work_bytes"], rest_bytes, point["allowed_bytes"])
    cells += [f"{size / 2**20:,.0f}" for size in sizes]
    return "".join(f"{cell:>12}" for cell in cells)


def by_events(points: list[Point]) -> list[Point]:
    """Return the points that differ in their events only."""
    return [point for point in points if point["n_items"] == min(ITEMS)]


def by_items(points: list[Point]) -> list[Point]:
    """Return the points that differ in their catalogue only."""
    return [point for point in points if point["n_events"] == COMMON_EVENTS]


def verdicts(points: list[Point]) -> list[str]:
    """Return a line for each bound: whether it holds."""
    lines = []
    for name, label in (("prepare", "preparation"), ("epoch", "epoch")):
        rates = [point[name] / point["n_events"] for point in by_events(points)]
        lines.append(verdict(f"Time per event, {label}, largest to smallest", rates[-1] / rates[0]))
    steps = [point["step"] for point in by_items(points)]
    if steps:
        lines.append(verdict("Time of a step, greatest to least catalogue", steps[-1] / steps[0]))
    for point in points:
        peak, allowed = point["peak_bytes"], point["allowed_bytes"]
        lines.append(
            f"Memory, {point['n_events']:,} events, {point['n_items']:,} items: "
            f"{peak / allowed:.2f} of what is allowed, "
            f"{(peak - point['work_bytes']) / allowed:.2f} without the work space of a step"
        )
    return lines


def verdict(label: str, ratio: float) -> str:
    """Return a line that says whether a ratio stays within the allowed ratio."""
    word = "holds" if ratio <= ALLOWED_RATIO else "FAILS"
    return f"{label}: {ratio:.2f} times; at most {ALLOWED_RATIO}: {word}"


def draw(points: list[Point], path: Path) -> None:
    """Draw a curve each for the time per event, the time of a step and the memory."""
    figure, (per_event, per_step, memory) = plt.subplots(
        1, 3, figsize=(13, 4), layout="constrained"
    )
    curve = by_events(points)
    n_events = [point["n_events"] for point in curve]
    for name in ("prepare", "epoch"):
        rate = [point[name] / point["n_events"] * 1e6 for point in curve]
        per_event.plot(n_events, rate, "o-", label=name)
    per_event.set(xlabel="events", ylabel="microseconds an event", xscale="log", yscale="log")
    per_event.set_title(f"Time per event, {min(ITEMS):,} items")
    per_event.legend()
    curve = by_items(points)
    steps = [point["step"] * 1000 for point in curve]
    per_step.plot([point["n_items"] for point in curve], steps, "o-")
    per_step.set(xlabel="items", ylabel="milliseconds a step", xscale="log")
    per_step.set_ylim(0, 1.2 * max(steps, default=1))
    per_step.set_title(f"Time of a step, {COMMON_EVENTS:,} events")
    labels = [f"{point['n_events']:.0e}\n{point['n_items']:.0e}" for point in points]
    place = np.arange(len(points))
    memory.bar(place, [point["peak_bytes"] / 2**20 for point in points], 0.6, label="peak")
    allowed = [point["allowed_bytes"] / 2**20 for point in points]
    memory.plot(place, allowed, "_", color="black", markersize=24, label="allowed")
    work = [point["work_bytes"] / 2**20 for point in points]
    memory.plot(place, work, "--", color="grey", label="work space of a step")
    memory.set(yscale="log", ylabel="MB", xlabel="events, items")
    memory.set_xticks(place, labels)
    memory.set_title("Peak memory beyond the events")
    memory.legend()
    figure.savefig(path, dpi=150)
    print(f"Figure: {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    if len(sys.argv) == 4 and not sys.argv[1].startswith("-"):
        measure(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))  # for `measured`
    else:
        main()
