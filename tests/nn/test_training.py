"""Training: what a step scores, what an epoch covers and what it costs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skmatch._nn.negatives import NegativeSampler
from skmatch._nn.towers import BagTensor, FeatureSpec, NetworkConfig, TwoTowers
from torch.utils._python_dispatch import TorchDispatchMode

from skmatch._nn import tables, training
from skmatch._nn.device import resolve_device
from skmatch._nn.losses import LOSSES
from skmatch._nn.pooling import POOLINGS
from skmatch._nn.training import (
    BLOCK_SIZE,
    PRECISIONS,
    WARM_UP,
    FeatureSource,
    Rows,
    Targets,
    Trainer,
    encode_catalogue,
    encode_rows,
    is_same_in_blocks,
    one_cycle,
    windows,
)

N_ITEMS = 12
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_sampling = pytest.mark.parametrize(
    "negatives", ["uniform", "popularity", "log", "zipf", "in_batch", "all"]
)


def make_log(lengths, seed=0, max_length=6):
    """Give the rows of users with so many events, in which item follows item in a ring."""
    rng = np.random.default_rng(seed)
    log = np.concatenate([rng.integers(N_ITEMS) + np.arange(n) for n in lengths]) % N_ITEMS + 2
    user = np.repeat(np.arange(len(lengths)) + 2, lengths)
    begin = np.repeat(np.cumsum(lengths) - lengths, lengths)
    stop = np.arange(len(log))
    return user, np.maximum(begin, stop - max_length), stop, log


def make_trainer(
    lengths=(9, 4, 40, 7),
    *,
    negatives="popularity",
    loss="softmax",
    neg_ratio=3,
    exclude_history=False,
    temperature=0.1,
    batch_size=16,
    max_epochs=3,
    lr=0.01,
    weight=None,
    keep=slice(None),
    pooling="mean",
    dropout=0.0,
    unknown_rate=0.0,
    batch_norm=False,
    precision="float32",
    seed=0,
):
    user, start, stop, log = (torch.as_tensor(c) for c in make_log(np.array(lengths)))
    user, start, stop, target = user[keep], start[keep], stop[keep], log[keep]
    feature = FeatureSource(torch.linspace(-1, 1, len(user)), by_code=False)
    group = FeatureSource(torch.arange(N_ITEMS + 2) % 3 + 2, by_code=True)
    config = NetworkConfig(
        n_users=len(lengths) + 2,
        n_items=N_ITEMS + 2,
        user_features=(FeatureSpec("numeric", 0),),
        item_features=(FeatureSpec("categorical", 5),),
        embedding_dim=8,
        user_dims=(16, 8),
        item_dims=(16, 8),
        activation="gelu",
        dropout=dropout,
        unknown_rate=unknown_rate,
        batch_norm=batch_norm,
        pooling=pooling,
        max_length=int((stop - start).max()),
    )
    network = TwoTowers(config)
    network.initialise(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    counts = np.bincount(target.numpy(), minlength=N_ITEMS + 2)[2:]
    return Trainer(
        network,
        Rows(user, start, stop, log, [feature]),
        Targets(target, weight),
        [group],
        NegativeSampler(negatives, counts, generator),
        loss=loss,
        neg_ratio=neg_ratio,
        exclude_history=exclude_history,
        temperature=temperature,
        batch_size=batch_size,
        lr=lr,
        weight_decay=0.01,
        max_epochs=max_epochs,
        precision=precision,
        rng=np.random.default_rng(seed),
        generator=generator,
    )


def unit_vectors(n, seed=0):
    vectors = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def scores_of(trainer, users, positive):
    """Give the scores of the positives and of the negatives as the loss reads them."""
    if trainer.loss_name != "softmax":
        return trainer._pairs(users / trainer.temperature, positive, seen=None)
    users = users / trainer.temperature
    own, shared = trainer._shared(users, positive, seen=None)
    return own, shared.scores(users)


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


# What a step scores


@every_sampling
@every_loss
def test_scores_are_the_cosines_over_the_temperature(loss, negatives):
    users, positive = unit_vectors(5), torch.tensor([2, 3, 4, 4, 9])
    cold, warm = (
        scores_of(make_trainer(loss=loss, negatives=negatives, temperature=t), users, positive)
        for t in (0.5, 1.0)
    )
    trainer = make_trainer()
    items = encode_catalogue(trainer.network, trainer.item_features, positive)
    cosine = (users * items).sum(1)
    torch.testing.assert_close(warm[0], cosine)
    torch.testing.assert_close(cold[0], 2 * cosine)
    counts = torch.isfinite(warm[1])
    assert torch.equal(counts, torch.isfinite(cold[1]))
    if loss != "softmax" or negatives == "all":
        torch.testing.assert_close(cold[1][counts], 2 * warm[1][counts])
    else:  # the correction of an item is the same at any temperature and for every row
        correction = cold[1] - 2 * warm[1]
        for column in correction.T:
            finite = column[torch.isfinite(column)]
            torch.testing.assert_close(finite, finite[:1].expand_as(finite))


@every_sampling
@every_loss
def test_a_negative_equal_to_the_own_positive_is_masked(loss, negatives):
    trainer = make_trainer(loss=loss, negatives=negatives, neg_ratio=400, temperature=1.0)
    positive = torch.arange(N_ITEMS) + 2
    # Every user is the vector of the own positive, whose cosine is 1 and no other's.
    users = encode_catalogue(trainer.network, trainer.item_features, positive)
    trainer.sampler.log_probability.fill_(-math.log(N_ITEMS))
    own, others = scores_of(trainer, users, positive)
    torch.testing.assert_close(own, torch.ones(N_ITEMS))
    assert (others == -torch.inf).any(1).all()
    if loss != "softmax" or negatives in ("all", "in_batch"):  # no correction is left
        assert others.max() < 1 - 1e-6
    else:
        assert ((others == -torch.inf).sum(1) == 1).all()


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "log", "zipf", "in_batch"])
def test_shared_draws_estimate_the_sum_over_the_catalogue(monkeypatch, negatives):
    monkeypatch.setattr(training, "SHARED_ROWS", 8)
    trainer = make_trainer(neg_ratio=8, temperature=1.0)
    generator = torch.Generator().manual_seed(1)
    counts = np.arange(N_ITEMS) ** 2
    trainer.sampler = NegativeSampler(negatives, counts, generator)
    table = unit_vectors(N_ITEMS, seed=1)
    monkeypatch.setattr(trainer, "_encode_items", lambda codes: table[codes - 2])
    users, own = unit_vectors(3), torch.tensor([2, 6, 13])
    share = trainer.sampler.log_probability.exp()
    # In a batch, the other rows' positives are the draws.
    n_others = 1000 if negatives == "in_batch" else 1
    total, n_steps = torch.zeros(3), 500
    for _ in range(n_steps):
        others = torch.multinomial(share, n_others, replacement=True, generator=generator) + 2
        everyone = torch.cat([users, users[:1].expand(n_others, -1)])
        _, scores = scores_of(trainer, everyone, torch.cat([own, others]))
        total += scores[:3].exp().sum(1)
    every = (users @ table.T).exp()
    expected = every.sum(1) - every.gather(1, own[:, None] - 2).squeeze(1)
    # The three rows of fixed positives are among the draws of an in-batch step, too.
    rtol = 0.1 if negatives == "in_batch" else 0.03
    torch.testing.assert_close(total / n_steps, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_rows_pick_their_negatives_from_few_draws(monkeypatch, loss):
    monkeypatch.setattr(training, "SHARED_ROWS", 2)
    trainer = make_trainer(loss=loss, neg_ratio=2, negatives="uniform", temperature=1.0)
    table = torch.eye(N_ITEMS)  # the score of an item's own unit vector is 1, all others' 0
    encoded = []
    monkeypatch.setattr(
        trainer, "_encode_items", lambda codes: encoded.append(len(codes)) or table[codes - 2]
    )
    n_rows, n_steps = 8, 2000
    positive = torch.full((n_rows,), 2)
    asked = table[3].expand(n_rows, -1)
    hits = torch.stack([scores_of(trainer, asked, positive)[1] for _ in range(n_steps)])
    assert max(encoded) <= 1 + 2 * 2  # the positive, and the draws for two rows
    # Each row and place meets the item as often as the sampler draws it.
    torch.testing.assert_close(
        (hits == 1).float().mean(0), torch.full((n_rows, 2), 1 / N_ITEMS), rtol=0, atol=0.03
    )


def test_all_scores_every_other_item_once():
    trainer = make_trainer(negatives="all", temperature=1.0)
    users, positive = unit_vectors(2), torch.tensor([2, 13])
    own, others = scores_of(trainer, users, positive)
    items = encode_catalogue(trainer.network, trainer.item_features, torch.arange(N_ITEMS) + 2)
    every = users @ items.T
    torch.testing.assert_close(own, every.gather(1, positive[:, None] - 2).squeeze(1))
    torch.testing.assert_close(own.exp() + others.exp().sum(1), every.exp().sum(1))


@pytest.mark.parametrize("exclude_history", [True, False])
@pytest.mark.parametrize("negatives", ["all", "uniform"])
@every_loss
def test_negatives_leave_out_the_history_if_asked(monkeypatch, loss, negatives, exclude_history):
    trainer = make_trainer(
        (9, 4, 40, 7),
        loss=loss,
        negatives=negatives,
        exclude_history=exclude_history,
        neg_ratio=N_ITEMS,
    )
    catalogue = torch.arange(N_ITEMS) + 2
    monkeypatch.setattr(trainer, "_draw", lambda shape, positive: catalogue)
    monkeypatch.setattr(
        trainer, "_pick", lambda shape, n: torch.arange(n)[:, None].expand(-1, shape[1])
    )
    rows, scores = [], []

    def cut(all_rows, first, row, *others):
        rows.append(row)
        return windows(all_rows, first, row, *others)

    def losses(users, positive, seen):
        if loss == "softmax":
            scores.append(trainer._shared(users, positive, seen)[1].scores(users))
        else:
            scores.append(trainer._pairs(users, positive, seen)[1])
        return users.sum(1)

    monkeypatch.setattr(training, "windows", cut)
    monkeypatch.setattr(trainer, "_losses", losses)
    trainer.run_epoch()
    data, target = trainer.rows, trainer.targets.item
    assert len(torch.cat(rows)) == len(data)
    for row, own in zip(torch.cat(rows), torch.cat(scores), strict=True):
        history = data.log[data.start[row] : data.stop[row]].tolist() if exclude_history else []
        left_out = catalogue[own == -torch.inf].tolist()
        assert left_out == sorted({target[row].item(), *history})


# What an epoch covers


@pytest.mark.parametrize("lengths", [(9, 4, 40, 7), (1, 1, 1), (100,), (3, 70, 2, 33, 32, 1)])
def test_every_row_is_in_one_block_and_every_block_in_one_batch(lengths):
    trainer = make_trainer(lengths, keep=slice(1, None) if sum(lengths) > 3 else slice(None))
    for _ in range(3):
        batches = list(trainer._batches())
        blocks = np.concatenate(batches)
        rows = [
            np.arange(first, first + length)
            for first, length in trainer.block_rows.T[blocks].tolist()
        ]
        assert sorted(np.concatenate(rows)) == list(range(len(trainer.rows)))
        sizes = np.array([trainer.block_length[batch].sum() for batch in batches])
        assert (sizes > 0).all()
        assert (np.abs(sizes[:-1] - trainer.batch_size) < BLOCK_SIZE).all()
        for r in rows:
            assert len(set(trainer.rows.user[r].tolist())) == 1
            stop = trainer.rows.stop[r]
            assert stop.max() - stop.min() < BLOCK_SIZE


def test_batches_are_drawn_anew_every_epoch():
    trainer = make_trainer([5] * 30)
    first, second = (np.concatenate(list(trainer._batches())) for _ in range(2))
    assert not np.array_equal(first, second)


def all_rows(trainer):
    """Give one step of all rows."""
    n_blocks = len(trainer.block_length)
    order = torch.arange(n_blocks).expand(2, -1)
    (step,) = trainer._read(order, [n_blocks], [len(trainer.rows)])
    return step


def block_vectors(trainer):
    """Give the users' vectors of all rows as a training step sees them."""
    seen = []
    handle = trainer.network.user_tower.register_forward_hook(lambda *call: seen.append(call[2]))
    trainer._loss(all_rows(trainer))
    handle.remove()
    return seen[0].detach()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_training_encodes_as_serving_does(pooling):
    trainer = make_trainer(pooling=pooling, keep=[1, 2, 3, 7, 8, 10, 12, 20, 21, 45, 58, 59])
    torch.testing.assert_close(block_vectors(trainer), encode_rows(trainer.network, trainer.rows))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_histories_that_do_not_overlap_in_the_log_are_not_mixed(pooling):
    trainer = make_trainer(pooling=pooling)
    rows = trainer.rows
    expected = encode_rows(trainer.network, rows)
    # The same histories, each copied out of the log for itself.
    log = [rows.log[a:b] for a, b in zip(rows.start, rows.stop, strict=True)]
    stop = torch.tensor([len(history) for history in log]).cumsum(0)
    rows.start, rows.stop, rows.log = stop - (rows.stop - rows.start), stop, torch.cat(log)
    trainer._cut_blocks()
    torch.testing.assert_close(block_vectors(trainer), expected)


