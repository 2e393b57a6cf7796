"""Recommend to very many users on Ray Data, with a pipeline that joblib saved.

pip install "ray[data]"
python examples/score_ray.py demo-output/movies.joblib USERS OUTPUT [--k K] [--workers N]

USERS are Parquet files with the column of the users and what else a query may hold; OUTPUT is a
folder for files of answers. RAY_ADDRESS names a cluster, else the workers are processes of this
machine.
"""

import argparse

import joblib
import pandas as pd
import ray


class Scorer:
    """A worker: it loads the pipeline once, and answers batches of users."""

    def __init__(self, path: str, k: int):
        # Copy on write: the workers of a machine share the arrays of an uncompressed file.
        self.pipe = joblib.load(path, mmap_mode="c")
        self.k = k

    def __call__(self, users: pd.DataFrame) -> pd.DataFrame:
        """Answer one batch."""
        return self.pipe.recommend(users, self.k)


def main() -> None:
    """Answer all users, batch by batch; Ray shows how far it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a fitted MatchPipeline, a file that workers can read")
    parser.add_argument("users", help="Parquet files")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--k", type=int, default=10, help="number of items for a user")
    parser.add_argument("--workers", type=int, default=1, help="leave a processor for reading")
    options = parser.parse_args()
    ray.init()
    answers = ray.data.read_parquet(options.users).map_batches(
        Scorer,
        fn_constructor_args=(options.path, options.k),
        batch_format="pandas",
        batch_size=2000,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
    )
    answers.write_parquet(options.output)


if __name__ == "__main__":
    main()
