"""The page and its JSON API, as a Starlette application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from skmatch.explore._explorer import Explorer, ParameterError

MAX_ROWS = 1000
# The page may connect to this server only; images come from the addresses in the table of items.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:{images}; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(explorer: Explorer) -> Starlette:
    page = files("skmatch.explore").joinpath("page.html").read_text(encoding="utf-8")

    policy = POLICY.format(images=" http: https:" if explorer.has_images else "")

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    search = {"q": _read_text, "limit": _read_count}
    filters = {"k": _read_count, "filter": list}
    routes = [
        Route("/", show_page),
        Route("/api/overview", _endpoint(explorer.overview, {})),
        Route("/api/metrics", _endpoint(explorer.metrics, {})),
        Route("/api/users", _endpoint(explorer.users, search)),
        Route("/api/items", _endpoint(explorer.items, search)),
        Route(
            "/api/recommend",
            _endpoint(explorer.recommend, {"user": _read_text, "session": list} | filters),
        ),
        Route(
            "/api/explain",
            _endpoint(explorer.explain, {"item": _read_text, "user": _read_text, "session": list}),
        ),
        Route("/api/similar", _endpoint(explorer.similar, {"item": _read_text} | filters)),
    ]
    # Against DNS rebinding.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def _endpoint(respond: Callable[..., dict], readers: Mapping[str, Any]) -> Callable:
    # A coroutine, so that the models serve one request at a time.
    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(respond(**_read_parameters(request.query_params, readers)))
        except ParameterError as error:
            described = {"parameter": error.parameter, "message": str(error)}
            return JSONResponse({"error": described}, status_code=400)

    return endpoint


def _read_parameters(query: QueryParams, readers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a query, each converted by its reader; `list` keeps all values."""
    values: dict[str, Any] = {}
    for name in query:
        if name not in readers:
            names = ", ".join(readers) or "none"
            raise ParameterError(name, f"{name} is unknown; the parameters are: {names}.")
        texts = query.getlist(name)
        if readers[name] is list:
            values[name] = texts
        elif len(texts) > 1:
            raise ParameterError(name, f"{name} is set {len(texts)} times; set it once.")
        else:
            values[name] = readers[name](name, texts[0])
    return values


def _read_text(name: str, text: str) -> str:
    return text


def _read_count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_ROWS):
        raise ParameterError(name, f"{name}={text!r} must be an integer from 1 to {MAX_ROWS}.")
    return int(text)
