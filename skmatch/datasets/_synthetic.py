"""Made-up events that hold something to learn."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

_EPOCH = 1_600_000_000
_YEAR = 365 * 24 * 3600
_HOME, _SECOND = 0.6, 0.3  # a user's chances of the home interest and of the second one
_N_TAGS = 4  # tags of a cluster
_TRIES = 5  # draws of an item, until it is one that the user has not had


def make_events(
    n_users: int = 1000,
    n_items: int = 500,
    n_events: int = 20_000,
    *,
    n_clusters: int = 10,
    popularity_skew: float = 1.0,
    drift: float = 0.1,
    random_state: int | np.random.Generator | None = None,
) -> pd.DataFrame:
    """Make up a year of events with clusters of taste, popular items, drift and features.

    Parameters
    ----------
    n_users : int, default=1000
        Number of users; each has one event or more.
    n_items : int, default=500
        Number of items in the catalogue; not each need have an event.
    n_events : int, default=20_000
        Number of rows, `n_users` or more.
    n_clusters : int, default=10
        Number of clusters that items belong to, `n_items` or fewer.
    popularity_skew : float, default=1.0
        The power of Zipf's law by which an item's popularity falls with its rank in its cluster;
        0 makes all items of a cluster alike.
    drift : float, default=0.1
        The chance, from one event of a user to the next, that the user's interest is drawn anew.
    random_state : int, numpy.random.Generator or None, default=None
        An integer gives the same events every time.

    Returns
    -------
    events : pandas.DataFrame
        In order of time, with the columns

        - `user_id`, `item_id` : int64, from 1
        - `timestamp` : int64, seconds; strictly increasing within a user
        - `segment` : categorical, the user's, mostly named after the user's home cluster
        - `age` : float64, the user's, higher for higher home clusters; a few are missing
        - `category` : categorical, the item's, mostly named after its cluster
        - `price` : float64, the item's, higher for higher clusters
        - `tags` : categorical of one or two tags delimited by ``|``, the item's, mostly of its
          cluster

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Notes
    -----
    A user is interested in one cluster at a time and takes an item of it by popularity, among
    those that exist by then: half of the items exist from the start, the others appear over the
    year and take their share from the older ones. When interest is drawn anew it is the user's
    home cluster with chance 0.6, the second one with 0.3 and any cluster with 0.1. So the last
    few items tell more of the next than the whole history does. An item that the user
    has had is drawn anew up to four times, so repeats are few where a cluster has many items.

    Examples
    --------
    >>> from skmatch.datasets import make_events
    >>> events = make_events(n_users=50, n_items=20, n_events=300, n_clusters=4, random_state=0)
    >>> events.shape
    (300, 8)
    >>> list(events.columns[:5])
    ['user_id', 'item_id', 'timestamp', 'segment', 'age']
    >>> events["timestamp"].is_monotonic_increasing
    True
    """
    _check_integer("n_users", n_users, 1)
    _check_integer("n_items", n_items, 1)
    _check_integer("n_events", n_events, 1)
    _check_integer("n_clusters", n_clusters, 1)
    if n_events < n_users:
        raise ValueError(
            f"n_events={n_events} is less than n_users={n_users}, but every user has an event: "
            "raise n_events or lower n_users."
        )
    if n_clusters > n_items:
        raise ValueError(
            f"n_clusters={n_clusters} is more than n_items={n_items}, but every cluster has an "
            "item: lower n_clusters or raise n_items."
        )
    _check_number("popularity_skew", popularity_skew, 0, 100)
    _check_number("drift", drift, 0, 1)
    try:
        rng = np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"random_state={random_state!r}: give an integer from 0, a numpy Generator or None."
        ) from error

    home = rng.integers(n_clusters, size=n_users)
    rank = rng.permutation(n_items)
    item_cluster = rank % n_clusters
    weight = (rank // n_clusters + 1.0) ** -popularity_skew

    user, second, first = _draw_visits(n_users, n_events, rng)
    cluster = _draw_interests(user, first, home, n_clusters, drift, rng)
    item = _draw_items(user, cluster, second, item_cluster, weight, n_clusters, rng)

    in_time = np.argsort(second, kind="stable")
    user, item, second = user[in_time], item[in_time], second[in_time]
    of_user = _user_features(home, n_clusters, rng)
    of_item = _item_features(item_cluster, n_clusters, rng)
    return pd.DataFrame(
        {
            "user_id": user + 1,
            "item_id": item + 1,
            "timestamp": second + _EPOCH,
            **{name: values[user] for name, values in of_user.items()},
            **{name: values[item] for name, values in of_item.items()},
        },
        copy=False,
    )


def _check_integer(name: str, value: Any, low: int) -> None:
    if not isinstance(value, Integral) or value < low:
        raise ValueError(f"{name}={value!r}: give an integer of at least {low}.")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: give a number from {low} to {high}.")


def _draw_visits(n_users: int, n_events: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Draw each event's user and second, sorted by both, and where each user's first one is."""
    activity = rng.lognormal(sigma=0.8, size=n_users)
    counts = 1 + rng.multinomial(n_events - n_users, activity / activity.sum())
    user = np.repeat(np.arange(n_users), counts)
    joined = rng.uniform(0, 0.8, size=n_users)[user]
    moment = joined + (1 - joined) * rng.random(n_events)
    # one number for (user, second) sorts far faster than two
    second = np.sort(user * _YEAR + (moment * _YEAR).astype(np.int64)) - user * _YEAR
    first = np.cumsum(counts) - counts
    second += np.arange(n_events) - first[user]  # so that no two of a user's events tie
    return user, second, first


