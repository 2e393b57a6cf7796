"""The towers of a network as ONNX graphs, written from the weights.

Each function mirrors the `forward` of the module of `_nn` that it names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from skmatch._arrays import PADDING, UNKNOWN
from skmatch.export._graph import Graph

NORM_EPSILON = 1e-12  # of torch's normalize
MIN_EXPONENT = -50.0  # as in `_nn.pooling`
MAX_HEADS = 4
_INT, _FLOAT = TensorProto.INT64, TensorProto.FLOAT


class Weights:
    """The weights of a module, by their names within it."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str):
        self.arrays, self.prefix = arrays, prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.arrays

    def of(self, name: str) -> Weights:
        """Return the weights of a part of the module."""
        return Weights(self.arrays, f"{self.prefix}{name}.")


def user_tower(
    config: dict[str, Any],
    arrays: dict[str, np.ndarray],
    encodings: list[np.ndarray],  # (n_codes, D) of each network
    user_inputs: list[str],
    event_inputs: list[str],
) -> Graph:
    """Return the graph from codes of users and histories to vectors of users."""
    g = Graph("user_tower")
    g.input("user", np.int64, "batch")
    g.input("history", np.int64, "batch", "length")
    g.input("within_visit", np.int64, "batch")
    feature_inputs(g, config["user_features"], user_inputs, ("batch",))
    feature_inputs(g, config["event_features"], event_inputs, ("batch", "length"))
    is_event = g("Not", g("Equal", "history", g.constant(PADDING, np.int64)))
    length = g("ReduceSum", g("Cast", is_event, to=_INT), g.axes(1), keepdims=0)
    vectors = []
    for number, table in enumerate(encodings):
        weights = Weights(arrays, f"members.{number}.user_encoder.")
        tokens = g("Gather", g.constant(table), "history")
        if config["event_features"]:
            tokens = _events(g, weights.of("events"), config, tokens, is_event, event_inputs)
        pooled = _pool(g, weights.of("pooling"), config, tokens, is_event, length)
        scale = g("Gather", g.constant(1 + weights["recency_scale"]), "within_visit")
        counted = g("Min", length, g.constant(len(weights["length_embedding"]) - 1, np.int64))
        log_length = g("Log", g("Add", g("Cast", length, to=_FLOAT), g.constant(1.0)))
        parts = [
            g("Mul", pooled, scale),
            g("Unsqueeze", log_length, g.axes(1)),
            g("Gather", g.constant(weights["length_embedding"]), counted),
            g("Gather", g.constant(weights["recency_embedding"]), "within_visit"),
            lookup(g, weights["embedding.weight"], "user"),
            *encode_features(g, weights.of("features"), config["user_features"], user_inputs),
        ]
        joined = g("Concat", *parts, axis=1)
        vectors.append(_tower(g, weights.of("tower"), config, config["user_dims"], joined))
    return _with_vectors(g, vectors, config)


def item_tower(
    config: dict[str, Any], arrays: dict[str, np.ndarray], item_inputs: list[str]
) -> Graph:
    """Return the graph from codes and features of items to vectors of items."""
    g = Graph("item_tower")
    g.input("item", np.int64, "batch")
    feature_inputs(g, config["item_features"], item_inputs, ("batch",))
    vectors = []
    for number in range(config["n_estimators"]):
        weights = Weights(arrays, f"members.{number}.item_encoder.")
        encoded = lookup(g, weights["embedding.weight"], "item")
        if config["item_features"]:
            parts = encode_features(g, weights.of("features"), config["item_features"], item_inputs)
            content = g("Concat", *parts, axis=1)
            projected = g("MatMul", content, g.constant(weights["projection.weight"].T))
            encoded = g("Add", encoded, projected)
        tower = Weights(arrays, f"members.{number}.item_tower.")
        dims = config["item_dims"]
        has_tower = dims is not None
        vectors.append(
            _tower(g, tower, config, dims, encoded) if has_tower else _normalised(g, encoded)
        )
    return _with_vectors(g, vectors, config)


def _with_vectors(g: Graph, vectors: list[str], config: dict[str, Any]) -> Graph:
    """Add the concatenated vectors of all networks as the output (`ensemble.concatenate`)."""
    result = vectors[0]
    if len(vectors) > 1:
        joined = g("Concat", *vectors, axis=1)
        result = g("Div", joined, g.constant(math.sqrt(len(vectors))))
    g.output(result, "vector", np.float32, "batch", len(vectors) * config["user_dims"][-1])
    return g


def lookup(g: Graph, table: np.ndarray, codes: str) -> str:
    """Return the rows of codes; codes that were added after the last training are unknown."""
    is_new = g("GreaterOrEqual", codes, g.constant(len(table), np.int64))
    known_codes = g("Where", is_new, g.constant(UNKNOWN, np.int64), codes)
    return g("Gather", g.constant(table), known_codes)


