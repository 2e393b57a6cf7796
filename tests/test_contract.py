"""The built-in retrievers keep the contract, and the steps before them scikit-learn's checks."""

import subprocess
import sys
from inspect import signature

import numpy as np
import pytest
import torch
from contract import (
    EVENTS,
    GrowthContract,
    RetrieverContract,
    SimilarItemsContract,
    VectorsContract,
)
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmatch import (
    DSSMRetriever,
    FusionRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
)

SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 256, "random_state": 0}


class TestPopularity(RetrieverContract, VectorsContract, GrowthContract):
    retriever = PopularityRetriever()


class TestDSSM(RetrieverContract, VectorsContract, GrowthContract):
    retriever = DSSMRetriever(**SMALL)


class TestYoutubeDNN(RetrieverContract, VectorsContract, GrowthContract):
    retriever = YoutubeDNNRetriever(**SMALL)


class TestItemToItem(RetrieverContract, SimilarItemsContract, GrowthContract):
    retriever = ItemToItemRetriever()


class TestFusion(RetrieverContract, SimilarItemsContract, GrowthContract):
    retriever = FusionRetriever(
        [("dssm", DSSMRetriever(**SMALL)), ("items", ItemToItemRetriever())], weights=[1, 2]
    )
    further_columns = ("retrievers",)
    test_filters_keep_the_order = None  # members rank only what the filters leave


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_a_fit_touches_no_global_state(cls):
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    clone(cls(**SMALL)).fit(EVENTS).recommend(k=2)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == n_threads


def expected_failed_checks(estimator):
    failed = {
        "check_estimators_pickle": "puts missing values into the time, which has no order then; "
        "features may miss values, times and ids may not",
    }
    if isinstance(estimator, SequenceSampler):
        why = "fit_transform and transform differ by design, as in TargetEncoder"
        failed |= {"check_transformer_general": why, "check_transformer_data_not_an_array": why}
    return failed


# scikit-learn has `xfail_strict` since 1.8.
HAS_STRICT = "xfail_strict" in signature(parametrize_with_checks).parameters
STRICT = {"xfail_strict": True} if HAS_STRICT else {}


@parametrize_with_checks(
    [MatchEncoder(), MatchEncoder(user=0, item=1, time=2), SequenceSampler()],
    expected_failed_checks=expected_failed_checks,
    **STRICT,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_importing_skmatch_loads_nothing_else_and_popularity_needs_no_torch():
    code = (
        "import sys, importlib, typing; before = set(sys.modules); import skmatch;"
        "assert set(sys.modules) - before == {'skmatch', 'skmatch._version'};"
        "import skmatch.retrieval; skmatch.PopularityRetriever;"
        "skmatch.retrieval.BaseRetriever, skmatch.retrieval.GrowthMixin;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
