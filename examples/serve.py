"""Recommend over HTTP: a service with one endpoint, for a saved pipeline.

pip install fastapi uvicorn
python examples/serve.py demo-output/movies.joblib [--host HOST] [--port PORT]
curl localhost:8000/recommend -H "Content-Type: application/json" -d '{"user": 1, "k": 5}'

The page /docs describes the endpoint. Requests run concurrently in threads: guard `recommend` and
calls that change the pipeline, such as `observe`, by a lock.
"""

import argparse
import asyncio
import json
from typing import Annotated, Any

import pandas as pd
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, FiniteFloat, StringConstraints
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse, Response

from skmatch import persistence

MAX_BODY = 2**20  # bytes
BODY_SECONDS = 10  # timeout of a body, and of open requests when the service stops
Text = Annotated[str, StringConstraints(max_length=1000)]
Id = int | FiniteFloat | Text
Value = bool | Id | None


class Query(BaseModel):
    """A query of a known user, a session or a new user."""

    user: Id | None = Field(None, description="id of the user; none for a session")
    history: list[Id] | None = Field(
        None,
        max_length=1000,
        description="items, newest last, that replace the stored history",
    )
    features: dict[Text, Value | Annotated[list[Value], Field(max_length=100)]] = Field(
        {}, max_length=100, description="features of the user, by their columns"
    )
    k: int = Field(10, ge=1, le=1000, description="number of items")
    exclude_seen: bool = Field(
        True, description="whether to leave out items that the user has seen"
    )
    candidates: list[Id] | None = Field(
        None, max_length=10_000, description="the only items that may be recommended"
    )
    exclude: list[Id] | None = Field(
        None, max_length=10_000, description="items that are never recommended"
    )


class Recommendations(BaseModel):
    """The items, best first, their scores and their source."""

    items: list[Id]
    scores: list[float]
    source: str | None = Field(
        description='"history", "features", "popularity"; none: no item left'
    )


class LimitBody:
    """Middleware that rejects bodies that are too large or too slow."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the whole body and pass it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body, more = b"", True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and len(body) <= MAX_BODY:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            return await PlainTextResponse("The body timed out.", 408)(scope, receive, send)
        if len(body) > MAX_BODY:
            text = f"The body has more than {MAX_BODY} bytes."
            return await PlainTextResponse(text, 413)(scope, receive, send)
        whole = iter([{"type": "http.request", "body": body}])

        async def replay() -> Any:
            return next(whole, None) or await receive()

        await self.app(scope, replay, send)


def make_app(pipeline: Any, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> FastAPI:
    """Return the service of a fitted `MatchPipeline`, for requests to the given host names."""
    app = FastAPI(title="skmatch")
    app.add_middleware(LimitBody)
    # Against DNS rebinding.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    schema = pipeline.schema_

    # FastAPI's own handler repeats the input, and fails on values without JSON, such as NaN.
    @app.exception_handler(RequestValidationError)
    def explain(request: Request, error: RequestValidationError) -> Response:
        detail = [{name: one[name] for name in ("type", "loc", "msg")} for one in error.errors()]
        return Response(json.dumps({"detail": detail}), 422, media_type="application/json")

    # Not "async", so that FastAPI runs requests in threads.
    @app.post("/recommend")
    def recommend(query: Query) -> Recommendations:
        row = {**query.features, schema.user: query.user}
        if query.history is not None:
            row["history"] = query.history
        try:
            found = pipeline.recommend(
                pd.DataFrame([row]),
                query.k,
                exclude_seen=query.exclude_seen,
                candidates=query.candidates,
                exclude=query.exclude,
            )
        except ValueError as error:  # its message names the remedy
            raise HTTPException(422, str(error)) from error
        return Recommendations(
            items=found[schema.item].tolist(),
            scores=found["score"].tolist(),
            source=found["source"].iloc[0] if len(found) else None,
        )

    return app


def main() -> None:
    """Load the pipeline and serve it until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a fitted MatchPipeline, a file of your own")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free port")
    parser.add_argument(
        "--name", action="append", default=[],
        help="host name that requests use, beside localhost and --host; may be repeated",
    )  # fmt: skip
    options = parser.parse_args()
    app = make_app(
        persistence.load(options.path), ("127.0.0.1", "localhost", options.host, *options.name)
    )
    uvicorn.run(app, host=options.host, port=options.port, timeout_graceful_shutdown=BODY_SECONDS)


if __name__ == "__main__":
    main()
