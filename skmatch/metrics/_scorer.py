"""Scores of a fitted retriever on held-out events."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skmatch._validation import (
    Roles,
    check_k,
    fitted_retriever,
    read_table,
    reject_missing,
    require_column,
    unwrap_searches,
)
from skmatch.metrics._ranking import METRICS, find_hits

N_RESAMPLES = 1000


class _Scores(NamedTuple):
    """What a retriever's rankings are worth, one row a query (a user with held-out events)."""

    values: pd.DataFrame  # (n_queries, n_scores), columns "metric@k"
    n_relevant: np.ndarray  # (n_queries,)
    users: pd.Series  # (n_queries,) ids, named as in the events
    pairs: pd.DataFrame  # distinct held-out (query, item)


class TopKScorer:
    """Callable that scores a retriever on held-out events; see `make_topk_scorer`."""

    def __init__(
        self,
        metrics: str | Iterable[str] = ("recall", "hit", "ndcg"),
        k: int | Iterable[int] = (10,),
    ) -> None:
        self.metrics = _check_metrics(metrics)
        self.k = check_ks(k)

    def __repr__(self) -> str:
        metrics = self.metrics[0] if len(self.metrics) == 1 else list(self.metrics)
        k = self.k[0] if len(self.k) == 1 else list(self.k)
        return f"make_topk_scorer({metrics!r}, k={k!r})"

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float | dict[str, float]:
        """Score a fitted retriever on held-out events.

        Parameters
        ----------
        estimator : object
            A fitted retriever, a pipeline that ends in one or a search over one.
        X : DataFrame or array-like, shape (n_events, n_columns), or Samples
            Held-out events.
        y : None
            Ignored: the relevant items are in `X`.

        Returns
        -------
        score : float or dict of str to float
            The only score, or all of them under names such as ``"ndcg@10"``.
        """
        means = _score_queries(estimator, X, self.metrics, self.k).values.mean()
        scores = {str(name): float(value) for name, value in means.items()}
        return scores if len(scores) > 1 else next(iter(scores.values()))


