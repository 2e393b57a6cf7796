"""
Tune the steps of a pipeline together
=====================================

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

events = load_movielens_small().query("user_id <= 150")  # to keep the example short

pipe = make_match_pipeline(
    MatchEncoder(item_features=["genres"]),
    SequenceSampler(),
    DSSMRetriever(max_epochs=2, batch_size=512, random_state=0),
)
grid = {
    "dssmretriever__temperature": [0.05, 0.1, 0.5],
    "sequencesampler__neg_ratio": [1, 3],
}
scorer = make_topk_scorer(["ndcg", "recall"], k=[10, 100])
search = GridSearchCV(pipe, grid, cv=LeaveLastOut(), scoring=scorer, refit="recall_at_100")
search = search.fit(events)

# %%
# The settings with the highest score come first:

table = pd.DataFrame(search.cv_results_).sort_values("rank_test_recall_at_100")
table.columns = table.columns.str.replace(r"^(param_\w+__|mean_test_)", "", regex=True)
columns = ["temperature", "neg_ratio", "recall_at_100", "ndcg_at_100", "mean_fit_time"]
table[columns].round(3)

# %%
# Is the best setting better, or lucky? The bars are 95% intervals over the 150 users tested, 1.96
# standard errors to each side. Where bars overlap widely, this search does not show which is
# better: take the simpler setting, or test more users.

recall = table["recall_at_100"]
error = 1.96 * (recall * (1 - recall) / 150) ** 0.5
names = [f"temperature {row.temperature}, neg_ratio {row.neg_ratio}" for row in table.itertuples()]
plt.errorbar(recall, names, xerr=error, fmt="o", capsize=4)
plt.gca().invert_yaxis()
plt.xlabel("recall@100 with 95% interval")
plt.tight_layout()
