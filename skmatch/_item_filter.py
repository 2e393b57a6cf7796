"""The items that a search may return for each query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skmatch._arrays import FIRST_KNOWN, concatenate_ranges, is_in

if TYPE_CHECKING:
    from skmatch._data import Samples


class ItemLists(NamedTuple):
    """A list of item codes per query: query `i` has ``items[start[i]:stop[i]]``.

    Parameters
    ----------
    items : ndarray of int, shape (n_codes,)
        Item codes, which are positions in the catalogue plus 2. The codes 0 (padding) and 1
        (unknown) are ignored.
    start, stop : ndarray of int, shape (n_queries,)
        Bounds of each query's list.

    Examples
    --------
    >>> import numpy as np
    >>> from skmatch.neighbors import ItemLists
    >>> lists = ItemLists(np.array([2, 3, 4]), start=np.array([0, 1]), stop=np.array([1, 3]))
    >>> lists.gather(np.array([1])).start
    array([1])
    """

    items: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def seen_by(cls, samples: Samples) -> ItemLists:
        """Return the items that the users of samples have interacted with."""
        return cls(samples.log.items, samples.seen, samples.stop)

    def gather(self, queries: np.ndarray) -> ItemLists:
        """Return the lists of the given queries, by index."""
        return ItemLists(self.items, self.start[queries], self.stop[queries])

    def _flat_index(
        self, start: int, stop: int, n_columns: int, column_of: np.ndarray | None = None
    ) -> np.ndarray:
        """Return flat indices, in rows of n_columns, of the lists of queries start to stop - 1."""
        index, offsets = concatenate_ranges(self.start[start:stop], self.stop[start:stop])
        row_start = np.repeat(np.arange(stop - start) * n_columns, np.diff(offsets))
        columns = _columns(self.items[index], column_of)
        return (row_start + columns)[columns >= 0]

    def _table(self, n_items: int, n_columns: int) -> np.ndarray:
        """Return the sorted, distinct positions of each list as rows, padded with -1."""
        index = np.sort(self._flat_index(0, len(self.start), n_items))  # faster than np.unique
        rows, positions = np.divmod(index[np.diff(index, prepend=-1) > 0], n_items)
        lengths = np.bincount(rows, minlength=len(self.start))
        table = np.full((len(self.start), n_columns), -1)
        table[np.arange(n_columns) < lengths[:, None]] = positions
        return table


class ItemFilter(NamedTuple):
    """The items that `ItemIndex.search` may return for each query.

    All rules hold together; a rule that is None allows every item.

    Parameters
    ----------
    mask : ndarray of bool, shape (n_items,), or None, default=None
        Whether each item may be returned for any query.
    candidates : ItemLists or None, default=None
        The only items that may be returned for the queries marked by `has_candidates`.
    has_candidates : ndarray of bool, shape (n_queries,), or None, default=None
        The queries that `candidates` applies to.
    exclude : tuple of ItemLists, default=()
        Items that are not returned, such as those that a user has seen.

    Examples
    --------
    >>> import numpy as np
    >>> from skmatch.neighbors import ItemFilter, ItemIndex, ItemLists
    >>> seen = ItemLists(np.array([1]) + 2, start=np.array([0]), stop=np.array([1]))
    >>> index = ItemIndex().fit(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    >>> index.search(np.array([[0.0, 1.0]]), k=1, allowed=ItemFilter(exclude=(seen,)))[0]
    array([[2]])
    """

    mask: np.ndarray | None = None
    candidates: ItemLists | None = None
    has_candidates: np.ndarray | None = None
    exclude: tuple[ItemLists, ...] = ()

    @classmethod
    def without_seen(cls, samples: Samples, exclude_seen: bool) -> ItemFilter:
        """Return a filter that excludes the items seen by the users of samples, or nothing."""
        check_exclude_seen(exclude_seen)
        return cls(exclude=(ItemLists.seen_by(samples),) if exclude_seen else ())

    def gather(self, queries: np.ndarray) -> ItemFilter:
        """Return the filter of the given queries, by index."""
        return ItemFilter(
            mask=self.mask,
            candidates=None if self.candidates is None else self.candidates.gather(queries),
            has_candidates=None if self.has_candidates is None else self.has_candidates[queries],
            exclude=tuple(lists.gather(queries) for lists in self.exclude),
        )

    def apply(self, scores: np.ndarray, a: int, column_of: np.ndarray | None = None) -> None:
        """Set the scores of filtered items for queries a, a + 1, ... to -inf, in place.

        `scores` is C-contiguous. With `column_of`, which maps item codes to columns, all columns
        already satisfy `mask`.
        """
        b, n_columns = a + len(scores), scores.shape[1]
        if self.candidates is not None and self.has_candidates is not None:
            # Added as a row that stays in the cache. Codes without a column index its end.
            penalty = np.empty(n_columns + FIRST_KNOWN, dtype=np.float32)
            for i in np.flatnonzero(self.has_candidates[a:b]):
                start, stop = self.candidates.start[a + i], self.candidates.stop[a + i]
                penalty.fill(-np.inf)
                penalty[_columns(self.candidates.items[start:stop], column_of)] = 0
                scores[i] += penalty[:n_columns]
        for lists in self.exclude:
            scores.reshape(-1)[lists._flat_index(a, b, n_columns, column_of)] = -np.inf
        if self.mask is not None and column_of is None:
            # Adding is faster than writing through a mask.
            scores += np.where(self.mask, np.float32(0), np.float32(-np.inf))

    def _permits(self, positions: np.ndarray, n_items: int) -> np.ndarray:
        """Return whether each position, (n_queries, n_candidates), is allowed for its query."""
        index = np.arange(len(positions))[:, None] * n_items + positions
        is_allowed = np.ones(positions.shape, dtype=bool)
        if self.mask is not None:
            is_allowed = self.mask[positions]
        for lists in self.exclude:
            is_allowed &= ~is_in(index, lists._flat_index(0, len(positions), n_items))
        if self.candidates is not None and self.has_candidates is not None:
            candidates = self.candidates._flat_index(0, len(positions), n_items)
            is_allowed &= ~self.has_candidates[:, None] | is_in(index, candidates)
        return is_allowed


def _columns(codes: np.ndarray, column_of: np.ndarray | None) -> np.ndarray:
    """Return the column of each item code, negative for codes without a column."""
    if column_of is not None:
        return column_of[codes]
    return np.subtract(codes, FIRST_KNOWN, dtype=np.int64)  # faster to index with than int32


def check_exclude_seen(exclude_seen: Any) -> bool:
    """Return whether to exclude seen items; raise if the value is not a boolean."""
    if not isinstance(exclude_seen, (bool, np.bool_)):
        raise ValueError(
            f"exclude_seen={exclude_seen!r} is not a boolean: pass True, False or None, which "
            "takes the retriever's own."
        )
    return bool(exclude_seen)
