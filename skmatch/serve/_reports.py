"""Reports of a service: metrics for Prometheus, and logs in JSON without user data."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

LOGGER = logging.getLogger("skmatch.serve")
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
REQUEST = "request"  # the event of a request's line
MAX_LINES = 1000
SWITCH_SECONDS = 0.001


class Metrics:
    """Metrics of a service."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, count_waiting: Callable[[], int]):
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "skmatch_requests", "Requests by endpoint and status.", ["endpoint", "status"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "skmatch_request_seconds", "Time from the request to its response.", ["endpoint"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.batch_size = Histogram(
            "skmatch_batch_size", "Queries per batch.", buckets=SIZES,
            registry=registry,
        )  # fmt: skip
        self.observed = Counter(
            "skmatch_events_observed", "Events added to the histories.", registry=registry
        )
        self.reloads = Counter(
            "skmatch_reloads", "Attempts to load the model again, by result.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.loaded = Gauge(
            "skmatch_model_loaded_timestamp_seconds", "When the model was loaded.",
            registry=registry,
        )  # fmt: skip
        waiting = Gauge(
            "skmatch_requests_waiting", "Requests that wait for a batch.", registry=registry
        )
        waiting.set_function(count_waiting)

    def to_text(self) -> bytes:
        """Return all metrics in Prometheus' text form."""
        return generate_latest(self._registry)


def set_up_process() -> None:
    """Set globals of the process: logs and warnings in JSON, and how often threads switch."""
    logging.basicConfig(level=logging.INFO, handlers=[JsonLines(sys.stderr)], force=True)
    warnings.showwarning = _log_warning
    # The event loop waits less while a thread computes a batch in Python.
    sys.setswitchinterval(SWITCH_SECONDS)


def _log_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    # The text of other warnings may hold ids and features of users.
    is_of_version = "InconsistentVersionWarning" in {base.__name__ for base in category.__mro__}
    text = {"message": str(message)} if is_of_version else {}
    log("warning", logging.WARNING, category=category.__name__, **text)


def flush_logs() -> None:
    """Write the lines of requests that are kept."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def log(event: str, level: int = logging.INFO, exc_info: Any = None, **fields: Any) -> None:
    """Write a line to the log."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, event, extra={"fields": fields}, exc_info=exc_info)


class JsonLines(logging.Handler):
    """Write records to a stream as lines of JSON, requests many at a time.

    With a write per request, the event loop would wait each time for the thread that recommends.
    """

    def __init__(self, stream: TextIO):
        super().__init__()
        self._stream, self._lines = stream, []  # type: tuple[TextIO, list[str]]
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of a request until the next `flush`; write all others."""
        self._lines.append(self.format(record))
        if record.getMessage() != REQUEST or len(self._lines) >= MAX_LINES:
            self.flush()

    def flush(self) -> None:
        """Write the lines that are kept."""
        with self.lock:  # type: ignore[union-attr]
            lines, self._lines = self._lines, []
            if lines:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()


class JsonFormatter(logging.Formatter):
    """Format records as a JSON object a line; of exceptions, type and place, without the message.

    Messages of exceptions may hold ids and features of users.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["exception"] = kind.__name__
            line["trace"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(trace)
            ]
        return json.dumps(line)
