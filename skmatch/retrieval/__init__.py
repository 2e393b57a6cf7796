"""Retrievers: estimators that recommend items to users."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skmatch.retrieval._dssm import DSSMRetriever
    from skmatch.retrieval._popularity import PopularityRetriever
    from skmatch.retrieval._youtube_dnn import YoutubeDNNRetriever

_MODULES = {
    "DSSMRetriever": "_dssm",
    "PopularityRetriever": "_popularity",
    "YoutubeDNNRetriever": "_youtube_dnn",
}
__all__ = ["DSSMRetriever", "PopularityRetriever", "YoutubeDNNRetriever"]


def __getattr__(name: str) -> Any:
    # Lazy imports, since the neural retrievers import torch.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
