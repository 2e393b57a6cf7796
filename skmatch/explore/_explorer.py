"""`Explorer`: recommendations of saved models as dicts of text and numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_list_like

from skmatch._columns import FIRST_KNOWN, Vocabulary
from skmatch._data import HISTORY, Samples, as_coded
from skmatch._validation import fitted_retriever, unwrap_searches
from skmatch.explore._next_events import NextEvents

MAX_VALUES = 500  # features of more distinct texts are not filters
MAX_NUMBERS = 20  # features of more distinct numbers are filtered by range
LABEL_COLUMNS = ("title", "name")
DELIMITER = "|"
N_EXAMPLES = 5  # users on the first screen


class ParameterError(ValueError):
    """Error of a query parameter."""

    def __init__(self, parameter: str, message: str):
        super().__init__(message)
        self.parameter = parameter


class _Model:
    """A saved estimator and its ids, by their text."""

    def __init__(self, name: str, estimator: Any):
        self.name, self.estimator = name, estimator
        self.retriever = fitted_retriever(estimator, "counts_")
        self.schema = self.retriever.schema_
        pipeline = unwrap_searches(estimator)
        if hasattr(pipeline, "steps"):
            self._steps = [pipeline[:-1]]
        elif hasattr(self.retriever, "sampler_"):
            self._steps = [self.retriever.encoder_, self.retriever.sampler_]
        else:
            raise ValueError(
                f"{name} is a {type(self.retriever).__name__} that was fitted on Samples, without "
                "its MatchEncoder and SequenceSampler; save the whole pipeline instead."
            )
        self.users = _by_text(self.schema.users)
        self.items = _by_text(self.schema.items)
        # Events, or the sum of their weights.
        self.n_events = dict(
            zip(
                self.items.values(),
                self.retriever.counts_.round().astype(int).tolist(),
                strict=True,
            )
        )

    def read(self, user: Any, session: list[str]) -> Samples:
        """Return the query of a user, or of a session if it has items."""
        query: dict[Any, list] = {self.schema.user: [user]}
        if session:
            query[HISTORY] = [[self.items[item] for item in session if item in self.items]]
        queries: Any = pd.DataFrame(query, dtype=object)
        for step in self._steps:
            queries = step.transform(queries)
        samples = as_coded(queries, Samples)
        assert samples is not None
        return samples


class Explorer:
    """Recommendations and similar items of one or two models, with ids as text.

    `models` holds fitted estimators by name, `items` labels, addresses of images and features of
    items as text, and `events` the next events of users.
    """

    def __init__(
        self,
        models: dict[str, Any],
        items: pd.DataFrame | None = None,
        events: pd.DataFrame | None = None,
    ):
        self._models = [_Model(name, estimator) for name, estimator in models.items()]
        self._users = _union(model.users for model in self._models)
        self._items = _union(model.items for model in self._models)
        self._features: dict[str, dict[str, list]] = {}  # feature -> item -> its values
        self._labels: dict[str, str] = {}
        self._images: dict[str, str] = {}
        self._next = None if events is None else NextEvents(events, self._models)
        for model in self._models:
            for feature in model.schema.item_features:
                values = model.schema.item_values(feature.name)
                cells = self._features.setdefault(str(feature.name), {})
                for item, value in zip(model.items, values, strict=True):
                    cells.setdefault(item, _values_of(value))
        if items is not None:
            self._read_items(items)
        choices = {name: _choices(cells) for name, cells in self._features.items()}
        self._filters = {name: choice for name, choice in choices.items() if choice}

    def _read_items(self, items: pd.DataFrame) -> None:
        column = str(self._models[0].schema.item)
        if column not in items.columns:
            raise ValueError(
                f"The table of items has no column {column!r}, the item column of the events; "
                f"it has {', '.join(map(repr, items.columns))}."
            )
        items = items.drop_duplicates(column).set_index(column)
        items = items[items.index.isin(self._items)]
        if items.empty:
            raise ValueError(
                f"The table of items holds no item of the models in the column {column!r}."
            )
        label = next((name for name in LABEL_COLUMNS if name in items.columns), None)
        for name, values in items.items():
            if name == label:
                self._labels = {str(item): label for item, label in values.dropna().items()}
                continue
            if _are_addresses(values):
                self._images |= {str(item): url for item, url in values.dropna().items()}
                continue
            cells = dict(zip(values.index, _read_cells(values), strict=True))
            self._features[str(name)] = self._features.get(str(name), {}) | cells

    def overview(self) -> dict:
        """Return the models and the features to filter by."""
        return {
            "models": [
                {"name": model.name, "kind": type(model.retriever).__name__}
                for model in self._models
            ],
            "n_users": len(self._users),
            "examples": list(self._users)[:N_EXAMPLES],
            "n_items": len(self._items),
            "has_events": self._next is not None,
            "features": [{"name": name, **choice} for name, choice in self._filters.items()],
        }

    @property
    def has_images(self) -> bool:
        """Whether items have images at other hosts."""
        return bool(self._images)

    def metrics(self) -> dict:
        """Return the figures of each model on the next events."""
        if self._next is None:
            raise ParameterError("events", "There are no next events: start with --events.")
        return self._next.figures()

    def users(self, q: str = "", limit: int = 20) -> dict:
        users = _search(q, {user: user for user in self._users})
        return {"users": users[:limit], "total": len(users)}

    def items(self, q: str = "", limit: int = 20) -> dict:
        """Find items by their id or a part of their label."""
        items = _search(q, {item: self._labels.get(item, item) for item in self._items})
        return {"items": [self._describe(item) for item in items[:limit]], "total": len(items)}

    def recommend(
        self,
        user: str | None = None,
        session: Iterable[str] = (),
        k: int = 10,
        filter: Iterable[str] = (),
    ) -> dict:
        """Return the history of a user or session and the recommendations of each model."""
        session = self._read_session(user, session)
        allowed = self._allowed(filter)
        history: list[str] = []
        recommendations: list[dict[str, Any]] = []
        for model in self._models:
            samples = model.read(self._users.get(user or ""), session)
            history = history or [str(item) for item in samples.decode()[HISTORY].iloc[0]]
            candidates = _among(model, allowed)
            if candidates is None or candidates:
                table = model.retriever.recommend(samples, k, candidates=candidates)
                source = table["source"].iloc[0] if len(table) else None
                rows = self._rows(table, model.schema.item)
                for row, item in zip(rows, table[model.schema.item], strict=True):
                    row["n_events"] = model.n_events[item]
            else:
                source, rows = None, []
            recommendations.append({"model": model.name, "source": source, "items": rows})
        next_items = self._next.of(user) if self._next is not None else []
        rows = [row for recommendation in recommendations for row in recommendation["items"]]
        listed = [{row["id"] for row in recommended["items"]} for recommended in recommendations]
        for row in rows:
            if next_items:
                row["is_hit"] = row["id"] in next_items
            if len(listed) > 1:
                row["in_all"] = all(row["id"] in items for items in listed)
        return {
            "history": [self._describe(item) for item in history[::-1]],
            "next": [self._describe(item) for item in next_items],
            "recommendations": recommendations,
        }

    def explain(
        self, item: str | None = None, user: str | None = None, session: Iterable[str] = ()
    ) -> dict:
        """Return the reasons of an item's score in each model."""
        if item is None:
            raise ParameterError("item", "item is missing; pass an item id.")
        self._require_item("item", item)
        session = self._read_session(user, session)
        explanations = []
        for model in self._models:
            reasons = []
            if item in model.items:
                samples = model.read(self._users.get(user or ""), session)
                for row in model.retriever.explain(samples, [model.items[item]]).itertuples():
                    # The kinds "popularity" and "trend" have no further reason.
                    named = row.kind if pd.isna(row.reason) else str(row.reason)
                    if row.kind == "history":
                        named = self._labels.get(named, named)
                    reasons.append(
                        {"kind": row.kind, "reason": named, "contribution": row.contribution}
                    )
            explanations.append({"model": model.name, "reasons": reasons})
        return {"item": self._describe(item), "explanations": explanations}

    def _read_session(self, user: str | None, session: Iterable[str]) -> list[str]:
        """Return the session; raise if a user or an item is unknown, or both are given."""
        session = list(session)
        if (user is None) == (not session):
            raise ParameterError("user", "Pass either user or session (one or more item ids).")
        if user is not None and user not in self._users:
            raise ParameterError("user", f"user={user!r} is unknown; search /api/users.")
        for item in session:
            self._require_item("session", item)
        return session

    def similar(self, item: str | None = None, k: int = 10, filter: Iterable[str] = ()) -> dict:
        if item is None:
            raise ParameterError("item", "item is missing; pass an item id.")
        self._require_item("item", item)
        allowed = self._allowed(filter)
        neighbours = []
        for model in self._models:
            candidates, rows = _among(model, allowed), []
            has_neighbours = hasattr(model.retriever, "similar_items")
            if has_neighbours and item in model.items and (candidates is None or candidates):
                table = model.retriever.similar_items([model.items[item]], k, candidates=candidates)
                rows = self._rows(table, "similar")
            neighbours.append({"model": model.name, "items": rows})
        return {"item": self._describe(item), "neighbours": neighbours}

    def _require_item(self, parameter: str, item: str) -> None:
        if item not in self._items:
            raise ParameterError(parameter, f"{parameter}={item!r} is unknown; search /api/items.")

    def _allowed(self, filters: Iterable[str]) -> set[str] | None:
        """Return the items that filters allow, or None for all.

        A filter is "feature:value", or "feature:from..to" for numbers. Several filters of a feature
        are alternatives; an item must fit at least one filter of each feature.
        """
        allowed: dict[str, set[str]] = {}
        for text in filters:
            names = [name for name in self._filters if text.startswith(f"{name}:")]
            if not names:
                features = ", ".join(map(repr, self._filters)) or "none"
                raise ParameterError(
                    "filter",
                    f"filter={text!r} names no feature to filter by; pass feature:value, where the "
                    f"features are: {features}.",
                )
            name = max(names, key=len)  # a name may hold a colon
            value = text[len(name) + 1 :]
            allowed.setdefault(name, set()).update(self._items_with(name, value))
        return set.intersection(*allowed.values()) if allowed else None

    def _items_with(self, feature: str, value: str) -> set[str]:
        cells, choices = self._features[feature].items(), self._filters[feature]
        if "values" in choices:
            if value not in choices["values"]:
                raise ParameterError("filter", f"No item has {value!r} as {feature!r}.")
            return {item for item, cell in cells if value in map(_text, cell)}
        low, high = _read_range(feature, value)
        return {item for item, cell in cells if any(low <= number <= high for number in cell)}

    def _describe(self, item: str) -> dict:
        cells = {name: self._features[name].get(item, []) for name in self._filters}
        named = [f"{name}: {', '.join(map(_text, cell))}" for name, cell in cells.items() if cell]
        label, details = self._labels.get(item, item), " · ".join(named)
        image = {"image": self._images[item]} if item in self._images else {}
        return {"id": item, "label": label, "details": details, **image}

    def _rows(self, table: pd.DataFrame, column: Any) -> list[dict]:
        ids, scores = table[column].tolist(), table["score"].tolist()
        return [
            {**self._describe(str(item)), "score": score}
            for item, score in zip(ids, scores, strict=True)
        ]


