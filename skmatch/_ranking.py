"""Ranking of items with numpy alone: shared by the retrievers and the runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skmatch._arrays import FIRST_KNOWN

_WIDTH = 64  # scores of which `top_k` first compares the maximum only
RANK_OFFSET = 60  # of reciprocal ranks (Cormack et al., 2009)
LEAST_SHARE = 1e-8  # of an item in a list, so that its logarithm is finite
MIN_WEIGHT = 1e-4  # events of a history that weigh less change no rank
LEAST_PRIOR = 1e-9  # keeps the order of popularity where item transitions have no smoothing


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and scores of the `k` best of each row, best first; -1 for -inf."""
    n = scores.shape[1]
    if n > 4 * k * _WIDTH:
        return _top_k_of_blocks(scores, k)
    if k < n:
        index = np.flatnonzero(_are_best(scores, k)).reshape(-1, k)
        best_scores = scores.ravel()[index]
        best = index - np.arange(len(scores))[:, None] * n
    else:
        best, best_scores = np.broadcast_to(np.arange(n), scores.shape), scores
    order = np.argsort(-best_scores, axis=1, kind="stable")  # ties in order
    best_scores = np.take_along_axis(best_scores, order, axis=1)
    best = np.take_along_axis(best, order, axis=1)
    return np.where(np.isneginf(best_scores), -1, best), best_scores


def _are_best(scores: np.ndarray, k: int) -> np.ndarray:
    """Mark the `k` best of each row; of scores equal to the k-th best, the first."""
    # Negated, since partitioning is much slower where most scores are -inf.
    negated = -scores
    negated.partition(k - 1, axis=1)  # twice as fast as argpartition
    worst = -negated[:, k - 1 : k]
    are_best = ~(scores < worst)  # True for NaN, so that at least k are
    tied = np.flatnonzero(np.count_nonzero(are_best, axis=1) > k)
    if len(tied):
        better = scores[tied] > worst[tied]
        equal = are_best[tied] & ~better
        n_wanted = k - np.count_nonzero(better, axis=1)
        are_best[tied] = better | (equal & (np.cumsum(equal, axis=1) <= n_wanted[:, None]))
    return are_best


