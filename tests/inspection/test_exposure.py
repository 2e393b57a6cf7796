"""`ExposureDisplay`, `TradeOffDisplay`, projections of the map, and `model_card`."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from skmatch import (
    DSSMRetriever,
    ExposureDisplay,
    ItemMapDisplay,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    TradeOffDisplay,
    evaluate,
    make_match_pipeline,
    model_card,
)
from skmatch.datasets import make_events

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

EVENTS = make_events(n_users=60, n_items=40, n_events=900, random_state=0)
TRAIN, TEST = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))


@pytest.fixture(scope="module")
def models():
    steps = MatchEncoder(item_features=["category"]), SequenceSampler()
    pipe = make_match_pipeline(*steps, ItemToItemRetriever()).fit(TRAIN)
    return {"items": pipe, "popular": PopularityRetriever().fit(TRAIN)}


@pytest.fixture(autouse=True)
def _close():
    yield
    matplotlib.pyplot.close("all")


def test_the_curves_are_cumulated_shares_by_popularity(models):
    display = ExposureDisplay.from_estimator(models, k=4)
    assert [line.get_label() for line in display.lines_] == ["items", "popular"]
    popularity = TRAIN["item_id"].value_counts()
    lists = models["popular"].recommend(k=4)["item_id"]
    line, top = display.lines_[1], popularity.index[: round(len(popularity) / 2)]
    half = line.get_ydata()[round(len(popularity) / 2)]
    assert half == pytest.approx(lists.isin(top).mean())
    np.testing.assert_allclose(
        display.events_line_.get_ydata()[1:], popularity.cumsum() / popularity.sum()
    )
    assert (line.get_ydata() >= display.events_line_.get_ydata() - 1e-9).all()


def test_points_are_what_evaluate_computes(models):
    display = TradeOffDisplay.from_estimator(models, TEST, metrics=("novelty", "recall"), k=7)
    expected = evaluate(models["items"], TEST, ["novelty", "recall"], 7)["value"]
    np.testing.assert_allclose(display.scatters_[0].get_offsets()[0], expected)
    assert display.ax_.get_xlabel() == "novelty@7"
    with pytest.raises(ValueError, match="name two different metrics"):
        TradeOffDisplay.from_estimator(models, TEST, metrics=("ndcg", "ndcg"))


def test_a_card_holds_the_counts_the_parameters_and_the_metrics(models):
    card = model_card(models["items"], TEST)
    ndcg = evaluate(models["items"], TEST, "ndcg")["value"][0]
    assert card.startswith("# ItemToItemRetriever\n")
    assert f"{len(TRAIN):,} events" in card
    assert f"| ndcg | {ndcg:.4g} |" in card
    assert "| ItemToItemRetriever | half_life | 1.5 |" in card
    assert "| category | item feature | categorical |" in card
    assert "| light |" in card
    assert card == model_card(models["items"], TEST)


def test_the_map_takes_a_projection():
    retriever = DSSMRetriever(embedding_dim=8, dims=(8,), max_epochs=1, random_state=0).fit(TRAIN)
    order = np.argsort(-retriever.popularity_, kind="stable")
    projection = TSNE(perplexity=5, max_iter=250, init="random", random_state=0)
    display = ItemMapDisplay.from_estimator(retriever, projection=projection)
    expected = projection.fit_transform(retriever.item_vectors_[order])
    np.testing.assert_allclose(display.coordinates, expected)
    assert display.ax_.get_xlabel() == "Component 1"
    with pytest.raises(ValueError, match=r"a map needs two dimensions"):
        ItemMapDisplay.from_estimator(retriever, projection=PCA(3))
