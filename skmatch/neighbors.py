"""`ItemIndex`: nearest items by inner product, exact by default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from threading import Lock
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from skmatch._arrays import FIRST_KNOWN, is_in
from skmatch._item_filter import ItemFilter, ItemLists
from skmatch._quantised import Int8Vectors, n_to_rescore, rescored
from skmatch._ranking import best_candidates, top_k
from skmatch._sklearn import n_threads
from skmatch._validation import check_choice, check_k

__all__ = ["ItemFilter", "ItemIndex", "ItemLists"]

METHODS = ("exact", "int8", "auto", "pynndescent")
AUTO_ITEMS = 100_000  # below, exact search is fast enough not to build a graph
_NEIGHBOURHOOD = 100  # minimum number of items of a graph
_MIN_FETCHED = 100  # a graph finds 83% of the best 10 when it fetches 10, 99% when it fetches 100
_BLOCK_SIZE = 2**24  # maximum number of scores per block: 64 MiB
# Larger blocks are not faster: scores that fit into a cache, queries that make a product fast.
_CACHED_SIZE, _FAST_QUERIES = 2**22, 128
_BUILDING = Lock()
_PART_SIZE = 2**19  # scores per thread
# Up to these shares of the catalogue only the vectors of allowed items are scored.
_MAX_MASK_SHARE, _MAX_CANDIDATES_SHARE = 1 / 4, 1 / 40


class ItemIndex:
    """Index of item vectors, searched by inner product.

    Parameters
    ----------
    method : {"exact", "int8", "auto", "pynndescent"}, default="exact"
        "exact" scores every item, in blocks of bounded memory. "int8" scores every item by vectors
        of a byte per number, and the best few, at least `k` + 100, again by `vectors_`, which is
        read at these few rows only and may be memory-mapped. "pynndescent" searches an
        approximate graph of neighbours, which is faster for large catalogues; `estimate_recall`
        measures how many items it misses. The graph is not saved: the first search after loading
        builds it again. "auto" is "exact" up to 100,000 items and "pynndescent" above.
    random_state : int or None, default=None
        Seed of the graph, which also depends on the number of threads.

    Attributes
    ----------
    vectors_ : ndarray of shape (n_items, n_dims)
        The vectors passed to `fit`.
    method_ : {"exact", "int8", "pynndescent"}
        The method in use; a graph is never used up to 100 items.

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

    def __init__(
        self,
        method: Literal["exact", "int8", "auto", "pynndescent"] = "exact",
        random_state: int | None = None,
    ):
        self.method = method
        self.random_state = random_state

    def fit(self, vectors: np.ndarray) -> ItemIndex:
        """Index the vectors of items.

        Parameters
        ----------
        vectors : ndarray of shape (n_items, n_dims)
            One row per item. They are not normalised; normalise them for cosine similarity.

        Returns
        -------
        self : ItemIndex
        """
        check_choice("index", self.method, METHODS)
        self.vectors_ = vectors
        graph_from = {"auto": AUTO_ITEMS, "pynndescent": _NEIGHBOURHOOD}.get(self.method, np.inf)
        without = "int8" if self.method == "int8" else "exact"
        self.method_ = "pynndescent" if len(vectors) > graph_from else without
        self._build()
        return self

    def _build(self) -> None:
        """Build the arrays and the graph of searches; `graph_` is set last: it marks completion."""
        self.quantised_ = Int8Vectors.of(self.vectors_) if self.method_ == "int8" else None
        is_graph = self.method_ == "pynndescent"
        self.graph_ = _Graph(self.vectors_, self.random_state) if is_graph else None

    def __getstate__(self) -> dict[str, Any]:
        # A graph holds compiled functions: the first search after loading builds it again.
        built = ("graph_", "quantised_")
        return {name: value for name, value in self.__dict__.items() if name not in built}

    def search(
        self,
        queries: np.ndarray,
        k: int,
        allowed: ItemFilter | None = None,
        bias: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the `k` items with the largest inner products per query, best first.

        Items with equal scores come in the order of the catalogue.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_dims)
            Query vectors.
        k : int
            Number of items per query.
        allowed : ItemFilter or None, default=None
            The items that may be returned for each query; None allows all.
        bias : ndarray of shape (n_items,) or None, default=None
            What is added to the inner products of each item.

        Returns
        -------
        positions : ndarray of shape (n_queries, min(k, n_items))
            Positions in the catalogue, -1 where no items remain.
        scores : ndarray of shape (n_queries, min(k, n_items))
            Inner products plus bias, -inf where no items remain.
        """
        k, allowed = min(k, len(self.vectors_)), allowed or ItemFilter()
        if not hasattr(self, "graph_"):
            with _BUILDING:  # numba builds one graph at a time
                if not hasattr(self, "graph_"):
                    self._build()
        positions = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        n_fetched = self._n_to_fetch(len(queries), k, allowed)
        n_fetched[self._has_few_candidates(allowed, len(queries))] = -1
        # Grouped by powers of 2, a query fetches less than twice the items that it needs.
        _, exponent = np.frexp(n_fetched)
        for group in np.unique(exponent):
            of_group = np.flatnonzero(exponent == group)
            n_max = int(n_fetched[of_group].max())
            # All other searches divide their queries into blocks themselves.
            n_numbers = n_max * self.vectors_.shape[1]
            block = max(1, _BLOCK_SIZE // n_numbers) if n_max > 0 else len(of_group)
            for start in range(0, len(of_group), block):
                rows = of_group[start : start + block]
                arguments = queries[rows], k, allowed.gather(rows), bias
                if n_max > 0:
                    positions[rows], scores[rows] = self._search_graph(*arguments, n_max)
                else:
                    search = self._search_candidates if n_max else self._search_all
                    positions[rows], scores[rows] = search(*arguments)
        return positions, scores

    def estimate_recall(self, queries: np.ndarray, k: int) -> float:
        """Estimate the share of the exact `k` best items that `search` finds.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_dims)
            A sample of query vectors, such as a few hundred from a retriever's `transform`; each is
            also searched exactly.
        k : int
            Number of items per query.

        Returns
        -------
        recall : float
            Mean recall@k, 1.0 for an exact index.
        """
        if not len(queries):
            raise ValueError("queries holds 0 vectors; pass a sample of at least one.")
        k = min(check_k(k), len(self.vectors_))
        positions, _ = self.search(queries, k)
        exact, _ = self._search_exactly(queries, k, ItemFilter())
        row_start = np.arange(len(positions))[:, None] * len(self.vectors_)
        return float(is_in(row_start + exact, (row_start + positions).ravel()).mean())

    def _has_few_candidates(self, allowed: ItemFilter, n_queries: int) -> np.ndarray:
        """Return which queries have so few candidates that only the candidates are scored."""
        if allowed.candidates is None or allowed.has_candidates is None:
            return np.zeros(n_queries, dtype=bool)
        n_candidates = allowed.candidates.stop - allowed.candidates.start
        is_few = n_candidates <= _MAX_CANDIDATES_SHARE * len(self.vectors_)
        return allowed.has_candidates & is_few

    def _n_to_fetch(self, n_queries: int, k: int, allowed: ItemFilter) -> np.ndarray:
        """Return how many items to fetch from the graph per query; 0 for exact search."""
        if self.graph_ is None:
            return np.zeros(n_queries, dtype=np.int64)
        n_items = len(self.vectors_)
        n_allowed = n_items if allowed.mask is None else int(np.count_nonzero(allowed.mask))
        n_wanted = np.full(n_queries, k, dtype=np.int64)
        for lists in allowed.exclude:
            n_wanted += lists.stop - lists.start
        # Assumes that the mask is independent of distance. If it would fetch more items than the
        # mask allows, scoring the allowed items is cheaper.
        n_fetched = -(-np.maximum(n_wanted, _MIN_FETCHED) * n_items // max(n_allowed, 1))
        return np.where(n_fetched < n_allowed, n_fetched, 0)

    def _search_graph(
        self,
        queries: np.ndarray,
        k: int,
        allowed: ItemFilter,
        bias: np.ndarray | None,
        n_fetched: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Filter the items that the graph finds; search exactly where fewer than `k` remain."""
        assert self.graph_ is not None
        candidates = self.graph_.query(queries, n_fetched)
        if bias is not None:
            candidates = _joined(candidates, top_k(bias[None], n_fetched)[0], len(bias))
        positions, scores = self._best_of(candidates, queries, k, allowed, bias)
        rows = np.flatnonzero((positions < 0).any(axis=1))
        if len(rows):
            exact = self._search_exactly(queries[rows], k, allowed.gather(rows), bias)
            positions[rows], scores[rows] = exact
        return positions, scores

    def _search_candidates(
        self, queries: np.ndarray, k: int, allowed: ItemFilter, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score only the candidates of each query."""
        candidates = allowed.candidates
        assert candidates is not None
        longest = max(k, int((candidates.stop - candidates.start).max()))
        positions = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        block = max(1, _BLOCK_SIZE // (longest * self.vectors_.shape[1]))
        for start in range(0, len(queries), block):
            rows = np.arange(start, min(start + block, len(queries)))
            positions_of_lists = candidates.gather(rows)._table(len(self.vectors_), longest)
            further_rules = allowed._replace(candidates=None).gather(rows)
            positions[rows], scores[rows] = self._best_of(
                positions_of_lists, queries[rows], k, further_rules, bias
            )
        return positions, scores

    def _best_of(
        self,
        candidates: np.ndarray,
        queries: np.ndarray,
        k: int,
        allowed: ItemFilter,
        bias: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best `k` allowed candidates of each query, padded with -1."""
        is_allowed = (candidates >= 0) & allowed._permits(candidates, len(self.vectors_))
        return best_candidates(candidates, is_allowed, queries, self.vectors_, k, bias)

    def _search_all(
        self, queries: np.ndarray, k: int, allowed: ItemFilter, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the whole catalogue, first by the quantised vectors if there are any."""
        if self.quantised_ is None:
            return self._search_exactly(queries, k, allowed, bias)
        positions = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        n_items, n_nearest = len(self.vectors_), n_to_rescore(k, len(self.vectors_))
        block = max(1, _BLOCK_SIZE // max(n_items, n_nearest * self.vectors_.shape[1]))
        for start in range(0, len(queries), block):
            rows = slice(start, min(start + block, len(queries)))
            out = np.empty((rows.stop - start, n_items), dtype=np.float32)
            self.quantised_.inner_products(queries[rows], out)
            if bias is not None:
                out += bias
            allowed.apply(out, start)
            nearest, _ = _top_k_in_threads(out, n_nearest)
            positions[rows], scores[rows] = rescored(nearest, queries[rows], self.vectors_, k, bias)
        return positions, scores

    def _search_exactly(
        self, queries: np.ndarray, k: int, allowed: ItemFilter, bias: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the whole catalogue, or the items that a sparse mask allows."""
        vectors, allowed_items, column_of = self.vectors_, None, None
        if allowed.mask is not None and allowed.mask.mean() <= _MAX_MASK_SHARE:
            allowed_items = np.flatnonzero(allowed.mask)
            column_of = np.full(len(vectors) + FIRST_KNOWN, -1)
            column_of[allowed_items + FIRST_KNOWN] = np.arange(len(allowed_items))
            vectors = vectors[allowed_items]
            bias = None if bias is None else bias[allowed_items]
        positions = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        n, n_columns = max(1, len(vectors)), min(k, len(vectors))
        block = max(1, min(_BLOCK_SIZE // n, max(_FAST_QUERIES, _CACHED_SIZE // n)))
        # Reused, since allocating it per block takes a quarter of the time of the product.
        buffer = np.empty(
            (min(block, len(queries)), len(vectors)), np.result_type(queries, vectors)
        )
        for start in range(0, len(queries), block):
            rows = slice(start, min(start + block, len(queries)))
            block_scores = np.matmul(queries[rows], vectors.T, out=buffer[: rows.stop - start])
            if bias is not None:
                block_scores += bias
            allowed.apply(block_scores, start, column_of)
            best = _top_k_in_threads(block_scores, n_columns)
            positions[rows, :n_columns], scores[rows, :n_columns] = best
        if allowed_items is not None:
            positions = np.append(allowed_items, -1)[positions]
        return positions, scores


class _Graph:
    """pynndescent's graph of neighbours, searched by one thread at a time."""

    def __init__(self, vectors: np.ndarray, random_state: int | None):
        threads = n_threads()
        with threadpool_limits():  # restores the limits that numba changes
            from numba import get_num_threads
            from pynndescent import NNDescent  # compiles for half a minute when first imported

            self._graph = NNDescent(
                vectors,
                metric="inner_product",  # "dot" needs normalised vectors
                random_state=random_state,
                n_jobs=min(threads, get_num_threads()),
            )
            self._graph.prepare()
        self._searching = Lock()

    def query(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return positions of about the `k` nearest items per query."""
        with self._searching:  # searches share buffers
            return self._graph.query(queries, k=k)[0].astype(np.int64)


def _joined(candidates: np.ndarray, further: np.ndarray, n_items: int) -> np.ndarray:
    """Return the candidates of each query and, after them, the further positions that are new."""
    row_start = np.arange(len(candidates))[:, None] * n_items
    is_new = ~is_in(row_start + further, (row_start + candidates)[candidates >= 0])
    return np.concatenate([candidates, np.where(is_new, further, -1)], axis=1)


def _top_k_in_threads(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute `top_k` in threads: numpy releases the GIL while it partitions."""
    n_parts = min(n_threads(), scores.size // _PART_SIZE, len(scores))
    if n_parts < 2:
        return top_k(scores, k)
    with ThreadPoolExecutor(n_parts) as pool:
        parts = pool.map(top_k, np.array_split(scores, n_parts), repeat(k))
        best, best_scores = zip(*parts, strict=True)
    return np.concatenate(best), np.concatenate(best_scores)
