"""`model_card`: a page on a fitted retriever and its quality."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd

from skmatch._typing import Table
from skmatch._validation import (
    fitted_retriever,
    last_step,
    read_frame,
    read_stream,
    unwrap_searches,
)
from skmatch.metrics import evaluate

ACCURACY = ["recall", "hit", "ndcg", "mrr"]
EXPOSURE = ["coverage", "gini", "novelty", "popularity_lift", "new_items", "serendipity"]
PACKAGES = ("skmatch", "scikit-learn", "numpy", "pandas", "torch")


def model_card(estimator: Any, X: Table, *, k: int = 10, random_state: int | None = 0) -> str:
    """Return a page in Markdown that describes a fitted retriever.

    It holds the roles and counts of the data, the parameters, metrics with intervals and by groups
    of users, the exposure of the items, what is new in the held-out events, and versions.

    Parameters
    ----------
    estimator : estimator
        A fitted retriever, a pipeline that ends in one or a search over one.
    X : DataFrame
        Held-out events, with the columns that the estimator was fitted on.
    k : int, default=10
        Number of top-ranked items that count.
    random_state : int or None, default=0
        Seed of the intervals.

    Returns
    -------
    card : str
        Write it with ``Path("README.md").write_text(card)``. The guide shows how to put
        its sections into a ``skops.card.Card``.

    Examples
    --------
    >>> from skmatch import LeaveLastOut, PopularityRetriever, model_card
    >>> from skmatch.datasets import make_events
    >>> events = make_events(n_users=20, n_items=10, n_events=100, random_state=0)
    >>> train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
    >>> print(model_card(PopularityRetriever().fit(train), test)[:21])
    # PopularityRetriever
    """
    retriever = fitted_retriever(estimator, "counts_")
    X = read_stream(X)
    schema, table = retriever.schema_, read_frame(X)
    accuracy = evaluate(estimator, X, ACCURACY, k, confidence=0.95, random_state=random_state)
    groups = evaluate(estimator, X, ACCURACY, k, by="activity")
    exposure = evaluate(estimator, X, EXPOSURE, k)
    overall = accuracy.iloc[0]
    data = [
        f"{retriever.counts_.sum():,.0f} events (or their weights) of {len(schema.users.values):,} "
        f"users and {len(schema.items.values):,} items were learned.",
        f"{len(table):,} held-out events of {overall['n_queries']:,} users"
        f"{_dates(table, schema.time)}.",
    ]
    steps = getattr(unwrap_searches(estimator), "steps", None) or [("", last_step(estimator))]
    parameters = [
        (type(step).__name__, name, repr(value))
        for _, step in steps
        for name, value in unwrap_searches(step).get_params(deep=False).items()
    ]
    sections = {
        "Data": "\n".join(data) + "\n\n" + _markdown(schema.to_frame()),
        "Parameters": _markdown(pd.DataFrame(parameters, columns=["step", "parameter", "value"])),
        f"Accuracy at {k}": "With intervals of 95% by a bootstrap over the users.\n\n"
        + _markdown(accuracy[["metric", "value", "low", "high"]]),
        "By activity of the users": _markdown(
            groups.pivot_table(index="activity", columns="metric", values="value", sort=False)
            .join(groups.groupby("activity", sort=False)["n_queries"].first())
            .reset_index()
        ),
        f"Exposure at {k}": _markdown(exposure[["metric", "value"]]),
        "Cold start": f"{overall['n_unknown_users']:,} of {overall['n_queries']:,} users and "
        f"{overall['n_unknown_items']:,} of the held-out pairs of user and item were unknown.",
        "Versions": ", ".join(_versions()),
    }
    parts = [f"# {type(retriever).__name__}"]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def _dates(table: Any, time: Any) -> str:
    if time is None or time not in getattr(table, "columns", ()):
        return ""
    return f", from {table[time].min()} to {table[time].max()}"


def _markdown(table: pd.DataFrame) -> str:
    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", r"\|")

    rows = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    rows += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _versions() -> list[str]:
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return versions
