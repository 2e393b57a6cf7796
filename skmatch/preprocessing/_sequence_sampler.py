"""`SequenceSampler`: the history before each event, and how negatives are drawn."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skmatch._arrays import count_before
from skmatch._columns import (
    FIRST_KNOWN,
    PADDING,
    Columns,
    check_offsets,
    concatenate_ranges,
    count_codes,
)
from skmatch._data import CatalogueRows, Events, Samples, as_coded, index_dtype
from skmatch._event_log import EventLog, NegativeSampling
from skmatch._files import blocks, collect
from skmatch._growth import replaced
from skmatch._schema import Schema
from skmatch._sklearn import Interval
from skmatch._typing import Duration, EventTable
from skmatch._validation import check_choice, checked_fit, require_rows
from skmatch.persistence import VersionedMixin
from skmatch.preprocessing._output import FrameOutputMixin
from skmatch.preprocessing._plain_events import PlainEventsMixin
from skmatch.preprocessing._time_order import order_events, sorted_log
from skmatch.preprocessing._visits import Visits

Negatives = Literal["uniform", "popularity", "log", "zipf", "in_batch", "all"]


class SequenceSampler(
    FrameOutputMixin, PlainEventsMixin, TransformerMixin, VersionedMixin, BaseEstimator
):
    """Add to each event the history before it, and set how a retriever draws negatives.

    The output has one row per input row. Histories are ranges (start, stop) of one shared array of
    events, so memory grows with the number of events, not with the length of the histories.

    ``fit(X).transform(X)`` and ``fit_transform(X)`` differ, as in scikit-learn's
    `~sklearn.preprocessing.TargetEncoder`. `fit_transform` returns training rows: "before" means
    earlier in (time, row order), so no event sees itself or the future, also among events of the
    same time. `transform` returns queries: without a time, a query gets all stored events of its
    user; with a time, the events strictly before that time; with its own ``history``, that
    history. (Scores of held-out events also count stored events of the same time; see
    `~skmatch.metrics.make_topk_scorer`.)

    Parameters
    ----------
    max_length : int, default=50
        Maximum number of events in a history; the most recent are kept.
    min_history : int, default=0
        A retriever trains only on events with at least this many earlier events of their user. If
        there is none, it trains on all events and warns. With 0 it also learns which item a user
        with given features interacts with first.
    neg_ratio : int, default=3
        Number of negatives drawn for each positive. Listwise losses share all negatives of a
        training step. "in_batch" and "all" draw none.
    negatives : {"uniform", "popularity", "log", "zipf", "in_batch", "all"}, default="popularity"
        How negatives are drawn, anew in every epoch. "uniform": all items equally likely;
        "popularity": in proportion to count**0.75 as in word2vec [1]_; "log": in proportion to
        log(count + 1); "zipf": log-uniform over the popularity rank; "in_batch": the other
        positives of the step, with probabilities estimated from the counts for the logQ
        correction [2]_; "all": every item of the catalogue. An item without events has count 1.
    exclude_history : bool, default=True
        Whether an event's negatives exclude the items of its history, as `recommend` excludes
        seen items. Set it to False, together with ``exclude_seen=False`` in the retriever, if
        users interact with items repeatedly and recommendations may repeat them.
    gap : "visit", duration or None, default="visit"
        What separates a visit from earlier events. "visit": pauses of the length that best
        separates short from long pauses; if pauses do not form such groups, there are no
        visits. A duration, in the unit of the times or as a timedelta for datetimes: the visit of
        an event holds the events less than that long before it. None: no visits. Neural retrievers
        train on histories that end with the last event and on those that end before the visit, and
        read which kind a query has: the next item of a visit and the first of the next visit are
        different tasks.
    gap_rate : float, default=0.5
        Share of the events that are trained on with the history before their visit, drawn anew in
        every epoch, where there is such a history. 1 fits for the next visit only.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws of negatives; with None, the retriever's `random_state` is used.

    Attributes
    ----------
    log_ : EventLog
        The items of all events, ordered by user, then time.
    item_counts_ : ndarray of shape (n_items,)
        Number of events of each known item.
    visits_ : Visits or None
        The pause between visits, ``visits_.pause``, in the unit of the times (nanoseconds for
        datetimes); None without visits.
    n_features_in_ : int
        Number of columns seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during fit, if all are strings.

    See Also
    --------
    MatchEncoder : The previous step: encodes ids and features.

    References
    ----------
    .. [1] T. Mikolov et al., "Distributed representations of words and phrases and their
       compositionality", NeurIPS 2013.
    .. [2] X. Yi et al., "Sampling-bias-corrected neural modeling for large corpus item
       recommendations", RecSys 2019.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch import SequenceSampler
    >>> events = pd.DataFrame({
    ...     "user_id": ["ann", "bob", "ann", "ann"],
    ...     "item_id": ["tea", "rye", "jam", "rye"],
    ...     "timestamp": [1, 2, 3, 4],
    ... })
    >>> sampler = SequenceSampler(max_length=2)
    >>> sampler.fit_transform(events).decode()
      user_id item_id     history
    0     ann     tea          []
    1     bob     rye          []
    2     ann     jam       [tea]
    3     ann     rye  [tea, jam]
    >>> sampler.transform(pd.DataFrame({"user_id": ["ann", "eve"]})).decode()
      user_id     history
    0     ann  [jam, rye]
    1     eve          []
    """

    _output_type = Samples

    _parameter_constraints: dict = {
        "max_length": [Interval(Integral, 1, np.iinfo(np.int32).max, closed="both")],
        "min_history": [Interval(Integral, 0, None, closed="left")],
        "neg_ratio": [Interval(Integral, 1, None, closed="left")],
        "negatives": [str],
        "exclude_history": ["boolean"],
        "gap": "no_validation",
        "gap_rate": [Interval(Real, 0, 1, closed="both")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        max_length: int = 50,
        min_history: int = 0,
        *,
        neg_ratio: int = 3,
        negatives: Negatives = "popularity",
        exclude_history: bool = True,
        gap: Duration | None = "visit",
        gap_rate: float = 0.5,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.max_length = max_length
        self.min_history = min_history
        self.neg_ratio = neg_ratio
        self.negatives = negatives
        self.exclude_history = exclude_history
        self.gap = gap
        self.gap_rate = gap_rate
        self.random_state = random_state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "offsets_"):
            check_offsets(self.offsets_, len(self.log_.items))

    def fit(self, X: EventTable, y: None = None) -> SequenceSampler:
        """Store the events of every user, ordered by time.

        Parameters
        ----------
        X : Events, DataFrame, array-like of shape (n_events, n_columns), or Parquet
            Output of a `MatchEncoder`; plain events are encoded by a default one. Events from
            Parquet are kept in temporary files.
        y : None
            Ignored.

        Returns
        -------
        self : SequenceSampler
        """
        self._fit(X)
        return self

    def fit_transform(self, X: EventTable, y: None = None) -> Samples:
        """Store the events and return each with the history before it, for training.

        Parameters
        ----------
        X : Events, DataFrame, array-like of shape (n_events, n_columns), or Parquet
            As in `fit`.
        y : None
            Ignored.

        Returns
        -------
        samples : Samples
            One row per row of `X`; a DataFrame after ``set_output(transform="pandas")``.
        """
        events, stop = self._fit(X)

        def windows(rows: slice) -> Columns:
            return self._windows(self.log_, self.offsets_[events.user[rows]], stop[rows])

        columns = collect(map(windows, blocks(len(events), events.on_disk)), events.on_disk)
        columns |= self._visits_of_events(events, stop)
        return self._output(self._samples(events, self.log_, columns))

    @checked_fit
    def _fit(self, X: Any) -> tuple[Events, np.ndarray]:
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X)
        check_choice("negatives", self.negatives, get_args(Negatives))
        events, encoding = self._encode_training(X)
        require_rows(len(events))
        if min(events.user.min(), events.item.min()) < FIRST_KNOWN:
            is_known = (events.user >= FIRST_KNOWN) & (events.item >= FIRST_KNOWN)
            row = int(is_known.argmin())
            raise ValueError(
                f"{(~is_known).sum():,} events have a user or item that is unknown to the "
                f"MatchEncoder, the first in row {row}: fit both on the same events."
            )
        schema = events.schema
        offsets = np.append(0, np.cumsum(count_codes(events.user, len(schema.users))))
        seed = None
        if self.random_state is not None:
            seed = int(check_random_state(self.random_state).randint(2**31))
        item_counts = _count_items(events.item, schema)
        log, stop = sorted_log(events, offsets)
        times = cast("np.ndarray | None", log.get("time"))
        self._set_fitted(
            encoding
            | {
                "schema_": schema,
                "log_": EventLog(
                    cast(np.ndarray, log["item"]),
                    features={
                        name: cast(np.ndarray, log["feature", name])
                        for name in events.event_features
                    },
                ),
                "times_": times,
                "offsets_": offsets,
                "visits_": Visits.learn(self.gap, times, offsets, schema.time_kind, events.on_disk),
                "item_counts_": item_counts,
                "sampling_": NegativeSampling(
                    self.negatives,
                    int(self.neg_ratio),
                    item_counts,
                    seed,
                    bool(self.exclude_history),
                ),
            }
        )
        context.call_on_fit_task_end(estimator=self, X=X)
        return events, stop

    def _partial_fit(self, X: Any, train: bool) -> tuple[SequenceSampler, Samples]:
        """Return a copy that also stores new events, and the events with the history before each.

        An event is inserted after its user's events of earlier or equal time.
        """
        rows, fitted = self._propagated("_partial_fit", X, train)
        events = cast(Events, as_coded(rows, Events))
        schema = events.schema
        order = order_events(events.user, events.time)
        user = events.user[order]
        offsets = np.append(
            self.offsets_, np.full(len(schema.users) + 1 - len(self.offsets_), self.offsets_[-1])
        )
        index, times = offsets[user + 1], None
        if self.times_ is not None and events.time is not None:
            time = events.time[order]
            index = count_before(self.times_, offsets[user], index, time, or_equal=True)
            exact = np.result_type(self.times_, time)  # np.insert casts to the dtype of its input
            times = np.insert(self.times_.astype(exact, copy=False), index, time)
        features = {name: column[order] for name, column in events.event_features.items()}
        log = self.log_.inserted(index, events.item[order], features).resolve_pending(schema)
        item_counts = _count_items(log.items, schema)
        added = np.bincount(events.user, minlength=len(schema.users))
        seed = self.sampling_.seed
        offsets = offsets + np.append(0, np.cumsum(added))
        updated = replaced(
            self,
            **fitted,
            schema_=schema,
            log_=log,
            times_=times,
            offsets_=offsets,
            visits_=None
            if self.visits_ is None or times is None
            else self.visits_.updated(times, offsets),
            item_counts_=item_counts,
            sampling_=replace(
                self.sampling_,
                counts=item_counts,
                seed=None if seed is None else (seed + len(events)) % 2**31,  # new draws
            ),
        )
        stop = np.empty(len(events), dtype=np.int64)
        stop[order] = index + np.arange(len(order))
        windows = self._windows(log, updated.offsets_[events.user], stop)
        windows |= updated._visits_of_events(events, stop)
        samples = updated._samples(events, log, windows)
        return updated, self._output(samples)

    def _add_items(self, X: Any) -> tuple[SequenceSampler, CatalogueRows]:
        """Return a copy with the new items and their event counts."""
        rows, fitted = self._propagated("_add_items", X)
        log = self.log_.resolve_pending(rows.schema)
        counts = _count_items(log.items, rows.schema)
        updated = replaced(
            self,
            **fitted,
            schema_=rows.schema,
            log_=log,
            item_counts_=counts,
            sampling_=replace(self.sampling_, counts=counts),
        )
        return updated, rows

    def transform(self, X: EventTable) -> Samples:
        """Return each query with its history.

        Parameters
        ----------
        X : Events, DataFrame or array-like of shape (n_queries, n_columns)
            Output of the `MatchEncoder`; plain queries if `fit` got plain events.

        Returns
        -------
        samples : Samples
            One row per row of `X`; a DataFrame after ``set_output(transform="pandas")``.
        """
        check_is_fitted(self)
        events = self._encode_queries(X)
        # Padding and unknown users have an empty range at the start of the log.
        first_event, stop = self.offsets_[events.user], self.offsets_[events.user + 1]
        if events.time is not None and self.times_ is not None:
            stop = count_before(self.times_, first_event, stop, events.time)
        if events.history is None:
            windows = self._windows(self.log_, first_event, stop)
            if self.visits_ is not None:
                windows["visit"] = self.visits_.of_queries(
                    self.times_, first_event, stop, events.time
                )
            samples = self._samples(events, self.log_, windows)
            end = self.offsets_[events.user + 1]
            samples = replace(samples, event_stop=self._event_stop(events, stop, end))
        else:
            samples = self._with_histories(events, first_event, stop)
        return self._output(samples)

    def _event_stop(self, events: Events, stop: np.ndarray, end: np.ndarray) -> np.ndarray | None:
        """Return each row's `stop` as a held-out event; None if all are equal to `stop`.

        As in training, an event follows the stored events of its time, or is a stored event.
        """
        if self.times_ is None or events.time is None or not (events.item != PADDING).any():
            return None
        after = count_before(self.times_, stop, end, events.time, or_equal=True)
        indices, offsets = concatenate_ranges(stop, after)
        row, items = np.repeat(np.arange(len(stop)), np.diff(offsets)), self.log_.items[indices]
        is_same = (items == events.item[row]) & (items >= FIRST_KNOWN)
        after[row[is_same]] = indices[is_same]  # of a repeated index, numpy keeps the last
        return None if np.array_equal(after, stop) else after

    def _windows(self, log: EventLog, seen: np.ndarray, stop: np.ndarray) -> Columns:
        """Return the ranges in the log of each row's earlier events and of its history."""
        # These three columns take most of the memory of training rows.
        dtype = index_dtype(len(log.items))
        seen, stop = seen.astype(dtype, copy=False), stop.astype(dtype, copy=False)
        return {"seen": seen, "start": np.maximum(seen, stop - self.max_length), "stop": stop}

    def _samples(self, events: Events, log: EventLog, windows: Columns) -> Samples:
        return Samples(
            schema=events.schema,
            user=events.user,
            item=events.item,
            time=events.time,
            features=events.features,
            user_ids=events.user_ids,
            item_ids=events.item_ids,
            weight=events.weight,
            log=log,
            **windows,  # type: ignore[arg-type]
            sampling=self.sampling_,
            max_length=int(self.max_length),
            min_history=self.min_history,
            gap_rate=0.0 if self.visits_ is None else float(self.gap_rate),
        )

    def _with_histories(self, events: Events, first_event: np.ndarray, stop: np.ndarray) -> Samples:
        """Concatenate each row's stored events and the history that it provides, if any."""
        history, has_history = events.history, events.has_history
        assert history is not None
        assert has_history is not None
        length = np.diff(history.offsets)
        stored_length = stop - first_event
        end = np.cumsum(stored_length + length)
        seen = end - stored_length - length
        stored, _ = concatenate_ranges(first_event, stop)
        to_stored, _ = concatenate_ranges(seen, seen + stored_length)
        to_query, _ = concatenate_ranges(end - length, end)

        def joined(log_values: np.ndarray, query_values: np.ndarray) -> np.ndarray:
            column = np.empty(end[-1] if len(end) else 0, dtype=log_values.dtype)
            column[to_stored], column[to_query] = log_values[stored], query_values
            return column

        features = {
            name: joined(column, events.history_features[name])
            for name, column in self.log_.features.items()
        }
        log = EventLog(joined(self.log_.items, history.values), features=features)
        windows = self._windows(log, seen, end)
        if self.visits_ is not None:  # a history in the query is the history of its visit
            visit = self.visits_.of_queries(self.times_, first_event, stop, events.time)
            windows["visit"] = np.where(has_history, end - length, visit - first_event + seen)
        samples = self._samples(events, log, windows)
        # The history in a query replaces the stored history; stored events still count as seen.
        start = np.where(has_history, np.maximum(samples.start, end - length), samples.start)
        return replace(samples, start=start)

    def _visits_of_events(self, events: Events, stop: np.ndarray) -> Columns:
        """Return where the visit of each stored event began, given its index in the log."""
        if self.visits_ is None:
            return {}
        first_event = self.offsets_[events.user]
        return {"visit": self.visits_.of_events(self.times_, first_event, stop, events.on_disk)}

    def _further_columns(self) -> list[str]:
        return [] if self.visits_ is None else ["visit"]


def _count_items(items: np.ndarray, schema: Schema) -> np.ndarray:
    return count_codes(items, len(schema.items))[FIRST_KNOWN:]
