"""Time and memory of preparing events that lie in Parquet, made up piece by piece.

python benchmarks/parquet.py [--events N] [--features]

The events are written in one process and prepared in another, up to samples to train on.
README.md describes the measurements.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import HERE, run, save
from _side import Clock, write_result

from skmatch import MatchEncoder, SequenceSampler

EVENTS_PER_USER = 100
EVENTS_PER_ITEM = 1000
FILE_SIZE = 2_000_000  # events of a file
SEGMENTS = pd.Index([f"segment_{i}" for i in range(10)])
ALLOWED_BYTES = 4 * 2**30


def main() -> None:
    """Write, prepare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10**7)
    parser.add_argument("--features", action="store_true", help="of users and of items, one each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        columns = write_events(Path(folder), options.events, options.features)
        n_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        result = run([sys.executable, str(HERE / "parquet.py"), folder, *columns])
    values = result["values"] | {name: seconds[0] for name, seconds in result["seconds"].items()}
    cpu = sum(seconds[0] for seconds in result["cpu_seconds"].values())
    save(f"parquet-{options.events}", {"n_cores": os.cpu_count(), "cpu_seconds": cpu} | values)
    print(
        f"{options.events:,} events, {n_bytes / 2**20:,.0f} MB of Parquet, {len(columns)} features"
    )
    print(f"encode {values['encode']:.1f} s, sample {values['sample']:.1f} s; {cpu:.1f} s of CPU")
    for name in ("peak_bytes", "peak_anonymous_bytes", "start_bytes"):
        print(f"{name.replace('_', ' ')}: {values[name] / 2**20:,.0f} MB")
    word = "holds" if values["peak_bytes"] <= ALLOWED_BYTES else "FAILS"
    print(f"within {ALLOWED_BYTES / 2**30:.0f} GB resident: {word}")


def write_events(folder: Path, n_events: int, features: bool) -> list[str]:
    """Write files of events in the order of time; return the names of the features."""
    n_users, n_items = n_events // EVENTS_PER_USER, n_events // EVENTS_PER_ITEM
    rng = np.random.default_rng(0)
    for i, start in enumerate(range(0, n_events, FILE_SIZE)):
        n_rows = min(FILE_SIZE, n_events - start)
        user = (n_users * rng.random(n_rows) ** 1.5).astype(np.int64)  # some are more active
        item = (n_items * rng.random(n_rows) ** 3).astype(np.int64)
        columns = {"user_id": user, "item_id": item, "timestamp": start + np.arange(n_rows)}
        if features:
            columns["segment"] = pd.Categorical.from_codes(user % 10, SEGMENTS)
            columns["price"] = np.sqrt(item)
        pd.DataFrame(columns).to_parquet(folder / f"{i:04}.parquet", index=False)
    return ["segment", "price"] if features else []


class Peak:
    """Watches the resident memory of this process, of all kinds and without pages of files."""

    def __enter__(self) -> Peak:
        self.total = self.anonymous = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over.set()
        self.thread.join()
        self._look()

    def _watch(self) -> None:
        while not self.is_over.wait(0.02):
            self._look()

    def _look(self) -> None:
        sizes = memory()
        self.total = max(self.total, sizes["VmHWM"])
        self.anonymous = max(self.anonymous, sizes["RssAnon"])


def memory() -> dict[str, int]:
    """Return the sizes in bytes that Linux reports of this process's memory, by name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in sizes}


def measure(folder: str, columns: list[str], result: Path) -> None:
    """Prepare in this process, and write the figures."""
    encoder = MatchEncoder(user_features=columns[:1], item_features=columns[1:])
    start_bytes = memory()["VmRSS"]
    clock = Clock()
    with Peak() as peak:
        with clock("encode"):
            events = encoder.fit_transform(folder)
        with clock("sample"):
            samples = SequenceSampler().fit_transform(events)
    values = {
        "n_events": len(samples),
        "n_users": len(samples.schema.users.values),
        "n_items": len(samples.schema.items.values),
        "peak_bytes": peak.total,
        "peak_anonymous_bytes": peak.anonymous,
        "start_bytes": start_bytes,
    }
    write_result(result, clock, values)


if __name__ == "__main__":
    if len(sys.argv) > 2 and not sys.argv[1].startswith("-"):
        measure(sys.argv[1], sys.argv[2:-1], Path(sys.argv[-1]))  # for `main`
    else:
        main()
