"""Cross-validators that split events into past and future."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import BaseCrossValidator

from skmatch._columns import order_by_code, order_by_time
from skmatch._durations import as_timedelta
from skmatch._typing import Duration, Label, PlainEvents
from skmatch._validation import (
    DEFAULT_TIME,
    as_times,
    check_k,
    read_table,
    reject_missing,
    require_column,
    warn_of_forgotten_time,
)

__all__ = ["LeaveLastOut", "TemporalSplit"]

Time = float | str | datetime | np.datetime64


class _Events(NamedTuple):
    """Users and times of the events."""

    user: np.ndarray  # (n_events,) code of the user
    time: pd.Index  # (n_events,) row numbers without a time column


class _EventSplit(BaseCrossValidator):
    """Base of the cross-validators of events: reads users and times."""

    n_splits: int
    user: Label
    time: Label | None

    @abstractmethod
    def _folds(self, events: _Events) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Generate the positions of the training and test events of each fold."""

    def split(
        self, X: PlainEvents, y: None = None, groups: None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Generate the positions of the training and test events of each fold.

        Parameters
        ----------
        X : frame of any library or array-like, shape (n_events, n_columns)
            Events, in any order.
        y : None
            Ignored.
        groups : None
            Ignored.

        Yields
        ------
        train : ndarray of int
            Positions of the training events, ascending.
        test : ndarray of int
            Positions of the test events, ascending.

        Raises
        ------
        ValueError
            If a user or a time is missing, the times have no order or do not fit the parameters,
            or a fold has no event to train or test on.
        """
        yield from self._folds(_read_events(X, self.user, self.time))

    def get_n_splits(self, X: object = None, y: None = None, groups: None = None) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X : object
            Ignored.
        y : None
            Ignored.
        groups : None
            Ignored.

        Returns
        -------
        n_splits : int
            Number of folds.
        """
        return self.n_splits


class LeaveLastOut(_EventSplit):
    """Cross-validator that tests on each user's last events and trains on the earlier ones.

    The last fold tests on the last `n_last` events of each user, the fold before it on the
    `n_last` events before those, and so on. A user's events after those tested in a fold are in
    neither set. A user's events of equal time are in the order of the rows.

    A user who would have no training events is not tested in that fold; the user's events are
    trained on.

    Parameters
    ----------
    n_last : int, default=1
        Number of test events per user and fold.
    n_splits : int, default=1
        Number of folds.
    user : hashable, default="user_id"
        Label of the users' column; in an array it is the first column.
    time : hashable or None, default="timestamp"
        Label of the times' column; in an array it is the third column. With None, or where there
        is no column of the default name, the order of the rows is the order of time.

    See Also
    --------
    TemporalSplit : Splits at points in time that are common to all users.

    Notes
    -----
    Training events of one user may be later than test events of another, which favours models
    that learn trends [1]_; `TemporalSplit` excludes this.

    References
    ----------
    .. [1] Y. Ji, A. Sun, J. Zhang and C. Li, "A critical study on data leakage in recommender
       system offline evaluation", ACM Transactions on Information Systems 41(3), 2023.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch.model_selection import LeaveLastOut
    >>> events = pd.DataFrame({
    ...     "user_id": ["u1", "u1", "u1", "u2", "u2", "u3"],
    ...     "item_id": ["a", "b", "c", "a", "c", "b"],
    ...     "timestamp": [1, 3, 2, 5, 6, 4],
    ... })
    >>> [(train, test)] = LeaveLastOut().split(events)
    >>> train, test
    (array([0, 2, 3, 5]), array([1, 4]))
    """

    def __init__(
        self,
        n_last: int = 1,
        n_splits: int = 1,
        *,
        user: Label = "user_id",
        time: Label | None = DEFAULT_TIME,
    ) -> None:
        check_k(n_last, "n_last", "events")
        check_k(n_splits, "n_splits", "folds")
        self.n_last = n_last
        self.n_splits = n_splits
        self.user = user
        self.time = time

    def _folds(self, events: _Events) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        n_events = np.bincount(events.user)  # per user
        # Number of later events of the same user, in the order of time, then rows.
        time = events.time
        times = time.asi8 if isinstance(time, pd.DatetimeIndex) else time.to_numpy()
        order = order_by_code(events.user, order_by_time(times))
        n_later = np.empty(len(order), dtype=np.intp)
        n_later[order] = np.cumsum(n_events)[events.user[order]] - 1 - np.arange(len(order))
        for fold in range(self.n_splits):
            n_dropped = (self.n_splits - 1 - fold) * self.n_last
            n_needed = n_dropped + self.n_last + 1
            is_tested = n_events >= n_needed
            if not is_tested.any():
                raise ValueError(
                    f"Fold {fold} of LeaveLastOut has no test events: it tests users with at least "
                    f"{n_needed} events, and no user has more than {n_events.max()}. Lower n_last "
                    "or n_splits."
                )
            is_past = n_later >= n_dropped
            is_test = is_past & (n_later < n_dropped + self.n_last) & is_tested[events.user]
            yield np.flatnonzero(is_past & ~is_test), np.flatnonzero(is_test)


class TemporalSplit(_EventSplit):
    """Cross-validator that trains on all events before a point in time and tests on those after.

    The cut-off times are the same for all users. A fold trains on all events before its cut-off
    and tests on those from the cut-off to the next cut-off or, in the last fold, the end. Events
    of equal time are never separated.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds; ignored with `cutoffs`.
    test_size : float, default=None
        Share of the events that each fold tests on: the last ``n_splits * test_size`` of the
        events are split into equal blocks, as far as ties in time allow. None means
        ``1 / (n_splits + 1)``. Not allowed with `cutoffs`.
    cutoffs : sequence of times, default=None
        Ascending cut-off times, one per fold, instead of blocks of equal size. They have a time
        zone if and only if the column has one.
    gap : number or timedelta, default=0
        Length of time before the cut-off that is not trained on, as if a model was trained some
        time before serving.
    window : number or timedelta, default=None
        Train on at most this length of time, ending at the cut-off less `gap`; None trains on all
        of the past.
    user : hashable, default="user_id"
        Label of the users' column; in an array it is the first column.
    time : hashable or None, default="timestamp"
        Label of the times' column; in an array it is the third column. With None, or where there
        is no column of the default name, the order of the rows is the order of time, and
        `cutoffs`, `gap` and `window` count rows.

    See Also
    --------
    LeaveLastOut : Tests on the last events of each user.

    References
    ----------
    .. [1] Z. Meng, R. McCreadie, C. Macdonald and I. Ounis, "Exploring data splitting strategies
       for the evaluation of recommendation models", RecSys 2020.
    .. [2] Y. Ji, A. Sun, J. Zhang and C. Li, "A critical study on data leakage in recommender
       system offline evaluation", ACM Transactions on Information Systems 41(3), 2023.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmatch.model_selection import TemporalSplit
    >>> events = pd.DataFrame({
    ...     "user_id": ["u1", "u2", "u1", "u2", "u3", "u1"],
    ...     "item_id": ["a", "a", "b", "c", "b", "c"],
    ...     "timestamp": pd.to_datetime(["2024-01-05", "2024-01-01", "2024-01-09",
    ...                                  "2024-01-02", "2024-01-09", "2024-01-20"]),
    ... })
    >>> for train, test in TemporalSplit(n_splits=2).split(events):
    ...     print(train, test)
    [1 3] [0]
    [0 1 3] [2 4 5]
    >>> for train, test in TemporalSplit(cutoffs=["2024-01-09"], gap="5D").split(events):
    ...     print(train, test)
    [1 3] [2 4 5]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        test_size: float | None = None,
        cutoffs: Sequence[Time] | None = None,
        gap: Duration = 0,
        window: Duration | None = None,
        user: Label = "user_id",
        time: Label | None = DEFAULT_TIME,
    ) -> None:
        check_k(n_splits, "n_splits", "folds")
        if cutoffs is not None:
            if pd.api.types.is_scalar(cutoffs) or len(cutoffs) == 0:
                raise ValueError(
                    f"cutoffs={cutoffs!r} is not a list of times: pass one per fold, or None to "
                    "split by number of events."
                )
            if test_size is not None:
                raise ValueError(
                    f"test_size={test_size!r} cannot be combined with cutoffs: set one to None."
                )
        elif test_size is not None and (
            not isinstance(test_size, Real) or not 0 < test_size < 1 / n_splits
        ):
            raise ValueError(
                f"test_size={test_size!r} is not a share of the events that leaves training events "
                f"with n_splits={n_splits}: use a number between 0 and {1 / n_splits:.3g}, or "
                "cutoffs, a list of times from which on events are held out."
            )
        self.n_splits = n_splits
        self.test_size = test_size
        self.cutoffs = cutoffs
        self.gap = gap
        self.window = window
        self.user = user
        self.time = time

    def _folds(self, events: _Events) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        index, times = pd.factorize(events.time, sort=True)  # times are distinct and sorted
        if self.cutoffs is None:
            cutoffs = self._cut_by_number(index, times)
        else:
            cutoffs = _read_cutoffs(self.cutoffs, times)
        gap = _read_duration("gap", self.gap, times)
        ends = [cutoff - gap for cutoff in cutoffs]

        # Bounds are indices into `times`. Events are counted before the first fold, so that an
        # empty fold is reported before any fit.
        test_from = _count_before(cutoffs, times)
        test_to = np.append(test_from[1:], len(times))
        train_to = _count_before(ends, times)
        train_from = np.zeros_like(train_to)
        if self.window is not None:
            window = _read_duration("window", self.window, times)
            train_from = _count_before([end - window for end in ends], times)
        n_before = np.concatenate([[0], np.cumsum(np.bincount(index))])
        self._reject_empty(cutoffs, n_before[train_to] - n_before[train_from], "training")
        self._reject_empty(cutoffs, n_before[test_to] - n_before[test_from], "test")
        for bounds in zip(train_from, train_to, test_from, test_to, strict=True):
            is_train = (bounds[0] <= index) & (index < bounds[1])
            is_test = (bounds[2] <= index) & (index < bounds[3])
            yield np.flatnonzero(is_train), np.flatnonzero(is_test)

    def get_n_splits(self, X: object = None, y: None = None, groups: None = None) -> int:
        return self.n_splits if self.cutoffs is None else len(self.cutoffs)

    def _cut_by_number(self, index: np.ndarray, times: pd.Index) -> list[Any]:
        """Return the times that split the last events into blocks of equal size."""
        share = 1 / (self.n_splits + 1) if self.test_size is None else self.test_size
        n_events = len(index)
        blocks_left = np.arange(self.n_splits, 0, -1)
        start = n_events - np.round(blocks_left * share * n_events).astype(int)
        start = np.minimum(start, n_events - 1)  # an empty block is reported by its test set
        return list(times[np.sort(index)[start]])

    def _reject_empty(self, cutoffs: list[Any], n_events: np.ndarray, which: str) -> None:
        if n_events.all():
            return
        fold = np.flatnonzero(n_events == 0)[0]
        if which == "training":
            reason = "no event is before the cut-off minus gap and within window"
            remedy = "lower n_splits, test_size or gap, widen window, or cut later"
        else:
            reason = "no event is between the cut-off and the next, or the end"
            remedy = "lower n_splits, raise test_size, or spread the cutoffs"
        raise ValueError(
            f"Fold {fold} of TemporalSplit, cut at {cutoffs[fold]}, has no {which} events: "
            f"{reason}. To fix it, {remedy}."
        )


def _read_events(X: PlainEvents, user: Label, time: Label | None) -> _Events:
    frame, roles = read_table(X, user=user, item="item_id", time=time)
    warn_of_forgotten_time(frame, roles, time, ["item_id"])
    users = require_column(frame, roles.user, "user")
    if frame.empty:
        raise ValueError("X has no rows: pass at least one event.")
    reject_missing(users, "drop these rows or fill them in.")
    user_code, _ = pd.factorize(users)
    if roles.time is None:
        return _Events(user_code, pd.RangeIndex(len(frame)))
    times = as_times(require_column(frame, roles.time, "time"))
    reject_missing(times, "drop these rows or fill them in.")
    if pd.api.types.is_datetime64_any_dtype(times.dtype):
        return _Events(user_code, pd.DatetimeIndex(times))
    if pd.api.types.is_numeric_dtype(times) and not pd.api.types.is_complex_dtype(times):
        return _Events(user_code, pd.Index(np.asarray(times)))
    raise ValueError(
        f"Column {times.name!r} of X holds {times.iloc[0]!r} (dtype {times.dtype}), which is "
        "not a time: convert it to numbers or with pandas.to_datetime."
    )


def _count_before(bounds: list[Any], times: pd.Index) -> np.ndarray:
    """Return the number of distinct times before each bound, in any unit of time."""
    return np.array([(times < bound).sum() for bound in bounds])


def _read_cutoffs(cutoffs: Sequence[Any], times: pd.Index) -> list[Any]:
    values = [_read_cutoff(cutoff, times) for cutoff in cutoffs]
    for earlier, later in pairwise(values):
        if not earlier < later:
            raise ValueError(
                f"cutoffs={cutoffs!r} do not ascend: {later} comes after {earlier}. Sort them and "
                "drop duplicates."
            )
    return values


def _read_cutoff(cutoff: Any, times: pd.Index) -> Any:
    """Return a cut-off as a value that can be compared with the times."""
    is_number = isinstance(cutoff, Real)
    if not isinstance(times, pd.DatetimeIndex):
        if not is_number:
            raise ValueError(f"cutoffs holds {cutoff!r}, but the times are numbers: use a number.")
        return cutoff
    stamp: Any = None
    if not is_number:  # would be read as nanoseconds
        with suppress(TypeError, ValueError):
            stamp = pd.Timestamp(cutoff)
    if pd.isna(stamp):
        raise ValueError(
            f"cutoffs holds {cutoff!r}, but the times are datetimes: use a pandas.Timestamp."
        )
    if (stamp.tz is None) != (times.tz is None):
        remedy = (
            "drop the cut-off's with tz_localize(None), or localize the times"
            if times.tz is None
            else f"localize the cut-off, such as pd.Timestamp({str(stamp)!r}).tz_localize("
            f"{str(times.tz)!r}), at clock changes with ambiguous=... or nonexistent=..."
        )
        which = "no time zone" if times.tz is None else "a time zone"
        raise ValueError(f"cutoffs holds {cutoff!r}, but the times have {which}: {remedy}.")
    return stamp


def _read_duration(name: str, value: Any, times: pd.Index) -> Any:
    """Return a length of time that can be subtracted from the times."""
    is_number = isinstance(value, Real) and not isinstance(value, np.timedelta64)
    length: Any = None
    zero: Any = 0
    if isinstance(times, pd.DatetimeIndex):
        zero = pd.Timedelta(0)
        expected = "a pandas.Timedelta or text such as '7D', as the times are datetimes"
        length = zero if is_number and value == 0 else as_timedelta(value)
    else:
        expected = "a number, as the times are numbers"
        length = value if is_number else None
    if length is None or not length >= zero:
        raise ValueError(f"{name}={value!r} is not a length of time: use {expected}, not below 0.")
    return length
