"""`to_onnx`: a fitted pipeline as a folder that a service reads without torch."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skmatch._over_time import CountsOverTime
from skmatch._quantised import Int8Vectors
from skmatch._schema import Feature
from skmatch._validation import check_choice, unwrap_searches
from skmatch._version import __version__
from skmatch.export._folder import Folder
from skmatch.export._vocabularies import content_of
from skmatch.preprocessing import MatchEncoder, SequenceSampler
from skmatch.retrieval import (
    BaseRetriever,
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    PopularityRetriever,
    YoutubeDNNRetriever,
)
from skmatch.retrieval._neural import NeuralRetriever
from skmatch.runtime._files import FORMAT


def to_onnx(
    estimator: Any,
    folder: str | os.PathLike,
    *,
    quantize: Literal["int8"] | None = None,
    histories: bool = True,
) -> None:
    """Export a fitted pipeline as a folder that `skmatch.runtime.load` reads.

    The folder is complete when it appears, and replaces an older export of the same name. It holds
    towers in ONNX, arrays in NumPy's format, ids in JSON, and a manifest with the parameters and
    the hash of each file; see :doc:`/guide/export`. It needs onnx: ``pip install onnx``.

    Parameters
    ----------
    estimator : estimator instance
        A fitted `MatchPipeline`, a Pipeline of encoder, sampler and retriever, a retriever fitted
        on plain events, or a search over one of these.
    folder : str or path-like
        Folder to write, in an existing one. Where it exists, it is empty or an older export.
    quantize : {"int8"} or None, default=None
        "int8" also writes the item vectors with a byte per number and a scale per item. The runtime
        then searches these and computes the scores of the best few from the float32 vectors, which
        stay on the disk: a quarter of the memory.
    histories : bool, default=True
        Whether to store the events of users. Without them, each query of a known user needs a
        ``history``, and the folder holds no events of persons, but still their ids, feature values
        and what was learned of them.

    Raises
    ------
    ValueError
        If the estimator has ids, steps or parameters that the runtime cannot reproduce.
    FileExistsError
        If `folder` holds something else than an export.

    See Also
    --------
    skmatch.runtime.load : Loads the folder.

    Examples
    --------
    >>> import tempfile
    >>> from skmatch import ItemToItemRetriever
    >>> from skmatch.datasets import make_events
    >>> from skmatch.export import to_onnx
    >>> from skmatch.runtime import load
    >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
    >>> retriever = ItemToItemRetriever().fit(events)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_onnx(retriever, folder + "/model")
    ...     found = load(folder + "/model").recommend([1, 2], k=3)
    >>> found["item_id"].tolist() == retriever.recommend([1, 2], k=3)["item_id"].tolist()
    True
    """
    if quantize is not None:
        check_choice("quantize", quantize, ("int8",))
    encoder, sampler, retriever = _steps(estimator)
    with Folder(folder) as out:
        out.finish(
            {
                "format": FORMAT,
                "skmatch": __version__,
                "k": int(retriever.k),
                "exclude_seen": bool(retriever.exclude_seen),
                **_encoding(encoder, sampler, histories, out),
                "model": _model(retriever, quantize, out, ""),
            }
        )


def _steps(estimator: Any) -> tuple[MatchEncoder, SequenceSampler, BaseRetriever]:
    """Return the encoder, the sampler and the retriever of a fitted estimator."""
    inner = unwrap_searches(estimator)
    steps = [step for _, step in inner.steps] if hasattr(inner, "steps") else [inner]
    *transformers, retriever = [
        unwrap_searches(step) for step in steps if step not in (None, "passthrough")
    ]
    if not isinstance(retriever, BaseRetriever):
        raise ValueError(
            f"estimator={estimator!r} does not end in a retriever: pass a fitted retriever or a "
            "pipeline that ends in one."
        )
    check_is_fitted(retriever)
    step_of_type: dict[type, Any] = {}
    for step in transformers:
        if type(step) not in (MatchEncoder, SequenceSampler):
            raise ValueError(
                f"The step {type(step).__name__} cannot be exported: export a pipeline of "
                "MatchEncoder, SequenceSampler and a retriever, and transform queries before."
            )
        step_of_type[type(step)] = step
    sampler = step_of_type.get(SequenceSampler) or getattr(retriever, "sampler_", None)
    encoder = (
        step_of_type.get(MatchEncoder)
        or getattr(sampler, "encoder_", None)
        or getattr(retriever, "encoder_", None)
    )
    if sampler is None or encoder is None:
        raise ValueError(
            f"{type(retriever).__name__} was fitted on the output of other steps, which queries "
            "need as well: pass the pipeline that holds them."
        )
    return encoder, sampler, retriever


def _label(name: Hashable) -> Any:
    """Return a column label as JSON holds it."""
    if isinstance(name, np.integer):
        return int(name)
    if name is not None and type(name) not in (str, int):
        raise ValueError(
            f"The column label {name!r} is a {type(name).__name__}, and an exported folder holds "
            "labels of text or integers: rename the column before fit."
        )
    return name


def _encoding(
    encoder: MatchEncoder, sampler: SequenceSampler, histories: bool, out: Folder
) -> dict[str, Any]:
    """Write the vocabularies, features and histories that encode queries; return their entries."""
    schema, visits = encoder.schema_, sampler.visits_
    roles = ("user", "item", "time", "weight")
    columns = {role: _label(getattr(schema, role)) for role in roles}
    item_features, event_features = (
        [_feature(feature, side, i, out) for i, feature in enumerate(features)]
        for side, features in (("item", schema.item_features), ("event", schema.event_features))
    )
    user_features = []
    for number, feature in enumerate(schema.user_features):
        timeline, name = encoder.timelines_[feature.name], f"features/user_{number}"
        stored = {
            "offsets": out.array(f"{name}_rows", timeline.offsets),
            "times": out.array(f"{name}_times", timeline.times),
            **out.column(name, timeline.column),
        }
        user_features.append(_feature(feature, "user", number, out) | {"timeline": stored})
    unread = [columns["item"], columns["weight"]]
    unread += [entry["name"] for entry in (*item_features, *event_features)]
    log = sampler.log_
    stored_events = None
    if histories:
        times = sampler.times_
        stored_events = {
            "items": out.array("histories/items", log.items),
            "offsets": out.array("histories/offsets", sampler.offsets_),
            "times": None if times is None else out.array("histories/times", times),
            "features": [
                out.array(f"histories/feature_{i}", log.features[feature.name])
                for i, feature in enumerate(schema.event_features)
            ],
        }
    return {
        "columns": {name: columns[name] for name in ("user", "item", "time")}
        | {"unread": [name for name in unread if name is not None]},
        "time_kind": schema.time_kind,
        "delimiter": encoder.delimiter,
        "users": out.json("users", content_of(schema.users, schema.user)),
        "items": out.json("items", content_of(schema.items, schema.item)),
        "user_features": user_features,
        "item_features": item_features,
        "event_features": event_features,
        "max_length": int(sampler.max_length),
        "visit_pause": None if visits is None else float(visits.pause),
        "histories": stored_events,
    }


def _feature(feature: Feature, side: str, number: int, out: Folder) -> dict[str, Any]:
    """Write the vocabulary of a feature; return its entry of the manifest."""
    vocabulary = None
    if feature.vocabulary is not None:
        content = content_of(feature.vocabulary, feature.name)
        vocabulary = out.json(f"features/{side}_{number}", content)
    mean = np.asarray(feature.mean, dtype=float)
    return {
        "name": _label(feature.name),
        "kind": feature.kind,
        "vocabulary": vocabulary,
        "mean": mean.tolist(),
        "scale": float(feature.scale),
        "length": int(feature.length),
        "made_by": None if feature.transformer is None else type(feature.transformer).__name__,
    }


def _model(retriever: Any, quantize: str | None, out: Folder, folder: str) -> dict[str, Any]:
    """Write a retriever; return its entry of the manifest."""
    entry: dict[str, Any] = {
        "class": type(retriever).__name__,
        "parameters": _parameters(retriever),
        "popularity": out.array(f"{folder}popularity", retriever.popularity_),
        "over_time": _over_time(retriever, out, folder),
    }
    if type(retriever) is PopularityRetriever:
        return entry | {"kind": "popularity"}
    if type(retriever) is ItemToItemRetriever:
        shares = retriever.shares_
        return entry | {
            "kind": "item_to_item",
            "neighbors": out.array(f"{folder}neighbors", shares.indices),
            "shares": out.array(f"{folder}shares", shares.data),
            "offsets": out.array(f"{folder}offsets", shares.indptr),
            "prior": out.array(f"{folder}prior", retriever.prior_),
            "half_life": float(retriever.half_life),
            "visit_half_life": float(retriever.visit_half_life),
        }
    if type(retriever) is FusionRetriever:
        members = [
            _model(member, quantize, out, f"{folder}{number}/") | {"name": name}
            for number, (name, member) in enumerate(retriever.named_retrievers_.items())
        ]
        return entry | {
            "kind": "fusion",
            "members": members,
            "weights": retriever.weights_.tolist(),
            "rule": retriever.rule,
            "n_candidates": int(retriever.n_candidates),
        }
    if type(retriever) in (DSSMRetriever, YoutubeDNNRetriever):
        return entry | _two_towers(retriever, quantize, out, folder)
    raise ValueError(
        f"{type(retriever).__name__} is a retriever of your own, which the runtime does not know: "
        "export one of skmatch, or serve this one in Python."
    )


def _over_time(retriever: Any, out: Folder, folder: str) -> dict[str, Any] | None:
    """Write counts of items over time and the trend; return their entry of the manifest."""
    counts: CountsOverTime | None = getattr(retriever, "counts_over_time_", None)
    if counts is None:
        return None
    arrays: dict[str, Any] = {
        name: out.array(f"{folder}over_time_{name}", getattr(counts, name))
        for name in ("end", "offsets", "items", "counts")
    }
    trend = getattr(retriever, "trend_", None)  # PopularityRetriever has none
    arrays["trend"] = None if trend is None else out.array(f"{folder}trend", trend)
    return {"half_life": counts.half_life, "latest": counts.latest, **arrays}


def _two_towers(
    retriever: NeuralRetriever, quantize: str | None, out: Folder, folder: str
) -> dict[str, Any]:
    """Write the towers and the item vectors; return their entry of the manifest."""
    try:
        from skmatch.export import _towers
    except ImportError as error:
        raise ImportError(
            f"to_onnx writes towers with onnx, which is missing ({error}): run pip install onnx."
        ) from error
    config, schema = retriever.network_config_, retriever.schema_
    if not isinstance(config["pooling"], str):
        raise ValueError(
            f"pooling={config['pooling']!r} cannot be exported: the graph is written for the "
            "poolings of skmatch. Fit with one of them, or serve this model in Python."
        )
    user_inputs, event_inputs, item_inputs = (
        [f"{prefix}_{_label(feature.name)}" for feature in features]
        for prefix, features in (
            ("feature", schema.user_features),
            ("history", schema.event_features),
            ("feature", schema.item_features),
        )
    )
    encodings = retriever._serving_engine().item_encodings(schema)
    weights, vectors = retriever.weights_, retriever.item_vectors_
    users = _towers.user_tower(config, weights, encodings, user_inputs, event_inputs)
    users.save(out.add(f"{folder}user_tower.onnx"))
    items = _towers.item_tower(config, weights, item_inputs)
    items.save(out.add(f"{folder}item_tower.onnx"))
    codes = scales = None
    if quantize is not None:
        quantised = Int8Vectors.of(vectors)
        codes = out.array(f"{folder}item_codes", quantised.codes)
        scales = out.array(f"{folder}item_scales", quantised.scales)
    return {
        "kind": "two_tower",
        "user_tower": f"{folder}user_tower.onnx",
        "item_tower": f"{folder}item_tower.onnx",
        "item_vectors": out.array(f"{folder}item_vectors", vectors),
        "item_codes": codes,
        "item_scales": scales,
        "temperature": retriever.temperature_,
        "max_length": int(config["max_length"]),
        "user_inputs": user_inputs,
        "event_inputs": event_inputs,
        "item_inputs": item_inputs,
    }


def _parameters(retriever: Any) -> dict[str, Any]:
    """Return the parameters of a retriever as JSON holds them, other values as their text."""
    return {
        name: value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
        for name, value in retriever.get_params(deep=False).items()
    }