def _top_k_of_blocks(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute `top_k` from the `k` blocks with the largest maxima, which hold the `k` best."""
    n = scores.shape[1]
    largest = np.maximum.reduceat(scores, np.arange(0, n, _WIDTH), axis=1)
    blocks, _ = top_k(largest, k)
    blocks = np.sort(blocks, axis=1)
    positions = (blocks[:, :, None] * _WIDTH + np.arange(_WIDTH)).reshape(len(scores), -1)
    outside = (positions < 0) | (positions >= n)
    positions[outside] = 0
    block_scores = np.take_along_axis(scores, positions, axis=1)
    block_scores[outside] = -np.inf
    best, best_scores = top_k(block_scores, k)
    best_positions = np.take_along_axis(positions, np.maximum(best, 0), axis=1)
    return np.where(best < 0, -1, best_positions), best_scores


def best_candidates(
    candidates: np.ndarray,
    is_allowed: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    bias: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `k` of allowed candidates, (n_queries, n_candidates), padded with -1."""
    scores = np.einsum("qd,qfd->qf", queries, vectors[candidates]).astype(np.float32)
    if bias is not None:
        scores += bias[candidates]
    scores[~is_allowed] = -np.inf
    best, best_scores = top_k(scores, k)
    positions = np.take_along_axis(candidates, np.maximum(best, 0), axis=1)
    return np.where(best < 0, -1, positions), best_scores


def reciprocal_ranks(positions: np.ndarray) -> np.ndarray:
    """Return the value of each rank of lists, (n_queries, n_listed)."""
    return np.broadcast_to(1.0 / (RANK_OFFSET + 1 + np.arange(positions.shape[1])), positions.shape)


def log_ratios(positions: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the logarithms of shares over the share of items that are not listed.

    Those have half of the smallest share of their list, or of an equal share where lists are short.
    """
    is_listed = positions >= 0
    smallest = np.where(is_listed, shares, 1).min(1, keepdims=True)
    unlisted = np.maximum(np.minimum(smallest, 1 / positions.shape[1]), LEAST_SHARE) / 2
    return np.log(np.maximum(shares, LEAST_SHARE) / unlisted)


def list_values(
    rule: str,
    positions: np.ndarray,
    scores: np.ndarray,
    is_popular: np.ndarray,
    shares: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return the values of the lists of a fusion's member, (n_queries, n_listed), by the rule.

    `shares` turns the member's scores into shares; popular lists, (n_queries,), have counts.
    """
    if rule == "ranks":
        return reciprocal_ranks(positions)
    of_lists = np.where(is_popular[:, None], positive_shares(scores), shares(scores))
    return log_ratios(positions, of_lists)


def fused_shares(rule: str, scores: np.ndarray) -> np.ndarray:
    """Return the shares of a fusion's own lists: sums of logarithms, or of reciprocal ranks."""
    return positive_shares(scores) if rule == "ranks" else softmax_shares(scores)


def merge_lists(
    lists: list[tuple[np.ndarray, np.ndarray]], k: int, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge lists of positions and values, (n_queries, n_listed) each, by weighted sums of values.

    Return positions and scores, (n_queries, k), and which lists named each, (n_queries, k, M).
    """
    n_queries = len(lists[0][0])
    n_items = 1 + max(int(positions.max(initial=0)) for positions, _ in lists)
    keys, values, members = [], [], []
    for member, (weight, (positions, value)) in enumerate(zip(weights, lists, strict=True)):
        query, rank = np.nonzero(positions >= 0)
        keys.append(query * n_items + positions[query, rank])
        values.append(weight * value[query, rank])
        members.append(np.full(len(query), member))
    key, index = np.unique(np.concatenate(keys), return_inverse=True)
    score = np.bincount(index, np.concatenate(values), minlength=len(key)).astype(np.float32)
    is_named = np.zeros((len(key), len(lists)), dtype=bool)
    is_named[index, np.concatenate(members)] = True
    query = key // n_items
    order = np.lexsort((key, -score, query))  # of equal scores, the first item first
    start = np.searchsorted(query, np.arange(n_queries))
    rank = np.arange(len(order)) - start[query]
    top = order[rank < k]
    row, column = query[rank < k], rank[rank < k]
    positions = np.full((n_queries, k), -1, dtype=np.int64)
    scores = np.full((n_queries, k), -np.inf, dtype=np.float32)
    named = np.zeros((n_queries, k, len(lists)), dtype=bool)
    positions[row, column] = key[top] % n_items
    scores[row, column] = score[top]
    named[row, column] = is_named[top]
    return positions, scores, named


def positive_shares(scores: np.ndarray) -> np.ndarray:
    """Return the share of each score, (n_queries, k), in the sum of its list's positive scores."""
    positive = np.maximum(np.where(np.isfinite(scores), scores, 0), 0)
    return positive / np.maximum(positive.sum(1, keepdims=True), np.finfo(np.float32).tiny)


def softmax_shares(scores: np.ndarray) -> np.ndarray:
    """Return the softmax of each list's scores, (n_queries, k)."""
    finite = np.maximum(scores, -1e9)  # also where no item remains
    shares = np.exp(finite - finite.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def rank_shares(scores: np.ndarray) -> np.ndarray:
    """Return shares, (n_queries, k), that fall with the rank of a score in its list."""
    rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return positive_shares(np.where(np.isfinite(scores), 1.0 / (RANK_OFFSET + 1 + rank), 0))


def weighted_events(
    log: np.ndarray, start: np.ndarray, stop: np.ndarray, half_life: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the query, the item's position and the weight of the known events of histories.

    A weight halves with every `half_life` events, (n_queries,); the weights of a query sum to 1.
    """
    longest = int((stop - start).max(initial=0))
    n_recent = int(np.ceil(half_life.max(initial=1) * np.log2(1 / MIN_WEIGHT)))
    lag = np.arange(min(longest, n_recent))
    index = stop[:, None] - 1 - lag
    inside = index >= start[:, None]
    items = log[np.where(inside, index, 0)]
    weight = 0.5 ** (lag / half_life[:, None])
    weight *= inside & (items >= FIRST_KNOWN) & (weight >= MIN_WEIGHT)
    weight /= np.maximum(weight.sum(1, keepdims=True), np.finfo(float).tiny)
    query, column = np.nonzero(weight)
    return query, items[query, column] - FIRST_KNOWN, weight[query, column].astype(np.float32)