def _by_text(vocabulary: Vocabulary) -> dict[str, Any]:
    ids = vocabulary.decode(np.arange(FIRST_KNOWN, len(vocabulary))).tolist()
    texts = {str(value): value for value in ids}
    if len(texts) < len(ids):
        value = next(value for value in ids if texts[str(value)] != value)
        raise ValueError(
            f"The ids {value!r} and {texts[str(value)]!r} have the same text, which the page "
            "cannot distinguish: fit on ids of one type."
        )
    return texts


def _union(dicts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for texts in dicts:
        joined |= {text: value for text, value in texts.items() if text not in joined}
    return joined


def _search(q: str, texts: dict[str, str]) -> list[str]:
    """Return the ids whose text contains `q`: an equal id, earlier matches, short texts first."""
    q = q.strip().casefold()
    index = {key: text.casefold().find(q) for key, text in texts.items()}
    index |= {key: -2 for key in texts if key.casefold() == q}
    matches = (key for key in index if index[key] != -1)
    return sorted(matches, key=lambda key: (index[key], len(texts[key]) if q else 0))


def _among(model: _Model, allowed: set[str] | None) -> list | None:
    """Return a model's ids of the items that a filter allows."""
    if allowed is None:
        return None
    return [item for text, item in model.items.items() if text in allowed]


def _are_addresses(column: pd.Series) -> bool:
    """Return whether all texts of a column are addresses of the web."""
    texts = column.dropna()
    return len(texts) > 0 and bool(texts.str.match(r"https?://\S+$").all())


def _values_of(value: Any) -> list:
    values = value if is_list_like(value) else [value]
    return [element for element in values if not pd.isna(element)]


def _read_cells(column: pd.Series) -> list[list]:
    """Return the values in each cell of a text column, as numbers if all of them are."""
    numbers = pd.to_numeric(column, errors="coerce")
    if (numbers.notna() == column.notna()).all():
        return [_values_of(number) for number in numbers.astype(float)]
    texts = column.fillna("").str.split(DELIMITER, regex=False)
    return [[part for part in parts if part] for parts in texts]


def _read_range(feature: str, text: str) -> tuple[float, float]:
    """Return the bounds in "from..to", "from.." or "..to"."""
    low_text, dots, high_text = text.partition("..")
    try:
        low, high = float(low_text or "-inf"), float(high_text or "inf")
    except ValueError:
        low = high = np.nan
    if not (low_text or high_text) or not dots or np.isnan([low, high]).any():
        raise ParameterError(
            "filter",
            f"{text!r} is no range of {feature!r}; pass from..to with numbers, such as 3.5..7, or "
            "only one of the two.",
        )
    if low > high:
        raise ParameterError("filter", f"{feature!r} from {low:g} to {high:g} is empty.")
    return low, high


def _text(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _choices(cells: dict[str, list]) -> dict:
    """Return a filter: values, or the range of many numbers; empty for too many texts."""
    values = {value for cell in cells.values() for value in cell}
    is_number = all(isinstance(value, (int, float)) for value in values)
    if is_number and len(values) > MAX_NUMBERS:
        finite = [value for value in values if np.isfinite(value)]  # JSON has no infinity
        return {"min": min(finite), "max": max(finite)}
    if not values or len(values) > MAX_VALUES:
        return {}
    ordered = map(_text, sorted(values)) if is_number else sorted(map(_text, values))
    return {"values": list(dict.fromkeys(ordered))}