def test_encoding_does_not_depend_on_the_other_rows():
    trainer = make_trainer()
    rows = trainer.rows
    together = encode_rows(trainer.network, rows)
    for a, b in ((0, 1), (5, 17), (30, 60)):
        column = FeatureSource(rows.features[0].column[a:b], by_code=False)
        part = Rows(rows.user[a:b], rows.start[a:b], rows.stop[a:b], rows.log, [column])
        torch.testing.assert_close(encode_rows(trainer.network, part), together[a:b])


def test_catalogue_encoded_in_blocks_of_any_size():
    trainer = make_trainer()
    codes = torch.arange(2, N_ITEMS + 2)
    whole = encode_catalogue(trainer.network, trainer.item_features, codes)
    parts = encode_catalogue(trainer.network, trainer.item_features, codes, block=5)
    torch.testing.assert_close(parts, whole)


def test_of_a_history_longer_than_the_network_knows_the_newest_counts():
    trainer = make_trainer()
    column = FeatureSource(torch.zeros(2), by_code=False)
    start, stop = torch.tensor([34, 20]), torch.tensor([40, 40])
    rows = Rows(torch.tensor([4, 4]), start, stop, trainer.rows.log, [column])
    vectors = encode_rows(trainer.network, rows)
    torch.testing.assert_close(vectors[1], vectors[0])


