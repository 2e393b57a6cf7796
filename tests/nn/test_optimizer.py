"""The optimizer against torch's own and against rows computed by hand."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from skmatch._nn.embedding import EmbeddingTable
from skmatch._nn.layers import BatchNorm
from skmatch._nn.optimizer import AdamW
from skmatch._nn.pooling import AttentionPooling, DecayPooling


def test_weights_change_as_with_the_optimizer_of_torch():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    theirs = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    theirs.load_state_dict(ours.state_dict())
    optimizer = AdamW(ours, weight_decay=0.1)
    matrices, biases = ([one for one in theirs.parameters() if one.dim() == n] for n in (2, 1))
    groups = [{"params": matrices}, {"params": biases, "weight_decay": 0.0}]
    oracle = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.1)
    for lr in (0.1, 0.05, 0.2):
        x = torch.randn(5, 3)
        for network in (ours, theirs):
            network(x).square().sum().backward()
        optimizer.step(lr)
        for group in oracle.param_groups:
            group["lr"] = lr
        oracle.step()
        oracle.zero_grad()
    for weight, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def row_by_hand(row, steps, weight_decay):
    """Update one row in numpy: AdamW with the mean square of the row as second moment."""
    first, second = np.zeros_like(row), 0.0
    for t, lr, gradient in steps:
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * np.mean(gradient**2)
        scale = np.sqrt(second / (1 - 0.999**t)) + 1e-8
        row = row * (1 - lr * weight_decay) - lr * first / (1 - 0.9**t) / scale
    return row


def make_network(size=2000):
    table = EmbeddingTable(size, 3)
    table.initialise(torch.Generator().manual_seed(0))
    return table, nn.ModuleList([table.train(), nn.Linear(3, 1)])


def test_rows_change_as_computed_by_hand_and_only_where_touched():
    table, network = make_network()
    optimizer = AdamW(network, weight_decay=0.1)
    before = table.weight.numpy().copy()
    # Row 4 is touched by two calls of the first step; row 7 in both steps.
    (table(torch.tensor([4, 7, 7])).sum() + 2 * table(torch.tensor([4])).sum()).backward()
    optimizer.step(0.1)
    (3 * table(torch.tensor([7]))).sum().backward()
    optimizer.step(0.2)
    one = np.ones(3)
    row4 = row_by_hand(before[4], [(1, 0.1, 3 * one)], 0.1)
    row7 = row_by_hand(before[7], [(1, 0.1, 2 * one), (2, 0.2, 3 * one)], 0.1)
    np.testing.assert_allclose(table.weight[[4, 7]], [row4, row7], rtol=1e-5)
    untouched = np.setdiff1d(np.arange(2000), [4, 7])
    np.testing.assert_array_equal(table.weight[untouched], before[untouched])


def test_tables_of_one_width_change_as_each_does_alone():
    codes = [[4, 7], [7, 1, 7]]
    apart = [make_network()[1] for _ in codes]
    together = nn.ModuleList([make_network()[0] for _ in codes] + [nn.Linear(1, 1)])
    optimizers = [AdamW(network, weight_decay=0.1) for network in (*apart, together)]
    for lr in (0.1, 0.2):
        for tables in ([network[0] for network in apart], together[:2]):
            for factor, (table, own) in enumerate(zip(tables, codes, strict=True), start=1):
                (factor * table(torch.tensor(own)).square()).sum().backward()
        for optimizer in optimizers:
            optimizer.step(lr)
    for network, table in zip(apart, together[:2], strict=True):
        torch.testing.assert_close(network[0].weight, table.weight)


@pytest.mark.parametrize("size", [10, 2000])
def test_padding_never_learns(size):
    table, network = make_network(size)
    optimizer = AdamW(network, weight_decay=0.1)
    table(torch.tensor([0, 1])).sum().backward()
    optimizer.step(0.1)
    assert (table.weight[0] == 0).all()
    assert (table.weight[1] != 0).all()


def test_no_gradient_is_kept():
    table, network = make_network()
    optimizer = AdamW(network, weight_decay=0.0)
    network[1](table(torch.tensor([5]))).sum().backward()
    optimizer.step(0.1)
    assert all(weight.grad is None for weight in network.parameters())
    assert table.touched == []


def test_matrices_and_tables_decay_and_nothing_else():
    network = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 4),
            "norm": BatchNorm(4),
            "activation": nn.PReLU(),
            "decay": DecayPooling(4, 5),
            "attention": AttentionPooling(4, 5),
            "table": EmbeddingTable(10, 3),
        }
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1.0)
    optimizer = AdamW(network, weight_decay=2.0)
    for _ in range(2):
        optimizer.step(0.25)  # no gradients: nothing but decay
    expected = {
        "linear.weight", "attention.query.weight", "attention.key.weight",
        "attention.value.weight", "table.weight",
    }  # fmt: skip
    values = dict(network.named_parameters())
    assert {name for name, value in values.items() if (value != 1).any()} == expected
    assert all((values[name][2:] == 0.25).all() for name in expected)


def test_a_fit_does_not_load_the_compiler_of_torch():
    code = (
        "import sys; from skmatch import DSSMRetriever; from skmatch.datasets import make_events;"
        "DSSMRetriever(embedding_dim=2, dims=(2,), max_epochs=1).fit(make_events(20, 20, 200));"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
