"""Retrievers: estimators that recommend items to users, and their base classes."""

from typing import TYPE_CHECKING, Any

from skmatch._columns import FIRST_KNOWN
from skmatch.retrieval._base import BaseRetriever
from skmatch.retrieval._diversify import diversify
from skmatch.retrieval._fusion import FusionRetriever
from skmatch.retrieval._growing import GrowthMixin
from skmatch.retrieval._item_to_item import ItemToItemRetriever
from skmatch.retrieval._popularity import PopularityRetriever
from skmatch.retrieval._vectors import VectorsMixin

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
    "diversify",
]

if TYPE_CHECKING:
    from skmatch.retrieval._dssm import DSSMRetriever
    from skmatch.retrieval._youtube_dnn import YoutubeDNNRetriever
else:  # a type checker would take any misspelt name

    def __getattr__(name: str) -> Any:
        if name in ("DSSMRetriever", "YoutubeDNNRetriever"):  # they import torch
            from skmatch.retrieval import _dssm, _youtube_dnn

            return getattr(_dssm if name == "DSSMRetriever" else _youtube_dnn, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