# What it costs


@every_sampling
@every_loss
def test_an_epoch_encodes_each_row_once_and_each_item_once_a_step(loss, negatives):
    trainer = make_trainer(loss=loss, negatives=negatives)
    user_rows, item_rows, distinct = [], [], []
    network = trainer.network
    network.user_tower.register_forward_hook(lambda *call: user_rows.append(len(call[2])))
    network.item_tower.register_forward_hook(lambda *call: item_rows.append(len(call[2])))
    encode_items = trainer._encode_items

    def encode(codes):
        distinct.append(len(codes.unique()))
        return encode_items(codes)

    trainer._encode_items = encode
    trainer.run_epoch()
    assert sum(user_rows) == len(trainer.rows)
    assert len(item_rows) == len(user_rows) == trainer.step
    assert item_rows == distinct


def test_what_depends_on_the_user_alone_is_read_once_a_block():
    trainer = make_trainer()
    read = []
    trainer.network.user_embedding.register_forward_hook(lambda *call: read.append(len(call[2])))
    trainer._loss(all_rows(trainer))
    assert read == [len(trainer.block_length)] != [len(trainer.rows)]


def test_a_feature_that_does_not_change_is_read_once_a_block():
    changing = make_trainer()
    n_rows = len(changing.rows)
    changing.rows.features[0].column.copy_(changing.rows.user / 7)
    steady = make_trainer()
    steady.rows.features[0].column.copy_(changing.rows.user / 7)
    steady._cut_blocks()
    read = {"changing": [], "steady": []}
    losses = []
    for name, trainer in (("changing", changing), ("steady", steady)):
        trainer.network.user_features.register_forward_pre_hook(
            lambda module, args, name=name: read[name].append(len(args[0][0]))
        )
        losses.append(trainer._loss(all_rows(trainer))[0])
    assert read == {"changing": [n_rows], "steady": [len(steady.block_length)]}
    torch.testing.assert_close(*losses)


