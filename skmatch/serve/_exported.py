"""`ExportedModel`: an exported folder, which needs neither torch nor scikit-learn nor pandas."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from skmatch._item_filter import ItemFilter, ItemLists
from skmatch.runtime import Recommender, load
from skmatch.serve._model import CodedQueries, Model
from skmatch.serve._requests import Query
from skmatch.serve._values import FeatureReader, TimeReader, ValueReader


class ExportedModel(Model):
    """A folder of `export.to_onnx`."""

    def __init__(self, recommender: Recommender, version: str):
        self.recommender, self.version = recommender, version
        manifest, reader = recommender.manifest_, recommender._reader
        self.k, self.exclude_seen = manifest["k"], bool(manifest["exclude_seen"])
        self.users, self.items = ValueReader(reader.users.values), ValueReader(reader.items.values)
        self.time = TimeReader(None if reader.columns["time"] is None else reader.time_kind)
        self.features = {str(feature.name): _reader(feature) for feature in reader.features}
        self.event_features = {
            str(feature.name): _reader(feature) for feature in reader.event_features
        }
        self._try_out(reader.users.values[:1].tolist() if reader.has_histories else [])

    @classmethod
    def load(cls, folder: Path) -> ExportedModel:
        """Load a folder, whose files are compared with its manifest."""
        recommender = load(folder)
        manifest = (folder / "manifest.json").read_bytes()
        return cls(recommender, hashlib.sha256(manifest).hexdigest()[:12])

    def _read(self, queries: list[Query], exclude_seen: bool) -> CodedQueries:
        recommender = self.recommender
        columns = recommender._reader.columns
        table = {columns["user"]: self.users.exact([query.user for query in queries])}
        if queries[0].time is not None:
            table[columns["time"]] = [self.time.read("time", query.time) for query in queries]
        coded = recommender._reader.read(table | self._columns(queries))
        seen = (ItemLists(coded.log, coded.seen, coded.stop),) if exclude_seen else ()

        def search(k: int, allowed: ItemFilter) -> Any:
            return recommender._model.search(coded, k, allowed)[:3]

        return CodedQueries(
            lambda ids: recommender._items.lookup(self.items.exact(ids), "items"),
            ItemFilter(exclude=seen),
            search,
            lambda positions: recommender._items.values[positions].tolist(),
        )


def _reader(feature: Any) -> FeatureReader:
    values = None if feature.vocabulary is None else feature.vocabulary.values
    return FeatureReader(feature.name, feature.kind, values, feature.length)