def feature_inputs(
    g: Graph, specs: list[tuple[str, int]], names: list[str], shape: tuple[str, ...]
) -> None:
    """Add the inputs of features: codes or numbers, several per row in vectors and lists."""
    for (kind, size), name in zip(specs, names, strict=True):
        dtype = np.float32 if kind in ("numeric", "vector") else np.int64
        sizes: tuple = {"vector": (size,), "multi_valued": (f"values_of_{name}",)}.get(kind, ())
        g.input(name, dtype, *shape, *sizes)


def encode_features(
    g: Graph, weights: Weights, specs: list[tuple[str, int]], names: list[str]
) -> list[str]:
    """Return an encoding per feature (`features.FeatureEncoder`)."""
    parts, n_tables = [], 0
    for (kind, _), name in zip(specs, names, strict=True):
        if kind in ("numeric", "vector"):
            numbers = name if kind == "vector" else g("Unsqueeze", name, g.axes(-1))
            first_number = g("Slice", numbers, g.axes(0), g.axes(1), g.axes(-1))
            is_missing = g("IsNaN", first_number)
            filled = g("Where", is_missing, g.constant(0.0), numbers)
            parts.append(g("Concat", filled, g("Cast", is_missing, to=_FLOAT), axis=-1))
            continue
        table = weights[f"tables.{n_tables}.weight"]
        n_tables += 1
        rows = lookup(g, table, name)
        if kind == "multi_valued":  # the mean of the values; padding is a row of zeros
            is_value = g("Not", g("Equal", name, g.constant(PADDING, np.int64)))
            count = g("ReduceSum", g("Cast", is_value, to=_FLOAT), g.axes(1), keepdims=1)
            total = g("ReduceSum", rows, g.axes(1), keepdims=0)
            rows = g("Div", total, g("Max", count, g.constant(1.0)))
        parts.append(rows)
    return parts


def _events(
    g: Graph, weights: Weights, config: dict[str, Any], tokens: str, is_event: str, names: list[str]
) -> str:
    """Scale and shift the encodings of a history by its events' features (`EventEncoder`)."""
    parts = encode_features(g, weights.of("features"), config["event_features"], names)
    scale_and_shift = g("MatMul", g("Concat", *parts, axis=-1), g.constant(weights["weight"]))
    dim = config["embedding_dim"]
    scale = g("Slice", scale_and_shift, g.axes(0), g.axes(dim), g.axes(-1))
    shift = g("Slice", scale_and_shift, g.axes(dim), g.axes(2 * dim), g.axes(-1))
    mask = g("Unsqueeze", g("Cast", is_event, to=_FLOAT), g.axes(2))
    scaled = g("Mul", tokens, g("Add", scale, g.constant(1.0)))
    return g("Add", scaled, g("Mul", shift, mask))


def _pool(
    g: Graph, weights: Weights, config: dict[str, Any], tokens: str, is_event: str, length: str
) -> str:
    """Return the pooled history (the modules of `pooling`)."""
    pooling: str | Callable = config["pooling"]
    dim, has_events = config["embedding_dim"], g("Greater", length, g.constant(0, np.int64))
    any_event = g("Cast", g("Unsqueeze", has_events, g.axes(1)), to=_FLOAT)
    if pooling == "max":
        mask = g("Unsqueeze", is_event, g.axes(2))
        largest = g(
            "ReduceMax", g("Where", mask, tokens, g.constant(-np.inf)), g.axes(1), keepdims=0
        )
        return g("Where", g("Unsqueeze", has_events, g.axes(1)), largest, g.constant(0.0))
    if pooling == "concat":
        n_missing = g("Sub", g.axes(config["max_length"]), _shape(g, "history", 1))
        pads = g("Concat", g.axes(0), n_missing, g.axes(0, 0, 0, 0), axis=0)
        padded = g("Pad", tokens, pads)
        ends = g.axes(np.iinfo(np.int64).min)
        newest_first = g("Slice", padded, g.axes(-1), ends, g.axes(1), g.axes(-1))
        return g("Reshape", newest_first, g.axes(0, config["max_length"] * dim))
    if pooling in ("sum", "mean"):
        return _decayed(g, np.zeros(1), dim, tokens, is_event, is_mean=pooling == "mean")
    if pooling == "decay":
        return _decayed(g, _rates(weights["log_half_life"]), dim, tokens, is_event)
    summary = _decayed(g, _rates(weights["decay.log_half_life"]), dim, tokens, is_event)
    attended = _attended(g, weights, dim, tokens, summary, length)
    return g("Concat", summary, g("Mul", attended, any_event), axis=1)


def _rates(log_half_life: np.ndarray) -> np.ndarray:
    return math.log(2) * np.exp(-log_half_life)


