"""Tables: what a step reads, learns and costs."""

import numpy as np
import pytest
import torch

from skmatch._nn.tables import RowAdam, Table


def make_table(size=10, dim=3):
    table = Table(size, dim)
    table.initialise(torch.Generator().manual_seed(0))
    return table.train()


def adam_by_hand(row, steps, weight_decay):
    """Update one row in numpy: AdamW with the mean square of the row as second moment."""
    first, second = np.zeros_like(row), 0.0
    for t, lr, gradient in steps:
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * np.mean(gradient**2)
        scale = np.sqrt(second / (1 - 0.999**t)) + 1e-8
        row = row * (1 - lr * weight_decay) - lr * first / (1 - 0.9**t) / scale
    return row


def test_rows_are_those_of_the_codes():
    table = make_table()
    codes = torch.tensor([[3, 5], [3, 0]])
    assert torch.equal(table(codes), table.weight[codes])
    assert torch.equal(table.eval()(codes), table.weight[codes])


def test_a_bag_is_the_mean_of_its_rows():
    table = make_table()
    bags = table(torch.tensor([2, 4, 4]), torch.tensor([0, 2, 2, 3]))
    expected = [(table.weight[2] + table.weight[4]) / 2, torch.zeros(3), table.weight[4]]
    torch.testing.assert_close(bags, torch.stack(expected))


def test_updates_are_those_computed_by_hand():
    table = make_table()
    optimizer = RowAdam([table], weight_decay=0.1)
    before = table.weight.numpy().copy()
    # Row 4 is touched twice in the first step, by two calls; row 7 in both steps.
    (table(torch.tensor([4, 7, 7])).sum() + 2 * table(torch.tensor([4])).sum()).backward()
    optimizer.step(0.1)
    (3 * table(torch.tensor([7]))).sum().backward()
    optimizer.step(0.2)
    one = np.ones(3)
    row4 = adam_by_hand(before[4], [(1, 0.1, 3 * one)], 0.1)
    row7 = adam_by_hand(before[7], [(1, 0.1, 2 * one), (2, 0.2, 3 * one)], 0.1)
    np.testing.assert_allclose(table.weight[[4, 7]], [row4, row7], rtol=1e-5)
    untouched = [0, 1, 2, 3, 5, 6, 8, 9]
    np.testing.assert_array_equal(table.weight[untouched], before[untouched])


def test_padding_never_learns():
    table = make_table()
    table(torch.tensor([0, 1])).sum().backward()
    RowAdam([table], weight_decay=0.1).step(0.1)
    assert (table.weight[0] == 0).all()
    assert (table.weight[1] != 0).all()


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_step_costs_what_it_touches(size):
    table = make_table(size)
    table(torch.tensor([[2, 3, 2], [9, 3, 2]])).sum().backward()
    assert table.weight.grad is None
    assert [len(codes) for codes, _ in table.touched] == [3]
    assert all(rows.grad.shape == (3, 3) for _, rows in table.touched)
    RowAdam([table], weight_decay=0.0).step(0.1)
    assert table.touched == []


def test_serving_keeps_nothing():
    table = make_table()
    with torch.no_grad():
        table(torch.tensor([2]))
    table.eval()(torch.tensor([2]))
    assert table.touched == []
