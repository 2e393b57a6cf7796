"""`ItemIndex`: the items nearest to queries, exact by default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from threadpoolctl import threadpool_limits

from skmatch._data import FIRST_KNOWN, Samples, concatenate_ranges
from skmatch._validation import check_choice, check_k

METHODS = ("exact", "auto", "pynndescent")
# Of 100,000 clustered vectors of 64 dimensions, an exact answer takes 3 ms of a core. A graph's
# takes 0.2 to 0.3 ms and holds 99% of the best 10, but to compile and build it takes 46 s of a
# core, as long as 16,000 exact answers. Of 10,000 vectors, an exact one takes 0.2 to 0.4 ms.
AUTO_ITEMS = 100_000
_NEIGHBOURHOOD = 100  # items that a graph needs
_FEWEST_FETCHED = 100  # asked for 10, a graph found 83% of them; asked for 100, 99%
_BLOCK_SIZE = 2**24  # scores of a block at most: 64 MiB
# A block needs no more than either: scores that a cache may hold, or queries for a fast product.
_CACHED_SIZE, _FAST_QUERIES = 2**22, 128
_BUILDING = Lock()
_WIDTH = 64  # neighbouring scores of which only the largest is looked at first
_PART_SIZE = 2**19  # scores that make it worth while to use one more thread
# Only the vectors of what may answer are read where that is at most such a share of the catalogue:
# of what is open to all, gathered once, and of each query's own candidates.
_FEW_OPEN, _FEW_LISTED = 1 / 4, 1 / 40


class ItemLists(NamedTuple):
    """A list of item codes for each query: query `i` has ``items[start[i]:stop[i]]``."""

    items: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def seen_by(cls, samples: Samples) -> ItemLists:
        """Give what the users of samples have seen."""
        return cls(samples.log.items, samples.seen, samples.stop)

    def keys(self, a: int, b: int, n_columns: int, places: np.ndarray | None = None) -> np.ndarray:
        """Return where the lists of queries a ... b - 1 lie in a flat table with a row for each."""
        where, offsets = concatenate_ranges(self.start[a:b], self.stop[a:b])
        first = np.repeat(np.arange(b - a) * n_columns, np.diff(offsets))
        columns = _columns_of(self.items[where], places)
        return (first + columns)[columns >= 0]

    def table(self, n_items: int, n_columns: int) -> np.ndarray:
        """Give the positions of each query's list in order and once, filled up with -1."""
        keys = np.sort(self.keys(0, len(self.start), n_items))  # many times as fast as np.unique
        rows, positions = np.divmod(keys[np.diff(keys, prepend=-1) > 0], n_items)
        lengths = np.bincount(rows, minlength=len(self.start))
        table = np.full((len(self.start), n_columns), -1)
        table[np.arange(n_columns) < lengths[:, None]] = positions
        return table

    def gather(self, queries: np.ndarray) -> ItemLists:
        """Give the lists of some of the queries."""
        return ItemLists(self.items, self.start[queries], self.stop[queries])


