"""Retrievers: estimators that recommend items to users, and their base classes."""

import importlib
from typing import TYPE_CHECKING, Any

from skmatch._columns import FIRST_KNOWN

if TYPE_CHECKING:
    from skmatch.retrieval._base import BaseRetriever
    from skmatch.retrieval._dssm import DSSMRetriever
    from skmatch.retrieval._fusion import FusionRetriever
    from skmatch.retrieval._growing import GrowthMixin
    from skmatch.retrieval._item_to_item import ItemToItemRetriever
    from skmatch.retrieval._popularity import PopularityRetriever
    from skmatch.retrieval._vectors import VectorsMixin
    from skmatch.retrieval._youtube_dnn import YoutubeDNNRetriever

_MODULES = {
    "BaseRetriever": "_base",
    "DSSMRetriever": "_dssm",
    "FusionRetriever": "_fusion",
    "GrowthMixin": "_growing",
    "ItemToItemRetriever": "_item_to_item",
    "PopularityRetriever": "_popularity",
    "VectorsMixin": "_vectors",
    "YoutubeDNNRetriever": "_youtube_dnn",
}
__all__ = [
    "FIRST_KNOWN",
    "BaseRetriever",
    "DSSMRetriever",
    "FusionRetriever",
    "GrowthMixin",
    "ItemToItemRetriever",
    "PopularityRetriever",
    "VectorsMixin",
    "YoutubeDNNRetriever",
]


if not TYPE_CHECKING:  # else no misspelt name would be an error to a type checker

    def __getattr__(name: str) -> Any:
        # Lazy imports, since the neural retrievers import torch.
        if name in _MODULES:
            return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
