"""Tables of events: loaders, downloads and synthetic data."""

from skmatch.datasets._movielens import fetch_movielens, load_movielens, load_movielens_small
from skmatch.datasets._online_retail import load_online_retail
from skmatch.datasets._synthetic import make_events

__all__ = [
    "fetch_movielens",
    "load_movielens",
    "load_movielens_small",
    "load_online_retail",
    "make_events",
]
