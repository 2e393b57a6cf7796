"""Two processes that train together: the same weights, one set of callbacks, and death."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from skmatch._nn import distributed

needs_callbacks = pytest.mark.skipif(
    find_spec("sklearn.callback") is None, reason="scikit-learn is older than 1.9"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run all fits in one process that imports torch once and forks."""
    folder = tmp_path_factory.mktemp("together")
    script = Path(__file__).with_name("together.py")
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return joblib.load(folder / "results")


def assert_same(ours, theirs):
    assert ours["losses"] == theirs["losses"]
    assert ours["weights"].keys() == theirs["weights"].keys()
    for name, weight in ours["weights"].items():
        np.testing.assert_array_equal(weight, theirs["weights"][name], err_msg=name)


FITS = [
    "dssm", "youtube_dnn", "batch_norm", "any_seed", "early_stopping", "sample_weight", "few_rows",
    "partial_fit", "async",
]  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_all_processes_end_with_the_same_weights(results, name):
    first, second = results["fits"]
    assert_same(first[name], second[name])
    assert first[name]["losses"][-1] < first[name]["losses"][0] or name == "few_rows"


def test_asynchronous_devices_end_with_the_same_weights(results):
    fits, _ = results["fits"]
    is_async, not_async = fits["async"], fits["not_async"]
    assert is_async["losses"] == pytest.approx(not_async["losses"], rel=1e-4)
    for name, weight in is_async["weights"].items():
        np.testing.assert_allclose(weight, not_async["weights"][name], rtol=1e-3, atol=1e-4)


def test_quality_is_that_of_one_process(results):
    alone, (first, second) = results["quality"]
    assert first == second
    assert first == pytest.approx(alone, rel=0.25)


@needs_callbacks
def test_callbacks_of_the_first_process_alone_are_called_and_decide(results):
    (seen, n_epochs, kept), (seen_by_second, n_of_second, kept_by_second) = results["stopped"]
    assert (seen, seen_by_second) == (2, 0)
    assert n_epochs == n_of_second == 2
    assert kept
    assert kept_by_second


def test_other_events_in_another_process_are_refused(results):
    first, second = results["different"]
    assert first == second
    assert len(first) == 2
    assert all(re.search("Process 1 of the group.*same events", e) for e in first)


@needs_callbacks
@pytest.mark.parametrize("dead", [0, 1])
def test_where_one_dies_the_others_end_with_an_error_and_all_continue(results, dead):
    death = results["death"]
    message, seconds, is_fitted = death[f"died_{dead}"][1 - dead]
    assert death[f"died_{dead}"][dead] is None
    assert re.match(
        "Another process .* failed or stopped.*with a Checkpoint they continue", message, re.DOTALL
    )
    assert seconds < 60
    assert not is_fitted
    assert death[f"files_{dead}"] == ["fit"]  # nothing half-written
    assert death[f"saved_{dead}"] == 2
    for whole, going_on in zip(death["whole"], death[f"going_on_{dead}"], strict=True):
        assert_same(going_on, whole)


def test_one_process_alone_changes_nothing():
    codes, rows = torch.tensor([3, 5]), torch.ones(2, 4)
    assert (distributed.rank(), distributed.size()) == (0, 1)
    assert distributed.sum_rows(codes, rows) == (codes, rows)
    assert distributed.all_reduce(rows) is rows
    assert torch.equal(rows, torch.ones(2, 4))
    assert distributed.broadcast("value") == "value"
