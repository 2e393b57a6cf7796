"""Tables: what a step reads and what it costs."""

import pytest
import torch
from skmatch._nn.tables import Table

from skmatch._nn import tables


def make_table(size=2000, dim=3):
    table = Table(size, dim)
    table.initialise(torch.Generator().manual_seed(0))
    return table.train()


@pytest.mark.parametrize("size", [10, 2000])
def test_rows_are_those_of_the_codes(size):
    table = make_table(size)
    codes = torch.tensor([[3, 5], [3, 0]])
    assert torch.equal(table(codes), table.weight[codes])
    assert torch.equal(table.eval()(codes), table.weight[codes])


@pytest.mark.parametrize("size", [10, 2000])
def test_a_bag_is_the_mean_of_its_rows(size):
    table = make_table(size)
    bags = table(torch.tensor([2, 4, 4]), torch.tensor([0, 2, 2, 3]))
    expected = [(table.weight[2] + table.weight[4]) / 2, torch.zeros(3), table.weight[4]]
    torch.testing.assert_close(bags, torch.stack(expected))


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
    codes, gradient = table.take_gradient()
    assert codes.tolist() == [4, 7, 9]
    assert gradient[:, 0].tolist() == [3, 2, 2]
    assert table.touched == []


def test_small_tables_learn_as_any_weight_does(monkeypatch):
    codes = torch.tensor([2, 3, 2, 4])
    small = make_table(10)
    small(codes).sum().backward()
    monkeypatch.setattr(tables, "SMALL", 0)
    large = make_table(10)
    large(codes).sum().backward()
    touched, gradient = large.take_gradient()
    assert torch.equal(small.weight.grad[touched], gradient)


def test_serving_keeps_nothing():
    table = make_table()
    with torch.no_grad():
        table(torch.tensor([2]))
    table.eval()(torch.tensor([2]))
    assert table.touched == []
