"""User code with mistakes; a strict type checker finds each marked line (see test_typing.py)."""

import pandas as pd

from skmatch import (  # mistake: attr-defined
    DSSMRetreiver,
    DSSMRetriever,
    PopularityRetriever,
    make_match_pipeline,
)


def train(events: pd.DataFrame) -> str:
    retriever = DSSMRetriever(temperature="low")  # mistake: arg-type
    pipe = make_match_pipeline(retriever).fit(events)
    pipe.recommend(top_k=10)  # mistake: call-arg
    PopularityRetriever().fit(events).predict(events, k="ten")  # mistake: arg-type
    DSSMRetriever(64, (64,), "gelu")  # mistake: call-arg
    pipe.recommend(["ann"], candidates=3)  # mistake: arg-type
    pipe.observe()  # mistake: call-arg
    return PopularityRetriever().fit(events).score(events)  # mistake: return-value


print(DSSMRetreiver)
