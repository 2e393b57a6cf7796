"""The command ``skmatch explore``."""

from __future__ import annotations

import argparse
import contextlib
import socket
from pathlib import Path

import pandas as pd

from skmatch.explore._explorer import Explorer
from skmatch.explore._next_events import read_events
from skmatch.persistence import load

LOOPBACK = "127.0.0.1"  # histories of users must not be visible to other machines


def read_arguments(arguments: list[str] | None) -> tuple[Explorer, socket.socket]:
    """Load the files of the command line and open the port; exit with a message on errors."""
    parser = argparse.ArgumentParser(
        prog="skmatch explore",
        description="Serve a page, on this machine only, that shows what saved models recommend.",
    )
    parser.add_argument(
        "models", nargs="+", metavar="model.joblib",
        help="one or two files of joblib.dump, your own: loading one runs code that it names",
    )  # fmt: skip
    parser.add_argument(
        "--items", metavar="items.csv",
        help="a table of items: ids in a column named as in the events, labels in a column title "
        "or name, addresses of images, and features to filter by, with several values delimited "
        "by |",
    )  # fmt: skip
    parser.add_argument(
        "--events", metavar="test.parquet",
        help="events after those of the fit, as Parquet or csv: shown beside the lists, and what "
        "the models' metrics are computed on",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8765, help="0 takes any free port")
    options = parser.parse_args(arguments)
    try:
        if len(options.models) > 2:
            raise ValueError(f"{len(options.models)} models; pass one or two")
        if not 0 <= options.port < 2**16:
            raise ValueError(f"--port {options.port} must be from 0 to 65535")
        stems = [Path(path).stem for path in options.models]
        names = stems if len(set(stems)) == len(stems) else options.models
        models = {name: load(path) for name, path in zip(names, options.models, strict=True)}
        # Ids are looked up as text.
        items = None if options.items is None else pd.read_csv(options.items, dtype=str)
        events = None if options.events is None else read_events(options.events)
        explorer = Explorer(models, items, events)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    try:
        return explorer, socket.create_server((LOOPBACK, options.port))
    except OSError as error:
        parser.error(f"--port {options.port}: {error}; choose another, or 0 for any free port")


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until it is interrupted."""
    try:
        import uvicorn

        from skmatch.explore._app import make_app
    except ImportError as error:
        raise SystemExit(
            f"skmatch.explore needs {error.name}, which is not installed: run "
            "pip install starlette uvicorn."
        ) from error
    explorer, port = read_arguments(arguments)
    server = uvicorn.Server(uvicorn.Config(make_app(explorer), log_level="warning"))
    with contextlib.suppress(KeyboardInterrupt):
        print(f"http://{LOOPBACK}:{port.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        server.run(sockets=[port])


if __name__ == "__main__":
    main()
