"""No step of training synchronises with a GPU, tried without one.

Tensors on torch's device "meta" have shapes and no values: an operation that would read a value, or
whose size depends on values, fails there, as it would wait for a GPU. A watch counts what is copied
to the device.
"""

from functools import cache
from itertools import chain, cycle

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler, YoutubeDNNRetriever
from skmatch._nn import candidates, embedding, features, training
from skmatch._nn.features import RaggedTensor
from skmatch._nn.layers import ACTIVATIONS
from skmatch._nn.losses import LOSSES
from skmatch._nn.optimizer import AdamW
from skmatch._nn.pooling import POOLINGS
from skmatch.datasets import make_events
from skmatch.retrieval._neural_fit import NeuralFit

META = torch.device("meta")
BOTH = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_sampling = pytest.mark.parametrize(
    "sampling", ["uniform", "popularity", "log", "zipf", "in_batch", "all"]
)
PLAIN = {"dropout": 0.0, "id_dropout": 0.0}  # where repeats stay, other values are drawn
SMALL = {
    **{"embedding_dim": 4, "dims": (8, 4), "batch_size": 128, "max_epochs": 2, "random_state": 0},
    "exclude_seen": False,  # repeats are targets
}


@cache
def make_samples(sampling="popularity"):
    """Make samples with features of all kinds on both sides."""
    events = make_events(n_users=20, n_items=30, n_events=250, random_state=0)
    rng = np.random.default_rng(0)
    user, item = events["user_id"], events["item_id"]
    tags = {i: list("abcd")[: rng.integers(0, 5)] for i in item.unique()}
    events = events.assign(
        tags=item.map(tags), price=item.map({i: rng.normal() for i in item.unique()}),
        group=user.map({u: rng.choice(["x", "y"]) for u in user.unique()}), tastes=item.map(tags),
    )  # fmt: skip
    encoder = MatchEncoder(user_features=["group", "tastes"], item_features=["tags", "price"])
    return SequenceSampler(negatives=sampling, max_length=6).fit_transform(
        encoder.fit_transform(events)
    )


def make_trainer(model, samples, weight=None):
    (trainer,) = NeuralFit(model, samples, weight, {}).trainer.members
    return trainer


def to_meta(column):
    if isinstance(column, RaggedTensor):
        return RaggedTensor(column.values.to(META), column.offsets.to(META), column.longest)
    return column.to(META)


def move_to_meta(trainer):
    """Bring all that a trainer holds to the device, as `Engine` does."""
    batches, objective = trainer.batches, trainer.objective
    sampler = objective.sampler
    for holder in (batches.rows, batches.targets, sampler):
        for name, value in vars(holder).items():
            if isinstance(value, torch.Tensor):
                setattr(holder, name, value.to(META))
    for source in (*batches.rows.features, *objective.item_features):
        source.column = to_meta(source.column)
    sampler.device = META
    trainer.network.to(META)
    trainer.optimizer = AdamW(trainer.network, 0.01)


class Watch(TorchDispatchMode):
    """Fails where an operation reads what is not on the device, or selects by a mask."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device == META for tensor in tensors), f"{function} reads the host"
        if function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), function
        result = function(*args, **(kwargs or {}))
        self.dtypes |= {leaf.dtype for leaf in tensors}
        return result


class CountCopies(TorchFunctionMode):
    """Counts what is brought from the host, which dispatch does not see."""

    n_copies = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.n_copies += function in (torch.tensor, torch.as_tensor)
        return function(*args, **(kwargs or {}))


def run_epoch_on_meta(trainer):
    """Run all steps of an epoch; return the dtypes that they met."""
    move_to_meta(trainer)
    with CountCopies() as copies:
        batches = trainer.batches.epoch()
        first = next(batches)  # brings the order of the epoch
        trainer.batches.epoch = lambda: chain([first], batches)
        # The first values that are read are the sums of the epoch, after the last step.
        read = pytest.raises(RuntimeError, match="Cannot copy out of meta tensor")
        with read, Watch() as watch:
            trainer.run_epoch()
    assert trainer.step == trainer.batches.n_steps > 1
    assert copies.n_copies == 1  # the order of the epoch
    return watch.dtypes


@pytest.fixture
def _by_row(monkeypatch):
    monkeypatch.setattr(embedding, "SMALL", 0)


@BOTH
@every_loss
@every_sampling
@pytest.mark.usefixtures("_by_row")
def test_no_step_synchronises(cls, loss, sampling):
    run_epoch_on_meta(make_trainer(cls(**SMALL, loss=loss), make_samples(sampling)))


@pytest.mark.parametrize(("pooling", "activation"), [*zip(POOLINGS, cycle(ACTIVATIONS))])
def test_no_layer_synchronises(pooling, activation):
    model = DSSMRetriever(**SMALL, pooling=pooling, activation=activation, batch_norm=True)
    run_epoch_on_meta(make_trainer(model, make_samples()))


@every_loss
@pytest.mark.parametrize("sampling", ["popularity", "in_batch"])
def test_weights_of_rows_do_not_synchronise(loss, sampling):
    samples = make_samples(sampling)
    weight = np.linspace(0.1, 1, len(samples))
    run_epoch_on_meta(make_trainer(DSSMRetriever(**SMALL, loss=loss), samples, weight))


def test_a_custom_pooling_does_not_synchronise():
    class Newest(torch.nn.Module):
        def forward(self, history):
            return history.windows()[:, -1] * ~history.is_padding()[:, -1:]

    model = DSSMRetriever(**SMALL, pooling=lambda dim, max_length: Newest())
    run_epoch_on_meta(make_trainer(model, make_samples()))


@every_sampling
def test_a_device_without_float64_meets_none(sampling, monkeypatch):
    for module in (candidates, training):
        monkeypatch.setattr(module, "accumulation_dtype", lambda device: torch.float32)
    trainer = make_trainer(DSSMRetriever(**SMALL), make_samples(sampling))
    assert torch.float64 not in run_epoch_on_meta(trainer)


SYNCHRONISING = {
    "value": lambda x: x.sum().item(),
    "condition": lambda x: 1 if x.any() else 0,
    "unique": lambda x: torch.unique(x),
    "nonzero": lambda x: x.nonzero(),
    "bincount": lambda x: torch.bincount(x),
    "repeats": lambda x: torch.repeat_interleave(x, x),
    "mask": lambda x: x[x > 0],
    "assignment by mask": lambda x: x.__setitem__(x > 0, x),
    "tensor of the host": lambda x: x + torch.ones(3),
    "scalar of the host": lambda x: x * torch.ones(()),
    "copy": lambda x: torch.ones(3).to(META),
    "indices of the host": lambda x: x[np.array([0, 1])],
}


@pytest.mark.parametrize("operation", SYNCHRONISING.values(), ids=SYNCHRONISING)
def test_what_synchronises_is_noticed(operation):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), Watch():
        operation(torch.zeros(3, dtype=torch.int64, device=META))


@BOTH
@every_loss
@every_sampling
@pytest.mark.usefixtures("_by_row")
def test_weights_are_those_that_a_cpu_learns(cls, loss, sampling, monkeypatch):
    samples = make_samples(sampling)

    def train():
        trainer = make_trainer(cls(**SMALL, **PLAIN, loss=loss), samples)
        losses = [trainer.run_epoch() for _ in range(2)]
        return losses, trainer.network.state_dict()

    losses, weights = train()
    for module in (embedding, features):
        monkeypatch.setattr(module, "is_async", lambda device: True)
    same_losses, same_weights = train()
    assert same_losses == pytest.approx(losses, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(same_weights[name], weight, rtol=1e-3, atol=1e-4)
