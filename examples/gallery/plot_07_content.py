"""
New items by their texts and images
===================================

A tenth of the items has no events yet. Titles and vectors of images show the network which users
may choose them.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, make_match_pipeline
from skmatch.datasets import make_events

events = make_events(n_users=300, n_items=300, n_events=5000, content=True, random_state=0)
items = events.drop_duplicates("item_id")[["item_id", "title", "picture"]]
new = items["item_id"].sample(30, random_state=0).tolist()
is_new = events["item_id"].isin(new)
items.head()

# %%
# A transformer of scikit-learn makes a vector of each title; a picture is a vector already. The
# ratings are features of the events in the history.

text = make_pipeline(TfidfVectorizer(), TruncatedSVD(16, random_state=0))


def hit_rate(features):
    """Return HR@10 among the new items, of each user's next event with one."""
    encoder = MatchEncoder(
        item_features=features,
        event_features=["rating"],
        kinds={"title": text} if "title" in features else None,
    )
    retriever = DSSMRetriever(max_epochs=3, id_dropout=0.2, random_state=0)
    pipe = make_match_pipeline(encoder, SequenceSampler(), retriever).fit(events[~is_new])
    pipe.add_items(items[items["item_id"].isin(new)])
    asked = events[is_new].drop_duplicates("user_id", keep="last")
    found = pipe.predict(asked[["user_id", "timestamp"]], k=10, candidates=new)
    return (found == asked["item_id"].to_numpy()[:, None]).any(1).mean()


rates = pd.Series(
    {
        "chance": 10 / len(new),
        "titles": hit_rate(["title"]),
        "pictures": hit_rate(["picture"]),
        "both": hit_rate(["title", "picture"]),
    }
)
rates.plot.barh(xlabel="HR@10 among new items")
plt.tight_layout()
rates.round(3)