# Few values, so that neighbours are often the same.
few_values = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.5, math.nan]),
        st.lists(st.integers(2, 3), max_size=2),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(few_values)
def test_whether_a_feature_is_the_same_in_each_block(rows):
    numbers, bags, is_first = zip(*rows, strict=True)
    is_first = np.array([True, *is_first[1:]])
    inside = [i for i in range(1, len(rows)) if not is_first[i]]
    values = torch.tensor([code for bag in bags for code in bag], dtype=torch.int32)
    offsets = torch.tensor(np.cumsum([0, *map(len, bags)]))
    expected = all(str(numbers[i]) == str(numbers[i - 1]) for i in inside)
    assert is_same_in_blocks(torch.tensor(numbers), is_first) == expected
    expected = all(bags[i] == bags[i - 1] for i in inside)
    assert is_same_in_blocks(BagTensor(values, offsets, 2), is_first) == expected


# What it learns


@every_sampling
@every_loss
def test_the_loss_falls(loss, negatives):
    trainer = make_trainer(
        [20] * 10, loss=loss, negatives=negatives, max_epochs=10, batch_size=64, lr=0.02
    )
    curve = [trainer.run_epoch() for _ in range(10)]
    assert np.isfinite(curve).all()
    assert curve[-1] < 0.7 * curve[0]


