"""The towers: their vectors, features, dropout and first weights."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from skmatch._nn.negatives import NegativeSampler
from skmatch._nn.tables import Table
from skmatch._nn.towers import (
    MANY_EVENTS,
    BagTensor,
    Dropout,
    FeatureSpec,
    NetworkConfig,
    RandomUnknown,
    TwoTowers,
    normalize,
)
from torch.nn.utils.rnn import pad_sequence

from skmatch._nn.pooling import POOLINGS
from skmatch._nn.training import FeatureSource, Rows, Targets, Trainer, encode_catalogue

SPECS = (
    FeatureSpec("categorical", 5),
    FeatureSpec("numeric", 0),
    FeatureSpec("multi_valued", 6),
)
N_CODES = 7


def make_columns(n):
    """Give features of the three kinds for `n` rows; some are missing, unknown or empty."""
    numbers = torch.linspace(-2, 2, n)
    numbers[::3] = torch.nan
    n_values = torch.arange(n) % 3
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), n_values.cumsum(0)])
    values = (torch.arange(int(offsets[-1])) % 5 + 1).to(torch.int32)
    return [torch.arange(n) % 4 + 1, numbers, BagTensor(values, offsets, 2)]


def make_network(seed=0, **changes):
    values = {
        "n_users": N_CODES,
        "n_items": N_CODES,
        "user_features": SPECS,
        "item_features": SPECS,
        "embedding_dim": 8,
        "user_dims": (16, 4),
        "item_dims": (16, 4),
        "activation": "gelu",
        "dropout": 0.0,
        "batch_norm": False,
        "pooling": "mean",
        "max_length": 3,
    }
    network = TwoTowers(NetworkConfig(**values | changes))
    network.initialise(torch.Generator().manual_seed(seed))
    network.set_generator(torch.Generator().manual_seed(seed))
    return network


def test_normalized_vectors_and_their_gradients_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    vectors, weight = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    vectors[3] = 0
    results = []
    for function in (normalize, torch.nn.functional.normalize):
        own = vectors.clone().requires_grad_()
        unit = function(own)
        (unit * weight).sum().backward()
        results.append((unit, own.grad))
    torch.testing.assert_close(*results)


def encode(network, n=6):
    """Give vectors of `n` users, the first without a history, and of `n` items."""
    tokens = torch.tensor([[0, 0, 0], [0, 0, 2], [0, 3, 1], [4, 5, 6], [0, 1, 1], [2, 2, 2]])[:n]
    users, length = torch.arange(n) + 1, (tokens != 0).sum(1)
    features = make_columns(n)
    user_vectors = network.encode_users(users, features, tokens, torch.arange(n), length)
    item_features = features if network.config.item_dims else []
    return user_vectors, network.encode_items(torch.arange(n) + 1, item_features)


@pytest.mark.parametrize("activation", ["relu", "prelu", "gelu", "tanh"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_vectors_are_finite_and_of_unit_length(activation, mode):
    network = getattr(make_network(activation=activation, batch_norm=True, dropout=0.2), mode)()
    for vectors in encode(network):
        assert vectors.shape == (6, 4)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))


def test_without_an_item_tower_the_vectors_are_the_table():
    network = make_network(item_dims=None, item_features=(), user_dims=(16, 8))
    _, items = encode(network)
    rows = network.item_embedding.weight[2:7]
    torch.testing.assert_close(items[1:], rows / rows.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("row", "changed"),
    [(2, [False, True, False, False]), (MANY_EVENTS, [False, False, True, True])],
)
def test_each_short_length_has_a_vector_of_its_own_and_long_ones_share_one(row, changed):
    network = make_network(max_length=MANY_EVENTS + 5, user_features=())
    length = torch.tensor([1, 2, MANY_EVENTS, MANY_EVENTS + 5])
    lag = torch.arange(MANY_EVENTS + 5).flip(0)
    tokens = torch.where(lag < length[:, None], 3, 0)

    def vectors():
        return network.encode_users(torch.ones(4).long(), [], tokens, torch.arange(4), length)

    before = vectors()
    with torch.no_grad():
        network.length_vectors[row] += 1
    assert (vectors() != before).any(1).tolist() == changed


def test_missing_values_give_finite_gradients():
    network = make_network()
    sum(vectors[:, 0].sum() for vectors in encode(network)).backward()
    for parameter in network.parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all()
    for table in (module for module in network.modules() if isinstance(module, Table)):
        assert all(torch.isfinite(rows.grad).all() for _, rows in table.touched)


def test_a_missing_number_differs_from_zero():
    features = make_network().user_features
    columns = make_columns(2)
    columns[1] = torch.tensor([torch.nan, 0.0])
    numbers = features(columns)[1]
    assert numbers.tolist() == [[0, 1], [0, 0]]


def test_a_bag_is_the_mean_of_its_values_and_an_empty_one_zero():
    features = make_network().user_features
    columns = [torch.tensor([1, 2]), torch.zeros(2)]
    bag = BagTensor(torch.tensor([3, 5], dtype=torch.int32), torch.tensor([0, 2, 2]), 2)
    pooled = features([*columns, bag])[2]
    weight = features.tables[1].weight
    torch.testing.assert_close(pooled[0], (weight[3] + weight[5]) / 2)
    assert (pooled[1] == 0).all()


def test_padded_bags_are_pooled_as_bags():
    features = make_network().user_features
    codes, numbers, bag = make_columns(6)
    rows = [bag.values[a:b] for a, b in pairwise(bag.offsets)]
    padded = pad_sequence(rows, batch_first=True)
    for pooled, expected in zip(
        features([codes, numbers, padded]), features([codes, numbers, bag]), strict=True
    ):
        torch.testing.assert_close(pooled, expected)


def test_width_is_what_the_features_give():
    features = make_network().user_features
    assert torch.cat(features(make_columns(6)), 1).shape == (6, features.width)


def test_a_skip_connection_adds_a_linear_map_of_what_a_tower_reads():
    network = make_network(skip_connection=True).eval()
    with torch.no_grad():
        for tower in (network.user_tower, network.item_tower):
            for weight in (*tower.first.parameters(), *tower.others.parameters()):
                weight.zero_()
        network.item_tower.skip.weight.zero_()
        network.item_tower.skip.weight[0, :8] = 1.0
    _, items = encode(network)
    # All that is left is the sign of the embeddings' sums.
    expected = network.item_embedding(torch.arange(6) + 1).sum(1).sign()
    torch.testing.assert_close(items, torch.nn.functional.pad(expected[:, None], (0, 3)))
    users, _ = encode(network)
    assert len(users.unique(dim=0)) > 1
    without = make_network(skip_connection=False)
    assert without.user_tower.skip is None
    assert without.item_tower.skip is None


def test_a_single_layer_needs_no_skip_connection():
    network = make_network(skip_connection=True, user_dims=(4,), item_dims=(4,))
    assert network.user_tower.skip is None
    assert network.item_tower.skip is None


def test_a_batch_of_one_row_can_be_normalised():
    network = make_network(batch_norm=True).train()
    for vectors in encode(network, n=1):
        assert torch.isfinite(vectors).all()


def test_batch_norm_follows_its_batches_in_training_only():
    tower = make_network(batch_norm=True).item_tower
    x = [torch.arange(4.0 * tower.first.in_features).view(4, -1)]
    norm = tower.others[0]
    before = norm.running_mean.clone()
    tower.eval()(x)
    assert torch.equal(norm.running_mean, before)
    tower.train()(x)
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("dims", [(16, 4), (4,)])
@pytest.mark.parametrize("skip_connection", [True, False])
def test_a_tower_reads_what_rows_share_once(dims, skip_connection):
    tower = make_network(user_dims=dims, skip_connection=skip_connection).user_tower
    block = torch.tensor([0, 0, 1, 2, 2, 2])
    own, shared = torch.randn(6, 3), torch.randn(3, tower.first.in_features - 3)
    expected = tower([own, shared[block]])
    torch.testing.assert_close(tower([own, shared], block), expected)


# Dropout


def dropped(rate, n=100_000, seed=0):
    dropout = Dropout(rate)
    dropout.generator = torch.Generator().manual_seed(seed)
    return dropout(torch.ones(n))


def test_dropout_does_nothing_in_serving_or_at_rate_zero():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_dropout_keeps_the_expectation(rate):
    x = dropped(rate)
    assert x.mean() == pytest.approx(1, abs=0.02)
    assert (x == 0).float().mean() == pytest.approx(rate, abs=0.006)


def test_dropout_near_one_neither_keeps_nor_drops_all():
    x = dropped(0.999)
    assert 0 < (x != 0).float().mean() < 0.01
    assert x.mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 4), (0, 4)])
def test_dropout_keeps_the_shape(shape):
    assert Dropout(0.5).train()(torch.ones(shape)).shape == shape


def test_dropout_follows_from_its_generator_alone():
    state = torch.get_rng_state()
    first = dropped(0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, dropped(0.5, seed=1))
    assert not torch.equal(first, dropped(0.5, seed=2))


# Values taken for unknown in training


def with_unknown(rate, values, seed=0):
    unknown = RandomUnknown(rate).train()
    unknown.generator = torch.Generator().manual_seed(seed)
    return unknown(values)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_as_large_a_share_as_asked_for_becomes_unknown(rate, dtype):
    values = torch.full((200, 1000), 7, dtype=dtype)
    replaced = with_unknown(rate, values)
    unknown = torch.isnan(replaced) if dtype == torch.float32 else replaced == 1
    assert unknown.float().mean() == pytest.approx(rate, abs=4 * (rate / 2e5) ** 0.5)
    assert (replaced[~unknown] == 7).all()
    assert replaced.dtype == dtype
    assert (values == 7).all()


def test_padding_is_never_taken_for_unknown():
    codes = torch.tensor([0, 2, 0, 3] * 100)
    replaced = with_unknown(0.9, codes)
    assert torch.equal(replaced == 0, codes == 0)
    assert (replaced == 1).any()


def test_values_of_a_bag_become_unknown_one_by_one():
    bag = BagTensor(torch.full((1000,), 4, dtype=torch.int32), torch.arange(0, 1001, 10), 10)
    replaced = with_unknown(0.3, bag)
    assert torch.equal(replaced.offsets, bag.offsets)
    assert set(replaced.values.tolist()) == {1, 4}


def test_nothing_becomes_unknown_in_serving_or_at_rate_zero():
    codes = torch.arange(50)
    unknown = RandomUnknown(0.5).eval()
    assert torch.equal(unknown(codes), codes)
    assert torch.equal(with_unknown(0.0, codes), codes)
    network = make_network(dropout=0.0).train()  # whose rate is zero
    state = network.random_unknown.generator.get_state()
    encode(network)
    assert torch.equal(network.random_unknown.generator.get_state(), state)


def test_what_becomes_unknown_follows_from_its_generator_alone():
    codes, state = torch.full((100,), 2), torch.get_rng_state()
    first = with_unknown(0.5, codes, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, with_unknown(0.5, codes, seed=1))
    assert not torch.equal(first, with_unknown(0.5, codes, seed=2))


def test_users_histories_features_and_items_become_unknown_in_training_only(monkeypatch):
    looked_up = []
    forward = Table.forward

    def record(self, codes, offsets=None):
        looked_up.append(codes)
        return forward(self, codes, offsets)

    monkeypatch.setattr(Table, "forward", record)
    network = make_network(unknown_rate=0.999)
    encode(network.train())
    assert len(looked_up) == 7  # tokens, users, items and twice two features; numbers have none
    assert all(codes.max() == 1 for codes in looked_up)
    looked_up.clear()
    encode(network.eval())
    assert all(codes.max() > 1 for codes in looked_up)


@pytest.mark.parametrize(
    "config",
    [{"item_features": ()}, {"item_features": (), "item_dims": None, "user_dims": (16, 8)}],
    ids=["tower", "table"],
)
def test_an_item_without_features_keeps_its_id(config):
    network = make_network(unknown_rate=0.999, **config).train()
    items = torch.arange(2, 7)
    vectors = network.encode_items(items, [])
    assert torch.equal(vectors, network.eval().encode_items(items, []))


# Weights


def tables(network):
    return [m.weight for m in network.modules() if isinstance(m, Table)]


def test_padding_and_unknown_start_at_zero_and_all_else_does_not():
    network = make_network()
    assert len(tables(network)) == 6
    for weight in tables(network):
        assert (weight[:2] == 0).all()
        assert (weight[2:] != 0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("has_item_tower", [True, False])
def test_padding_stays_zero_in_training(pooling, has_item_tower):
    items = {} if has_item_tower else {"item_dims": None, "user_dims": (16, 8)}
    network = make_network(pooling=pooling, item_features=(), **items)
    log = torch.tensor([2, 3, 1, 4, 5, 2, 6, 3])
    row = torch.arange(8)
    columns = [FeatureSource(column, by_code=False) for column in make_columns(8)]
    trainer = Trainer(
        network,
        Rows(row // 4 + 2, torch.maximum(row // 4 * 4, row - 3), row, log, columns),
        Targets(log.clamp(min=2), None),
        [],
        NegativeSampler("uniform", np.ones(5), torch.Generator().manual_seed(0)),
        loss="softmax",
        neg_ratio=2,
        exclude_history=True,
        temperature=0.1,
        batch_size=4,
        lr=0.01,
        weight_decay=0.1,
        max_epochs=3,
        precision="float32",
        rng=np.random.default_rng(0),
        generator=torch.Generator().manual_seed(0),
    )
    for _ in range(3):
        trainer.run_epoch()
    assert (network.item_embedding.weight[1] != 0).any()  # unknown items in histories do learn
    for weight in tables(network):
        assert (weight[0] == 0).all()


def test_weights_follow_from_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (make_network(seed, pooling="decay").state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_config_survives_plain_values():
    config = make_network().config
    assert NetworkConfig.from_dict(config.to_dict()) == config


def test_serving_does_not_learn():
    network = make_network(item_features=())
    vectors = encode_catalogue(network, [], torch.arange(2, 7))
    assert not vectors.requires_grad
    assert not network.training
