"""Synthetic events with learnable structure."""

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
_HOME, _SECOND = 0.6, 0.3  # probabilities of a user's first and second cluster of interest
_N_TAGS = 4  # per cluster
_TRIES = 5  # draws of an item until it is new to the user


def make_events(
    n_users: int = 1000,
    n_items: int = 500,
    n_events: int = 20_000,
    *,
    n_clusters: int = 10,
    popularity_skew: float = 1.0,
    drift: float = 0.1,
    visit_size: float = 1.0,
    repeats: float = 0.0,
    content: bool = False,
    random_state: int | np.random.Generator | None = None,
) -> pd.DataFrame:
    """Generate a year of events with clusters of interest, popularity, drift and features.

    Parameters
    ----------
    n_users : int, default=1000
        Number of users; each has at least one event.
    n_items : int, default=500
        Number of items; some may have no events.
    n_events : int, default=20_000
        Number of rows, at least `n_users`.
    n_clusters : int, default=10
        Number of clusters of items, at most `n_items`.
    popularity_skew : float, default=1.0
        Exponent of Zipf's law, by which popularity falls with the rank of an item in its cluster; 0
        makes all items of a cluster equally popular.
    drift : float, default=0.1
        Probability that a user's interest is redrawn at each event: with 1, events depend on the
        user's tastes but not on the event before.
    visit_size : float, default=1.0
        Mean number of events per visit. Events of a visit follow each other within a minute.
    repeats : float, default=0.0
        Probability that an event repeats one of the user's earlier items.
    content : bool, default=False
        Whether items have texts and vectors, and events ratings and kinds.
    random_state : int, numpy.random.Generator or None, default=None
        Seed; an int makes the events reproducible.

    Returns
    -------
    events : pandas.DataFrame
        Events in order of time, with the columns

        - `user_id`, `item_id` : int64, from 1
        - `timestamp` : int64, seconds; strictly increasing within a user
        - `segment` : categorical user feature, mostly the user's home cluster
        - `age` : float64 user feature, higher for higher home clusters; a few are missing
        - `category` : categorical item feature, mostly the item's cluster
        - `price` : float64 item feature, higher for higher clusters
        - `tags` : categorical item feature of one or two tags delimited by ``|``, mostly of the
          item's cluster

        and with `content`

        - `title` : str item feature of three words, mostly of the item's cluster
        - `picture` : item feature of lists of eight floats, near each other within a cluster
        - `rating` : float64, from 1 to 5; higher for items of the user's home cluster
        - `action` : "view", "cart" or "purchase", the more so the higher the rating

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Notes
    -----
    A user is interested in one cluster at a time and draws an item of it by popularity among the
    items that exist by then: half of the items exist from the start, the others appear over the
    year. A new interest is the user's home cluster with probability 0.6, a second cluster with 0.3
    and any cluster with 0.1, so that recent items predict the next item better than the whole
    history. Items that the user has had are redrawn up to four times, so that repeats are few in
    large clusters.

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
    sizes = {"n_users": n_users, "n_items": n_items, "n_events": n_events, "n_clusters": n_clusters}
    for name, value in sizes.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1.")
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
    _check_number("visit_size", visit_size, 1, 1000)
    _check_number("repeats", repeats, 0, 1)
    try:
        rng = np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"random_state={random_state!r} must be an integer from 0, a numpy Generator or None."
        ) from error

    home = rng.integers(n_clusters, size=n_users)
    rank = rng.permutation(n_items)
    item_cluster = rank % n_clusters
    weight = (rank // n_clusters + 1.0) ** -popularity_skew

    user, second, first_event = _draw_times(n_users, n_events, visit_size, rng)
    cluster = _draw_interests(user, first_event, home, n_clusters, drift, rng)
    item = _draw_items(user, cluster, second, item_cluster, weight, n_clusters, rng)
    if repeats:
        item = _repeat(item, first_event[user], repeats, rng)

    in_time = np.argsort(second, kind="stable")
    user, item, second = user[in_time], item[in_time], second[in_time]
    of_user = _user_features(home, n_clusters, rng)
    of_item = _item_features(item_cluster, n_clusters, rng)
    events = pd.DataFrame(
        {
            "user_id": user + 1,
            "item_id": item + 1,
            "timestamp": second + _EPOCH,
            **{name: values[user] for name, values in of_user.items()},
            **{name: values[item] for name, values in of_item.items()},
        },
        copy=False,
    )
    if content:
        is_home = item_cluster[item] == home[user]
        columns = _content(item_cluster, n_clusters, rng)
        events = events.assign(**{name: values[item] for name, values in columns.items()})
        events = events.assign(**_feedback(is_home, rng))
    return events


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be a number from {low} to {high}.")


def _draw_times(
    n_users: int, n_events: int, visit_size: float, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Draw the user and second of each event, sorted by both; return them and user offsets."""
    activity = rng.lognormal(sigma=0.8, size=n_users)
    counts = 1 + rng.multinomial(n_events - n_users, activity / activity.sum())
    user = np.repeat(np.arange(n_users), counts)
    joined = rng.uniform(0, 0.8, size=n_users)[user]
    moment = joined + (1 - joined) * rng.random(n_events)
    # sorting a single number per (user, second) is faster than sorting two
    second = np.sort(user * _YEAR + (moment * _YEAR).astype(np.int64)) - user * _YEAR
    first_event = np.cumsum(counts) - counts
    index = np.arange(n_events)
    if visit_size > 1:
        begins = rng.random(n_events) < 1 / visit_size
        begins[first_event] = True
        start = np.maximum.accumulate(np.where(begins, index, 0))
        pause = rng.integers(5, 60, n_events)
        elapsed = np.cumsum(pause)
        second = second[start] + elapsed - elapsed[start]
        # A visit that outlasts the pause after it moves the next visit.
        span = user * (2 * _YEAR)
        second = np.maximum.accumulate(second + span) - span
    second += index - first_event[user]  # no ties within a user
    return user, second, first_event


