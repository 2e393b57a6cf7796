"""Scores of a fitted retriever on held-out events."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skmatch._typing import ItemRule, SampleTable
from skmatch._validation import (
    check_k,
    fitted_retriever,
    last_step,
    read_stream,
    unwrap_searches,
)
from skmatch.metrics._bootstrap import bootstrap, check_confidence
from skmatch.metrics._groups import groups_of
from skmatch.metrics._held_out import HeldOut, fitted_schema, read_held_out
from skmatch.metrics._hits import METRICS, find_hits, mean
from skmatch.metrics._lists import (
    CATALOGUE_METRICS,
    CONTENT_METRICS,
    LIST_METRICS,
    Lists,
    lists_of,
)

ALL_METRICS = (*METRICS, *LIST_METRICS, *CATALOGUE_METRICS)


class Scores(NamedTuple):
    """The scores of a retriever's rankings."""

    columns: list[tuple[str, int]]  # metric and k of each score
    values: pd.DataFrame  # (n_queries, n_scores), columns "metric_at_k"
    n_relevant: np.ndarray  # (n_queries,)
    held_out: HeldOut
    ranking: np.ndarray  # (n_queries, n_ranked) ids, or positions in the catalogue
    lists: Lists | None  # None without metrics beyond accuracy

    def means(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """Average the defined scores over all queries, or over some."""
        # Validation inside `fit` has the queries in another order.
        average = np.mean if isinstance(self.held_out.item, pd.Series) else mean
        rows = np.arange(len(self.values)) if rows is None else rows
        means = {}
        for metric, k in self.columns:
            name = f"{metric}_at_{k}"
            if metric in CATALOGUE_METRICS:
                assert self.lists is not None
                means[name] = CATALOGUE_METRICS[metric](self.lists.gather(rows), k)
            else:
                defined = self.values[name].to_numpy()[rows]
                defined = defined[~np.isnan(defined)]
                means[name] = float(average(defined)) if len(defined) else np.nan
        return means

    def intervals(
        self, values: pd.DataFrame, rows: np.ndarray, confidence: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return bootstrap intervals of averages of values; NaN for metrics of the catalogue."""
        low, high = np.full((2, len(self.columns)), np.nan)
        is_of_query = [metric not in CATALOGUE_METRICS for metric, _ in self.columns]
        if any(is_of_query):
            low[is_of_query], high[is_of_query] = bootstrap(
                values.to_numpy()[rows], confidence, rng
            )
        return low, high


class TopKScorer:
    """Callable that scores a retriever on held-out events; see `make_topk_scorer`."""

    def __init__(
        self,
        metrics: str | Iterable[str] = ("recall", "hit", "ndcg"),
        k: int | Iterable[int] = (10,),
        *,
        exclude_seen: bool | None = None,
        candidates: ItemRule | None = None,
        gain: Hashable | None = None,
        feature: Any = None,
    ) -> None:
        self.metrics = _check_metrics(metrics)
        self.k = check_ks(k)
        self.exclude_seen = exclude_seen
        self.candidates = candidates
        self.gain = gain
        self.feature = feature
        of_content = [name for name in CONTENT_METRICS if name in self.metrics]
        if (feature is None) == bool(of_content):
            raise ValueError(
                f"metrics={list(self.metrics)} with feature={feature!r}: 'diversity' and "
                "'miscalibration' need a feature, the others none; pass the label of an item "
                "feature, or a Series (values) or DataFrame (vectors) indexed by item ids."
            )
        if gain is not None and "ndcg" not in self.metrics:
            raise ValueError(
                f"gain={gain!r} has no effect on {list(self.metrics)}: only 'ndcg' uses gains, so "
                "add it to metrics or set gain=None."
            )

    def __repr__(self) -> str:
        metrics = self.metrics[0] if len(self.metrics) == 1 else list(self.metrics)
        k = self.k[0] if len(self.k) == 1 else list(self.k)
        names = ("exclude_seen", "candidates", "gain", "feature")
        rules = {name: getattr(self, name) for name in names}
        options = "".join(f", {name}={rule!r}" for name, rule in rules.items() if rule is not None)
        return f"make_topk_scorer({metrics!r}, k={k!r}{options})"

    def __call__(self, estimator: Any, X: SampleTable, y: None = None) -> float | dict[str, float]:
        """Score a fitted retriever on held-out events, which hold the relevant items."""
        scores = self.score_queries(estimator, X).means()
        return scores if len(scores) > 1 else next(iter(scores.values()))

    def score_queries(self, estimator: Any, X: Any) -> Scores:
        held_out, gain = read_held_out(estimator, read_stream(X), self.gain)
        k = max(self.k)
        rules = {"exclude_seen": self.exclude_seen, "candidates": self.candidates}
        rules = {name: rule for name, rule in rules.items() if rule is not None}
        is_plain = isinstance(held_out.item, pd.Series)
        rank = unwrap_searches(estimator).predict if is_plain else last_step(estimator)._rank
        ranking = np.asarray(rank(held_out.queries, k=k, **rules))
        n_queries = len(held_out.users)
        if ranking.ndim != 2 or len(ranking) != n_queries or ranking.shape[1] < 1:
            raise ValueError(
                f"estimator.predict(X, k={k}) returned shape {ranking.shape} for {n_queries} "
                "queries: it must return item ids of shape (n_queries, k), padded with None."
            )
        hits, n_relevant = find_hits(held_out.query, held_out.item, ranking, gain)
        columns = [(metric, k) for metric in self.metrics for k in self.k]
        values, lists = {}, None
        if not set(self.metrics) <= set(METRICS):
            if is_plain:
                raise TypeError(
                    f"metrics={list(self.metrics)}: of {type(estimator).__name__}, which is no "
                    f"retriever of skmatch, only {', '.join(METRICS)} are known; pass its lists to "
                    "the functions of skmatch.metrics."
                )
            lists = lists_of(held_out.queries, ranking, hits, self.feature)
        for metric, k in columns:
            if metric in METRICS:
                values[f"{metric}_at_{k}"] = METRICS[metric](hits, n_relevant, k)
            elif metric in LIST_METRICS and lists is not None:
                values[f"{metric}_at_{k}"] = LIST_METRICS[metric](lists, k)
        frame = pd.DataFrame(values, index=pd.RangeIndex(n_queries))
        return Scores(columns, frame, n_relevant, held_out, ranking, lists)


def make_topk_scorer(
    metrics: str | Iterable[str] = ("recall", "hit", "ndcg"),
    k: int | Iterable[int] = (10,),
    *,
    exclude_seen: bool | None = None,
    candidates: ItemRule | None = None,
    gain: Hashable | None = None,
    feature: Any = None,
) -> TopKScorer:
    """Make a scorer of top-k recommendations, for the ``scoring`` of scikit-learn.

    The scorer makes one query per distinct user of the held-out events: one ranking of ``max(k)``
    items, as returned by ``estimator.predict``. Every metric at every k is computed from that
    ranking and averaged over the users. The relevant items of a user are the distinct items of
    their held-out events. The retrievers' `score`, the validation inside their `fit` and `evaluate`
    use the same code.

    Parameters
    ----------
    metrics : str or sequence of str, default=("recall", "hit", "ndcg")
        Among "recall", "hit", "ndcg", "mrr", "precision" and "map", and, beyond accuracy,
        "novelty", "popularity_lift", "new_items", "serendipity", "diversity", "miscalibration",
        "coverage" and "gini", defined by the functions of `skmatch.metrics`. Those beyond accuracy
        count the events that the retriever has stored. Of "popularity_lift", "miscalibration" and
        "gini" less is better: a search that maximises one needs ``refit`` to be a function.
    k : int or sequence of int, default=(10,)
        Number of top-ranked items that count.
    exclude_seen : bool or None, default=None
        Whether rankings leave out what the user has interacted with; None takes the parameter of
        the retriever. With True a held-out item that repeats is a miss.
    candidates : list of item ids, mapping or None, default=None
        The only items that are ranked, as for the retrievers' `predict`.
    gain : label or None, default=None
        Column of `X` with the gain of each held-out event, such as a rating: finite numbers of at
        least 0, with at least one above 0 per user. Of a user's events of one item the largest
        gain counts. None means 1 each. Only "ndcg" uses it.
    feature : label, Series, DataFrame or None, default=None
        What "diversity" and "miscalibration" compare: the label of an item feature of the
        `MatchEncoder`, or values (Series) or vectors (DataFrame) indexed by item ids.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y=None)`` returns a float for one metric at one k, and a dict such
        as ``{"recall_at_10": 0.21, "ndcg_at_10": 0.12}`` otherwise.

    Raises
    ------
    ValueError
        If a metric is unknown, if a k is not an integer of at least 1, if `metrics` or `k` is
        empty, if `gain` is set without "ndcg", or `feature` without its metrics or these without
        it.

    See Also
    --------
    evaluate : The same scores as a table, with intervals or one row per user.

    Notes
    -----
    With several scores, a search needs ``refit`` to name one of them, such as ``"ndcg_at_10"``.
    Successive halving needs a single score, one metric at one k. Set its resource to the epochs,
    such as ``resource="dssmretriever__max_epochs", max_resources=20``: by default it samples
    events, which leaves gaps in histories, leaves few or no users to test, and needs a time
    column, since the order of the rows is lost. When scoring fails, scikit-learn replaces a float
    by ``error_score``, but not a dict; with several scores ``error_score="raise"`` shows the error.

    A user's query has the time of the earliest of the user's held-out events, and reads the stored
    events of earlier or equal time; where the held-out event itself is stored, only those stored
    before it. Without times it reads all stored events. Later events and the held-out items are
    never read. A column ``history`` is dropped. An estimator
    that is not a retriever of skmatch gets the user's first row without its item and time: these
    columns are dropped from a frame and set to None in an array.

    Users without training events are scored, too. A held-out item that is not in the catalogue
    counts as one relevant item, although no ranking can contain it. Items with equal scores rank in
    the order of the catalogue, as in `predict`. Scores on training events
    (``return_train_score=True``) mean little.

    `Samples` are scored on each user's earliest row with the history before it: with
    ``ScoringMonitor(scoring={"ndcg_at_10": make_topk_scorer("ndcg", k=10)})`` as a callback of a
    retriever, every epoch is scored on each user's last training event. Pass a scorer with several
    scores without the dict.

    Metrics on a sample of the catalogue can rank models differently [1]_; here the whole catalogue
    is ranked.

    References
    ----------
    .. [1] W. Krichene and S. Rendle, "On sampled metrics for item recommendation",
       KDD 2020.

    Examples
    --------
    >>> from skmatch.metrics import make_topk_scorer
    >>> make_topk_scorer("ndcg", k=10)
    make_topk_scorer('ndcg', k=10)
    >>> make_topk_scorer(["recall", "ndcg"], k=[10, 50])
    make_topk_scorer(['recall', 'ndcg'], k=[10, 50])
    """
    return TopKScorer(
        metrics, k, exclude_seen=exclude_seen, candidates=candidates, gain=gain, feature=feature
    )


def evaluate(
    estimator: Any,
    X: SampleTable,
    metrics: str | Iterable[str] = ("recall", "hit", "ndcg"),
    k: int | Iterable[int] = (10,),
    *,
    by: Any = None,
    average: bool = True,
    confidence: float | None = None,
    random_state: int | np.random.Generator | None = None,
    exclude_seen: bool | None = None,
    candidates: ItemRule | None = None,
    gain: Hashable | None = None,
    feature: Any = None,
) -> pd.DataFrame:
    """Tabulate the scores of `make_topk_scorer` for a fitted retriever on held-out events.

    Parameters
    ----------
    estimator : object
        A fitted retriever, a pipeline that ends in one or a search over one.
    X : DataFrame or array-like, shape (n_events, n_columns)
        Held-out events, with the columns that the estimator was fitted on.
    metrics, k, exclude_seen, candidates, gain, feature
        As for `make_topk_scorer`.
    by : label, Series or None, default=None
        Groups of users to score separately: a column of `X`, of which the user's earliest row
        counts; a Series indexed by user ids; or "activity", unless `X` has such a column: users who
        are new (without stored events), light (up to the median of the others) and heavy. None: no
        groups.
    average : bool, default=True
        Whether to average over the users; otherwise the table has one row per user.
    confidence : float or None, default=None
        Level of a bootstrap percentile interval of each average, such as 0.95, from 1000 resamples
        of the users; None computes no interval. It shows how much the average depends on the users
        tested, not on the seed of the training. "coverage" and "gini" are no averages and have
        none.
    random_state : int, Generator or None, default=None
        Seed of the bootstrap; None draws a new one.

    Returns
    -------
    table : DataFrame
        With ``average=True`` one row per (group,) metric and k, with the columns (of the group,)
        ``metric``, ``k``,
        ``value``, ``low`` and ``high`` (with `confidence`), ``n_queries``, ``n_unknown_users``
        (without training events) and ``n_unknown_items`` (held-out pairs of user and item whose
        item has no training events). With ``average=False`` one row per user, in order of first
        appearance: the user's id, ``unknown_user``, ``n_relevant``, ``n_unknown_items`` and one
        column per score, such as ``ndcg_at_10``.

    Raises
    ------
    ValueError
        If `X` has no rows, if its user or item column is missing or holds missing values, or if a
        parameter is out of range.
    TypeError
        If `estimator` is not a fitted retriever.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall,
       1993.

    Examples
    --------
    A minimal estimator that recommends the same three items to every user:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from types import SimpleNamespace
    >>> from skmatch.metrics import evaluate
    >>> class Ids(list):
    ...     def lookup(self, values):
    ...         return np.array([self.index(v) + 2 if v in self else 1 for v in values])
    >>> class Constant:
    ...     schema_ = SimpleNamespace(user="user_id", item="item_id", time=None,
    ...                               users=Ids(["u1"]), items=Ids(["a", "b", "c"]))
    ...     def predict(self, X, k):
    ...         return np.array([["a", "b", "c"][:k]] * len(X))
    >>> heldout = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": ["b", "x"]})
    >>> table = evaluate(Constant(), heldout, "recall", k=[1, 3])
    >>> table[["metric", "k", "value", "n_queries", "n_unknown_users", "n_unknown_items"]]
       metric  k  value  n_queries  n_unknown_users  n_unknown_items
    0  recall  1    0.0          2                1                1
    1  recall  3    0.5          2                1                1
    >>> evaluate(Constant(), heldout, "recall", k=3, average=False)
      user_id  unknown_user  n_relevant  n_unknown_items  recall_at_3
    0      u1         False           1                0          1.0
    1      u2          True           1                1          0.0
    """
    scorer = make_topk_scorer(
        metrics, k, exclude_seen=exclude_seen, candidates=candidates, gain=gain, feature=feature
    )
    if confidence is not None:
        check_confidence(confidence)
    if not average and not (confidence is by is None):
        raise ValueError(
            f"confidence={confidence!r} and by={by!r} need averages: set average=True, or both to "
            "None."
        )
    X = read_stream(X)
    scores = scorer.score_queries(estimator, X)
    users, query, item = scores.held_out.users, scores.held_out.query, scores.held_out.item
    schema = fitted_schema(estimator)
    unknown_user = np.asarray(schema.users.lookup(users)) == 1
    pairs = pd.DataFrame({"query": query, "item": item}).drop_duplicates()
    if isinstance(item, pd.Series):
        unknown_item = np.asarray(schema.items.lookup(pairs["item"])) == 1
    else:
        item_codes = pairs["item"].to_numpy()
        has_events = np.append(fitted_retriever(estimator, "counts_").counts_ > 0, False)
        unknown_item = ~has_events[np.maximum(item_codes, -1)]  # the last: not in the catalogue
    n_unknown_items = np.bincount(pairs["query"], unknown_item, len(users)).astype(int)

    if not average:
        table = users.to_frame()
        table["unknown_user"] = unknown_user
        table["n_relevant"] = scores.n_relevant
        table["n_unknown_items"] = n_unknown_items
        return pd.concat([table, scores.values], axis=1)

    rng = np.random.default_rng(random_state)
    name, groups = (
        (None, {None: np.arange(len(users))}) if by is None else groups_of(by, X, scores.held_out)
    )
    tables = []
    for group, rows in groups.items():
        table = pd.DataFrame(scores.columns, columns=["metric", "k"])
        table["value"] = [*scores.means(rows).values()]
        if confidence is not None:
            table["low"], table["high"] = scores.intervals(scores.values, rows, confidence, rng)
        table["n_queries"] = len(rows)
        table["n_unknown_users"] = unknown_user[rows].sum()
        table["n_unknown_items"] = n_unknown_items[rows].sum()
        if by is not None:
            table.insert(0, name, [group] * len(table))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _check_metrics(metrics: Any) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else _as_tuple(metrics)
    choices = ", ".join(repr(name) for name in ALL_METRICS)
    if not names:
        raise ValueError(f"metrics={metrics!r} is empty: name at least one of {choices}.")
    for name in names:
        if not isinstance(name, str) or name not in ALL_METRICS:
            raise ValueError(
                f"metrics={metrics!r}: {name!r} is unknown; use some of {choices}. The length "
                "of the lists is the parameter k, such as k=10."
            )
    return tuple(dict.fromkeys(names))


def check_ks(k: Any) -> tuple[int, ...]:
    values = _as_tuple(k)
    if not values:
        raise ValueError(f"k={k!r} is empty: pass at least one number of items, such as k=10.")
    return tuple(dict.fromkeys(check_k(value) for value in values))


def _as_tuple(values: Any) -> tuple[Any, ...]:
    is_many = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    return tuple(values) if is_many else (values,)
