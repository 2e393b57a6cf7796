"""Run scripts in fresh processes, in turn, and measure them from outside."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
OWN = sys.executable
RECHUB = str(ROOT / ".venv-rechub" / "bin" / "python")
RECTOOLS = str(ROOT / ".venv-rectools" / "bin" / "python")
# implicit asks for a single BLAS thread, since it starts its own threads.
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SECONDS_BETWEEN_SAMPLES = 0.2
SHARE_OF_SAMPLING = 0.05  # a look at a large process takes long and must not slow it


@dataclass
class Side:
    """A library's part in a comparison."""

    python: str
    script: str
    comparison: str
    environment: dict[str, str] | None = None


def run_side(
    side: Side, inputs: Path, seed: int, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run a side in a fresh process; return the result that `_side.main` wrote."""
    command = [side.python, str(HERE / side.script), side.comparison, str(inputs)]
    command += ["--seed", str(seed), "--settings", json.dumps(settings or {})]
    return run(command, side.environment)


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a script that takes the path of a result as its last argument; return the result.

    `peak_bytes` becomes the peak of the process and its children within the measured spans. A
    page that several processes share is counted once (proportional set size).
    """
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log.txt"
        with log.open("w") as stream:
            process = psutil.Popen(
                [*command, str(result)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,  # some write checkpoints where they run
                env=os.environ | (environment or {}),
            )
            try:
                samples = _watch(process)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            tail = "\n".join(log.read_text().splitlines()[-30:])
            raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{tail}")
        measured = json.loads(result.read_text())
    spans = measured.pop("spans")
    inside = [size for moment, size in samples if any(a <= moment <= b for a, b in spans)]
    measured["peak_bytes"] = max([measured["peak_bytes"], *inside])
    return measured


def _watch(process: psutil.Popen) -> list[tuple[float, int]]:
    samples = []
    while process.poll() is None:
        start = time.monotonic()
        size = _memory(process)
        cost = time.monotonic() - start
        samples.append((start, size))
        time.sleep(max(SECONDS_BETWEEN_SAMPLES, cost / SHARE_OF_SAMPLING))
    return samples


def _memory(process: psutil.Popen) -> int:
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            info = member.memory_full_info()
            total += getattr(info, "pss", info.uss)
    except psutil.Error:  # ended meanwhile
        pass
    return total


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, median, least and greatest."""
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def save(name: str, values: Any) -> Path:
    """Write a result as JSON; it names neither machine nor path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(values, indent=1) + "\n")
    return path