class ItemFilter(NamedTuple):
    """What may answer each query; a rule that is None rules nothing out."""

    anyone: np.ndarray | None = None  # (n_items,) bool: what may answer any query at all
    only: ItemLists | None = None  # what may answer the queries that `limited` marks
    limited: np.ndarray | None = None  # (n_queries,) bool
    never: tuple[ItemLists, ...] = ()  # what each query leaves out

    @classmethod
    def without_seen(cls, samples: Samples, exclude_seen: bool) -> ItemFilter:
        """Leave out what the users of samples have seen, or nothing."""
        return cls(never=(ItemLists.seen_by(samples),) if exclude_seen else ())

    def apply(self, scores: np.ndarray, a: int, places: np.ndarray | None = None) -> None:
        """Give all that may not answer queries a, a + 1, ... a score of -inf, in place.

        The scores lie row after row in memory. `places` is as in `_columns_of`: where it is given,
        all items of the part of the catalogue are open to anyone.
        """
        b, n_columns = a + len(scores), scores.shape[1]
        if self.only is not None and self.limited is not None:
            # Added, as below, out of one row that stays in the cache. What has no column falls
            # into the places at its end: columns -1 and -2.
            shut = np.empty(n_columns + FIRST_KNOWN, dtype=np.float32)
            for i in np.flatnonzero(self.limited[a:b]):
                codes = self.only.items[self.only.start[a + i] : self.only.stop[a + i]]
                shut.fill(-np.inf)
                shut[_columns_of(codes, places)] = 0
                scores[i] += shut[:n_columns]
        for lists in self.never:
            scores.reshape(-1)[lists.keys(a, b, n_columns, places)] = -np.inf
        if self.anyone is not None and places is None:
            # Added: to write where a mask says so takes as long as the product of matrices.
            scores += np.where(self.anyone, np.float32(0), np.float32(-np.inf))

    def permits(self, found: np.ndarray, n_items: int) -> np.ndarray:
        """Tell which of the positions found for all queries may answer them."""
        first = np.arange(len(found))[:, None] * n_items  # numbers a query's items apart
        permitted = np.ones(found.shape, dtype=bool) if self.anyone is None else self.anyone[found]
        for lists in self.never:
            permitted &= ~_are_among(first + found, lists.keys(0, len(found), n_items))
        if self.only is not None and self.limited is not None:
            kept = self.only.keys(0, len(found), n_items)
            permitted &= ~self.limited[:, None] | _are_among(first + found, kept)
        return permitted

    def gather(self, queries: np.ndarray) -> ItemFilter:
        """Give what may answer some of the queries."""
        return ItemFilter(
            anyone=self.anyone,
            only=None if self.only is None else self.only.gather(queries),
            limited=None if self.limited is None else self.limited[queries],
            never=tuple(lists.gather(queries) for lists in self.never),
        )


