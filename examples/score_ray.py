"""Recommend to many users on Ray Data, with a saved pipeline.

pip install "ray[data]"
python examples/score_ray.py demo-output/movies.joblib USERS OUTPUT [--k K] [--workers N]

USERS are Parquet files of queries; OUTPUT is a folder for files of recommendations. Without
RAY_ADDRESS, the workers are processes of this machine.
"""

import argparse

import joblib
import pandas as pd
import ray


class Scorer:
    """A worker, which loads the pipeline once and recommends to batches of users."""

    def __init__(self, path: str, k: int):
        # Copy on write: the workers of a machine share the arrays of an uncompressed file.
        self.pipe = joblib.load(path, mmap_mode="c")
        self.k = k

    def __call__(self, users: pd.DataFrame) -> pd.DataFrame:
        """Recommend to a batch of users."""
        return self.pipe.recommend(users, self.k)


def main() -> None:
    """Recommend to all users, batch by batch; Ray shows the progress."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a fitted MatchPipeline, a file that workers can read")
    parser.add_argument("users", help="Parquet files")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--k", type=int, default=10, help="number of items per user")
    parser.add_argument("--workers", type=int, default=1, help="leave a processor for reading")
    options = parser.parse_args()
    ray.init()
    recommendations = ray.data.read_parquet(options.users).map_batches(
        Scorer,
        fn_constructor_args=(options.path, options.k),
        batch_format="pandas",
        batch_size=2000,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
    )
    recommendations.write_parquet(options.output)


if __name__ == "__main__":
    main()
