"""The command ``python -m skmatch.explore``."""

from __future__ import annotations

import argparse
import contextlib
import socket
from pathlib import Path

import pandas as pd

from skmatch.explore._explorer import Explorer
from skmatch.persistence import load

LOOPBACK = "127.0.0.1"  # files of joblib and histories of users are for nobody else


def read_arguments(arguments: list[str] | None) -> tuple[Explorer, socket.socket]:
    """Load what the command line names, and open the port; exit with a message on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m skmatch.explore",
        description="Serve a page, on this machine only, that shows what saved models recommend.",
    )
    parser.add_argument(
        "models", nargs="+", metavar="model.joblib",
        help="one or two files of joblib.dump, your own: loading one runs code that it names",
    )  # fmt: skip
    parser.add_argument(
        "--items", metavar="items.csv",
        help="a table of items: their ids in a column named as in the events, what to call them in "
        "a column title or name, and features to filter by, several values delimited by |",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8765, help="0 takes any free one")
    options = parser.parse_args(arguments)
    try:
        if len(options.models) > 2:
            raise ValueError(f"{len(options.models)} models; give one or two")
        if not 0 <= options.port < 2**16:
            raise ValueError(f"--port {options.port}: give a port from 0 to 65535")
        stems = [Path(path).stem for path in options.models]
        names = stems if len(set(stems)) == len(stems) else options.models
        models = {name: load(path) for name, path in zip(names, options.models, strict=True)}
        # As text: ids are looked up by their text.
        items = None if options.items is None else pd.read_csv(options.items, dtype=str)
        explorer = Explorer(models, items)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    try:
        return explorer, socket.create_server((LOOPBACK, options.port))
    except OSError as error:
        parser.error(f"--port {options.port}: {error}; choose another, or 0 for any free one")


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until it is interrupted."""
    try:
        import uvicorn

        from skmatch.explore._app import make_app
    except ImportError as error:
        raise SystemExit(
            f"skmatch.explore needs {error.name}, which is not installed: run "
            "pip install 'skmatch[app]'."
        ) from error
    explorer, port = read_arguments(arguments)
    server = uvicorn.Server(uvicorn.Config(make_app(explorer), log_level="warning"))
    with contextlib.suppress(KeyboardInterrupt):
        print(f"http://{LOOPBACK}:{port.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        server.run(sockets=[port])


if __name__ == "__main__":
    main()
