"""`NextEvents`: the next events of users, and the models' metrics on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from skmatch.metrics import evaluate

ACCURACY = ["recall", "ndcg"]
EXPOSURE = ["coverage", "gini", "novelty", "popularity_lift", "new_items"]
K = 10


def read_events(path: str) -> pd.DataFrame:
    """Read events from Parquet, or from csv as text."""
    if Path(path).suffix.lower() in (".parquet", ".pq"):
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype=str)


class NextEvents:
    """Held-out events, by user; `models` are the explorer's."""

    def __init__(self, events: pd.DataFrame, models: list[Any]):
        schema = models[0].schema
        names = [str(name) for name in (schema.user, schema.item)]
        events = events.rename(columns=str)
        for name in names:
            if name not in events.columns:
                raise ValueError(
                    f"The table of events has no column {name!r}, which the models read; it has "
                    f"{', '.join(map(repr, events.columns))}."
                )
        time = str(schema.time)
        if schema.time is not None and time in events.columns:
            times = pd.to_numeric(events[time], errors="coerce")
            key = times if times.notna().all() else pd.to_datetime(events[time])
            events = events.iloc[key.argsort(kind="stable")]
        events = events[names].dropna()
        self._pairs = pd.DataFrame({name: events[name].map(str) for name in names})
        user, item = names
        is_known = self._pairs[user].isin(set().union(*(model.users for model in models)))
        if not is_known.any():
            raise ValueError(f"The table of events holds no user of the models in {user!r}.")
        self._items = self._pairs.groupby(user)[item].agg(list).to_dict()
        self._models = models
        self.figures = cache(self._figures)  # the first call takes as long as `evaluate` does

    def of(self, user: str | None) -> list[str]:
        """Return the items of a user's next events, the first of them first."""
        return [] if user is None else self._items.get(user, [])

    def _figures(self) -> dict:
        """Return the table of `evaluate` for each model, over the users that it knows."""
        metrics = []
        for model in self._models:
            user, item = self._pairs.columns
            pairs = self._pairs[self._pairs[user].isin(set(model.users))]
            columns = {
                model.schema.user: pairs[user].map(model.users),
                model.schema.item: pairs[item]
                .map(model.items)
                .where(pairs[item].isin(set(model.items)), pairs[item]),
            }
            events = pd.DataFrame(columns, dtype=object).infer_objects()
            figures = []
            for names in (ACCURACY, EXPOSURE):
                table = evaluate(model.estimator, events, names, k=K)
                for name, value in zip(table["metric"], table["value"].tolist(), strict=True):
                    figures.append({"name": f"{name}@{K}", "value": value})
            n_users = int(events[model.schema.user].nunique())
            metrics.append({"model": model.name, "n_users": n_users, "figures": figures})
        return {"metrics": metrics}
