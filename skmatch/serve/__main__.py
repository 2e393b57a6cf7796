"""The command ``skmatch serve``."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 5  # for open requests, when the service stops


def read_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, Any]:
    """Return the options and a parser that reports errors."""
    parser = argparse.ArgumentParser(
        prog="skmatch serve",
        description="Recommend over HTTP with a saved model: POST /recommend, GET /health, "
        "GET /metrics.",
    )
    parser.add_argument(
        "model",
        help="a file of skmatch.persistence.save, your own, since loading one runs code that it "
        "names; or a folder of skmatch.export.to_onnx",
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; default: loopback")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME",
        help="host name that requests use, beside localhost and --host; may be repeated; "
        "'*' allows all",
    )  # fmt: skip
    parser.add_argument(
        "--watch", action="store_true", help="load the model again when its file changes"
    )
    parser.add_argument(
        "--observe", action="store_true", help="add the endpoint POST /observe for new events"
    )
    parser.add_argument(
        "--queue", type=int, default=1024, help="queries that wait; further ones get status 429"
    )
    parser.add_argument(
        "--timeout", type=float, default=2.0,
        help="seconds until a response; later ones have status 503",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 2**16:
        parser.error(f"--port {options.port} must be from 0 to 65535")
    if options.queue < 1:
        parser.error(f"--queue {options.queue} must be at least 1")
    if not options.timeout > 0:
        parser.error(f"--timeout {options.timeout} must be more than 0")
    return options, parser


def main(arguments: list[str] | None = None) -> None:
    """Load the model and serve it until the process is stopped."""
    options, parser = read_arguments(arguments)
    # OpenMP reads it when torch is loaded: threads that wait sleep, instead of taking the time of
    # those that read and write requests.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import uvicorn

        from skmatch.serve._app import Service
        from skmatch.serve._model import load_model
        from skmatch.serve._reports import log, set_up_process
    except ImportError as error:
        raise SystemExit(
            f"skmatch serve needs {error.name}, which is not installed: run "
            "pip install httptools prometheus-client starlette uvicorn uvloop."
        ) from error
    path = Path(options.model)

    def stamp() -> tuple[int, int, int]:
        status = os.stat(path / "manifest.json" if path.is_dir() else path)
        return status.st_mtime_ns, status.st_size, status.st_ino

    try:
        service = Service(
            lambda: load_model(path),
            stamp,
            observes=options.observe,
            watches=options.watch,
            limit=options.queue,
            timeout=options.timeout,
        )
    except (ImportError, OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        port = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        parser.error(f"--host {options.host} --port {options.port}: {error}; choose others")
    set_up_process()
    hosts = (LOOPBACK, "localhost", options.host, *options.allowed_host)
    config = uvicorn.Config(
        service.make_app(hosts),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    log(
        "started", host=options.host, port=port.getsockname()[1], model=service.model.version,
        observe=options.observe, watch=options.watch,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[port])


if __name__ == "__main__":
    main()
