"""Answer over HTTP: a service with one endpoint, over a pipeline that joblib saved.

pip install fastapi uvicorn
python examples/serve.py demo-output/movies.joblib [--host HOST] [--port PORT]
curl localhost:8000/recommend -H "Content-Type: application/json" -d '{"user": 1, "k": 5}'

The page /docs describes the endpoint. Requests are answered in threads, side by side: put what
changes the pipeline, such as `observe`, and the answers under a lock of yours.
"""

import argparse
from typing import Any

import pandas as pd
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from skmatch import persistence

Id = int | float | str


class Query(BaseModel):
    """Who asks, and what may be answered: a known user, a session, or somebody new."""

    user: Id | None = Field(None, description="id of the user; none for a session")
    history: list[Id] | None = Field(
        None, description="items, the newest last, in place of those that are stored of the user"
    )
    features: dict[str, Any] = Field({}, description="features of the user, by their columns")
    k: int = Field(10, ge=1, le=1000, description="number of items")
    exclude_seen: bool = Field(True, description="whether to leave out what the user has seen")
    candidates: list[Id] | None = Field(None, description="the only items that may be answered")
    exclude: list[Id] | None = Field(None, description="items that are never answered")


class Answer(BaseModel):
    """The items, best first, their scores, and what answered."""

    items: list[Id]
    scores: list[float]
    source: str | None = Field(
        description='"history", "features", "popularity"; none: no item left'
    )


def make_app(pipeline: Any) -> FastAPI:
    """Make the service of a fitted `MatchPipeline`."""
    app = FastAPI(title="skmatch")
    schema = pipeline.schema_

    # Not "async": FastAPI then answers requests in threads.
    @app.post("/recommend")
    def recommend(query: Query) -> Answer:
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
        except ValueError as error:  # its message says what to do
            raise HTTPException(422, str(error)) from error
        return Answer(
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
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    options = parser.parse_args()
    uvicorn.run(make_app(persistence.load(options.path)), host=options.host, port=options.port)


if __name__ == "__main__":
    main()
