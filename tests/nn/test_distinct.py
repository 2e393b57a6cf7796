"""Distinct codes in both of their forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skmatch._nn.distinct import distinct, without_repeats
from skmatch._nn.tables import Table, sum_by_code
from torch import nn

from skmatch._nn import distinct as module
from skmatch._nn.optimizer import AdamW

SHAPES = [(12,), (3, 4), (2, 3, 2), (0,), (1,)]
codes_of_any_shape = st.sampled_from(SHAPES).flatmap(
    lambda shape: st.lists(
        st.integers(0, 6), min_size=int(torch.Size(shape).numel()), max_size=12
    ).map(lambda codes: torch.tensor(codes[: torch.Size(shape).numel()]).long().view(shape))
)
every_dtype = pytest.mark.parametrize("dtype", [torch.int32, torch.int64])


@pytest.fixture
def waited_for(monkeypatch):
    """Let the CPU pass for a device that is waited for."""
    monkeypatch.setattr(module, "is_waited_for", lambda device: True)


def both_forms(function):
    """Give what a function gives on a CPU and what it gives on a device that is waited for."""
    with pytest.MonkeyPatch.context() as patch:
        results = [function()]
        patch.setattr(module, "is_waited_for", lambda device: True)
        return *results, function()


@every_dtype
@given(codes=codes_of_any_shape)
def test_each_code_is_at_its_place_in_either_form(dtype, codes):
    codes = codes.to(dtype)
    (values, place), (all_values, all_place) = both_forms(lambda: distinct(codes))
    for of, at in ((values, place), (all_values, all_place)):
        assert of.dtype == codes.dtype
        assert at.shape == codes.shape
        assert torch.equal(of[at], codes)
    assert len(all_values) == codes.numel()
    assert torch.equal(all_values[all_place.unique()], values)


@given(codes=codes_of_any_shape)
def test_without_repeats_each_code_is_left_where_places_point(codes):
    def with_place():
        values, place = distinct(codes)
        return without_repeats(values), place

    (values, _), (kept, place) = both_forms(with_place)
    assert torch.equal(kept[kept > 0], values[values > 0])
    is_nowhere = torch.ones(len(kept), dtype=torch.bool)
    is_nowhere[place] = False
    assert (kept[is_nowhere] == 0).all()


def test_on_a_cpu_there_are_no_repeats_to_look_for():
    codes = torch.tensor([2, 3, 3])
    assert without_repeats(codes) is codes


def test_by_hand(waited_for):
    values, place = distinct(torch.tensor([[7, 4], [7, 2]]))
    assert values.tolist() == [2, 4, 7, 7]
    assert place.tolist() == [[2, 1], [2, 0]]
    assert without_repeats(values).tolist() == [2, 4, 7, 0]


def test_sums_of_a_code_are_where_it_stands_first(waited_for):
    parts = [(torch.tensor([2, 5, 5]), torch.tensor([[1.0], [2.0], [0.0]]))] * 2
    codes, total = sum_by_code(parts)
    assert codes.tolist() == [2, 2, 5, 5, 5, 5]
    assert total.flatten().tolist() == [2, 0, 4, 0, 0, 0]


def test_rows_learn_alike_in_either_form():
    def train():
        table = Table(2000, 3)
        table.initialise(torch.Generator().manual_seed(0))
        optimizer = AdamW(nn.ModuleList([table.train(), nn.Linear(1, 1)]), weight_decay=0.1)
        factor = torch.linspace(-1, 2, 3)
        for step in range(3):
            tokens, bag = torch.tensor([[4, 7, 0], [7, 7, 1]]), torch.tensor([9, 4, 9 + step])
            loss = (table(tokens) * factor).square().sum() + (table(bag) * factor).sum()
            loss.backward()
            optimizer.step(0.1)
        return table.weight

    weight, same = both_forms(train)
    torch.testing.assert_close(weight, same)
    assert (same[0] == 0).all()
