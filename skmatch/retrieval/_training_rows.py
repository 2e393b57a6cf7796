"""The rows that a retriever trains on, their weights, and the rows that it validates on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skmatch._columns import count_codes, order_by_code
from skmatch._data import FIRST_KNOWN, Samples, index_dtype

BLOCK_ROWS = 2**16  # rows whose repeats are searched at a time
MIN_VALIDATION = 2000  # users of the fraction "auto": the score of fewer users is noisy


def rows_to_train(
    samples: Samples, weight: np.ndarray | None, exclude_seen: bool
) -> tuple[np.ndarray, bool]:
    """Return the rows with enough history, else all, in log order, and whether any has enough.

    With `exclude_seen`, repeats of a user's items are no targets, since recommendations leave them
    out; only where all rows are repeats they train.
    """
    rows: np.ndarray = np.arange(len(samples), dtype=index_dtype(len(samples)))
    order = order_by_code(samples.stop, rows)
    usable = samples.item >= FIRST_KNOWN
    if weight is not None:
        usable &= weight > 0
    if exclude_seen and len(samples):
        is_new = usable & ~is_repeat(samples)
        usable = is_new if is_new.any() else usable
    enough = usable & (samples.stop - samples.seen >= samples.min_history)
    is_any = bool(enough.any()) or not usable.any()
    is_trained = enough if is_any else usable
    return order[is_trained[order]], is_any


def is_repeat(samples: Samples) -> np.ndarray:
    """Return whether the user of each row had its item before, (n_rows,)."""
    log = samples.log.items
    n_indices = np.int64(len(log) + 1)
    # By item, then index in the log: users' events are neighbours there, in the order of time.
    events = np.sort(log * n_indices + np.arange(len(log)))
    repeats = np.empty(len(samples), dtype=bool)
    for start in range(0, len(samples), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        first_key = samples.item[rows] * n_indices
        key = first_key + samples.stop[rows]
        order = np.argsort(key)  # sorted keys are found faster
        before = np.empty(len(key), dtype=np.int64)
        before[order] = np.searchsorted(events, key[order]) - 1  # the item's last event before
        is_stored = events[before] >= first_key + samples.seen[rows]
        repeats[rows] = (before >= 0) & is_stored
    return repeats


def normalised(weight: np.ndarray | None, training: np.ndarray) -> np.ndarray | None:
    """Return weights whose mean over the rows to train on is 1; None where all are equal."""
    if weight is None or (weight[training] == weight[training[0]]).all():
        return None
    weight = weight / weight.max()
    return (weight / weight[training].mean()).astype(np.float32)


def sampling_counts(
    samples: Samples, training: np.ndarray, counts: np.ndarray, weight: np.ndarray | None
) -> np.ndarray:
    """Return the counts that negatives are drawn by, in units of the smallest weight.

    Negatives "in_batch" are training rows; all other ways of drawing use the counts of all events.
    """
    if samples.sampling.negatives == "in_batch":
        weights = None if weight is None else weight[training]
        counts = count_codes(samples.item[training], len(samples.schema.items), weights)[
            FIRST_KNOWN:
        ]
    if weight is None:
        return counts
    return counts / max(weight[weight > 0].min(), 1e-30 * weight.max())  # no overflow


def rows_to_validate(samples: Samples, rows: np.ndarray, fraction: float | str) -> np.ndarray:
    """Return the last of the `rows`, in the order of the log, of some evenly spaced users.

    The fraction "auto" takes a tenth of the users, but at least `MIN_VALIDATION` or half of them.
    """
    last_rows = rows[last_of_users(samples.user[rows])]
    if fraction == "auto":
        n_held_out = max(len(last_rows) // 10, min(MIN_VALIDATION, len(last_rows) // 2))
    else:
        n_held_out = int(np.ceil(float(fraction) * len(last_rows)))
    return last_rows[np.arange(n_held_out) * len(last_rows) // max(n_held_out, 1)]


def questions(held_out: Samples, validation: str) -> list[Samples]:
    """Return held-out rows with the history before each event, before its visit, or both."""
    visit = held_out.visit
    if visit is None or validation == "next":
        return [held_out] * (len(held_out) > 0)
    start = np.maximum(held_out.seen, visit - held_out.max_length)
    before_visit = replace(held_out, start=start, stop=visit)
    # Without history before the visit, recommendations are popular items, not the model's.
    before_visit = before_visit.gather(np.flatnonzero(visit > held_out.seen))
    samples_to_judge = [before_visit] if validation == "visit" else [held_out, before_visit]
    return [rows for rows in samples_to_judge if len(rows)]


def last_of_users(user: np.ndarray) -> np.ndarray:
    """Return the last row of each user, of rows that are sorted by user."""
    return np.flatnonzero(np.append(user[1:] != user[:-1], True))
