"""The retrieval stage of recommenders, for scikit-learn."""

import importlib
from typing import TYPE_CHECKING, Any

from skmatch._version import __version__

if TYPE_CHECKING:
    from skmatch.callbacks import Checkpoint
    from skmatch.inspection import (
        ExposureDisplay,
        ItemMapDisplay,
        TopKCurveDisplay,
        TradeOffDisplay,
        TrainingCurveDisplay,
        model_card,
    )
    from skmatch.metrics import evaluate, make_topk_scorer
    from skmatch.model_selection import LeaveLastOut, TemporalSplit
    from skmatch.pipeline import MatchPipeline, make_match_pipeline
    from skmatch.preprocessing import MatchEncoder, SequenceSampler
    from skmatch.retrieval import (
        DSSMRetriever,
        FusionRetriever,
        ItemToItemRetriever,
        PopularityRetriever,
        YoutubeDNNRetriever,
        diversify,
    )

# Public name -> module that holds it; read on first use, so that importing skmatch is quick.
_MODULES = {
    "Checkpoint": "callbacks",
    "DSSMRetriever": "retrieval",
    "ExposureDisplay": "inspection",
    "FusionRetriever": "retrieval",
    "ItemMapDisplay": "inspection",
    "ItemToItemRetriever": "retrieval",
    "LeaveLastOut": "model_selection",
    "MatchEncoder": "preprocessing",
    "MatchPipeline": "pipeline",
    "PopularityRetriever": "retrieval",
    "SequenceSampler": "preprocessing",
    "TemporalSplit": "model_selection",
    "TopKCurveDisplay": "inspection",
    "TradeOffDisplay": "inspection",
    "TrainingCurveDisplay": "inspection",
    "YoutubeDNNRetriever": "retrieval",
    "diversify": "retrieval",
    "evaluate": "metrics",
    "make_match_pipeline": "pipeline",
    "make_topk_scorer": "metrics",
    "model_card": "inspection",
}

__all__ = [
    "Checkpoint",
    "DSSMRetriever",
    "ExposureDisplay",
    "FusionRetriever",
    "ItemMapDisplay",
    "ItemToItemRetriever",
    "LeaveLastOut",
    "MatchEncoder",
    "MatchPipeline",
    "PopularityRetriever",
    "SequenceSampler",
    "TemporalSplit",
    "TopKCurveDisplay",
    "TradeOffDisplay",
    "TrainingCurveDisplay",
    "YoutubeDNNRetriever",
    "__version__",
    "diversify",
    "evaluate",
    "make_match_pipeline",
    "make_topk_scorer",
    "model_card",
]


if not TYPE_CHECKING:  # type checkers would take any misspelt name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(f"skmatch.{_MODULES[name]}"), name)
        raise AttributeError(f"module 'skmatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
