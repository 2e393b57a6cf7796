"""Batches: which rows a step trains on, what it reads of them, and how often."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import InOrder, make_trainer, whole_epoch

from skmatch import DSSMRetriever, MatchEncoder, SequenceSampler
from skmatch._nn.batches import BLOCK_SIZE, Batches, Rows, Targets, is_constant_in_blocks
from skmatch._nn.features import RaggedTensor
from skmatch._nn.pooling import POOLINGS
from skmatch.datasets import make_events
from skmatch.retrieval._neural_fit import NeuralFit

SIZES = [1, 8, 31, 33, 100, 1000]
LENGTHS = [(9, 4, 40, 7), (1, 1, 1), (100,), (3, 70, 2, 33, 32, 1)]


def rows_of(trainer):
    """Return the rows of each batch of an epoch, told by a feature that all rows have apart."""
    n_rows = len(trainer.batches.rows)
    trainer.batches.rows.features[0].column = torch.arange(float(n_rows))
    trainer.batches._cut_blocks()
    return [batch.users.features[0].long().tolist() for batch in trainer.batches.epoch()]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("batch_size", SIZES)
def test_every_row_is_in_one_batch_and_batches_are_as_large_as_asked_for(lengths, batch_size):
    trainer = make_trainer(lengths, batch_size=batch_size)
    n_rows = sum(lengths)
    for _ in range(3):
        rows = rows_of(trainer)
        sizes = [len(batch) for batch in rows]
        assert len(rows) == trainer.batches.n_steps == math.ceil(n_rows / batch_size)
        assert set(sizes[:-1]) <= {batch_size}
        assert 0 < sizes[-1] <= batch_size
        assert sorted(chain(*rows)) == list(range(n_rows))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=6),
    st.integers(1, 90),
    st.sets(st.integers(0, 79)),
)
def test_blocks_hold_neighbours_of_one_user(lengths, batch_size, left_out):
    keep = sorted(set(range(sum(lengths))) - left_out) or [0]
    trainer = make_trainer(lengths, keep=keep, batch_size=batch_size)
    rows = trainer.batches.rows
    for batch in trainer.batches.epoch():
        block = batch.users.block
        assert batch.users.user.shape == (int(block.max()) + 1,)
        assert block.diff().min() >= 0 if len(block) > 1 else True
        # Each row reads its own history, though blocks share their tokens.
        history = batch.of_history(batch.users.tokens)
        assert history.shape == (len(batch.positive), rows.max_length)
    seen = []
    trainer.batches.rng = InOrder()
    for batch in trainer.batches.epoch():
        history = batch.of_history(batch.users.tokens).tolist()
        lengths_ = batch.users.length.tolist()
        users = batch.users.user[batch.users.block].tolist()
        positives = batch.positive.tolist()
        seen += zip(users, history, lengths_, positives, strict=True)
    for row, (user, history, length, positive) in enumerate(seen):
        expected = rows.log[rows.start[row] : rows.stop[row]][-rows.max_length :].tolist()
        assert user == rows.user[row]
        assert length == len(expected)
        assert history == [0] * (rows.max_length - length) + expected
        assert positive == trainer.batches.targets.item[row]
    assert len(seen) == len(keep)


def test_weights_go_with_their_rows():
    weight = torch.rand(60, generator=torch.Generator().manual_seed(0))
    trainer = make_trainer(weight=weight)
    column = torch.arange(60.0)
    trainer.batches.rows.features[0].column = column
    trainer.batches._cut_blocks()
    for batch in trainer.batches.epoch():
        rows = batch.users.features[0].long()
        assert torch.equal(batch.weight, weight[rows])
        assert torch.equal(batch.positive, trainer.batches.targets.item[rows])


def test_batches_are_drawn_anew_every_epoch():
    trainer = make_trainer([5] * 30)
    first, second = (list(chain(*rows_of(trainer))) for _ in range(2))
    assert first != second


def test_neighbours_share_a_block_of_bounded_size():
    trainer = make_trainer((100,))
    batch = whole_epoch(trainer)
    assert np.bincount(batch.users.block).tolist() == [32, 32, 32, 4]
    assert batch.users.tokens.shape == (4, 6 + BLOCK_SIZE - 1)


# What a step reads


def user_vectors(trainer):
    """Return the users' vectors of all rows, in their order, as an epoch of training sees them."""
    seen = []
    trainer.batches.rng = InOrder()
    encoder = trainer.network.user_encoder
    handle = encoder.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    for batch in trainer.batches.epoch():
        trainer.objective(batch)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("batch_size", [7, 256])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_training_encodes_as_serving_does(pooling, batch_size):
    events = make_events(n_users=20, n_items=30, n_events=400, random_state=0)
    encoder = MatchEncoder(user_features=["age"], item_features=["category"])
    samples = SequenceSampler(max_length=6).fit_transform(encoder.fit_transform(events))
    weight = np.random.default_rng(0).integers(0, 3, len(samples))  # some rows are left out
    model = DSSMRetriever(
        embedding_dim=8, dims=(8, 4), pooling=pooling, dropout=0.0, id_dropout=0.0,
        batch_size=batch_size, random_state=0,
    )  # fmt: skip
    fit = NeuralFit(model, samples, weight, {})
    (trainer,) = fit.trainer.members
    training = user_vectors(trainer)
    assert 0 < len(training) == len(fit.training) < len(samples)
    serving = fit.engine.user_vectors(samples[fit.training])
    np.testing.assert_allclose(training, serving, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_histories_that_do_not_overlap_in_the_log_are_not_mixed(pooling):
    trainer = make_trainer(pooling=pooling)
    rows = trainer.batches.rows
    expected = user_vectors(trainer)
    # The same histories, each copied out of the log for itself.
    log = [rows.log[a:b] for a, b in zip(rows.start, rows.stop, strict=True)]
    stop = torch.tensor([len(history) for history in log]).cumsum(0)
    rows.start, rows.stop, rows.log = stop - (rows.stop - rows.start), stop, torch.cat(log)
    trainer.batches._cut_blocks()
    torch.testing.assert_close(user_vectors(trainer), expected)


# What it costs


def test_what_depends_on_the_user_alone_is_read_once_a_block():
    trainer = make_trainer()
    read = []
    trainer.network.user_encoder.embedding.register_forward_hook(
        lambda *call: read.append(len(call[2]))
    )
    trainer.objective(whole_epoch(trainer))
    assert read == [int(trainer.batches.block[-1]) + 1] != [len(trainer.batches.rows)]


def test_a_feature_that_does_not_change_is_read_once_a_block():
    trainers = {name: make_trainer() for name in ("changing", "steady")}
    read, losses = {name: [] for name in trainers}, []
    for name, trainer in trainers.items():
        batches = trainer.batches
        batches.rows.features[0].column.copy_(batches.rows.user / 7)
        if name == "steady":
            batches._cut_blocks()
        trainer.network.user_encoder.features.register_forward_pre_hook(
            lambda module, args, name=name: read[name].append(len(args[0][0]))
        )
        losses.append(trainer.objective(whole_epoch(trainer)))
    n_rows, n_blocks = len(batches.rows), int(batches.block[-1]) + 1
    assert read == {"changing": [n_rows], "steady": [n_blocks]}
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
    numbers, lists, is_first = zip(*rows, strict=True)
    is_first = np.array([True, *is_first[1:]])
    inside = [i for i in range(1, len(rows)) if not is_first[i]]
    values = torch.tensor([code for codes in lists for code in codes], dtype=torch.int32)
    offsets = torch.tensor(np.cumsum([0, *map(len, lists)]))
    expected = all(str(numbers[i]) == str(numbers[i - 1]) for i in inside)
    assert is_constant_in_blocks(torch.tensor(numbers), is_first) == expected
    expected = all(lists[i] == lists[i - 1] for i in inside)
    assert is_constant_in_blocks(RaggedTensor(values, offsets, 2), is_first) == expected


@pytest.mark.parametrize("gap_rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_epoch_has_each_event_once_with_either_of_its_histories(gap_rate, batch_size):
    n, visit = 400, 4  # one user, visits of four events
    event = np.arange(n)
    stop = np.concatenate([event, event // visit * visit])
    rows = Rows(
        user=torch.full((n,), 2),
        start=torch.tensor(np.maximum(0, stop - 10)),
        stop=torch.tensor(stop),
        recency=torch.tensor(np.repeat([1, 0], n)),
        log=torch.arange(n) + 2,
        features=[],
        max_length=10,
    )
    targets = Targets(torch.tensor(event + 2), None)
    batches = Batches(rows, targets, batch_size, np.random.default_rng(0), gap_rate)
    for _ in range(2):
        seen, ends_before = [], []
        for batch in batches.epoch():
            history = batch.of_history(batch.users.tokens)
            for item, own, recency in zip(
                batch.positive.tolist(), history.tolist(), batch.users.recency.tolist(), strict=True
            ):
                end = item if recency else (item - 2) // visit * visit + 2
                assert [one for one in own if one] == list(range(max(2, end - 10), end))
                seen.append(item)
                ends_before.append(not recency)
        assert sorted(seen) == list(range(2, n + 2))
        # The first of a visit has no other history, and the first visit none before it.
        share = sum(ends_before) / ((n - visit) * (1 - 1 / visit))
        assert share == pytest.approx(gap_rate, abs=0 if gap_rate in (0, 1) else 0.08)
