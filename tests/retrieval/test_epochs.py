"""`max_epochs="auto"` and the question that validation asks."""

import numpy as np
import pytest

from skmatch import DSSMRetriever, PopularityRetriever, SequenceSampler, TemporalSplit
from skmatch._nn.training import RESTARTS, warm_restarts
from skmatch.datasets import make_events

SMALL = {"embedding_dim": 16, "dims": (16,), "random_state": 0, "device": "cpu"}
NOTHING_TO_LEARN = make_events(600, 300, 12_000, n_clusters=1, random_state=0)
SEQUENCES = make_events(600, 300, 12_000, n_clusters=30, visit_size=4, random_state=0)


def test_learning_rate_restarts_where_a_cycle_ends():
    n_steps = 800  # 100 per epoch
    rates = np.array([warm_restarts(step / n_steps) for step in range(n_steps)])
    assert RESTARTS == (1, 2, 4, 8)
    starts = np.flatnonzero(np.isclose(rates, 0.1))
    assert starts.tolist() == [0, 100, 200, 400]
    assert (rates[[99, 199, 399, 799]] < 0.01).all()
    assert rates.max() <= 1


@pytest.fixture(scope="module")
def fitted():
    train, test = (
        NOTHING_TO_LEARN.iloc[rows] for rows in next(TemporalSplit().split(NOTHING_TO_LEARN))
    )
    return DSSMRetriever(**SMALL).fit(train), PopularityRetriever().fit(train), test


def test_training_stops_after_a_cycle_without_improvement(fitted):
    retriever, _, _ = fitted
    curve = retriever.validation_curve_
    assert retriever.n_iter_ == len(curve) == len(retriever.loss_curve_)
    ends = [curve[end - 1] for end in RESTARTS if end <= retriever.n_iter_]
    assert retriever.n_iter_ in RESTARTS[1:-1]
    assert ends[-1] <= 0.99 * max(ends)
    assert all(after > 0.99 * max(ends[: i + 1]) for i, after in enumerate(ends[1:-1]))


def test_where_there_is_nothing_to_learn_recommendations_are_close_to_popularity(fitted):
    retriever, popularity, test = fitted
    assert retriever.score(test) > 0.9 * popularity.score(test)


def test_where_there_is_more_to_learn_training_is_longer(fitted):
    assert DSSMRetriever(**SMALL).fit(SEQUENCES).n_iter_ > fitted[0].n_iter_


def score_of(validation):
    samples = SequenceSampler().fit_transform(SEQUENCES)
    options = {"early_stopping": True, "validation_fraction": 1.0, "max_epochs": 1}
    retriever = DSSMRetriever(**SMALL, **options, validation=validation, k=100).fit(samples)
    last = SEQUENCES.drop_duplicates(["user_id", "item_id"])
    last = last.sort_values("timestamp").groupby("user_id").tail(1)
    return retriever.validation_curve_[0], retriever, samples[SEQUENCES.index.isin(last.index)]


def test_validation_asks_what_it_is_told():
    of_next, retriever, last = score_of("next")
    of_visit, of_both = score_of("visit")[0], score_of("both")[0]
    assert of_next == retriever.score(last)
    assert of_visit != of_next
    n_visit = (last.visit > last.seen).sum()
    assert 0 < n_visit < len(last)
    total = len(last) * of_next + n_visit * of_visit
    assert of_both == pytest.approx(total / (len(last) + n_visit))


def test_without_visits_there_is_one_question():
    events = make_events(100, 50, 2000, random_state=0)
    options = {"early_stopping": True, "max_epochs": 1}
    curves = [
        DSSMRetriever(**SMALL, **options, validation=validation).fit(events).validation_curve_
        for validation in ("next", "visit", "both")
    ]
    assert curves[0] == curves[1] == curves[2]


def test_a_single_user_trains_without_validation():
    events = make_events(1, 10, 30, n_clusters=1, random_state=0)
    retriever = DSSMRetriever(**SMALL).fit(events)
    assert retriever.validation_curve_ is None
    assert retriever.n_iter_ == RESTARTS[-1]
