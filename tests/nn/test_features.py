"""Features as a network reads them, and the dropout of ids and values."""

from itertools import pairwise

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from skmatch._nn import features as module
from skmatch._nn.features import (
    FeatureEncoder,
    FeatureSource,
    FeatureSpec,
    IdDropout,
    RaggedTensor,
    concatenate_ranges,
)

SPECS = (
    FeatureSpec("categorical", 5),
    FeatureSpec("numeric", 0),
    FeatureSpec("multi_valued", 6),
)


def make_encoder():
    encoder = FeatureEncoder(SPECS, 8, IdDropout(0.0))
    for table in encoder.tables:
        table.initialise(torch.Generator().manual_seed(0))
    return encoder


def make_columns(n):
    """Make features of the three kinds for `n` rows; some are missing, unknown or empty."""
    numbers = torch.linspace(-2, 2, n)
    numbers[::3] = torch.nan
    n_values = torch.arange(n) % 3
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), n_values.cumsum(0)])
    values = (torch.arange(int(offsets[-1])) % 5 + 1).to(torch.int32)
    return [torch.arange(n) % 4 + 1, numbers, RaggedTensor(values, offsets, 2)]


def test_a_missing_number_differs_from_zero():
    features = make_encoder()
    columns = make_columns(2)
    columns[1] = torch.tensor([torch.nan, 0.0])
    numbers = features(columns)[1]
    assert numbers.tolist() == [[0, 1], [0, 0]]


def test_several_values_are_averaged_and_none_are_zero():
    features = make_encoder()
    columns = [torch.tensor([1, 2]), torch.zeros(2)]
    ragged = RaggedTensor(torch.tensor([3, 5], dtype=torch.int32), torch.tensor([0, 2, 2]), 2)
    pooled = features([*columns, ragged])[2]
    weight = features.tables[1].weight
    torch.testing.assert_close(pooled[0], (weight[3] + weight[5]) / 2)
    assert (pooled[1] == 0).all()


def test_padded_values_are_averaged_alike():
    features = make_encoder()
    codes, numbers, ragged = make_columns(6)
    rows = [ragged.values[a:b] for a, b in pairwise(ragged.offsets)]
    padded = pad_sequence(rows, batch_first=True)
    for pooled, expected in zip(
        features([codes, numbers, padded]), features([codes, numbers, ragged]), strict=True
    ):
        torch.testing.assert_close(pooled, expected)


def test_width_is_that_of_the_encoded_features():
    features = make_encoder()
    assert torch.cat(features(make_columns(6)), 1).shape == (6, features.width)


@pytest.mark.parametrize("by_code", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
def test_a_source_is_read_by_the_row_or_by_the_code(by_code, is_async, monkeypatch):
    monkeypatch.setattr(module, "is_async", lambda device: is_async)
    rows, codes = torch.tensor([0, 3, 3]), torch.tensor([5, 2, 1])
    index = codes if by_code else rows
    for column in make_columns(6):
        values = FeatureSource(column, by_code).gather(rows, codes)
        if isinstance(column, RaggedTensor):
            bounds = [(column.offsets[i], column.offsets[i + 1]) for i in index]
            expected = [column.values[a:b].tolist() for a, b in bounds]
            if is_async:
                assert [[code for code in row if code] for row in values.tolist()] == expected
            else:
                found = [values.values[a:b].tolist() for a, b in pairwise(values.offsets)]
                assert found == expected
        else:
            torch.testing.assert_close(values, column[index], equal_nan=True)


def test_ranges_are_concatenated():
    values, offsets = concatenate_ranges(torch.tensor([4, 9, 0]), torch.tensor([2, 0, 3]))
    assert values.tolist() == [4, 5, 0, 1, 2]
    assert offsets.tolist() == [0, 2, 2, 5]


# Dropout of ids and values


def dropped(rate, values, seed=0):
    dropout = IdDropout(rate).train()
    dropout.generator = torch.Generator().manual_seed(seed)
    return dropout(values)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_as_large_a_share_as_asked_for_becomes_unknown(rate, dtype):
    values = torch.full((200_000,), 7, dtype=dtype)
    replaced = dropped(rate, values)
    unknown = torch.isnan(replaced) if dtype == torch.float32 else replaced == 1
    assert unknown.float().mean() == pytest.approx(rate, abs=4 * (rate / 2e5) ** 0.5)
    assert (replaced[~unknown] == 7).all()
    assert replaced.dtype == dtype
    assert (values == 7).all()


def test_padding_never_becomes_unknown():
    codes = torch.tensor([0, 2, 0, 3] * 100)
    replaced = dropped(0.9, codes)
    assert torch.equal(replaced == 0, codes == 0)
    assert (replaced == 1).any()


def test_several_values_become_unknown_one_by_one():
    ragged = RaggedTensor(torch.full((1000,), 4, dtype=torch.int32), torch.arange(0, 1001, 10), 10)
    replaced = dropped(0.3, ragged)
    assert torch.equal(replaced.offsets, ragged.offsets)
    assert set(replaced.values.tolist()) == {1, 4}


def test_nothing_becomes_unknown_in_serving_or_at_rate_zero():
    codes = torch.arange(50)
    dropout = IdDropout(0.5).eval()
    assert torch.equal(dropout(codes), codes)
    assert torch.equal(dropped(0.0, codes), codes)


def test_what_becomes_unknown_follows_from_its_generator_alone():
    codes, state = torch.full((100,), 2), torch.get_rng_state()
    first = dropped(0.5, codes, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, dropped(0.5, codes, seed=1))
    assert not torch.equal(first, dropped(0.5, codes, seed=2))
