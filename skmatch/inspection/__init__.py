"""Plots of retrievers, as scikit-learn's displays; they need matplotlib."""

from skmatch.inspection._item_map import ItemMapDisplay
from skmatch.inspection._topk_curve import TopKCurveDisplay
from skmatch.inspection._training_curve import TrainingCurveDisplay

__all__ = ["ItemMapDisplay", "TopKCurveDisplay", "TrainingCurveDisplay"]
