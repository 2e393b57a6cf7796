"""Top-k metrics of recommendations: functions, a scorer and a table."""

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
    "evaluate",
    "hit_at_k",
    "make_topk_scorer",
    "map_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
]
