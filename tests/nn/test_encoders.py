"""The encoders: their vectors, what they read, what drops out and their first weights."""

import pytest
import torch
from toy import make_trainer

from skmatch._nn.embedding import EmbeddingTable
from skmatch._nn.encoders import MAX_COUNTED_LENGTH, NetworkConfig, TwoTower, UserBatch
from skmatch._nn.features import FeatureSpec, RaggedTensor
from skmatch._nn.pooling import POOLINGS

SPECS = (
    FeatureSpec("categorical", 5),
    FeatureSpec("numeric", 0),
    FeatureSpec("multi_valued", 6),
)
N_CODES = 7


def make_columns(n):
    """Make features of the three kinds for `n` rows; some are missing, unknown or empty."""
    numbers = torch.linspace(-2, 2, n)
    numbers[::3] = torch.nan
    n_values = torch.arange(n) % 3
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), n_values.cumsum(0)])
    values = (torch.arange(int(offsets[-1])) % 5 + 1).to(torch.int32)
    return [torch.arange(n) % 4 + 1, numbers, RaggedTensor(values, offsets, 2)]


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
    network = TwoTower(NetworkConfig(**values | changes))
    network.initialise(torch.Generator().manual_seed(seed))
    network.set_generator(torch.Generator().manual_seed(seed))
    return network


TOKENS = torch.tensor([[0, 0, 0], [0, 0, 2], [0, 3, 1], [4, 5, 6], [0, 1, 1], [2, 2, 2]])


def make_users(tokens, features, users=None):
    """Make a batch of rows that are blocks of their own."""
    row, length = torch.arange(len(tokens)), (tokens != 0).sum(1)
    users = row + 1 if users is None else users
    return UserBatch(
        users, features, tokens, row, length, tokens.shape[1], row, torch.ones_like(row)
    )


def token_features(tokens, columns):
    """Look the features of the tokens up in columns of one row a code."""
    flat = tokens.flatten()
    codes, numbers, ragged = columns
    lengths = (ragged.offsets[1:] - ragged.offsets[:-1])[flat]
    values = [ragged.values[ragged.offsets[i] : ragged.offsets[i + 1]] for i in flat]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return [codes[flat], numbers[flat], RaggedTensor(torch.cat(values), offsets, ragged.longest)]


def encode(network, n=6):
    """Return vectors of `n` users, the first without a history, and of `n` items."""
    tokens, columns = TOKENS[:n], make_columns(N_CODES)
    has_features = bool(network.config.item_features)
    of_tokens = token_features(tokens, columns) if has_features else []
    users = network.encode_users(make_users(tokens, make_columns(n)), of_tokens)
    items = torch.arange(n) + 1
    features = token_features(items, columns) if has_features else []
    return users, network.encode_items(items, features)


@pytest.mark.parametrize("activation", ["relu", "prelu", "gelu", "tanh"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_vectors_are_finite_and_of_unit_length(activation, mode):
    network = getattr(make_network(activation=activation, batch_norm=True, dropout=0.2), mode)()
    for vectors in encode(network):
        assert vectors.shape == (6, 4)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))


def test_without_an_item_tower_a_vector_is_the_encoding_scaled_to_length_one():
    network = make_network(item_dims=None, item_features=(), user_dims=(16, 8))
    _, items = encode(network)
    rows = network.item_encoder.embedding.weight[2:7]
    torch.testing.assert_close(items[1:], rows / rows.norm(dim=1, keepdim=True))
    network = make_network(item_dims=None, user_dims=(16, 8))
    items, features = torch.arange(6) + 1, token_features(torch.arange(6) + 1, make_columns(7))
    encoded = network.item_encoder(items, features)
    expected = encoded / encoded.norm(dim=1, keepdim=True)
    torch.testing.assert_close(network.encode_items(items, features), expected)


def test_an_item_is_the_sum_of_its_id_and_a_projection_of_its_features():
    encoder = make_network().item_encoder
    items = torch.arange(7)
    features = token_features(items, make_columns(7))
    content = torch.cat(encoder.features(features), 1) @ encoder.projection.weight.T
    encoded = encoder(items, features)
    assert (encoded[0] == 0).all()  # padding, whatever its features
    torch.testing.assert_close(encoded[1:], (encoder.embedding.weight + content)[1:])


def test_histories_and_targets_read_one_encoding_of_an_item():
    network = make_network(user_features=(), item_dims=None, user_dims=(16, 8))
    tokens, columns = torch.tensor([[0, 0, 3], [0, 0, 5]]), make_columns(N_CODES)
    columns[2] = RaggedTensor(torch.tensor([2]), torch.tensor([0, 1] + [1] * 6), 1)
    with torch.no_grad():
        network.item_encoder.embedding.weight.zero_()  # nothing but features tells items apart
    for column in columns[:2]:
        column[5] = column[3]
    same = torch.ones(2).long()

    def users():
        return network.encode_users(make_users(tokens, [], same), token_features(tokens, columns))

    torch.testing.assert_close(*users())
    columns[0][5] = columns[0][3] % 4 + 1
    first, second = users()
    assert not torch.allclose(first, second)
    items = network.encode_items(tokens[:, 2], token_features(tokens[:, 2], columns))
    assert not torch.allclose(*items)