def _shape(g: Graph, value: str, axis: int) -> str:
    """Return the size of an axis, (1,)."""
    return g("Shape", value, start=axis, end=axis + 1)


def _lags(g: Graph) -> str:
    """Return the number of events from each event of the history to the newest, (L,)."""
    size = g("Squeeze", _shape(g, "history", 1))
    one, zero = g.constant(1, np.int64), g.constant(0, np.int64)
    return g("Sub", g("Sub", size, one), g("Range", zero, size, one))


def _decayed(
    g: Graph, rates: np.ndarray, dim: int, tokens: str, is_event: str, is_mean: bool = True
) -> str:
    """Return means or sums of events weighted by exp(-rate * lag), (R, K * D)."""
    lags = g("Cast", _lags(g), to=_FLOAT)
    exponent = g("Mul", g.constant(-rates[:, None]), lags)
    weight = g("Exp", g("Max", exponent, g.constant(MIN_EXPONENT)))  # (K, L)
    pooled = g("MatMul", weight, tokens)  # (R, K, D)
    if is_mean:
        mask = g("Unsqueeze", g("Cast", is_event, to=_FLOAT), g.axes(2))
        total = g("MatMul", weight, mask)  # (R, K, 1); the newest event has weight 1
        pooled = g("Div", pooled, g("Max", total, g.constant(1.0)))
    return g("Reshape", pooled, g.axes(0, len(rates) * dim))


def _attended(g: Graph, weights: Weights, dim: int, tokens: str, summary: str, length: str) -> str:
    """Return attention over the events with their means as queries, (R, D)."""
    n_heads = math.gcd(dim, MAX_HEADS)
    query = _linear(g, weights.of("query"), summary)
    key, value = _linear(g, weights.of("key"), tokens), _linear(g, weights.of("value"), tokens)
    heads = g.axes(0, -1, n_heads, dim // n_heads)
    query, key, value = (
        g("Transpose", g("Reshape", vectors, heads), perm=[0, 2, 1, 3])
        for vectors in (query, key, value)
    )
    lags = _lags(g)
    last_lag = g.constant(weights["lag_bias"].shape[1] - 1, np.int64)
    bias = g("Gather", g.constant(weights["lag_bias"]), g("Min", lags, last_lag), axis=1)
    bias = g("Unsqueeze", bias, g.axes(0, 2))  # (1, H, 1, L)
    inside = g("Less", lags, g("Unsqueeze", length, g.axes(1)))
    inside = g("Unsqueeze", inside, g.axes(1, 2))
    score = g("MatMul", query, g("Transpose", key, perm=[0, 1, 3, 2]))
    score = g("Mul", score, g.constant(1 / math.sqrt(dim // n_heads)))
    score = g("Add", score, g("Where", inside, bias, g.constant(-1e9)))
    attended = g("MatMul", g("Softmax", score, axis=-1), value)  # (R, H, 1, D / H)
    return g("Reshape", attended, g.axes(0, dim))


def _linear(g: Graph, weights: Weights, x: str) -> str:
    product = g("MatMul", x, g.constant(np.ascontiguousarray(weights["weight"].T)))
    return g("Add", product, g.constant(weights["bias"]))


def _tower(
    g: Graph, weights: Weights, config: dict[str, Any], dims: tuple[int, ...], x: str
) -> str:
    """Return vectors of length 1 (`layers.Tower`)."""
    hidden, has_norm = _linear(g, weights.of("first"), x), int(config["batch_norm"])
    for number in range(len(dims) - 1):
        index = number * (3 + has_norm)  # a norm where wanted, an activation, dropout, a linear map
        if has_norm:
            hidden = _batch_norm(g, weights.of(f"others.{index}"), hidden)
        activation = weights.of(f"others.{index + has_norm}")
        hidden = _activation(g, activation, config["activation"], hidden)
        hidden = _linear(g, weights.of(f"others.{index + has_norm + 2}"), hidden)
    if "skip.weight" in weights:
        hidden = g("Add", hidden, _linear(g, weights.of("skip"), x))
    return _normalised(g, hidden)


def _batch_norm(g: Graph, weights: Weights, x: str) -> str:
    scale = weights["weight"] / np.sqrt(weights["running_var"] + 1e-5)
    shift = weights["bias"] - weights["running_mean"] * scale
    return g("Add", g("Mul", x, g.constant(scale)), g.constant(shift))


def _activation(g: Graph, weights: Weights, name: str, x: str) -> str:
    if name == "prelu":
        return g("PRelu", x, g.constant(weights["weight"]))
    return g({"relu": "Relu", "gelu": "Gelu", "tanh": "Tanh"}[name], x)


def _normalised(g: Graph, x: str) -> str:
    norm = g("ReduceL2", x, g.axes(1), keepdims=1)
    return g("Div", x, g("Max", norm, g.constant(NORM_EPSILON)))
