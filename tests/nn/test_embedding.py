"""Embedding tables: what a step reads and costs, rows of new codes, and distinct codes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skmatch._nn import embedding
from skmatch._nn.embedding import (
    INITIAL_STD,
    EmbeddingTable,
    distinct,
    gather,
    pad_repeats,
    sum_by_code,
)
from skmatch._nn.optimizer import AdamW


def make_table(size=2000, dim=3, **options):
    table = EmbeddingTable(size, dim, **options)
    table.initialise(torch.Generator().manual_seed(0))
    return table.train()


@pytest.mark.parametrize("size", [10, 2000])
def test_rows_are_those_of_the_codes(size):
    table = make_table(size)
    codes = torch.tensor([[3, 5], [3, 0]])
    assert torch.equal(table(codes), table.weight[codes])
    assert torch.equal(table.eval()(codes), table.weight[codes])


@pytest.mark.parametrize("size", [10, 2000])
def test_a_range_of_codes_becomes_the_mean_of_its_rows(size):
    table = make_table(size)
    means = table(torch.tensor([2, 4, 4]), torch.tensor([0, 2, 2, 3]))
    expected = [(table.weight[2] + table.weight[4]) / 2, torch.zeros(3), table.weight[4]]
    torch.testing.assert_close(means, torch.stack(expected))


@pytest.mark.parametrize("size", [2000, 100_000])
def test_a_step_costs_what_it_touches(size):
    table = make_table(size)
    table(torch.tensor([[2, 3, 2], [9, 3, 2]])).sum().backward()
    assert table.weight.grad is None
    assert [len(codes) for codes, _ in table.touched] == [3]
    assert all(rows.grad.shape == (3, 3) for _, rows in table.touched)


def test_gradients_of_all_calls_of_a_step_add_up():
    table = make_table()
    (table(torch.tensor([4, 7, 7])).sum() + 2 * table(torch.tensor([9, 4])).sum()).backward()
    codes, gradient = table.pop_gradient()
    assert codes.tolist() == [4, 7, 9]
    assert gradient[:, 0].tolist() == [3, 2, 2]
    assert table.touched == []


def test_small_tables_learn_as_any_weight_does(monkeypatch):
    codes = torch.tensor([2, 3, 2, 4])
    small = make_table(10)
    small(codes).sum().backward()
    monkeypatch.setattr(embedding, "SMALL", 0)
    large = make_table(10)
    large(codes).sum().backward()
    touched, gradient = large.pop_gradient()
    assert torch.equal(small.weight.grad[touched], gradient)


def test_serving_keeps_nothing():
    table = make_table()
    with torch.no_grad():
        table(torch.tensor([2]))
    table.eval()(torch.tensor([2]))
    assert table.touched == []


@pytest.mark.parametrize("size", [10, 2000])
def test_serving_reads_codes_beyond_the_table_as_unknown(size):
    table = make_table(size).eval()
    with torch.no_grad():
        table.weight[1] = 7.0
    assert table(torch.tensor([2, size, size + 5]))[1:].tolist() == [[7.0] * 3] * 2


# Rows of codes that were added


def extended(is_sole_input, seed=0):
    table = make_table(2004, dim=50, is_sole_input=is_sole_input)
    saved = np.random.default_rng(1).normal(size=(2000, 50)).astype(np.float32)
    return saved, table.extend(saved, np.random.default_rng(seed))


def test_added_rows_are_those_of_unknown_where_something_else_tells_codes_apart():
    saved, rows = extended(is_sole_input=False)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:2000], saved)
    np.testing.assert_array_equal(rows[2000:], saved[[1] * 4])


def test_added_rows_start_near_unknown_and_apart_where_nothing_else_tells_codes_apart():
    saved, rows = extended(is_sole_input=True)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:2000], saved)
    noise = rows[2000:] - saved[1]
    assert noise.std() == pytest.approx(INITIAL_STD, rel=0.2)
    assert len(np.unique(noise, axis=0)) == 4
    np.testing.assert_array_equal(extended(is_sole_input=True)[1], rows)
    assert not np.array_equal(extended(is_sole_input=True, seed=1)[1], rows)


def test_untrained_codes_are_found_and_reset():
    table = make_table(10)
    before = table.weight.detach().clone()
    assert table.untrained().tolist() == []
    table.reset_to_unknown(np.array([4, 7]))
    assert table.untrained().tolist() == [4, 7]
    changed = (table.weight != before).any(1)
    assert changed.nonzero().flatten().tolist() == [4, 7]


# Distinct codes in both of their forms

SHAPES = [(12,), (3, 4), (2, 3, 2), (0,), (1,)]
codes_of_any_shape = st.sampled_from(SHAPES).flatmap(
    lambda shape: st.lists(
        st.integers(0, 6), min_size=int(torch.Size(shape).numel()), max_size=12
    ).map(lambda codes: torch.tensor(codes[: torch.Size(shape).numel()]).long().view(shape))
)
every_dtype = pytest.mark.parametrize("dtype", [torch.int32, torch.int64])


@pytest.fixture
def _async_device(monkeypatch):
    """Let the CPU pass for an asynchronous device."""
    monkeypatch.setattr(embedding, "is_async", lambda device: True)


def both_forms(function):
    """Return what a function returns on a CPU and on an asynchronous device."""
    with pytest.MonkeyPatch.context() as patch:
        results = [function()]
        patch.setattr(embedding, "is_async", lambda device: True)
        return *results, function()


@every_dtype
@given(codes=codes_of_any_shape)
def test_each_code_is_at_its_index_in_either_form(dtype, codes):
    codes = codes.to(dtype)
    (values, index), (all_values, all_index) = both_forms(lambda: distinct(codes))
    for of, at in ((values, index), (all_values, all_index)):
        assert of.dtype == codes.dtype
        assert at.shape == codes.shape
        assert torch.equal(of[at], codes)
    assert len(all_values) == codes.numel()
    assert torch.equal(all_values[all_index.unique()], values)


@given(codes=codes_of_any_shape)
def test_padded_repeats_leave_each_code_where_an_index_refers_to_it(codes):
    def with_index():
        values, index = distinct(codes)
        return pad_repeats(values), index

    (values, _), (kept, index) = both_forms(with_index)
    assert torch.equal(kept[kept > 0], values[values > 0])
    is_unused = torch.ones(len(kept), dtype=torch.bool)
    is_unused[index] = False
    assert (kept[is_unused] == 0).all()


def test_on_a_cpu_there_are_no_repeats_to_look_for():
    codes = torch.tensor([2, 3, 3])
    assert pad_repeats(codes) is codes


@pytest.mark.usefixtures("_async_device")
def test_by_hand():
    values, index = distinct(torch.tensor([[7, 4], [7, 2]]))
    assert values.tolist() == [2, 4, 7, 7]
    assert index.tolist() == [[2, 1], [2, 0]]
    assert pad_repeats(values).tolist() == [2, 4, 7, 0]


@pytest.mark.usefixtures("_async_device")
def test_sums_of_a_code_stand_at_its_first_index():
    parts = [(torch.tensor([2, 5, 5]), torch.tensor([[1.0], [2.0], [0.0]]))] * 2
    codes, total = sum_by_code(parts)
    assert codes.tolist() == [2, 2, 5, 5, 5, 5]
    assert total.flatten().tolist() == [2, 0, 4, 0, 0, 0]


def test_rows_learn_alike_in_either_form():
    def train():
        table = EmbeddingTable(2000, 3)
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


@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 2, 2)])
@pytest.mark.parametrize("is_async", [False, True])
def test_gather_and_its_gradient_are_those_of_indexing(shape, is_async, monkeypatch):
    monkeypatch.setattr(embedding, "is_async", lambda device: is_async)
    codes = torch.tensor([3, 1, 3, 0]).view(shape)
    results = []
    for function in (gather, lambda table, codes: table[codes]):
        table = torch.arange(12.0).view(4, 3).requires_grad_()
        rows = function(table, codes)
        (rows * torch.arange(rows.numel()).view(rows.shape)).sum().backward()
        results.append((rows, table.grad))
    torch.testing.assert_close(*results)