def make_topk_scorer(
    metrics: str | Iterable[str] = ("recall", "hit", "ndcg"),
    k: int | Iterable[int] = (10,),
) -> TopKScorer:
    """Make a scorer of top-k recommendations, for the ``scoring`` of scikit-learn.

    The scorer asks one query per distinct user of the held-out events: one ranking of ``max(k)``
    items by ``estimator.predict``, out of the full catalogue and without the items that the user
    has seen in training. Every metric at every k comes from that ranking, and is averaged over the
    users. The relevant items of a user are the distinct items of their held-out events.

    Parameters
    ----------
    metrics : str or sequence of str, default=("recall", "hit", "ndcg")
        Among "recall", "hit", "ndcg", "mrr", "precision" and "map"; see the functions of
        `skmatch.metrics` for what each is.
    k : int or sequence of int, default=(10,)
        Number of items, from the top, that count.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y=None)`` gives a float where there is one metric at one k, and a
        dict such as ``{"recall@10": 0.21, "ndcg@10": 0.12}`` otherwise.

    Raises
    ------
    ValueError
        If a metric is unknown, a k is no integer of at least 1, or there is none of either.

    See Also
    --------
    evaluate : The same scores as a table, with intervals or one row per user.

    Notes
    -----
    With several scores, a search needs ``refit`` to name one of them, such as ``"ndcg@10"``.
    Successive halving takes a single score only, one metric at one k. Let its resource be the
    epochs, such as ``resource="dssmretriever__max_epochs", max_resources=20``: by default it draws
    events at random, which tears holes into histories, leaves few users to test or none, and needs
    a time column, since the order of the rows is lost. When the scoring itself fails, scikit-learn
    puts ``error_score`` in place of a float but not of a dict; with several scores
    ``error_score="raise"`` shows what went wrong.

    A query never holds anything of the held-out events but the user and the other columns of the
    user's first row: the item and time columns of a frame are dropped, those of an array are set
    to None. A user without training events is scored like every other. A held-out item that
    training has not met counts as relevant, although no ranking can hold it. Scores on training
    events (``return_train_score=True``) mean little, since what is seen is left out.

    `Samples` are scored, too, each user's first row with the history before it: with
    ``ScoringMonitor(scoring={"ndcg@10": make_topk_scorer("ndcg", k=10)})`` as a callback of a
    retriever, every epoch is scored on each user's last training event. Several scores go without
    the dict.

    Metrics on a sample of the catalogue can rank models differently [1]_; here all of it is ranked.

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
    return TopKScorer(metrics, k)


def evaluate(
    estimator: Any,
    X: Any,
    metrics: str | Iterable[str] = ("recall", "hit", "ndcg"),
    k: int | Iterable[int] = (10,),
    *,
    average: bool = True,
    confidence: float | None = None,
    random_state: int | np.random.Generator | None = None,
) -> pd.DataFrame:
    """Tabulate the top-k scores of a fitted retriever on held-out events.

    The scores are those of `make_topk_scorer`.

    Parameters
    ----------
    estimator : object
        A fitted retriever, a pipeline that ends in one or a search over one.
    X : DataFrame or array-like, shape (n_events, n_columns)
        Held-out events, with the columns that the estimator was fitted on.
    metrics : str or sequence of str, default=("recall", "hit", "ndcg")
        Among "recall", "hit", "ndcg", "mrr", "precision" and "map".
    k : int or sequence of int, default=(10,)
        Number of items, from the top, that count.
    average : bool, default=True
        Whether to average over the users; otherwise one row per user.
    confidence : float, default=None
        Level of a bootstrap percentile interval of each average, such as 0.95: 1000 resamples of
        the users. None gives no interval. It tells how much the average depends on which users
        were tested, not on the seed of the training.
    random_state : int, Generator or None, default=None
        Seed of the bootstrap; None draws a fresh one.

    Returns
    -------
    table : DataFrame
        With ``average=True`` one row per metric and k, and the columns ``metric``, ``k``,
        ``value``, with `confidence` ``low`` and ``high``, then ``n_queries``,
        ``n_unknown_users`` (without training events) and ``n_unknown_items`` (held-out pairs of
        user and item whose item has none). With ``average=False`` one row per user, in order of
        first appearance: the id under its own label, ``unknown_user``, ``n_relevant``,
        ``n_unknown_items`` and one column per score, such as ``ndcg@10``.

    Raises
    ------
    ValueError
        If `X` has no rows, lacks the user or item column or a value in it, or if a parameter is
        out of range.
    TypeError
        If `estimator` is no fitted retriever.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall,
       1993.

    Examples
    --------
    A stand-in for a retriever that recommends the same three items to everyone:

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
      user_id  unknown_user  n_relevant  n_unknown_items  recall@3
    0      u1         False           1                0       1.0
    1      u2          True           1                1       0.0
    """
    metrics, ks = _check_metrics(metrics), check_ks(k)
    if confidence is not None:
        if not isinstance(confidence, Real) or not 0 < confidence < 1:
            raise ValueError(
                f"confidence={confidence!r} is no level: use one between 0 and 1, such as 0.95."
            )
        if not average:
            raise ValueError(
                f"confidence={confidence!r} needs averages: use average=True, or confidence=None."
            )
    scores = _score_queries(estimator, X, metrics, ks)
    schema = fitted_schema(estimator)
    unknown_user = np.asarray(schema.users.lookup(scores.users)) == 1
    unknown_item = np.asarray(schema.items.lookup(scores.pairs["item"])) == 1
    n_unknown_items = np.bincount(scores.pairs["query"], unknown_item, len(scores.users))
    n_unknown_items = n_unknown_items.astype(int)

    if not average:
        table = scores.users.to_frame()
        table["unknown_user"] = unknown_user
        table["n_relevant"] = scores.n_relevant
        table["n_unknown_items"] = n_unknown_items
        return pd.concat([table, scores.values], axis=1)

    table = pd.DataFrame([(m, n) for m in metrics for n in ks], columns=["metric", "k"])
    table["value"] = scores.values.mean().to_numpy()
    if confidence is not None:
        table["low"], table["high"] = _bootstrap(
            scores.values.to_numpy(), confidence, np.random.default_rng(random_state)
        )
    table["n_queries"] = len(scores.users)
    table["n_unknown_users"] = unknown_user.sum()
    table["n_unknown_items"] = n_unknown_items.sum()
    return table


def fitted_schema(estimator: Any) -> Any:
    """Give the schema of a fitted retriever, or of the one inside a pipeline or a search."""
    return fitted_retriever(estimator, "schema_").schema_


def _score_queries(
    estimator: Any, X: Any, metrics: tuple[str, ...], ks: tuple[int, ...]
) -> _Scores:
    schema = fitted_schema(estimator)
    is_coded = hasattr(X, "original_users") and not isinstance(X, pd.DataFrame)
    frame, roles = read_table(
        X.ids() if is_coded else X, user=schema.user, item=schema.item, time=schema.time
    )
    user = require_column(frame, roles.user, "user")
    item = require_column(frame, roles.item, "item")
    if frame.empty:
        raise ValueError("X has no rows: give at least one held-out event.")
    for column in (user, item):
        reject_missing(
            column,
            "a held-out event needs a user and an item, so drop these rows or fill them in.",
        )

    query, _ = pd.factorize(user)
    first = np.unique(query, return_index=True)[1]
    pairs = pd.DataFrame({"query": query, "item": item.reset_index(drop=True)})
    if is_coded:
        queries = X.take(first)  # a window ends before its row: it holds nothing of the answer
    else:
        as_array = not isinstance(X, pd.DataFrame)
        queries = _make_queries(frame.iloc[first], roles, as_array=as_array)
    ranking = np.asarray(unwrap_searches(estimator).predict(queries, k=max(ks)))
    if ranking.ndim != 2 or len(ranking) != len(first) or ranking.shape[1] < 1:
        raise ValueError(
            f"estimator.predict(X, k={max(ks)}) gave shape {ranking.shape} for {len(first)} "
            "queries: it must give the item ids of each query, shape (n_queries, k), and pad a "
            "missing answer with None."
        )
    hits, n_relevant = find_hits(query, pairs["item"], ranking)
    values = pd.DataFrame(
        {f"{m}@{k}": METRICS[m](hits, n_relevant, k) for m in metrics for k in ks}
    )
    users = user.iloc[first].reset_index(drop=True)
    return _Scores(values, n_relevant, users, pairs.drop_duplicates(ignore_index=True))


def _make_queries(rows: pd.DataFrame, roles: Roles, *, as_array: bool) -> pd.DataFrame | np.ndarray:
    """Keep of each user's row what may be known before the held-out events."""
    held_out = rows.columns.isin([roles.item, roles.time])
    if not as_array:
        return rows.loc[:, ~held_out]
    queries = rows.to_numpy(dtype=object, copy=True)
    queries[:, held_out] = None
    return queries


