"""Recommend to very many users on Dask, with a pipeline that joblib saved.

pip install "dask[dataframe,distributed]"
python examples/score_dask.py demo-output/movies.joblib USERS OUTPUT [--k K] [--scheduler ADDRESS]

USERS are Parquet files with the column of the users and what else a query may hold; OUTPUT is a
folder for as many files of answers. Without a scheduler, the workers are processes of this machine.
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
    """Give recommendations, as lazy as the frame of users."""
    # One task, whose result each worker gets once; a pipeline among the arguments would be sent
    # with every part.
    pipe = dask.delayed(persistence.load)(path)
    answer = persistence.load(path).recommend(users.head(1), k)  # its columns and dtypes
    return users.map_partitions(recommend, pipe, k, meta=answer.iloc[:0])


def recommend(users: pd.DataFrame, pipe: Any, k: int) -> pd.DataFrame:
    """Answer a part of the users."""
    return pipe.recommend(users, k)


def main() -> None:
    """Answer all users, part by part, and show how far it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a fitted MatchPipeline, a file that workers can read")
    parser.add_argument("users", help="Parquet files")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--k", type=int, default=10, help="number of items for a user")
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