@pytest.mark.parametrize(
    ("row", "changed"),
    [(2, [False, True, False, False]), (MAX_COUNTED_LENGTH, [False, False, True, True])],
)
def test_each_short_length_has_an_embedding_and_long_ones_share_one(row, changed):
    longest = MAX_COUNTED_LENGTH + 5
    network = make_network(max_length=longest, user_features=(), item_features=())
    length = torch.tensor([1, 2, MAX_COUNTED_LENGTH, longest])
    tokens = torch.where(torch.arange(longest).flip(0) < length[:, None], 3, 0)

    def vectors():
        return network.encode_users(make_users(tokens, [], torch.ones(4).long()), [])

    before = vectors()
    with torch.no_grad():
        network.user_encoder.length_embedding[row] += 1
    assert (vectors() != before).any(1).tolist() == changed


def test_missing_values_lead_to_finite_gradients():
    network = make_network()
    sum(vectors[:, 0].sum() for vectors in encode(network)).backward()
    for parameter in network.parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all()
    for table in (module for module in network.modules() if isinstance(module, EmbeddingTable)):
        assert all(torch.isfinite(rows.grad).all() for _, rows in table.touched)


def test_a_skip_connection_adds_a_linear_map_of_what_a_tower_reads():
    network = make_network(skip_connection=True).eval()
    with torch.no_grad():
        for tower in (network.user_encoder.tower, network.item_tower):
            for weight in (*tower.first.parameters(), *tower.others.parameters()):
                weight.zero_()
        network.item_tower.skip.weight.zero_()
        network.item_tower.skip.weight[0, :8] = 1.0
    _, items = encode(network)
    # Only the sign of the encodings' sums is left.
    codes = torch.arange(6) + 1
    features = token_features(codes, make_columns(N_CODES))
    expected = network.item_encoder(codes, features).sum(1).sign()
    torch.testing.assert_close(items, torch.nn.functional.pad(expected[:, None], (0, 3)))
    users, _ = encode(network)
    assert len(users.unique(dim=0)) > 1
    without = make_network(skip_connection=False)
    assert without.user_encoder.tower.skip is None
    assert without.item_tower.skip is None


def test_a_single_layer_needs_no_skip_connection():
    network = make_network(skip_connection=True, user_dims=(4,), item_dims=(4,))
    assert network.user_encoder.tower.skip is None
    assert network.item_tower.skip is None


def test_a_batch_of_one_row_can_be_normalised():
    network = make_network(batch_norm=True).train()
    for vectors in encode(network, n=1):
        assert torch.isfinite(vectors).all()


def test_nothing_drops_out_at_rate_zero():
    network = make_network(dropout=0.0).train()
    state = network.id_dropout.generator.get_state()
    encode(network)
    assert torch.equal(network.id_dropout.generator.get_state(), state)


def test_ids_of_users_and_all_values_of_features_drop_out_in_training_only(monkeypatch):
    looked_up = []
    forward = EmbeddingTable.forward

    def record(self, codes, offsets=None):
        looked_up.append(codes)
        return forward(self, codes, offsets)

    monkeypatch.setattr(EmbeddingTable, "forward", record)
    network = make_network(id_dropout=1.0)
    encode(network.train())
    # Ids and two features of tokens, of users and of items; numbers have no table.
    assert len(looked_up) == 9
    assert all(codes.max() == 1 for codes in looked_up)
    looked_up.clear()
    encode(network.eval())
    assert all(codes.max() > 1 for codes in looked_up)


def test_items_of_histories_drop_out_in_training(monkeypatch):
    seen = []
    trainer = make_trainer(id_dropout=1 - 1e-9, item_features=(), negatives="all")
    encoder = trainer.network.user_encoder
    encoder.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    trainer.run_epoch()
    # Items without features keep their ids as targets, and histories hold padding and unknown.
    assert all(len(tokens.flatten(0, 1).unique(dim=0)) <= 2 for tokens in seen)
    assert (trainer.network.item_encoder.embedding.weight[2:] != 0).all()


@pytest.mark.parametrize(
    "config",
    [{"item_features": ()}, {"item_features": (), "item_dims": None, "user_dims": (16, 8)}],
    ids=["tower", "table"],
)
def test_an_item_without_features_keeps_its_id(config):
    network = make_network(id_dropout=1.0, **config).train()
    items = torch.arange(2, 7)
    vectors = network.encode_items(items, [])
    assert torch.equal(vectors, network.eval().encode_items(items, []))


# Weights


def tables_of(network):
    return [m.weight for m in network.modules() if isinstance(m, EmbeddingTable)]


def test_padding_and_unknown_start_at_zero_and_all_else_does_not():
    network = make_network()
    assert len(tables_of(network)) == 6
    for weight in tables_of(network):
        assert (weight[:2] == 0).all()
        assert (weight[2:] != 0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("has_item_tower", [True, False])
@pytest.mark.parametrize("is_large", [True, False])
def test_padding_stays_zero_in_training(pooling, has_item_tower, is_large, monkeypatch):
    if is_large:
        monkeypatch.setattr("skmatch._nn.embedding.SMALL", 0)
    items = {} if has_item_tower else {"item_dims": None}
    trainer = make_trainer(pooling=pooling, weight_decay=0.1, **items)
    trainer.batches.rows.log[::4] = 1  # unknown items in histories do learn
    for _ in range(3):
        trainer.run_epoch()
    assert (trainer.network.item_encoder.embedding.weight[1] != 0).any()
    for weight in tables_of(trainer.network):
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
