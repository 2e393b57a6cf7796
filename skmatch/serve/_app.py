"""`Service`: a model behind HTTP, as a Starlette application."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from skmatch.serve._batches import Batcher
from skmatch.serve._model import Model
from skmatch.serve._reports import REQUEST, Metrics, flush_logs, log
from skmatch.serve._requests import MAX_BODY, RequestError, read_events, read_query

BODY_SECONDS = 10.0  # until the body of a request has arrived
WATCH_SECONDS = 1.0  # between looks at the file of the model
FLUSH_SECONDS = 0.2  # between writes of the log
MAX_BATCH = 64
MAX_WAITING_WRITES = 64  # requests of /observe

Handler = Callable[[Request], Awaitable[Response]]


class Service:
    """Responds to requests with a model, which is replaced while it runs.

    Parameters
    ----------
    load : callable
        Returns a `Model`.
    stamp : callable
        Returns a value that changes with the file of the model.
    observes : bool
        Whether there is an endpoint that adds events.
    watches : bool
        Whether a changed file is loaded by itself.
    limit : int
        Number of queries that wait, at most.
    timeout : float
        Seconds until a response, at most.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        stamp: Callable[[], Any] = lambda: None,
        *,
        observes: bool = False,
        watches: bool = False,
        limit: int = 1024,
        timeout: float = 2.0,
    ):
        self._load, self._stamp = load, stamp
        self._observes, self._watches = observes, watches
        self._loaded_stamp = stamp()
        self.model = self._load_model()
        self._n_observed = 0  # since the model was loaded
        self._queries = Batcher(self._recommend, largest=MAX_BATCH, limit=limit, timeout=timeout)
        self._writes = Batcher(
            self._observe,
            largest=MAX_BATCH,
            limit=MAX_WAITING_WRITES,
            timeout=timeout,
            is_final=True,
        )
        self._loader = ThreadPoolExecutor(1)
        self._is_loading = False
        self.metrics = Metrics(lambda: len(self._queries) + len(self._writes))
        self._set_model(self.model)

    def _load_model(self) -> Model:
        model = self._load()
        if self._observes and not model.can_observe:
            raise ValueError(
                "--observe needs a saved pipeline whose retriever has observe, and no exported "
                "folder. Leave the option out."
            )
        return model

    def _set_model(self, model: Model) -> None:
        self.model = model  # the only reference: all requests read it
        self._loaded_at = time.time()
        self.metrics.loaded.set(self._loaded_at)

    def _recommend(self, queries: Sequence[Any]) -> list[Any]:
        self.metrics.batch_size.observe(len(queries))
        return self.model.recommend(queries)

    def _observe(self, requests: Sequence[Any]) -> list[Any]:
        model = None
        while model is not self.model:  # after a reload meanwhile, the new model gets them, too
            model = self.model
            responses = model.observe(requests)
        added = sum(result["observed"] for result in responses if not isinstance(result, Exception))
        self._n_observed += added
        self.metrics.observed.inc(added)
        return responses

    async def reload(self) -> None:
        """Load the model again and replace it; keep the present model if that fails."""
        if self._is_loading:
            return  # the reload that runs looks for further changes at its end
        self._is_loading = True
        try:
            while True:
                self._loaded_stamp = stamp = self._stamp()
                await self._reload_once()
                if self._stamp() == stamp:
                    return
        except Exception as error:
            self.metrics.reloads.labels("failed").inc()
            log("reload failed", logging.ERROR, message=str(error), model=self.model.version)
        finally:
            self._is_loading = False

    async def _reload_once(self) -> None:
        start, loop = time.perf_counter(), asyncio.get_running_loop()
        model = await loop.run_in_executor(self._loader, self._load_model)
        lost, self._n_observed = self._n_observed, 0
        before, seconds = self.model.version, time.perf_counter() - start
        self._set_model(model)
        self.metrics.reloads.labels("done").inc()
        log(
            "reloaded", model=model.version, before=before, seconds=round(seconds, 3),
            observed_events_dropped=lost,
        )  # fmt: skip

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            # While a file is replaced it may be missing for a moment.
            with suppress(OSError):
                if self._stamp() != self._loaded_stamp:
                    await self.reload()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(_flush())}

        def start_reload() -> None:
            task = loop.create_task(self.reload())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        if hasattr(signal, "SIGHUP"):
            with suppress(RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(signal.SIGHUP, start_reload)
        if self._watches:
            tasks.add(loop.create_task(self._watch()))
        yield
        for task in [*tasks]:
            task.cancel()
        self._queries.close()
        self._writes.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        log("stopped")

    def make_app(self, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Starlette:
        """Return the application, for requests to the given host names."""
        endpoints = [
            ("POST", "/recommend", self._handle_recommend),
            ("GET", "/health", self._handle_health),
            ("GET", "/metrics", self._handle_metrics),
        ]
        if self._observes:
            endpoints.append(("POST", "/observe", self._handle_observe))
        paths = ", ".join(f"{method} {path}" for method, path, _ in endpoints)

        async def unknown(request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            self.metrics.requests.labels("other", error.status_code).inc()
            message = f"{error.detail}. The endpoints are: {paths}."
            return _error(RequestError(error.status_code, message), error.headers)

        return Starlette(
            routes=[self._route(*endpoint) for endpoint in endpoints],
            # Against DNS rebinding.
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
            exception_handlers={HTTPException: unknown},
            lifespan=self._lifespan,
        )

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        """Return a route whose errors are responses, and which is counted, timed and logged."""
        name = path[1:]

        async def endpoint(request: Request) -> Response:
            start = time.perf_counter()
            try:
                response = await handler(request)
            except RequestError as error:
                response = _error(error)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it
            except Exception:
                log("error", logging.ERROR, exc_info=True, endpoint=name)
                response = _error(RequestError(500, "The service failed; its log says where."))
            seconds = time.perf_counter() - start
            self.metrics.requests.labels(name, response.status_code).inc()
            self.metrics.seconds.labels(name).observe(seconds)
            log(REQUEST, endpoint=name, status=response.status_code, ms=round(1e3 * seconds, 2))
            return response

        return Route(path, endpoint, methods=[method])

    async def _handle_recommend(self, request: Request) -> Response:
        query = read_query(await _read_body(request))
        return _json(await self._queries.submit(query))

    async def _handle_observe(self, request: Request) -> Response:
        events = read_events(await _read_body(request))
        return _json(await self._writes.submit(events))

    async def _handle_health(self, request: Request) -> Response:
        loaded = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._loaded_at))
        return _json({"status": "ok", "model": self.model.version, "loaded": loaded})

    async def _handle_metrics(self, request: Request) -> Response:
        return Response(self.metrics.to_text(), headers={"Content-Type": Metrics.content_type})


async def _flush() -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        flush_logs()


async def _read_body(request: Request) -> bytes:
    # Any page in the user's browser can send other content types without a preflight request.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "The body must be JSON: send Content-Type: application/json.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise RequestError(413, f"The body has more than {MAX_BODY} bytes.")
    except TimeoutError:
        raise RequestError(408, f"The body took longer than {BODY_SECONDS:g} seconds.") from None
    return bytes(body)


def _json(values: Any, status: int = 200, headers: Any = None) -> Response:
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json")


def _error(error: RequestError, headers: Any = None) -> Response:
    if error.status in (429, 503):
        headers = {"Retry-After": "1"}
    return _json(error.to_json(), error.status, headers)