@pytest.mark.parametrize("small", [0, 1000], ids=["by row", "whole"])
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_what_stands_for_the_unknown_learns_where_some_is_taken_for_it(rate, small, monkeypatch):
    monkeypatch.setattr(tables, "SMALL", small)
    trainer = make_trainer(unknown_rate=rate)
    for _ in range(3):
        trainer.run_epoch()
    rows = [m.weight[1] for m in trainer.network.modules() if isinstance(m, tables.Table)]
    assert len(rows) == 3  # items, users and the feature of items
    assert all((row != 0).any() == (rate > 0) for row in rows)


class Dtypes(TorchDispatchMode):
    """Collects the dtypes that each operation takes."""

    def __init__(self):
        super().__init__()
        self.of = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        dtypes = {arg.dtype for arg in args if isinstance(arg, torch.Tensor)}
        self.of.setdefault(function.overloadpacket.__name__, set()).update(dtypes)
        return result


@every_loss
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_that_of_matrix_products_alone(loss, precision):
    trainer = make_trainer(loss=loss, pooling="decay", precision=precision)
    with Dtypes() as dtypes:
        trainer.run_epoch()
    products = ["addmm", "mm", "bmm"]
    assert set().union(*(dtypes.of[name] for name in products)) == {getattr(torch, precision)}
    both_ways = {"softmax": ["exp", "log"], "bpr": ["softplus"], "bce": ["softplus"]}[loss]
    for name in (*both_ways, "linalg_vector_norm", "lerp_", "addcdiv_"):
        assert dtypes.of[name] == {torch.float32}, name
    assert {value.dtype for value in weights_of(trainer).values()} == {torch.float32}
    assert encode_rows(trainer.network, trainer.rows).dtype == torch.float32


