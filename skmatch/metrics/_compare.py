"""Two retrievers on the same users."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from skmatch._typing import ItemRule
from skmatch._validation import last_step
from skmatch.metrics._beyond_accuracy import overlap_at_k
from skmatch.metrics._bootstrap import check_confidence
from skmatch.metrics._scorer import Scores, make_topk_scorer


def compare(
    estimator: Any,
    other: Any,
    X: Any,
    metrics: str | Iterable[str] = ("recall", "hit", "ndcg"),
    k: int | Iterable[int] = (10,),
    *,
    confidence: float = 0.95,
    random_state: int | np.random.Generator | None = None,
    exclude_seen: bool | None = None,
    candidates: ItemRule | None = None,
    gain: Hashable | None = None,
    feature: Any = None,
) -> pd.DataFrame:
    """Tabulate the difference of two fitted retrievers on the same held-out events.

    Parameters
    ----------
    estimator, other : object
        Fitted retrievers, pipelines that end in one or searches over one.
    X : DataFrame or array-like, shape (n_events, n_columns)
        Held-out events, with the columns that both were fitted on.
    metrics, k, exclude_seen, candidates, gain, feature
        As for `make_topk_scorer`.
    confidence : float, default=0.95
        Level of the interval of each difference, by a paired bootstrap: 1000 resamples of the
        users, each scored in both. If the interval excludes 0, the difference is hardly due to the
        choice of users; it does not include the randomness of training.
    random_state : int, Generator or None, default=None
        Seed of the bootstrap; None draws a new one.

    Returns
    -------
    table : DataFrame
        One row per metric and k, with the columns ``metric``, ``k``, ``value``, ``other``,
        ``difference`` (value less other), its ``low`` and ``high`` (missing for "coverage" and
        "gini", which are no averages over users), and ``overlap``, the share of the first k that
        both recommend.

    Raises
    ------
    ValueError
        As `evaluate`.

    Examples
    --------
    >>> from skmatch import ItemToItemRetriever, LeaveLastOut, PopularityRetriever
    >>> from skmatch.datasets import make_events
    >>> from skmatch.metrics import compare
    >>> events = make_events(n_users=200, n_items=100, n_events=4000, random_state=0)
    >>> train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
    >>> popular, items = PopularityRetriever().fit(train), ItemToItemRetriever().fit(train)
    >>> table = compare(items, popular, test, ["recall", "coverage"], random_state=0)
    >>> table.columns.tolist()
    ['metric', 'k', 'value', 'other', 'difference', 'low', 'high', 'overlap']
    """
    check_confidence(confidence)
    scorer = make_topk_scorer(
        metrics, k, exclude_seen=exclude_seen, candidates=candidates, gain=gain, feature=feature
    )
    scores, other_scores = scorer.score_queries(estimator, X), scorer.score_queries(other, X)
    table = pd.DataFrame(scores.columns, columns=["metric", "k"])
    table["value"] = [*scores.means().values()]
    table["other"] = [*other_scores.means().values()]
    table["difference"] = table["value"] - table["other"]
    rows, rng = np.arange(len(scores.values)), np.random.default_rng(random_state)
    differences = scores.values - other_scores.values
    table["low"], table["high"] = scores.intervals(differences, rows, confidence, rng)
    lists = _ids(estimator, scores), _ids(other, other_scores)
    table["overlap"] = table["k"].map(lambda k: float(overlap_at_k(*lists, k)))
    return table


def _ids(estimator: Any, scores: Scores) -> np.ndarray:
    """Return the recommended ids of each query."""
    if isinstance(scores.held_out.item, pd.Series):
        return scores.ranking
    return last_step(estimator)._decode_items(scores.ranking)
