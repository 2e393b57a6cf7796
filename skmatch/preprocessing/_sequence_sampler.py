"""`SequenceSampler`: the history before each event, and how negatives are drawn."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any, cast

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skmatch._columns import check_offsets, count_codes
from skmatch._data import (
    FIRST_KNOWN,
    PADDING,
    CatalogueRows,
    Columns,
    EventLog,
    Events,
    NegativeSampling,
    Samples,
    Schema,
    as_coded,
    concatenate_ranges,
    index_dtype,
)
from skmatch._files import allocate, blocks, collect
from skmatch._growth import replaced
from skmatch._validation import check_choice, require_rows
from skmatch.persistence import VersionedMixin
from skmatch.preprocessing._output import FrameOutputMixin
from skmatch.preprocessing._plain_events import PlainEventsMixin
from skmatch.preprocessing._time_order import (
    count_before,
    order_events,
    rows_of,
    user_blocks,
)

NEGATIVES = ("uniform", "popularity", "log", "zipf", "in_batch", "all")


class SequenceSampler(
    FrameOutputMixin, PlainEventsMixin, TransformerMixin, VersionedMixin, BaseEstimator
):
    """Give each event the history before it, and say how a retriever draws negatives.

    One row comes out for one row in. Histories are pairs (start, stop) into one array of events,
    so that memory grows with the number of events and not with the length of the histories.

    ``fit(X).transform(X)`` and ``fit_transform(X)`` differ, as in scikit-learn's
    `~sklearn.preprocessing.TargetEncoder`. `fit_transform` makes training rows: "before" means
    earlier in (time, row order), so that no event ever sees itself or the future, also among
    events of the same time. `transform` answers queries: one without a time gets all that is
    stored of its user; one with a time, the events strictly before that time; one that brings its
    own ``history``, that. (Scores of held-out events count the stored ones of the same time, too;
    see `~skmatch.metrics.make_topk_scorer`.)

    Parameters
    ----------
    max_length : int, default=50
        The most recent events that a history holds.
    min_history : int, default=0
        A retriever trains on the events that have at least so many events of their user before
        them. Where no event has, it trains on all, with a warning. With 0 it also learns which
        item a user of given features touches first, before there is any history.
    neg_ratio : int, default=3
        Number of negatives drawn for each positive. Losses over lists share all that a training
        step draws. "in_batch" and "all" draw none.
    negatives : {"uniform", "popularity", "log", "zipf", "in_batch", "all"}, default="popularity"
        How negatives are drawn, anew for every epoch. "uniform": every item alike; "popularity":
        in proportion to count**0.75 as word2vec does [1]_; "log": to log(count + 1); "zipf":
        log-uniform over the rank by popularity; "in_batch": the other positives of the step, with
        their probability estimated from the counts for the logQ correction [2]_; "all": every
        item of the catalogue. An item without events counts as if it had one.
    exclude_history : bool, default=True
        Whether an event's negatives leave out the items of its history, as `recommend` leaves out
        what a user has seen: a retriever then need not learn that users leave behind what their
        history says they like. Say False where users repeat themselves and recommendations may,
        too, beside ``exclude_seen=False`` of the retriever.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws of negatives; with None they follow the retriever's own `random_state`.

    Attributes
    ----------
    log_ : EventLog
        The items of all events, user after user, in the order of time.
    item_counts_ : ndarray of shape (n_items,)
        Number of events of each known item.
    n_features_in_ : int
        Number of columns seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during fit, where all are strings.

    See Also
    --------
    MatchEncoder : The step before: codes for ids and features.

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

    _parameter_constraints: dict = {
        "max_length": [Interval(Integral, 1, np.iinfo(np.int32).max, closed="both")],
        "min_history": [Interval(Integral, 0, None, closed="left")],
        "neg_ratio": [Interval(Integral, 1, None, closed="left")],
        "negatives": [str],
        "exclude_history": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        max_length: int = 50,
        min_history: int = 0,
        neg_ratio: int = 3,
        negatives: str = "popularity",
        exclude_history: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.max_length = max_length
        self.min_history = min_history
        self.neg_ratio = neg_ratio
        self.negatives = negatives
        self.exclude_history = exclude_history
        self.random_state = random_state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "offsets_"):
            check_offsets(self.offsets_, len(self.log_.items))

    def fit(self, X: Any, y: Any = None) -> SequenceSampler:
        """Store the events of every user in the order of time.

        Parameters
        ----------
        X : Events, DataFrame, array-like of shape (n_events, n_columns), or Parquet
            What a `MatchEncoder` gave; plain events are encoded by a default one. What comes of
            Parquet is kept in temporary files.
        y : None
            Ignored.

        Returns
        -------
        self : SequenceSampler
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Samples | pd.DataFrame:
        """Store the events and give each the history before it, for training.

        Parameters
        ----------
        X : Events, DataFrame, array-like of shape (n_events, n_columns), or Parquet
            As in `fit`.
        y : None
            Ignored.

        Returns
        -------
        samples : Samples
            One row for one row of `X`.
        """
        events, stop = self._fit(X)

        def windows(rows: slice) -> Columns:
            return self._windows(self.log_, self.offsets_[events.user[rows]], stop[rows])

        columns = collect(map(windows, blocks(len(events), events.on_disk)), events.on_disk)
        return self._output(self._samples(events, self.log_, columns))

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X: Any) -> tuple[Events, np.ndarray]:
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X)
        check_choice("negatives", self.negatives, NEGATIVES)
        events, learnt = self._encode_training(X)
        require_rows(len(events))
        if min(events.user.min(), events.item.min()) < FIRST_KNOWN:
            known = (events.user >= FIRST_KNOWN) & (events.item >= FIRST_KNOWN)
            row = int(known.argmin())
            raise ValueError(
                f"{(~known).sum():,} events have a user or item that the MatchEncoder does not "
                f"know, the first at row {row}; fit both on the same events."
            )
        schema = events.schema
        offsets = np.append(0, np.cumsum(count_codes(events.user, len(schema.users))))
        seed = None
        if self.random_state is not None:
            seed = int(check_random_state(self.random_state).randint(2**31))
        item_counts = _count_items(events.item, schema)
        log, stop = _sorted_log(events, offsets)
        self._set_learnt(
            learnt
            | {
                "schema_": schema,
                "log_": EventLog(cast(np.ndarray, log["item"])),
                "times_": log.get("time"),
                "offsets_": offsets,
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

    def _partial_fit(self, X: Any, train: bool) -> tuple[SequenceSampler, Samples | pd.DataFrame]:
        """Give a copy that has stored further events, and those with the history before each.

        An event goes behind those of its user that are earlier or of the same time.
        """
        rows, own = self._propagated("_partial_fit", X, train)
        events = cast(Events, as_coded(rows, Events))
        schema = events.schema
        order = order_events(events.user, events.time)
        user = events.user[order]
        offsets = np.append(
            self.offsets_, np.full(len(schema.users) + 1 - len(self.offsets_), self.offsets_[-1])
        )
        place, times = offsets[user + 1], None
        if self.times_ is not None and events.time is not None:
            time = events.time[order]
            place = count_before(self.times_, offsets[user], place, time, or_equal=True)
            exact = np.result_type(self.times_, time)  # numpy would insert in the dtype of the old
            times = np.insert(self.times_.astype(exact, copy=False), place, time)
        log = self.log_.inserted(place, events.item[order]).resolve_pending(schema)
        item_counts = _count_items(log.items, schema)
        added = np.bincount(events.user, minlength=len(schema.users))
        seed = self.sampling_.seed
        grown = replaced(
            self,
            **own,
            schema_=schema,
            log_=log,
            times_=times,
            offsets_=offsets + np.append(0, np.cumsum(added)),
            item_counts_=item_counts,
            sampling_=replace(
                self.sampling_,
                counts=item_counts,
                seed=None if seed is None else (seed + len(events)) % 2**31,  # draw others
            ),
        )
        stop = np.empty(len(events), dtype=np.int64)
        stop[order] = place + np.arange(len(order))
        windows = self._windows(log, grown.offsets_[events.user], stop)
        samples = grown._samples(events, log, windows)
        return grown, self._output(samples)

    def _add_items(self, X: Any) -> tuple[SequenceSampler, CatalogueRows]:
        """Give a copy that knows and counts the events of new items, too."""
        rows, own = self._propagated("_add_items", X)
        log = self.log_.resolve_pending(rows.schema)
        counts = _count_items(log.items, rows.schema)
        grown = replaced(
            self,
            **own,
            schema_=rows.schema,
            log_=log,
            item_counts_=counts,
            sampling_=replace(self.sampling_, counts=counts),
        )
        return grown, rows

    def transform(self, X: Any) -> Samples | pd.DataFrame:
        """Give each query the history that answers it.

        Parameters
        ----------
        X : Events, DataFrame or array-like of shape (n_queries, n_columns)
            What the `MatchEncoder` gave; plain queries where `fit` got plain events.

        Returns
        -------
        samples : Samples
            One row for one row of `X`.
        """
        check_is_fitted(self)
        events = self._encode_queries(X)
        # Padding and unknown users own the empty range at the start of the log.
        first, stop = self.offsets_[events.user], self.offsets_[events.user + 1]
        if events.time is not None and self.times_ is not None:
            stop = count_before(self.times_, first, stop, events.time)
        if events.history is None:
            windows = self._windows(self.log_, first, stop)
            end = self.offsets_[events.user + 1]
            samples = self._samples(events, self.log_, windows)
            return self._output(replace(samples, event_stop=self._event_stop(events, stop, end)))
        return self._output(self._with_own_histories(events, first, stop))

    def _event_stop(self, events: Events, stop: np.ndarray, end: np.ndarray) -> np.ndarray | None:
        """Return where the history of each row ends as an event; None where all end at `stop`.

        As in training an event comes behind the stored ones of its time, or where it is stored.
        """
        if self.times_ is None or events.time is None or not (events.item != PADDING).any():
            return None
        after = count_before(self.times_, stop, end, events.time, or_equal=True)
        where, offsets = concatenate_ranges(stop, after)
        row, items = np.repeat(np.arange(len(stop)), np.diff(offsets)), self.log_.items[where]
        itself = (items == events.item[row]) & (items >= FIRST_KNOWN)
        after[row[itself]] = where[itself]  # of a repeated index, numpy keeps the last
        return None if np.array_equal(after, stop) else after

    def _windows(self, log: EventLog, seen: np.ndarray, stop: np.ndarray) -> Columns:
        """Give the places in the log of all that is before rows, and of their histories."""
        # Three columns of places take most of the memory of training rows.
        place = index_dtype(len(log.items))
        seen, stop = seen.astype(place, copy=False), stop.astype(place, copy=False)
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
            log=log,
            **windows,  # type: ignore[arg-type]
            sampling=self.sampling_,
            max_length=int(self.max_length),
            min_history=self.min_history,
        )

    def _with_own_histories(self, events: Events, first: np.ndarray, stop: np.ndarray) -> Samples:
        """Put each row's stored events and its own history, if any, one after the other."""
        own, has_own = events.history, events.has_history
        assert own is not None
        assert has_own is not None
        own_length = np.diff(own.offsets)
        stored_length = stop - first
        end = np.cumsum(stored_length + own_length)
        seen = end - stored_length - own_length
        items = np.empty(end[-1] if len(end) else 0, dtype=np.int32)
        stored, _ = concatenate_ranges(first, stop)
        to_stored, _ = concatenate_ranges(seen, seen + stored_length)
        to_own, _ = concatenate_ranges(end - own_length, end)
        items[to_stored] = self.log_.items[stored]
        items[to_own] = own.values
        log = EventLog(items)
        samples = self._samples(events, log, self._windows(log, seen, end))
        # An own history replaces the stored one; what is stored still counts as seen.
        start = np.where(has_own, np.maximum(samples.start, end - own_length), samples.start)
        return Samples(**{**samples.__dict__, "start": start})

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Give the names of the columns of the output as a frame.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        schema: Schema = self.schema_
        features = tuple(feature.name for feature in schema.user_features)
        return np.asarray(Samples.column_names(schema, features), dtype=object)


def _count_items(items: np.ndarray, schema: Schema) -> np.ndarray:
    """Count the events of each known item."""
    return count_codes(items, len(schema.items))[FIRST_KNOWN:]


def _sorted_log(events: Events, offsets: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Sort items and times by user, then time, then row; give also each row's place in the order.

    On disk some users at a time, so that no sort needs the memory that all rows would take.
    """
    place = allocate(len(events), index_dtype(len(events)), events.on_disk)

    def sort(first: int, last: int) -> Columns:
        """Sort the events of the users with the codes first ... last - 1."""
        rows = rows_of(events.user, first, last)
        time = None if events.time is None else events.time[rows]
        order = order_events(events.user[rows], time)
        place_of_row = np.empty(len(order), dtype=place.dtype)
        place_of_row[order] = np.arange(offsets[first], offsets[last])
        place[rows] = place_of_row
        columns: Columns = {"item": events.item[rows][order]}
        return columns if time is None else columns | {"time": time[order]}

    users = user_blocks(offsets, events.on_disk)
    return collect((sort(*block) for block in users), events.on_disk), place