def test_same_seed_same_weights_and_another_seed_others():
    states = []
    for seed in (0, 0, 1):
        trainer = make_trainer(dropout=0.3, unknown_rate=0.2, seed=seed)
        trainer.run_epoch()
        states.append(weights_of(trainer))
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


@every_sampling
def test_nothing_global_changes(negatives):
    torch_state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()  # noqa: NPY002
    trainer = make_trainer(negatives=negatives, dropout=0.3, unknown_rate=0.2)
    trainer.run_epoch()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == n_threads
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(before, after)


def test_rows_of_no_weight_contribute_nothing():
    weight = torch.ones(60)
    weight[::3] = 0
    trainers = [make_trainer(weight=weight, loss="bce", batch_size=1000) for _ in range(2)]
    # What they would teach does not matter: other positives, which are drawn by no one.
    trainers[1].targets.item = torch.where(weight == 0, 2, trainers[1].targets.item)
    losses = [trainer.run_epoch() for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1])
    for name, value in weights_of(trainers[0]).items():
        torch.testing.assert_close(weights_of(trainers[1])[name], value)


def test_a_weight_counts_as_so_many_rows():
    trainer = make_trainer(negatives="all", batch_size=1000)
    losses = []
    for weight in (torch.ones(60), torch.arange(60.0), torch.arange(60.0) * 5):
        trainer.targets.weight = weight
        losses.append(trainer._loss(all_rows(trainer))[0].item())
    assert losses[0] != pytest.approx(losses[1])
    assert losses[1] == pytest.approx(losses[2])


@pytest.mark.parametrize("negatives", ["uniform", "in_batch", "all"])
@every_loss
def test_batches_of_a_single_row(loss, negatives):
    trainer = make_trainer(
        [2] * 3, keep=slice(1, None, 2), loss=loss, negatives=negatives, batch_size=1,
        batch_norm=True,
    )  # fmt: skip
    losses = [trainer.run_epoch() for _ in range(2)]
    assert trainer.step == 6
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(value).all() for value in weights_of(trainer).values())


def test_learning_rate_rises_in_a_line_then_falls_along_a_cosine():
    assert one_cycle(0) == pytest.approx(0.1)
    assert one_cycle(WARM_UP / 2) == pytest.approx(0.55)
    assert one_cycle(WARM_UP) == pytest.approx(1)
    assert one_cycle((1 + WARM_UP) / 2) == pytest.approx(0.5)
    assert one_cycle(1) == one_cycle(1.5) == pytest.approx(0)


def test_learning_rate_follows_the_cycle_to_its_end():
    trainer = make_trainer([5] * 40, lr=0.5, max_epochs=2)
    rates, take_step = [], trainer.optimizer.step
    trainer.optimizer.step = lambda lr: (rates.append(lr), take_step(lr))
    for _ in range(2):
        trainer.run_epoch()
    assert len(rates) == trainer.step <= trainer.n_steps
    assert rates == [0.5 * one_cycle(step / trainer.n_steps) for step in range(trainer.step)]
    assert rates[-1] < 0.5 * 0.05


# Devices


def test_an_unknown_device_is_told_the_choices():
    with pytest.raises(ValueError, match=r"'gpu' is not known.*auto.*cpu.*cuda.*mps"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name}.*not available.*auto"):
        resolve_device(name)


def test_devices_that_are_there():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
