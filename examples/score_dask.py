"""Recommend to many users on Dask, with a saved pipeline.

pip install "dask[dataframe,distributed]"
python examples/score_dask.py demo-output/movies.joblib USERS OUTPUT [--k K] [--scheduler ADDRESS]

USERS are Parquet files of queries; OUTPUT is a folder for one file of recommendations per file of
queries. Without a scheduler, the workers are processes of this machine.
"""

import argparse
from os import PathLike
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
from dask.distributed import Client, progress

from skmatch import persistence


def score(users: Any, path: str | PathLike, k: int) -> Any:
    """Return recommendations as a lazy frame."""
    # A task whose result each worker gets once; a pipeline as an argument would be sent with every
    # partition.
    pipe = dask.delayed(persistence.load)(path)
    table = persistence.load(path).recommend(users.head(1), k)  # its columns and dtypes
    return users.map_partitions(recommend, pipe, k, meta=table.iloc[:0])


def recommend(users: pd.DataFrame, pipe: Any, k: int) -> pd.DataFrame:
    """Recommend to a partition of the users."""
    return pipe.recommend(users, k)


def main() -> None:
    """Recommend to all users, partition by partition, and show the progress."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a fitted MatchPipeline, a file that workers can read")
    parser.add_argument("users", help="Parquet files")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--k", type=int, default=10, help="number of items per user")
    parser.add_argument("--scheduler", help="address of a cluster")
    options = parser.parse_args()
    with Client(options.scheduler, **({} if options.scheduler else {"threads_per_worker": 1})):
        users = dd.read_parquet(options.users)
        written = score(users, options.path, options.k).to_parquet(options.output, compute=False)
        written = written.persist()
        progress(written, notebook=False)
        written.compute()


if __name__ == "__main__":
    main()