def _draw_interests(
    user: Ints,
    first: Ints,
    home: Ints,
    n_clusters: int,
    drift: float,
    rng: np.random.Generator,
) -> Ints:
    """Draw the cluster that the user is interested in at each event."""
    turns = rng.random(len(user)) < drift
    turns[first] = True
    who = user[turns]
    second_home = rng.integers(n_clusters, size=len(home))
    chance = rng.random(len(who))
    drawn = rng.integers(n_clusters, size=len(who))
    drawn = np.where(chance < _HOME + _SECOND, second_home[who], drawn)
    drawn = np.where(chance < _HOME, home[who], drawn)
    return drawn[np.cumsum(turns) - 1]


def _draw_items(
    user: Ints,
    cluster: Ints,
    second: Ints,
    item_cluster: Ints,
    weight: Floats,
    n_clusters: int,
    rng: np.random.Generator,
) -> Ints:
    """Draw each event's item, by weight, among those of the cluster that are born by then."""
    n_items = len(weight)
    birth = (rng.uniform(-1, 1, size=n_items).clip(0) * _YEAR).astype(np.int64)
    shelf = np.lexsort((birth, item_cluster))  # items by cluster, then by birth
    edges = np.searchsorted(item_cluster[shelf], np.arange(n_clusters))
    birth[shelf[edges]] = 0  # no cluster is ever empty
    mass = np.concatenate([[0.0], np.cumsum(weight[shelf])])

    # what is born of a cluster is a stretch of the shelf, from `start` up to `stop`
    span = 2 * _YEAR  # longer than any time
    born = (item_cluster * span + birth)[shelf]
    start = edges[cluster]
    stop = np.searchsorted(born, cluster * span + second, side="right")

    item = np.empty(len(user), dtype=np.int64)
    todo = np.arange(len(user))
    for attempt in range(_TRIES):
        if attempt > 0:
            todo = np.flatnonzero(pd.Index(user * n_items + item).duplicated())
        first, end = start[todo], stop[todo]
        target = mass[first] + rng.random(len(todo)) * (mass[end] - mass[first])
        place = np.searchsorted(mass, target, side="right") - 1
        item[todo] = shelf[np.clip(place, first, end - 1)]  # the ends: rounding of `mass`
    return item


def _user_features(home: Ints, n_clusters: int, rng: np.random.Generator) -> dict[str, Any]:
    segment = _mostly(home, 0.8, n_clusters, rng)
    age = np.round((25 + 40 * home / n_clusters + 6 * rng.standard_normal(len(home))).clip(18, 90))
    age[rng.random(len(home)) < 0.03] = np.nan
    return {"segment": _categorical(segment, "segment", n_clusters), "age": age}


def _item_features(cluster: Ints, n_clusters: int, rng: np.random.Generator) -> dict[str, Any]:
    n_items = len(cluster)
    category = _mostly(cluster, 0.9, n_clusters, rng)
    price = np.round(np.exp(1 + 2 * cluster / n_clusters + 0.5 * rng.standard_normal(n_items)), 2)
    # every pair of a cluster's tags is one value; a tag paired with itself stands alone
    pairs = [
        f"tag_{c}_{a}" if a == b else f"tag_{c}_{a}|tag_{c}_{b}"
        for c in range(n_clusters)
        for a in range(_N_TAGS)
        for b in range(_N_TAGS)
    ]
    pair = rng.integers(_N_TAGS**2, size=n_items)
    tags = _mostly(cluster, 0.9, n_clusters, rng) * _N_TAGS**2 + pair
    return {
        "category": _categorical(category, "category", n_clusters),
        "price": price,
        "tags": pd.Categorical.from_codes(tags, pd.Index(pairs)),
    }


def _categorical(codes: Ints, prefix: str, n_values: int) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes, pd.Index([f"{prefix}_{c}" for c in range(n_values)]))


def _mostly(cluster: Ints, chance: float, n_clusters: int, rng: np.random.Generator) -> Ints:
    """Keep each cluster with a chance, else put any in its place."""
    others = rng.integers(n_clusters, size=len(cluster))
    return np.where(rng.random(len(cluster)) < chance, cluster, others)
