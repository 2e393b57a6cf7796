"""Vector stores return what `recommend` returns, with the same filters."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch.datasets import make_events

PATH = Path(__file__).parents[2] / "examples" / "vector_stores.py"
spec = spec_from_file_location("vector_stores", PATH)
example = module_from_spec(spec)
spec.loader.exec_module(example)

EVENTS = make_events(n_users=40, n_items=120, n_events=800, random_state=0)
WORDS = {number: f"item {number}" for number in EVENTS["item_id"]}
pytestmark = pytest.mark.filterwarnings("ignore")  # of the stores


@pytest.fixture(scope="module", params=[(DSSMRetriever, False), (YoutubeDNNRetriever, True)])
def pipe(request):
    retriever, is_text = request.param
    events = EVENTS.assign(item_id=EVENTS["item_id"].map(WORDS)) if is_text else EVENTS
    retriever = retriever(embedding_dim=8, dims=(8,), max_epochs=2, random_state=0)
    return make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever).fit(events)


@pytest.mark.parametrize("name", example.STORES)
def test_a_store_returns_the_same_top_10(pipe, name):
    pytest.importorskip(name)
    retriever, users = pipe[-1], EVENTS["user_id"].unique()[:6]
    search = example.STORES[name](retriever.item_vectors_, retriever.item_ids_)
    queries = pipe.transform(pd.DataFrame({"user_id": users}))
    for candidates in (None, retriever.item_ids_[::2]):
        table = pipe.recommend(users, k=10, exclude_seen=True, candidates=candidates)
        found = search(queries, 10, example.allowed_items(pipe, users, candidates))
        np.testing.assert_array_equal(found, table["item_id"].to_numpy().reshape(6, 10))
