"""A small network, its trainer and a batch, built by hand for the tests of this folder."""

import numpy as np
import torch

from skmatch._nn.batches import Batch, Batches, Rows, Targets
from skmatch._nn.candidates import CandidateSampler
from skmatch._nn.encoders import NetworkConfig, TwoTower, UserBatch
from skmatch._nn.features import FeatureSource, FeatureSpec
from skmatch._nn.scorer import CosineScorer
from skmatch._nn.training import Objective, Trainer, one_cycle

N_ITEMS = 12
NEGATIVES = ("uniform", "popularity", "log", "zipf", "in_batch", "all")


class InOrder:
    """In place of a random generator: an epoch takes the rows in their order."""

    permutation = staticmethod(np.arange)


def make_log(lengths, seed=0, max_length=6):
    """Make the rows of users with so many events, in which item follows item in a ring."""
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
    weight_decay=0.01,
    schedule=one_cycle,
    weight=None,
    keep=slice(None),
    precision="float32",
    seed=0,
    **network,
):
    """Make a trainer of the rows `keep` of a log, with a feature on either side."""
    user, start, stop, log = (torch.as_tensor(c) for c in make_log(np.array(lengths)))
    number = torch.linspace(-1, 1, len(user))
    user, start, stop, target = user[keep], start[keep], stop[keep], log[keep]
    max_length = max(1, int((stop - start).max()))
    feature = FeatureSource(number[keep], by_code=False)
    group = FeatureSource(torch.arange(N_ITEMS + 2) % 3 + 2, by_code=True)
    values = {
        "n_users": len(lengths) + 2,
        "n_items": N_ITEMS + 2,
        "user_features": (FeatureSpec("numeric", 0),),
        "item_features": (FeatureSpec("categorical", 5),),
        "embedding_dim": 8,
        "user_dims": (16, 8),
        "item_dims": (16, 8),
        "activation": "gelu",
        "dropout": 0.0,
        "batch_norm": False,
        "pooling": "mean",
        "max_length": max_length,
    }
    model = TwoTower(NetworkConfig(**values | network))
    model.initialise(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    counts = np.bincount(target.numpy(), weight, minlength=N_ITEMS + 2)[2:]
    sampler = CandidateSampler(
        negatives,
        counts,
        neg_ratio=neg_ratio,
        exclude_history=exclude_history,
        generator=generator,
    )
    scorer = CosineScorer(temperature, getattr(torch, precision))
    item_features = [group] if model.config.item_features else []
    return Trainer(
        model,
        Batches(
            Rows(user, start, stop, log, [feature], max_length, torch.ones_like(user)),
            Targets(target, weight),
            batch_size,
            np.random.default_rng(seed),
        ),
        Objective(model, item_features, sampler, scorer, loss),
        lr=lr,
        weight_decay=weight_decay,
        max_epochs=max_epochs,
        schedule=schedule,
        precision=precision,
        generators=(generator, generator),
    )


def make_batch(positive, histories=None, weight=None):
    """Make a batch of rows with these positives and histories, each a block of its own."""
    n_rows = len(positive)
    histories = [[]] * n_rows if histories is None else histories
    longest = max(1, *map(len, histories))
    tokens = [[0] * (longest - len(history)) + list(history) for history in histories]
    row = torch.arange(n_rows)
    length = torch.tensor([len(history) for history in histories])
    users = UserBatch(
        row + 2, [], torch.tensor(tokens), row, length, longest, row, torch.ones_like(row)
    )
    return Batch(users, torch.as_tensor(positive), weight)


def whole_epoch(trainer):
    """Return the one batch of all rows, in their order."""
    batches = trainer.batches
    batches.rng, batches.batch_size = InOrder(), len(batches.rows)
    (batch,) = batches.epoch()
    return batch


def unit_vectors(n, seed=0):
    vectors = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}
