"""Retrieve movies: five retrievers compared on real ratings.

python examples/movies.py [PATH of a MovieLens zip or folder] [--epochs N]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    evaluate,
    make_match_pipeline,
    persistence,
)
from skmatch.datasets import load_movielens, load_movielens_small

OUTPUT = Path("demo-output")
MODEL = OUTPUT / "movies.joblib"
ITEMS = OUTPUT / "movies.csv"  # titles and features, for `make explore`
LOAD_AND_RECOMMEND = """
import sys, pandas as pd
from skmatch import persistence
pipeline = persistence.load(sys.argv[1])
pipeline.recommend(pd.read_json(sys.argv[2])["user_id"], k=5).to_pickle(sys.argv[3])
"""


def main() -> None:
    """Split, fit, compare, recommend, save, and load in a second process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="MovieLens zip or folder; else the embedded set")
    parser.add_argument("--epochs", type=int, help="passes over the events; else the default")
    options = parser.parse_args()
    started = time.perf_counter()
    events = load_movielens(options.path) if options.path else load_movielens_small()
    print(
        f"{len(events):,} ratings of {events['item_id'].nunique():,} movies by "
        f"{events['user_id'].nunique():,} users. Each user's last rating is held out.\n"
    )
    train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))

    user_features = [name for name in ("gender", "age", "occupation") if name in events]
    # Each retriever sees the same features and histories, and keeps its default parameters.
    settings = {"random_state": 0, "verbose": True}
    if options.epochs:
        settings["max_epochs"] = options.epochs
    members = [("dssm", DSSMRetriever(**settings)), ("items", ItemToItemRetriever())]
    retrievers = [
        PopularityRetriever(),
        *(member for _, member in members),
        YoutubeDNNRetriever(**settings),
        FusionRetriever(members),
    ]
    pipelines, rows = {}, {}
    for retriever in retrievers:
        name = type(retriever).__name__
        print(f"Fitting {name} ...", flush=True)
        pipeline = make_match_pipeline(
            MatchEncoder(user_features=user_features, item_features=["genres"]),
            SequenceSampler(),
            retriever,
        )
        start = time.perf_counter()
        pipelines[name] = pipeline.fit(train)
        seconds = time.perf_counter() - start
        table = evaluate(pipeline, test, metrics=["recall", "hit", "ndcg"], k=[10, 100])
        rows[name] = table.set_index(table["metric"] + "_at_" + table["k"].astype(str))[
            "value"
        ].to_dict()
        rows[name]["fit (s)"] = round(seconds, 1)
    print("\nThe whole catalogue is ranked, seen movies left out:\n")
    scores = pd.DataFrame(rows).T
    print(scores.to_string(float_format=lambda value: f"{value:.3f}"), "\n")

    best = pipelines[scores["ndcg_at_10"].idxmax()]
    titles = events.drop_duplicates("item_id").set_index("item_id")["title"].astype(str)
    users = train["user_id"].drop_duplicates().iloc[:3]
    recommended = best.recommend(users, k=5)
    for user in users:
        watched = train[train["user_id"] == user].sort_values("timestamp", kind="stable")
        items = recommended.loc[recommended["user_id"] == user, "item_id"]
        print(f"User {user}")
        print("  watched last: " + "; ".join(titles[watched["item_id"].tail(3)]))
        print("  recommended:  " + "; ".join(titles[items]))

    OUTPUT.mkdir(exist_ok=True)
    persistence.save(best, MODEL)
    movies = events.drop_duplicates("item_id").assign(genres=lambda t: t["genres"].map("|".join))
    columns = ["item_id", "title", "genres", "year"]
    movies[[name for name in columns if name in movies]].to_csv(ITEMS, index=False)
    queries, output = OUTPUT / "users.json", OUTPUT / "recommended.pkl"
    users.to_frame().to_json(queries)
    subprocess.run(
        [sys.executable, "-c", LOAD_AND_RECOMMEND, str(MODEL), str(queries), str(output)],
        check=True,
    )
    pd.testing.assert_frame_equal(pd.read_pickle(output), recommended)
    print(
        f"\nSaved to {MODEL} ({MODEL.stat().st_size / 1e6:.1f} MB); a second process loaded it "
        "and recommends the same."
    )
    print(f"All of it took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
