"""
Next event or next visit?
=========================

"What comes next in this visit?" and "what will the next visit bring?" are different questions, and
a model that is best at one can be poor at the other. Evaluate with the split that tests yours.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    SequenceSampler,
    TemporalSplit,
    evaluate,
)
from skmatch.datasets import make_events

# %%
# Visits of four events, a minute apart. All items of a visit are of one category; the next visit,
# days later, is about another of the user's interests.

starts = make_events(600, 300, 5000, n_clusters=20, drift=1, random_state=0)
columns = ["user_id", "item_id", "timestamp", "category"]
events = starts.loc[starts.index.repeat(4), columns].reset_index(drop=True)
step = events.index % 4
events["timestamp"] += 60 * step
rng = np.random.default_rng(0)
others = events.groupby("category", observed=True)["item_id"].transform(rng.permutation)
events["item_id"] = events["item_id"].where(step == 0, others)

# %%
# ``LeaveLastOut`` tests within a visit, ``TemporalSplit`` mostly across visits. ``gap_rate`` is the
# share of training rows whose history ends before their visit: 0 trains for the next event only, 1
# for the next visit only, and the default of 0.5 for both.

splits = {"next event": LeaveLastOut(), "next visit": TemporalSplit(n_splits=5)}
recall = {}
for question, split in splits.items():
    train, test = (events.iloc[rows] for rows in list(split.split(events))[-1])
    models = {"item-to-item": ItemToItemRetriever()}
    for rate in (0, 0.5, 1):
        network = DSSMRetriever(max_epochs=3, random_state=0)
        models[f"DSSM, gap_rate={rate}"] = make_pipeline(SequenceSampler(gap_rate=rate), network)
    recall[question] = {
        name: evaluate(model.fit(train), test, "recall", k=20)["value"][0]
        for name, model in models.items()
    }
table = pd.DataFrame(recall)
options = {"layout": (1, 2), "sharey": True, "legend": False, "figsize": (9, 4)}
table.plot.barh(subplots=True, xlabel="recall@20", **options)
plt.tight_layout()
table.round(3)
