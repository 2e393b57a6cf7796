"""Training: what a step costs, what it learns, and how weights and rates enter."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import NEGATIVES, make_trainer, weights_of

from skmatch._nn import embedding
from skmatch._nn.losses import LOSSES
from skmatch._nn.training import PRECISIONS, WARM_UP, constant, one_cycle

every_loss = pytest.mark.parametrize("loss", LOSSES)
every_sampling = pytest.mark.parametrize("negatives", NEGATIVES)


# What it costs


@every_sampling
@every_loss
def test_an_epoch_encodes_each_row_once_and_each_item_once_a_step(loss, negatives):
    trainer = make_trainer(loss=loss, negatives=negatives)
    user_rows, items, item_rows, wanted = [], [], [], []
    network, draw = trainer.network, trainer.objective.draw

    def spy(batch):
        drawn = draw(batch)
        codes = torch.cat([batch.positive, drawn.items])
        wanted.append((set(batch.users.tokens.flatten().tolist()), set(codes.tolist())))
        return drawn

    trainer.objective.draw = spy
    network.user_encoder.register_forward_hook(lambda *call: user_rows.append(len(call[2])))
    network.item_encoder.register_forward_hook(lambda *call: items.append(call[1][0].tolist()))
    network.item_tower.register_forward_hook(lambda *call: item_rows.append(len(call[2])))
    trainer.run_epoch()
    assert sum(user_rows) == len(trainer.batches.rows)
    assert len(items) == len(item_rows) == len(user_rows) == trainer.step
    # Histories and targets share the encoding of an item.
    for encoded, (of_tokens, of_targets), n_targets in zip(items, wanted, item_rows, strict=True):
        assert sorted(encoded) == sorted(of_tokens | of_targets)
        assert n_targets == len(of_targets)


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
def test_rows_of_unknown_learn_where_ids_drop_out(rate, small, monkeypatch):
    monkeypatch.setattr(embedding, "SMALL", small)
    trainer = make_trainer(id_dropout=rate)
    for _ in range(3):
        trainer.run_epoch()
    modules = trainer.network.modules()
    rows = [m.weight[1] for m in modules if isinstance(m, embedding.EmbeddingTable)]
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


def test_same_seed_same_weights_and_another_seed_others():
    states = []
    for seed in (0, 0, 1):
        trainer = make_trainer(dropout=0.3, id_dropout=0.2, seed=seed)
        trainer.run_epoch()
        states.append(weights_of(trainer))
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


@every_sampling
def test_nothing_global_changes(negatives):
    torch_state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()  # noqa: NPY002
    trainer = make_trainer(negatives=negatives, dropout=0.3, id_dropout=0.2)
    trainer.run_epoch()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == n_threads
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(before, after)


# Weights of rows


PLAIN = {"dropout": 0.0, "id_dropout": 0.0}


def gradients_of(trainer):
    """Sum the gradients of an epoch of a network whose weights stay, and count its steps."""
    total, n_steps = defaultdict(float), 0

    def collect(lr):
        nonlocal n_steps
        n_steps += 1
        for name, weight in trainer.network.named_parameters():
            if weight.grad is not None:
                total[name] += weight.grad.clone()
            weight.grad = None
        for name, module in trainer.network.named_modules():
            if isinstance(module, embedding.EmbeddingTable) and module.by_row:
                codes, rows = module.pop_gradient()
                whole = torch.zeros_like(module.weight)
                total[f"{name}.weight"] += whole.index_add(0, codes.long(), rows)

    trainer.optimizer.step = collect
    loss = trainer.run_epoch()
    return dict(total), n_steps, loss


def normalised(weight):
    weight = torch.as_tensor(weight, dtype=torch.float32)
    return weight / weight.mean()


WEIGHTS = np.random.default_rng(0).permutation([1, 2, 3] * 20)  # 120 rows
REPEATED = np.repeat(np.arange(60), WEIGHTS)


def assert_same_gradients(ours, theirs):
    (gradients, n_steps, loss), (expected, n_expected, loss_of_repeated) = ours, theirs
    assert loss == pytest.approx(loss_of_repeated, rel=1e-4)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        mean, expected_mean = gradient / n_steps, expected[name] / n_expected
        scale = expected_mean.abs().max()
        assert (mean - expected_mean).abs().max() <= 1e-4 * scale + 1e-7, name


@every_loss
@pytest.mark.parametrize("small", [0, 1000], ids=["by row", "whole"])
@pytest.mark.parametrize("batch_size", [1, 4, 12, 20, 1000])  # all steps are full
def test_a_weight_trains_as_so_many_rows(loss, batch_size, small, monkeypatch):
    monkeypatch.setattr(embedding, "SMALL", small)
    options = {"negatives": "all", "exclude_history": True, "loss": loss, **PLAIN}
    weighted = make_trainer(weight=normalised(WEIGHTS), batch_size=batch_size, **options)
    repeated = make_trainer(keep=REPEATED, batch_size=batch_size, **options)
    repeated.network.load_state_dict(weighted.network.state_dict())
    assert_same_gradients(gradients_of(weighted), gradients_of(repeated))


def test_a_weight_counts_as_so_many_negatives_of_a_batch():
    options = {"negatives": "in_batch", "batch_size": 1000, **PLAIN}
    weighted = make_trainer(weight=normalised(WEIGHTS), **options)
    repeated = make_trainer(keep=REPEATED, **options)
    sampler = repeated.objective.sampler
    weighted.objective.sampler.log_probability = sampler.log_probability
    assert_same_gradients(gradients_of(weighted), gradients_of(repeated))


@every_loss
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_part_of_a_row_does_not_depend_on_its_batch(loss, batch_size):
    weight = normalised(WEIGHTS)
    options = {"weight": weight, "negatives": "all", "loss": loss, **PLAIN}
    trainer = make_trainer(batch_size=batch_size, **options)
    gradients, _, loss = gradients_of(trainer)
    whole, _, expected = gradients_of(make_trainer(batch_size=1000, **options))
    assert loss == pytest.approx(expected, rel=1e-4)
    for name, gradient in gradients.items():
        scaled = gradient * trainer.batches.batch_size / 60
        torch.testing.assert_close(scaled, whole[name], rtol=1e-3, atol=1e-5)


@every_loss
@every_sampling
def test_rows_without_weight_are_no_targets(loss, negatives):
    weight = torch.ones(60)
    weight[::3] = 0
    options = {"weight": normalised(weight), "loss": loss, "negatives": negatives, **PLAIN}
    trainers = [make_trainer(batch_size=1000, **options) for _ in range(2)]
    # Their positives do not matter, nor are they negatives of others in a batch.
    items = trainers[1].batches.targets.item
    trainers[1].batches.targets.item = torch.where(weight == 0, 2, items)
    losses = [trainer.run_epoch() for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1])
    for name, value in weights_of(trainers[0]).items():
        torch.testing.assert_close(weights_of(trainers[1])[name], value)


@every_loss
@every_sampling
@pytest.mark.parametrize("tiny", [1e-6, 1e-30, 1e-45])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_tiny_weights_beside_one_are_finite(loss, negatives, tiny, batch_size):
    weight = torch.full((60,), tiny)
    weight[::7] = 1
    trainer = make_trainer(
        weight=normalised(weight), loss=loss, negatives=negatives, batch_size=batch_size
    )
    losses = [trainer.run_epoch() for _ in range(2)]
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(value).all() for value in weights_of(trainer).values())


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


# Steps and rates


def test_learning_rate_rises_in_a_line_then_falls_along_a_cosine():
    assert one_cycle(0) == pytest.approx(0.1)
    assert one_cycle(WARM_UP / 2) == pytest.approx(0.55)
    assert one_cycle(WARM_UP) == pytest.approx(1)
    assert one_cycle((1 + WARM_UP) / 2) == pytest.approx(0.5)
    assert one_cycle(1) == one_cycle(1.5) == pytest.approx(0)


@pytest.mark.parametrize("batch_size", [1, 8, 31, 33])
def test_the_learning_rate_follows_the_cycle_to_its_end(batch_size):
    trainer = make_trainer([5] * 40, lr=0.5, max_epochs=2, batch_size=batch_size)
    rates, take_step = [], trainer.optimizer.step
    trainer.optimizer.step = lambda lr: (rates.append(lr), take_step(lr))
    for _ in range(2):
        trainer.run_epoch()
    n_steps = 2 * -(-200 // batch_size)
    assert len(rates) == trainer.step == trainer.n_steps == n_steps
    assert rates == [0.5 * one_cycle(step / n_steps) for step in range(n_steps)]
    assert max(rates) == pytest.approx(0.5, rel=0.3)
    assert rates[-1] < 0.5 * (0.3 if batch_size > 8 else 0.05)


def test_a_constant_rate_is_constant():
    assert {constant(progress) for progress in (0, 0.01, 0.5, 1)} == {1.0}
