"""
Tune temperature, layers and negatives
======================================

A pipeline of skmatch is an estimator: ``GridSearchCV`` searches over the parameters of all its
steps, with splits that keep the future out of training and scores that rank the whole catalogue.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.model_selection import GridSearchCV

from skmatch import (
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import load_movielens_small

events = load_movielens_small().query("user_id <= 150")  # to be quick

pipe = make_match_pipeline(
    MatchEncoder(item_features=["genres"]),
    SequenceSampler(),
    DSSMRetriever(max_epochs=2, batch_size=512, random_state=0),
)
grid = {
    "dssmretriever__temperature": [0.05, 0.1, 0.5],
    "dssmretriever__dims": [(64,), (256, 64)],
    "sequencesampler__neg_ratio": [1, 3],
}
scorer = make_topk_scorer(["ndcg", "recall"], k=[10, 100])
search = GridSearchCV(pipe, grid, cv=LeaveLastOut(), scoring=scorer, refit="recall_at_100")
search.fit(events)

# %%
# The best settings come first:

table = pd.DataFrame(search.cv_results_).sort_values("rank_test_recall_at_100")
table.columns = table.columns.str.replace(r"^(param_\w+__|mean_test_)", "", regex=True)
columns = ["temperature", "dims", "neg_ratio", "recall_at_100", "ndcg_at_100", "mean_fit_time"]
table[columns].round(3)

# %%
# Among these, temperature matters most: the mean over the other parameters, with the range.

cells = table.groupby("temperature")["recall_at_100"].agg(["mean", "min", "max"])
error = [cells["mean"] - cells["min"], cells["max"] - cells["mean"]]
plt.errorbar(cells.index.astype(str), cells["mean"], error, fmt="o", capsize=4)
plt.gca().set(xlabel="temperature", ylabel="recall_at_100", ylim=(0, None))
plt.show()

# %%
# The best pipeline was fitted anew on all events and recommends:

search.best_estimator_.recommend([15], k=3)
