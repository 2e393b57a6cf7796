"""Tune a retriever by grid search on real ratings: temperature, negatives and layers.

python examples/tune.py [PATH of a MovieLens zip or folder] [--epochs N] [--n-jobs N] [--output DIR]
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    make_topk_scorer,
    persistence,
)
from skmatch.datasets import load_movielens, load_movielens_small

GRID = {
    "dssmretriever__temperature": [0.02, 0.05, 0.1, 0.2],
    "sequencesampler__neg_ratio": [1, 3, 10],
    "dssmretriever__dims": [(64,), (256, 64)],
}
SCORES = ["recall_at_10", "recall_at_100", "hit_at_10", "ndcg_at_10", "ndcg_at_100"]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw NDCG@10 by temperature and neg_ratio, each for the better of the layers."""
    cells = table.pivot_table("ndcg_at_10", "temperature", "neg_ratio", aggfunc="max")
    figure, axes = plt.subplots(layout="constrained")
    figure.colorbar(axes.imshow(cells, origin="lower", cmap="Blues"), label="NDCG@10")
    axes.set_xticks(range(cells.shape[1]), cells.columns)
    axes.set_yticks(range(cells.shape[0]), cells.index)
    axes.set(xlabel="neg_ratio", ylabel="temperature", title="The better of the layers")
    values = cells.to_numpy()
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > (values.min() + values.max()) / 2 else "black"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=color)
    figure.savefig(path)


def main() -> None:
    """Search, tabulate, draw, recommend and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="MovieLens zip or folder; else the embedded set")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the events")
    parser.add_argument("--n-jobs", type=int, default=2, help="number of workers")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    events = load_movielens(options.path) if options.path else load_movielens_small()

    steps = (
        MatchEncoder(item_features=["genres"]),
        SequenceSampler(),
        DSSMRetriever(max_epochs=options.epochs, batch_size=512, random_state=0),
    )
    scorer = make_topk_scorer(["recall", "hit", "ndcg"], k=[10, 100])
    with tempfile.TemporaryDirectory() as cache:  # each fold is encoded once for all candidates
        search = GridSearchCV(
            make_pipeline(*steps, memory=cache), GRID, cv=LeaveLastOut(), scoring=scorer,
            refit="ndcg_at_10", n_jobs=options.n_jobs, verbose=1,
        ).fit(events)  # fmt: skip

    table = pd.DataFrame(search.cv_results_).sort_values("rank_test_ndcg_at_10")
    table.columns = table.columns.str.replace(r"^(param_\w+__|mean_test_)", "", regex=True)
    table = table.rename(columns={"mean_fit_time": "fit (s)"}).round({"fit (s)": 1})
    columns = ["temperature", "neg_ratio", "dims", *SCORES, "fit (s)"]
    print("\nEach user's last rating held out, the whole catalogue ranked, seen movies left out:\n")
    print(table[columns].round(4).to_string(index=False))
    draw(table, options.output / "tune.png")

    best = search.best_estimator_.set_params(memory=None)  # the cache is gone
    titles = events.drop_duplicates("item_id").set_index("item_id")["title"].astype(str)
    users = events[["user_id"]].drop_duplicates().head(3)
    print()
    for user, items in zip(users["user_id"], best.predict(users, k=5), strict=True):
        print(f"To user {user}: " + "; ".join(titles[items]))
    persistence.save(best, options.output / "tune.joblib")
    print(f"\nWrote {options.output / 'tune.png'} and {options.output / 'tune.joblib'}.")


if __name__ == "__main__":
    main()
