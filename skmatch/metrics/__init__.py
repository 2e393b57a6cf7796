"""Top-k metrics of recommendations: functions, a scorer and tables."""

from skmatch.metrics._beyond_accuracy import (
    coverage_at_k,
    diversity_at_k,
    gini_at_k,
    miscalibration_at_k,
    new_items_at_k,
    novelty_at_k,
    overlap_at_k,
    popularity_lift_at_k,
    serendipity_at_k,
)
from skmatch.metrics._compare import compare
from skmatch.metrics._ranking import (
    hit_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from skmatch.metrics._scorer import evaluate, make_topk_scorer

__all__ = [
    "compare",
    "coverage_at_k",
    "diversity_at_k",
    "evaluate",
    "gini_at_k",
    "hit_at_k",
    "make_topk_scorer",
    "map_at_k",
    "miscalibration_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "new_items_at_k",
    "novelty_at_k",
    "overlap_at_k",
    "popularity_lift_at_k",
    "precision_at_k",
    "recall_at_k",
    "serendipity_at_k",
]