def _draw_interests(
    user: Ints,
    first_event: Ints,
    home: Ints,
    n_clusters: int,
    drift: float,
    rng: np.random.Generator,
) -> Ints:
    """Draw the user's cluster of interest at each event."""
    turns = rng.random(len(user)) < drift
    turns[first_event] = True
    turned = user[turns]
    second_home = rng.integers(n_clusters, size=len(home))
    chance = rng.random(len(turned))
    drawn = rng.integers(n_clusters, size=len(turned))
    drawn = np.where(chance < _HOME + _SECOND, second_home[turned], drawn)
    drawn = np.where(chance < _HOME, home[turned], drawn)
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
    """Draw the item of each event by weight among the items of the cluster born by then."""
    n_items = len(weight)
    birth = (rng.uniform(-1, 1, size=n_items).clip(0) * _YEAR).astype(np.int64)
    shelf = np.lexsort((birth, item_cluster))  # items by cluster, then by birth
    edges = np.searchsorted(item_cluster[shelf], np.arange(n_clusters))
    birth[shelf[edges]] = 0  # so that no cluster is empty
    mass = np.concatenate([[0.0], np.cumsum(weight[shelf])])

    # the items of a cluster born by then are shelf[start:stop]
    span = 2 * _YEAR  # longer than any time
    born = (item_cluster * span + birth)[shelf]
    start = edges[cluster]
    stop = np.searchsorted(born, cluster * span + second, side="right")

    item = np.empty(len(user), dtype=np.int64)
    todo = np.arange(len(user))
    for attempt in range(_TRIES):
        if attempt > 0:
            todo = np.flatnonzero(pd.Index(user * n_items + item).duplicated())
        low, high = start[todo], stop[todo]
        target = mass[low] + rng.random(len(todo)) * (mass[high] - mass[low])
        index = np.searchsorted(mass, target, side="right") - 1
        item[todo] = shelf[np.clip(index, low, high - 1)]  # `mass` is rounded
    return item


def _repeat(item: Ints, first_event: Ints, repeats: float, rng: np.random.Generator) -> Ints:
    """Replace items by the user's earlier items; the user's events begin at `first_event`."""
    index = np.arange(len(item))
    earlier = rng.integers(first_event, np.maximum(index, first_event + 1))
    source = np.where((rng.random(len(item)) < repeats) & (index > first_event), earlier, index)
    while (source[source] != source).any():  # a repeat of a repeat
        source = source[source]
    return item[source]


def _user_features(home: Ints, n_clusters: int, rng: np.random.Generator) -> dict[str, Any]:
    segment = _mostly(home, 0.8, n_clusters, rng)
    age = np.round((25 + 40 * home / n_clusters + 6 * rng.standard_normal(len(home))).clip(18, 90))
    age[rng.random(len(home)) < 0.03] = np.nan
    return {"segment": _categorical(segment, "segment", n_clusters), "age": age}


def _item_features(cluster: Ints, n_clusters: int, rng: np.random.Generator) -> dict[str, Any]:
    n_items = len(cluster)
    category = _mostly(cluster, 0.9, n_clusters, rng)
    price = np.round(np.exp(1 + 2 * cluster / n_clusters + 0.5 * rng.standard_normal(n_items)), 2)
    # one value per pair of a cluster's tags; a tag paired with itself is a single tag
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


def _content(cluster: Ints, n_clusters: int, rng: np.random.Generator) -> dict[str, Any]:
    words = [_mostly(cluster, 0.9, n_clusters, rng) * _N_TAGS for _ in range(3)]
    words = [word + rng.integers(_N_TAGS, size=len(cluster)) for word in words]
    titles = [" ".join(f"word{w}" for w in row) for row in np.stack(words, 1)]
    centres = rng.normal(size=(n_clusters, 8))
    pictures = centres[cluster] + rng.normal(size=(len(cluster), 8))
    cells = pd.Series(pictures.tolist(), dtype=object).to_numpy()
    return {"title": np.array(titles, dtype=object), "picture": cells}


def _feedback(is_home: npt.NDArray[np.bool_], rng: np.random.Generator) -> dict[str, Any]:
    rating = np.round(3 + is_home + rng.normal(size=len(is_home))).clip(1, 5)
    level = np.searchsorted([0.6, 0.85], rng.random(len(is_home)) + 0.05 * (rating - 3))
    return {"rating": rating, "action": np.array(["view", "cart", "purchase"])[level]}


def _categorical(codes: Ints, prefix: str, n_values: int) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes, pd.Index([f"{prefix}_{c}" for c in range(n_values)]))


def _mostly(cluster: Ints, chance: float, n_clusters: int, rng: np.random.Generator) -> Ints:
    """Replace each cluster by a random cluster with probability 1 - chance."""
    drawn = rng.integers(n_clusters, size=len(cluster))
    return np.where(rng.random(len(cluster)) < chance, cluster, drawn)