def _bootstrap(
    values: np.ndarray, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Give percentile intervals of the column means; rows are drawn for all columns alike."""
    n_queries = len(values)
    means = np.empty((N_RESAMPLES, values.shape[1]))
    for resample in range(N_RESAMPLES):  # one at a time: the draws of all would fill the memory
        count = np.bincount(rng.integers(n_queries, size=n_queries), minlength=n_queries)
        means[resample] = count @ values / n_queries
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def _check_metrics(metrics: Any) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else _as_tuple(metrics)
    known = ", ".join(repr(name) for name in METRICS)
    if not names:
        raise ValueError(f"metrics={metrics!r} is empty: name at least one of {known}.")
    for name in names:
        if not isinstance(name, str) or name not in METRICS:
            raise ValueError(f"metrics={metrics!r}: {name!r} is unknown; use some of {known}.")
    return tuple(dict.fromkeys(names))


def check_ks(k: Any) -> tuple[int, ...]:
    values = _as_tuple(k)
    if not values:
        raise ValueError(f"k={k!r} is empty: give at least one number of items, such as k=10.")
    return tuple(dict.fromkeys(check_k(value) for value in values))


def _as_tuple(values: Any) -> tuple[Any, ...]:
    is_many = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    return tuple(values) if is_many else (values,)
