"""Requests per second and latencies of `skmatch serve`, beside one call per request.

    python benchmarks/serving.py [--seconds 20] [--clients 32] [--items 20000] [--rows ...]

All servers and the load generator run on this machine, over the loopback interface, and share
its cores. The peer is the FastAPI example of skmatch 0.1, which calls `recommend` once per request
in a thread; it is read from the history of the repository and needs ``pip install fastapi``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

HERE = Path(__file__).parent
PEER = "86c7b34:examples/serve.py"
N_USERS, N_EVENTS = 5_000, 200_000
WARM_UP = 1.0  # seconds that do not count


def save_model(path: Path, n_items: int, seed: int) -> None:
    """Fit a DSSMRetriever on random events, and save and export it."""
    from skmatch import (
        DSSMRetriever,
        MatchEncoder,
        SequenceSampler,
        make_match_pipeline,
        persistence,
    )
    from skmatch.export import to_onnx

    rng = np.random.default_rng(seed)
    items = np.append(np.arange(n_items), rng.integers(0, n_items, N_EVENTS - n_items))
    events = pd.DataFrame(
        {"user_id": rng.integers(0, N_USERS, N_EVENTS), "item_id": rng.permutation(items)}
    )
    events["timestamp"] = np.arange(N_EVENTS)
    retriever = DSSMRetriever(max_epochs=1, random_state=seed)
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever)
    persistence.save(pipe.fit(events), path)
    to_onnx(pipe, path.with_suffix(""))


@contextmanager
def serving(command: list[str]) -> Iterator[tuple[psutil.Process, int]]:
    """Start a server on a free port; yield its process and its port."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", "0"], stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            port = None
            for _ in range(1200):
                text = os.pread(log.fileno(), 2**20, 0).decode()
                port = re.search(r'running on http://127\.0\.0\.1:(\d+)|"port": (\d+)', text)
                if port or process.poll() is not None:
                    break
                time.sleep(0.05)
            if port is None:
                raise RuntimeError(f"{command} did not start:\n{text}")
            yield psutil.Process(process.pid), int(port[1] or port[2])
        finally:
            process.terminate()
            process.wait(timeout=60)