def _columns_of(codes: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    """Return the column of each code among the catalogue's, or by `places`; negative for none."""
    if places is not None:
        return places[codes]
    return np.subtract(codes, FIRST_KNOWN, dtype=np.int64)  # faster to index with than int32


def _are_among(keys: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Give what np.isin gives, in a fraction of its time."""
    if not len(some):
        return np.zeros(keys.shape, dtype=bool)
    some = np.sort(some)
    return some[np.minimum(np.searchsorted(some, keys), len(some) - 1)] == keys


class ItemIndex:
    """Index of item vectors, searched by inner product.

    Parameters
    ----------
    method : {"exact", "auto", "pynndescent"}, default="exact"
        "exact" scores every item, in blocks of bounded memory. "pynndescent" searches an
        approximate graph of neighbours, worth it for large catalogues; `estimate_recall` tells what
        it misses. The graph is not saved: the first search after loading builds it anew. "auto" is
        "exact" up to 100,000 items and "pynndescent" above: there, an exact answer took 3 ms of a
        core and a graph's 0.3 ms, and the graph as long to compile and build as 16,000 exact
        answers.
    random_state : int or None, default=None
        Seeds the construction of the graph; the same graph takes the same number of threads.

    Attributes
    ----------
    vectors_ : ndarray of shape (n_items, n_dims)
        The vectors given to `fit`.
    method_ : {"exact", "pynndescent"}
        The method chosen; a catalogue of at most 100 items is searched exactly by any.

    Examples
    --------
    >>> import numpy as np
    >>> from skmatch.neighbors import ItemIndex
    >>> index = ItemIndex().fit(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    >>> positions, scores = index.search(np.array([[0.0, 1.0]]), k=2)
    >>> positions
    array([[1, 2]])
    >>> index.estimate_recall(np.array([[0.0, 1.0]]), k=2)
    1.0
    """

    def __init__(self, method: str = "exact", random_state: int | None = None):
        self.method = method
        self.random_state = random_state

    def fit(self, vectors: np.ndarray) -> ItemIndex:
        """Take the vectors of the items.

        Parameters
        ----------
        vectors : ndarray of shape (n_items, n_dims)
            One row an item, compared as they are: normalise them first if cosines are meant.

        Returns
        -------
        self : ItemIndex
        """
        check_choice("index", self.method, METHODS)
        self.vectors_ = vectors
        fewest = {"exact": np.inf, "auto": AUTO_ITEMS, "pynndescent": _NEIGHBOURHOOD}[self.method]
        self.method_ = "exact" if len(vectors) <= fewest else "pynndescent"
        self.graph_ = self._build_graph()
        return self

    def _build_graph(self) -> _Graph | None:
        if self.method_ == "exact":
            return None
        return _Graph(self.vectors_, self.random_state)

    def __getstate__(self) -> dict[str, Any]:
        # The graph is three times as large as the vectors and made of compiled functions: the
        # first search after loading builds it again.
        return {name: value for name, value in self.__dict__.items() if name != "graph_"}

    def search(
        self, queries: np.ndarray, k: int, allowed: ItemFilter | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best `k` items of each query, best first; of equal ones the first.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_dims)
            Query vectors.
        k : int
            Number of items for a query.
        allowed : ItemFilter or None, default=None
            What may answer each query; None allows every item.

        Returns
        -------
        positions : ndarray of shape (n_queries, min(k, n_items))
            Positions in the catalogue; -1 where no item remains.
        scores : ndarray of shape (n_queries, min(k, n_items))
            Inner products; -inf where no item remains.
        """
        k, allowed = min(k, len(self.vectors_)), allowed or ItemFilter()
        if not hasattr(self, "graph_"):
            with _BUILDING:  # numba's threads build one graph at a time
                if not hasattr(self, "graph_"):
                    self.graph_ = self._build_graph()
        positions = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        n_fetched = self._n_to_fetch(len(queries), k, allowed)
        n_fetched[self._has_few_candidates(allowed, len(queries))] = -1
        # A query fetches less than twice what it needs, and a block no more than fits into memory.
        _, size = np.frexp(n_fetched)
        for group in np.unique(size):
            alike = np.flatnonzero(size == group)
            n_most = int(n_fetched[alike].max())
            # The other ways have blocks of their own.
            n_numbers = n_most * self.vectors_.shape[1]
            block = max(1, _BLOCK_SIZE // n_numbers) if n_most > 0 else len(alike)
            for a in range(0, len(alike), block):
                rows = alike[a : a + block]
                own = queries[rows], k, allowed.gather(rows)
                if n_most > 0:
                    positions[rows], scores[rows] = self._search_graph(*own, n_most)
                else:
                    search = self._search_candidates if n_most else self._search_exactly
                    positions[rows], scores[rows] = search(*own)
        return positions, scores

    def estimate_recall(self, queries: np.ndarray, k: int) -> float:
        """Give the share of the exact `k` best items that `search` finds, over some queries.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_dims)
            A sample of query vectors, such as a few hundred of a retriever's `transform`: each is
            searched exactly, too.
        k : int
            Number of items for a query.

        Returns
        -------
        recall : float
            Mean recall@k, 1.0 for an exact index.
        """
        if not len(queries):
            raise ValueError("queries holds 0 vectors; give a sample of at least one.")
        k = min(check_k(k), len(self.vectors_))
        found, _ = self.search(queries, k)
        exact, _ = self._search_exactly(queries, k, ItemFilter())
        first = np.arange(len(found))[:, None] * len(self.vectors_)
        return float(_are_among(first + exact, (first + found).ravel()).mean())

    def _has_few_candidates(self, allowed: ItemFilter, n_queries: int) -> np.ndarray:
        """Tell which queries have so few candidates of their own that it pays to gather them."""
        if allowed.only is None or allowed.limited is None:
            return np.zeros(n_queries, dtype=bool)
        n_listed = allowed.only.stop - allowed.only.start
        return allowed.limited & (n_listed <= _FEW_LISTED * len(self.vectors_))

    def _n_to_fetch(self, n_queries: int, k: int, allowed: ItemFilter) -> np.ndarray:
        """Return how many items of the graph leave `k` after each query's filter; 0 for none."""
        if self.graph_ is None:
            return np.zeros(n_queries, dtype=np.int64)
        n_items = len(self.vectors_)
        n_open = n_items if allowed.anyone is None else int(np.count_nonzero(allowed.anyone))
        n_wanted = np.full(n_queries, k, dtype=np.int64)
        for lists in allowed.never:
            n_wanted += lists.stop - lists.start
        # As if what is open to anyone lay evenly among what is near. Where more would be fetched
        # than is open, it takes less to score all of that.
        n_fetched = -(-np.maximum(n_wanted, _FEWEST_FETCHED) * n_items // max(n_open, 1))
        return np.where(n_fetched < n_open, n_fetched, 0)

    def _search_graph(
        self, queries: np.ndarray, k: int, allowed: ItemFilter, n_fetched: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Filter what the graph finds; queries that keep less than `k` go the exact way."""
        assert self.graph_ is not None
        found = self.graph_.query(queries, n_fetched)
        positions, scores = self._best_of(found, queries, k, allowed)
        short = np.flatnonzero((positions < 0).any(axis=1))
        if len(short):
            rest = self._search_exactly(queries[short], k, allowed.gather(short))
            positions[short], scores[short] = rest
        return positions, scores

    def _search_candidates(
        self, queries: np.ndarray, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score each query's own candidates only."""
        candidates = allowed.only
        assert candidates is not None
        longest = max(k, int((candidates.stop - candidates.start).max()))
        positions = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        block = max(1, _BLOCK_SIZE // (longest * self.vectors_.shape[1]))
        for a in range(0, len(queries), block):
            rows = np.arange(a, min(a + block, len(queries)))
            found = candidates.gather(rows).table(len(self.vectors_), longest)
            rest = allowed._replace(only=None).gather(rows)
            positions[rows], scores[rows] = self._best_of(found, queries[rows], k, rest)
        return positions, scores

    def _best_of(
        self, found: np.ndarray, queries: np.ndarray, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give the best `k` of the positions found for each query; -1 is none."""
        scores = np.einsum("qd,qfd->qf", queries, self.vectors_[found]).astype(np.float32)
        scores[(found < 0) | ~allowed.permits(found, len(self.vectors_))] = -np.inf
        best, best_scores = top_k(scores, k)
        positions = np.take_along_axis(found, np.maximum(best, 0), axis=1)
        return np.where(best < 0, -1, positions), best_scores

    def _search_exactly(
        self, queries: np.ndarray, k: int, allowed: ItemFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the whole catalogue, or what is open to anyone where that is little."""
        vectors, kept, places = self.vectors_, None, None
        if allowed.anyone is not None and allowed.anyone.mean() <= _FEW_OPEN:
            kept = np.flatnonzero(allowed.anyone)
            places = np.full(len(vectors) + FIRST_KNOWN, -1)
            places[kept + FIRST_KNOWN] = np.arange(len(kept))
            vectors = vectors[kept]
        positions = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        n, n_columns = max(1, len(vectors)), min(k, len(vectors))
        block = max(1, min(_BLOCK_SIZE // n, max(_FAST_QUERIES, _CACHED_SIZE // n)))
        # Used again: fresh pages for each block take a quarter of the time of its product.
        space = np.empty((min(block, len(queries)), len(vectors)), np.result_type(queries, vectors))
        for a in range(0, len(queries), block):
            rows = slice(a, min(a + block, len(queries)))
            block_scores = np.matmul(queries[rows], vectors.T, out=space[: rows.stop - a])
            allowed.apply(block_scores, a, places)
            found = _top_k_in_threads(block_scores, n_columns)
            positions[rows, :n_columns], scores[rows, :n_columns] = found
        if kept is not None:
            positions = np.append(kept, -1)[positions]
        return positions, scores


class _Graph:
    """Graph of neighbours of pynndescent, which one thread at a time can search."""

    def __init__(self, vectors: np.ndarray, random_state: int | None):
        n_threads = _openmp_effective_n_threads()
        with threadpool_limits():  # numba would leave all cores to OpenMP, so that torch took them
            from numba import get_num_threads
            from pynndescent import NNDescent  # compiles for half a minute when first imported

            self._graph = NNDescent(
                vectors,
                metric="inner_product",  # "dot" is wrong on vectors that are not normalised
                random_state=random_state,
                n_jobs=min(n_threads, get_num_threads()),
            )
            self._graph.prepare()
        self._searching = Lock()

    def query(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Give the positions of about the `k` nearest of each query."""
        with self._searching:  # searches of a graph share the memory that they write to
            return self._graph.query(queries, k=k)[0].astype(np.int64)


def _top_k_in_threads(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Give what `top_k` gives; numpy selects without the interpreter's lock."""
    n_parts = min(_openmp_effective_n_threads(), scores.size // _PART_SIZE, len(scores))
    if n_parts < 2:
        return top_k(scores, k)
    with ThreadPoolExecutor(n_parts) as pool:
        parts = pool.map(top_k, np.array_split(scores, n_parts), repeat(k))
        best, best_scores = zip(*parts, strict=True)
    return np.concatenate(best), np.concatenate(best_scores)


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Give positions and scores of the `k` best of each row; -1 where only -inf remains."""
    n = scores.shape[1]
    if n > 4 * k * _WIDTH:
        return _top_k_of_blocks(scores, k)
    if k < n:
        kept = np.flatnonzero(_are_best(scores, k)).reshape(-1, k)
        best_scores = scores.ravel()[kept]
        best = kept - np.arange(len(scores))[:, None] * n
    else:
        best, best_scores = np.broadcast_to(np.arange(n), scores.shape), scores
    order = np.argsort(-best_scores, axis=1, kind="stable")  # of equal scores the first item first
    best_scores = np.take_along_axis(best_scores, order, axis=1)
    best = np.take_along_axis(best, order, axis=1)
    return np.where(np.isneginf(best_scores), -1, best), best_scores


def _are_best(scores: np.ndarray, k: int) -> np.ndarray:
    """Mark the `k` best of each row; of those equal to the k-th best, the first."""
    # Negated: selecting the largest takes many times as long where a filter left few finite.
    negated = -scores
    negated.partition(k - 1, axis=1)  # to select values takes half the time of positions
    worst = -negated[:, k - 1 : k]
    are_best = ~(scores < worst)  # true of what is not a number, too, so that `k` always are
    tied = np.flatnonzero(np.count_nonzero(are_best, axis=1) > k)
    if len(tied):
        better = scores[tied] > worst[tied]
        equal = are_best[tied] & ~better
        n_wanted = k - np.count_nonzero(better, axis=1)
        are_best[tied] = better | (equal & (np.cumsum(equal, axis=1) <= n_wanted[:, None]))
    return are_best


def _top_k_of_blocks(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Give what `top_k` gives: the `k` best lie in the `k` blocks with the best of their own.

    Of blocks alike, too, the first come first.
    """
    n = scores.shape[1]
    largest = np.maximum.reduceat(scores, np.arange(0, n, _WIDTH), axis=1)
    blocks, _ = top_k(largest, k)
    blocks = np.sort(blocks, axis=1)
    positions = (blocks[:, :, None] * _WIDTH + np.arange(_WIDTH)).reshape(len(scores), -1)
    outside = (positions < 0) | (positions >= n)
    positions[outside] = 0
    kept = np.take_along_axis(scores, positions, axis=1)
    kept[outside] = -np.inf
    best, best_scores = top_k(kept, k)
    found = np.take_along_axis(positions, np.maximum(best, 0), axis=1)
    return np.where(best < 0, -1, found), best_scores
