"""Time the runtime on one core: one known user, many users, and a fresh process.

python benchmarks/runtime.py [--items 20000 100000] [--queries 300] [--recall ML-1M.ZIP]

With --recall, fit four epochs on MovieLens-1M, time the export, and compare the 100 best items by
int8 vectors with those by float32.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from latency import make_pipe

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, make_match_pipeline
from skmatch.datasets import load_movielens
from skmatch.export import to_onnx
from skmatch.neighbors import ItemIndex
from skmatch.runtime import load

MANY = 1000  # queries in one call
FIRST_ANSWER = """
import re, sys
from skmatch.runtime import load
load(sys.argv[1]).recommend([sys.argv[2]])
# Of Linux; getrusage would count the memory of the parent process.
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def one_by_one(call: Callable[[str], Any], users: list[str]) -> str:
    """Return the wall and CPU times of a call with each user."""
    times = []
    for user in [*users[:5], *users]:  # the first calls do not count
        start = time.perf_counter(), time.process_time()
        call(user)
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = 1e3 * np.array(times[5:]).T
    tail = ", ".join(f"{np.percentile(wall, p):.2f}" for p in (50, 95, 99))
    return f"{tail} ms, of CPU {np.median(cpu):.2f} ms"


def cpu_seconds(who: int = resource.RUSAGE_SELF) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def time_first_response(folder: Path, user: str) -> None:
    """Print the time and memory of a fresh process up to its first response."""
    command = [sys.executable, "-c", FIRST_ANSWER, str(folder), user]
    walls, cpus = [], []
    for _ in range(5):
        start, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_CHILDREN)
        process = subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ
        )
        walls.append(time.perf_counter() - start)
        cpus.append(cpu_seconds(resource.RUSAGE_CHILDREN) - cpu)
    print(
        f"  fresh process to the first response: {np.median(walls):.2f} s, of CPU "
        f"{np.median(cpus):.2f} s; {float(process.stdout):.0f} MiB, of which at most "
        f"{size_of(folder) / 2**20:.0f} MiB are the files"
    )


def measure(n_items: int, n_queries: int, parent: Path) -> None:
    """Print the latencies of a catalogue of this size."""
    pipe = make_pipe(n_items)
    users = [f"user-{number}" for number in range(n_queries)]
    many = [f"user-{number}" for number in range(MANY)]
    print(f"{n_items:,} items, the 10 best for a known user: percentiles 50, 95, 99; median of CPU")
    print(f"  pipeline          {one_by_one(lambda user: pipe.recommend([user]), users)}")
    for quantize in (None, "int8"):
        folder = parent / f"{n_items}-{quantize}"
        to_onnx(pipe, folder, quantize=quantize)
        recommender = load(folder)
        latencies = one_by_one(lambda user, model=recommender: model.recommend([user]), users)
        cpu = cpu_seconds()
        recommender.recommend(many)
        cpu = 1e3 * (cpu_seconds() - cpu) / MANY
        print(
            f"  runtime, {quantize or 'float32':8} {latencies}; in one call of {MANY} {cpu:.3f} ms "
            "of CPU each"
        )
        time_first_response(folder, users[0])


def measure_recall(path: str, parent: Path) -> None:
    """Print the export's time and size, and the recall of int8 vectors, on MovieLens-1M."""
    events = load_movielens(path)
    retriever = DSSMRetriever(max_epochs=4, random_state=0)
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever).fit(events)
    cpu, folder = cpu_seconds(), parent / "movielens"
    to_onnx(pipe, folder)
    entries = json.loads((folder / "manifest.json").read_text())["files"]
    arrays = sum(one["bytes"] for name, one in entries.items() if name.endswith((".npy", ".onnx")))
    print(
        f"MovieLens-1M: exported in {cpu_seconds() - cpu:.2f} s of CPU, {size_of(folder):,} bytes, "
        f"{size_of(folder) / arrays:.3f} times its arrays and towers"
    )
    vectors = pipe[-1].item_vectors_
    queries = pipe.transform(events.drop_duplicates("user_id")[["user_id"]])
    recall = ItemIndex("int8").fit(vectors).estimate_recall(queries, 100)
    print(f"  recall@100 of int8 vectors: {recall:.4f}")


def main() -> None:
    """Measure each size of the catalogue."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="*", default=[20_000, 100_000])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--recall", metavar="ZIP", help="MovieLens-1M")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for n_items in options.items:
            measure(n_items, options.queries, Path(folder))
        if options.recall:
            measure_recall(options.recall, Path(folder))


if __name__ == "__main__":
    main()