class Client(asyncio.Protocol):
    """Sends a request after the response to the last request, over a single connection."""

    def __init__(self, load: Load, seed: int):
        self.load, self.rng = load, np.random.default_rng(seed)
        self.buffer, self.head = bytearray(), -1

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        body = json.dumps({"user": int(self.rng.integers(N_USERS)), "k": 10}).encode()
        self.start = time.perf_counter()
        self.transport.write(
            b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        if len(self.buffer) < end + 4 + length:
            return
        body = bytes(self.buffer[end + 4 : end + 4 + length])
        self.buffer.clear()
        self.load.add(self.start, int(head[9:12]), body)
        if self.load.is_over:
            self.transport.close()
        else:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.load.is_over:
            self.load.failed["closed"] += 1
        self.load.n_open -= 1


class Load:
    """The responses that clients got."""

    def __init__(self, n_clients: int):
        self.n_open, self.is_over = n_clients, False
        self.begin = time.perf_counter() + WARM_UP
        self.seconds: list[float] = []
        self.failed: Counter[str] = Counter()  # by status
        self.models: set[str] = set()

    def add(self, start: float, status: int, body: bytes) -> None:
        end = time.perf_counter()
        if status != 200:
            self.failed[str(status)] += 1
        elif start >= self.begin:
            self.seconds.append(end - start)
            response = json.loads(body)
            assert len(response["items"]) == len(response["scores"])
            self.models.add(response.get("model", ""))


async def run_load(port: int, n_clients: int, seconds: float, during: Any = None) -> Load:
    """Send requests from many clients for some time; `during` runs meanwhile."""
    loop, load = asyncio.get_running_loop(), Load(n_clients)
    for seed in range(n_clients):
        await loop.create_connection(lambda seed=seed: Client(load, seed), "127.0.0.1", port)
    task = None if during is None else loop.run_in_executor(None, during)
    await asyncio.sleep(WARM_UP + seconds)
    if task is not None:
        await task
    load.is_over = True
    for _ in range(100):
        if not load.n_open:
            break
        await asyncio.sleep(0.05)
    return load


def report(name: str, load: Load, server: psutil.Process, cpu: float, seconds: float) -> float:
    """Print a row; return the requests per second."""
    rate = len(load.seconds) / seconds
    p50, p95, p99 = (1e3 * np.quantile(load.seconds, q) for q in (0.5, 0.95, 0.99))
    print(
        f"{name:32} {rate:8.0f} {p50:7.1f} {p95:7.1f} {p99:7.1f} {load.failed.total():7} "
        f"{1e3 * cpu / len(load.seconds):9.2f} {server.memory_info().rss / 2**20:8.0f}",
        flush=True,
    )
    return rate


def measure(name: str, command: list[str], options: argparse.Namespace) -> float:
    """Start a server, send requests and print a row."""
    with serving(command) as (server, port):
        before = sum(server.cpu_times()[:2])
        load = asyncio.run(run_load(port, options.clients, options.seconds))
        cpu = sum(server.cpu_times()[:2]) - before
        return report(name, load, server, cpu, options.seconds)


def measure_reloads(command: list[str], models: list[Path], options: argparse.Namespace) -> None:
    """Replace the model ten times under load."""
    served = models[0].with_name("served.joblib")
    served.write_bytes(models[0].read_bytes())
    with serving([*command, str(served)]) as (server, port):

        def reload() -> None:
            for number in range(10):
                time.sleep(options.seconds / 12)
                replacement = served.with_suffix(".new")
                replacement.write_bytes(models[(number + 1) % 2].read_bytes())
                os.replace(replacement, served)
                server.send_signal(signal.SIGHUP)

        before = sum(server.cpu_times()[:2])
        load = asyncio.run(run_load(port, options.clients, options.seconds, reload))
        cpu = sum(server.cpu_times()[:2]) - before
        report(f"10 reloads, responses of {len(load.models)} models", load, server, cpu,
               options.seconds)  # fmt: skip


def measure_memory(command: list[str], options: argparse.Namespace) -> None:
    """Print the memory of a server under load, at ten moments after the first minute."""
    with serving(command) as (server, port):
        sizes = []

        def watch() -> None:
            for _ in range(10):
                time.sleep(options.soak / 10)
                sizes.append(server.memory_info().rss / 2**20)

        load = asyncio.run(run_load(port, options.clients, options.soak, watch))
        print(
            f"{len(load.seconds):,} requests in {options.soak} s, failed: {dict(load.failed)}; MiB:"
        )
        print("  " + " ".join(f"{size:.1f}" for size in sizes), flush=True)


def main() -> None:
    """Print a row per server, and the ratio of their rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of load, per row; at most 600")
    parser.add_argument("--clients", type=int, default=32, help="at most 256")
    parser.add_argument("--items", type=int, default=20_000)
    rows = ["peer", "serve", "exported", "reload", "soak"]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows[:-1])
    parser.add_argument("--soak", type=float, default=600, help="seconds of the row soak")
    options = parser.parse_args()
    options.seconds, options.clients = min(options.seconds, 600), min(options.clients, 256)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        models = [Path(folder) / f"{seed}.joblib" for seed in range(2)]
        for seed, path in enumerate(models[: 1 + ("reload" in options.rows)]):
            save_model(path, options.items, seed)
        serve = ["-m", "skmatch", "serve"]
        print(f"{'':32} {'req/s':>8} {'p50 ms':>7} {'p95':>7} {'p99':>7} {'failed':>7} "
              f"{'CPU ms/req':>9} {'RSS MiB':>8}")  # fmt: skip
        if "peer" in options.rows:
            peer = Path(folder) / "peer.py"
            command = ["git", "-C", str(HERE), "show", PEER]
            peer.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
            rates["peer"] = measure("a call per request (FastAPI)", [str(peer), str(models[0])],
                                    options)  # fmt: skip
        if "serve" in options.rows:
            rates["serve"] = measure("skmatch serve", [*serve, str(models[0])], options)
        if "exported" in options.rows:
            command = [*serve, str(models[0].with_suffix(""))]
            rates["exported"] = measure("skmatch serve, exported", command, options)
        for name in ("serve", "exported"):
            if {name, "peer"} <= rates.keys():
                print(f"requests per second, {name} / peer: {rates[name] / rates['peer']:.1f}")
        if "reload" in options.rows:
            measure_reloads(serve, models, options)
        if "soak" in options.rows:
            measure_memory([*serve, str(models[0])], options)


if __name__ == "__main__":
    main()
