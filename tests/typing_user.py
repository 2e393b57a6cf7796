"""A page of user code: a strict type checker finds nothing wrong with it (see test_typing.py)."""

from typing import assert_type

import pandas as pd

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    MatchPipeline,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    evaluate,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events
from skmatch.metrics import ndcg_at_k
from skmatch.persistence import load, save
from skmatch.preprocessing import Events
from skmatch.retrieval import BaseRetriever


def train(events: pd.DataFrame, epochs: int) -> MatchPipeline:
    encoder = MatchEncoder(item_features=["category", "price"])
    sampler = SequenceSampler(max_length=20, negatives="popularity")
    retriever = DSSMRetriever(embedding_dim=16, dims=(32, 16), max_epochs=epochs, random_state=0)
    return make_match_pipeline(encoder, sampler, retriever).fit(events)


def ten_best(retriever: BaseRetriever, users: list[int]) -> dict[int, list[int]]:
    found = retriever.recommend(users, k=10, exclude_seen=True)
    lists: dict[int, list[int]] = found.groupby("user_id")["item_id"].agg(list).to_dict()
    return lists


def types(events: pd.DataFrame) -> None:
    assert_type(DSSMRetriever().fit(events), DSSMRetriever)
    assert_type(FusionRetriever([("all", PopularityRetriever())]).fit(events), FusionRetriever)
    assert_type(ItemToItemRetriever().fit(events).partial_fit(events), ItemToItemRetriever)
    assert_type(YoutubeDNNRetriever(pooling="max", index="int8").fit(events), YoutubeDNNRetriever)
    assert_type(MatchEncoder().fit(events), MatchEncoder)
    assert_type(MatchEncoder().fit_transform(events), Events)
    assert_type(make_match_pipeline(MatchEncoder()).fit(events), MatchPipeline)


def main(path: str) -> float:
    events = make_events(n_users=50, n_items=40, n_events=1000, random_state=0)
    train_rows, test_rows = next(LeaveLastOut().split(events))
    pipe = train(events.iloc[train_rows], epochs=2)
    table: pd.DataFrame = evaluate(pipe, events.iloc[test_rows], ["ndcg", "recall"], k=[10, 20])
    scorer = make_topk_scorer("ndcg", k=10)
    pipe.observe(events.iloc[test_rows]).recommend(k=3)
    save(pipe, path)
    load(path).recommend([1, 2])
    popularity = PopularityRetriever(k=5).fit(events).partial_fit(events[:10])
    ten_best(popularity, [1, 2, 3])
    score = float(ndcg_at_k([[1], [2]], [[1, 3], [3, 2]], k=2))
    return score + popularity.score(events) + len(table) + float(scorer(pipe, events) is not None)
