"""A retriever written outside the package: it keeps the contract of those inside."""

from numbers import Integral, Real

import numpy as np
import pandas as pd
import pytest
from contract import RetrieverContract
from scipy.sparse import csr_array
from sklearn.utils._param_validation import Interval

from skmatch import evaluate
from skmatch.neighbors import ItemIndex
from skmatch.retrieval import FIRST_KNOWN, BaseRetriever


class EASERetriever(BaseRetriever):
    """Linear autoencoder of histories in closed form (Steck, WWW 2019).

    Parameters
    ----------
    regularization : float, default=10.0
        Ridge penalty of the weights.
    k, exclude_seen
        As in every retriever.

    Attributes
    ----------
    weights_ : ndarray of shape (n_items, n_items)
        What an item in the history adds to the score of each item.
    """

    _parameter_constraints = {
        "regularization": [Interval(Real, 0, None, closed="neither")],
        "k": [Interval(Integral, 1, None, closed="left")],
        "exclude_seen": ["boolean"],
    }

    def __init__(self, regularization=10.0, *, k=10, exclude_seen=True):
        self.regularization = regularization
        self.k = k
        self.exclude_seen = exclude_seen

    def _fit_samples(self, samples, weight):
        counts = np.ones(len(samples)) if weight is None else weight
        events = csr_array((counts, (samples.user, samples.item)))[:, FIRST_KNOWN:]
        gram = (events.T @ events).toarray()
        gram[np.diag_indices_from(gram)] += self.regularization
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return {"weights_": weights.astype(np.float32)}

    def _top_k(self, samples, k, allowed):
        histories = samples.history_counts().toarray()
        return ItemIndex().fit(self.weights_.T).search(histories, k, allowed)

    def _source_of(self, samples):
        source = super()._source_of(samples)
        return np.where(source == "history", source, "popularity")  # features are not read


class TestEASE(RetrieverContract):
    retriever = EASERetriever()


def test_weights_minimise_the_ridge_regression_of_each_item_on_the_others():
    events = pd.DataFrame({"user_id": list("aabbbccd"), "item_id": list("xyxyzyzx")})
    retriever = EASERetriever(regularization=0.5).fit(events)
    matrix = pd.crosstab(events["user_id"], events["item_id"]).loc[:, retriever.item_ids_]
    matrix = matrix.to_numpy(dtype=float)
    for item in range(3):
        others = np.delete(np.arange(3), item)
        left, right = matrix[:, others], matrix[:, item]
        expected = np.linalg.solve(left.T @ left + 0.5 * np.eye(2), left.T @ right)
        assert retriever.weights_[others, item] == pytest.approx(expected, rel=1e-5)
    found = retriever.recommend(pd.DataFrame({"user_id": ["new"], "history": [["x", "y"]]}))
    assert found["item_id"].tolist() == ["z"]
    x, y, z = (list(retriever.item_ids_).index(name) for name in "xyz")
    assert found["score"][0] == pytest.approx(retriever.weights_[[x, y], z].sum(), rel=1e-5)


def test_items_bought_together_are_recommended_together():
    baskets = [f"{group}{i}" for group in "ab" for i in range(4)]
    rng = np.random.default_rng(0)
    rows = [
        (user, item)
        for user in range(40)
        for item in rng.permutation(baskets[:4] if user % 2 else baskets[4:])[:3]
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id"])
    retriever = EASERetriever(k=1).fit(events)
    last = pd.DataFrame(
        [(user, item) for user in range(40) for item in (baskets[:4] if user % 2 else baskets[4:])],
        columns=["user_id", "item_id"],
    )
    unseen = last.merge(events, how="left", indicator=True).query("_merge == 'left_only'")
    assert evaluate(retriever, unseen[["user_id", "item_id"]], "hit", k=1)["value"][0] == 1
