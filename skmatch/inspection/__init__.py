"""Plots of retrievers, as scikit-learn's displays, which need matplotlib; and model cards."""

from skmatch.inspection._exposure import ExposureDisplay
from skmatch.inspection._item_map import ItemMapDisplay
from skmatch.inspection._model_card import model_card
from skmatch.inspection._topk_curve import TopKCurveDisplay
from skmatch.inspection._trade_off import TradeOffDisplay
from skmatch.inspection._training_curve import TrainingCurveDisplay

__all__ = [
    "ExposureDisplay",
    "ItemMapDisplay",
    "TopKCurveDisplay",
    "TradeOffDisplay",
    "TrainingCurveDisplay",
    "model_card",
]
