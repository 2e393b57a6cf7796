"""What training promises: weights, steps, updates, isolation, costs, content and own poolings."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from custom_pooling import NewestPooling

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch._nn import candidates
from skmatch._nn.candidates import CandidateSampler
from skmatch._nn.encoders import ItemEncoder, UserEncoder
from skmatch._nn.optimizer import AdamW
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=40, n_events=1200, random_state=0)
PLAIN = ["user_id", "item_id", "timestamp"]
SMALL = {
    **{"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 128, "random_state": 0},
    "exclude_seen": False,  # repeats are targets
}
CLASSES = [DSSMRetriever, YoutubeDNNRetriever]
BOTH = pytest.mark.parametrize("cls", CLASSES)


def assert_same_bits(model, expected):
    assert model.loss_curve_ == expected.loss_curve_
    np.testing.assert_array_equal(model.item_vectors_, expected.item_vectors_)
    for name, weight in expected.weights_.items():
        np.testing.assert_array_equal(model.weights_[name], weight, err_msg=name)


# Weights


@BOTH
def test_events_of_tiny_weight_train_as_those_of_none(cls):
    """Half of the events say that users go on with one half of the catalogue, half the other."""
    rng = np.random.default_rng(0)
    n_users, n_events = 120, 64
    user = np.repeat(np.arange(n_users), n_events)
    weighs = rng.random(len(user)) < 0.5
    item = rng.integers(16, size=len(user)) + np.where(weighs, 0, 16)
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": np.arange(len(user))})
    samples = SequenceSampler(negatives="uniform").fit_transform(events)
    gap = {}
    for tiny in (1.0, 1e-6, 0.0):
        model = cls(**SMALL, init="random")
        model.fit(samples, sample_weight=np.where(weighs, 1.0, tiny))
        scores = model.transform(samples[::7]) @ model.item_vectors_.T
        is_weighted = model.item_ids_ < 16
        gap[tiny] = scores[:, is_weighted].mean() - scores[:, ~is_weighted].mean()
    assert abs(gap[1.0]) < 0.02
    assert gap[0.0] > 0.1
    assert gap[1e-6] > 0.8 * gap[0.0]  # in more steps, which hold half as many rows that count


@BOTH
@pytest.mark.parametrize("loss", ["softmax", "bpr", "bce"])
@pytest.mark.parametrize("negatives", ["popularity", "in_batch"])
@pytest.mark.parametrize("tiny", [1e-6, 1e-300, 5e-324])
def test_tiny_weights_beside_one_are_finite(cls, loss, negatives, tiny):
    samples = SequenceSampler(negatives=negatives).fit_transform(EVENTS[PLAIN])
    weight = np.where(np.arange(len(EVENTS)) % 3, 1.0, tiny)
    model = cls(**SMALL, loss=loss).fit(samples, sample_weight=weight)
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.item_vectors_).all()


def test_events_without_weight_are_history_and_seen_but_no_targets(monkeypatch):
    targets, draw = set(), CandidateSampler.shared

    def spy(sampler, batch):
        targets.update(batch.positive.tolist())
        drawn = draw(sampler, batch)
        targets.update(drawn.items.tolist())
        return drawn

    monkeypatch.setattr(CandidateSampler, "shared", spy)
    item = EVENTS["item_id"].mode()[0]
    user = EVENTS.loc[EVENTS["item_id"] == item, "user_id"].iloc[0]
    weight = (EVENTS["item_id"] != item).to_numpy(float)
    sampler = SequenceSampler(negatives="in_batch")
    pipe = make_match_pipeline(
        MatchEncoder(), sampler, DSSMRetriever(**SMALL | {"exclude_seen": True})
    )
    pipe.fit(EVENTS[PLAIN], dssmretriever__sample_weight=weight)
    assert pipe.schema_.items.lookup([item])[0] not in targets
    assert len(targets) == EVENTS["item_id"].nunique() - 1
    query = pd.DataFrame({"user_id": [user]})
    assert item in pipe[:-1].transform(query).decode()["history"][0]
    assert item not in pipe.recommend([user], k=100)["item_id"].tolist()


@pytest.mark.parametrize("cls", [PopularityRetriever, *CLASSES])
def test_popularity_counts_weights(cls):
    weight = np.random.default_rng(0).integers(0, 4, len(EVENTS)).astype(float)
    model = (cls() if cls is PopularityRetriever else cls(**SMALL)).fit(
        EVENTS[PLAIN], sample_weight=weight
    )
    expected = pd.Series(weight).groupby(EVENTS["item_id"]).sum()[model.item_ids_]
    np.testing.assert_allclose(model.counts_, expected)
    np.testing.assert_allclose(model.popularity_, expected / weight.sum(), rtol=1e-6)
    news = EVENTS[PLAIN][:10].assign(timestamp=10**12)
    model.partial_fit(news, sample_weight=np.full(10, 5.0))
    more = news["item_id"].value_counts().reindex(model.item_ids_, fill_value=0)
    np.testing.assert_allclose(model.counts_, expected + 5 * more)


@pytest.mark.parametrize("form", ["pipeline", "alone"])
@pytest.mark.parametrize("cls", [PopularityRetriever, *CLASSES])
def test_updates_take_weights(cls, form):
    def make():
        model = cls() if cls is PopularityRetriever else cls(**SMALL)
        if form == "pipeline":
            model = make_match_pipeline(MatchEncoder(), SequenceSampler(), model)
        return model.fit(EVENTS[PLAIN][:900])

    def retriever(model):
        return model[-1] if form == "pipeline" else model

    news = EVENTS[PLAIN][900:]
    known = news[news["item_id"].isin(EVENTS["item_id"][:900])]
    plain, ones = make().partial_fit(known), make()
    ones.partial_fit(known, sample_weight=np.full(len(known), 1.0))
    np.testing.assert_allclose(retriever(ones).item_vectors_, retriever(plain).item_vectors_)
    # Weights of zero: stored, and not trained on.
    none, observed = make(), make()
    before = retriever(none).item_vectors_
    none.partial_fit(known, sample_weight=np.zeros(len(known)))
    observed.observe(known)
    np.testing.assert_array_equal(retriever(none).item_vectors_, before)
    pd.testing.assert_frame_equal(none.recommend(k=5), observed.recommend(k=5))
    some = make().partial_fit(known, sample_weight=np.arange(len(known)) % 2)
    assert not np.array_equal(retriever(some).item_vectors_, retriever(plain).item_vectors_)
    for wrong in (-np.ones(len(known)), np.ones(3)):
        with pytest.raises(ValueError, match="sample_weight"):
            make().partial_fit(known, sample_weight=wrong)


# Steps and rates


def watch_steps(monkeypatch):
    """Record the learning rate and the number of rows of each step."""
    rates, sizes = [], []
    step, forward = AdamW.step, UserEncoder.forward

    def spy(optimizer, lr):
        rates.append(lr)
        step(optimizer, lr)

    def count(encoder, batch, tokens):
        if encoder.training:
            sizes.append(len(batch.length))
        return forward(encoder, batch, tokens)

    monkeypatch.setattr(AdamW, "step", spy)
    monkeypatch.setattr(UserEncoder, "forward", count)
    return rates, sizes


@BOTH
@pytest.mark.parametrize("batch_size", [1, 8, 31, 33])
def test_the_batch_size_is_honoured_and_the_schedule_ends(cls, batch_size, monkeypatch):
    events = EVENTS[PLAIN][:300]
    rates, sizes = watch_steps(monkeypatch)
    cls(**SMALL | {"batch_size": batch_size}).fit(events)
    n_steps = -(-300 // batch_size)
    last = 300 - (n_steps - 1) * batch_size
    assert sizes == 2 * [*[batch_size] * (n_steps - 1), last]
    assert len(rates) == 2 * n_steps
    progress = (1 - 1 / len(rates) - 0.1) / 0.9
    assert rates[-1] == pytest.approx(0.006 * 0.5 * (1 + np.cos(np.pi * progress)))


@BOTH
@pytest.mark.parametrize(("n", "n_steps"), [(1, 1), (5, 5), (300, 300), (900, 300)])
def test_an_update_is_as_many_steps_of_a_constant_rate(cls, n, n_steps, monkeypatch):
    model = cls(**SMALL).fit(EVENTS[PLAIN][:300])
    rates, sizes = watch_steps(monkeypatch)
    news = pd.concat([EVENTS[PLAIN]] * 2)[300 : 300 + n].assign(timestamp=10**12)
    model.partial_fit(news)
    assert rates == [pytest.approx(0.15 * 0.006)] * n_steps
    assert sum(sizes) == n


def new_item_events(n=50):
    users = EVENTS["user_id"].unique()[:n]
    return pd.DataFrame({"user_id": users, "item_id": 999, "timestamp": 10**12 + np.arange(n)})


def mean_rank_of_new_item(model):
    users = EVENTS["user_id"].unique()
    answer = model.recommend(users, k=1000, exclude_seen=False)
    return answer.loc[answer["item_id"] == 999, "rank"].mean()


@BOTH
def test_fifty_updates_of_an_event_end_near_one_of_fifty_and_near_a_refit(cls):
    news, first = new_item_events(), EVENTS[PLAIN]
    options = SMALL | {"max_epochs": 4}
    whole = cls(**options).fit(pd.concat([first, news]))
    once, singly = cls(**options).fit(first), cls(**options).fit(first)
    once.partial_fit(news)
    for row in range(50):
        singly.partial_fit(news[row : row + 1])
    refitted, at_once, one_by_one = map(mean_rank_of_new_item, (whole, once, singly))
    assert abs(at_once - one_by_one) < 2  # measured: 1.0 to 1.1 either way, of 41 items
    assert max(at_once, one_by_one) < refitted + 2  # measured: 5 to 20 by a refit


def test_each_update_draws_anew(monkeypatch):
    draws, draw = [], CandidateSampler.draw

    def spy(sampler, n_draws):
        drawn = draw(sampler, n_draws)
        draws[-1].append(drawn)
        return drawn

    monkeypatch.setattr(CandidateSampler, "draw", spy)
    for seed in (None, 0):  # draws of the retriever's seed, and of the sampler's own
        draws.append([])
        pipe = make_match_pipeline(
            MatchEncoder(),
            SequenceSampler(negatives="uniform", random_state=seed),
            DSSMRetriever(**SMALL),
        ).fit(EVENTS[PLAIN])
        draws.clear()
        for _ in range(3):
            draws.append([])
            pipe.partial_fit(EVENTS[PLAIN][:4].assign(timestamp=10**12))
        first, second, third = (torch.cat(drawn) for drawn in draws)
        assert not torch.equal(first, second)
        assert not torch.equal(second, third)
        assert not torch.equal(first, third)


@pytest.mark.parametrize("n_rare", [3, 12])
def test_logq_of_a_batch_is_the_distribution_of_the_rows_trained(n_rare, monkeypatch):
    seen = []
    init = CandidateSampler.__init__

    def spy(sampler, *args, **kwargs):
        init(sampler, *args, **kwargs)
        seen.append(sampler.log_probability.exp().numpy())

    monkeypatch.setattr(CandidateSampler, "__init__", spy)
    pipe = make_match_pipeline(
        MatchEncoder(), SequenceSampler(negatives="in_batch"), DSSMRetriever(**SMALL)
    ).fit(EVENTS[PLAIN])
    counts = EVENTS["item_id"].value_counts()[pipe[-1].item_ids_].to_numpy()
    np.testing.assert_allclose(seen[-1], counts / counts.sum(), rtol=1e-5)
    # An update: of its rows that have weight.
    news = new_item_events(40)
    news.loc[n_rare:, "item_id"] = EVENTS["item_id"].iloc[0]
    weight = np.ones(40)
    weight[-5:] = 0
    pipe.partial_fit(news, sample_weight=weight)
    is_new = pipe[-1].item_ids_ == 999
    is_old = pipe[-1].item_ids_ == EVENTS["item_id"].iloc[0]
    n_others = (~is_new & ~is_old).sum()  # count as if they had one
    total = n_rare + (35 - n_rare) + n_others
    assert seen[-1][is_new] == pytest.approx(n_rare / total)
    assert seen[-1][is_old] == pytest.approx((35 - n_rare) / total)


@BOTH
@pytest.mark.parametrize("pooling", ["decay", "attention"])
def test_weight_decay_leaves_biases_norms_and_half_lives_alone(cls, pooling):
    options = SMALL | {"pooling": pooling, "batch_norm": True, "activation": "prelu", "lr": 1e-9}
    plain, decayed = (cls(**options, weight_decay=decay).fit(EVENTS[PLAIN]) for decay in (0.0, 1e7))
    kinds = {True: set(), False: set()}
    for name, weight in plain.weights_.items():
        if "running" in name or "num_batches" in name:
            continue
        own = decayed.weights_[name]
        is_kept = np.allclose(own, weight, rtol=0, atol=1e-6)
        kinds[is_kept].add(name)
        spared = weight.ndim < 2 or name.endswith("bias")
        assert is_kept if spared else (is_kept == (np.abs(weight).max() < 1e-6)), name
    assert any("half_life" in name for name in kinds[True])
    assert any("embedding" in name for name in kinds[False])


# Nothing outside of the fit changes it, and it changes nothing


def float64():
    class Context:
        def __enter__(self):
            torch.set_default_dtype(torch.float64)

        def __exit__(self, *error):
            torch.set_default_dtype(torch.float32)

    return Context()


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": float64,
    "meta": lambda: torch.device("meta"),
}


def torch_state():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
    )


POOLINGS = ["decay", "attention", "mean", "sum", "max", "concat", NewestPooling]


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_settings_of_torch_do_not_change_a_fit(context, pooling):
    def run(model):
        model.fit(EVENTS[:900], dssmretriever__sample_weight=np.linspace(0.1, 1, 900))
        model.partial_fit(EVENTS[900:1000])
        model.add_items(EVENTS[:1][["category"]].assign(item_id=999))
        return model.recommend(k=5), model.predict(EVENTS[:9]), model.similar_items([999])

    def make():
        encoder = MatchEncoder(user_features=["age"], item_features=["category", "tags"])
        retriever = DSSMRetriever(**SMALL, pooling=pooling, batch_norm=True, early_stopping=True)
        return make_match_pipeline(encoder, SequenceSampler(max_length=9), retriever)

    plain, inside = make(), make()
    expected = run(plain)
    with context():
        before = torch_state()
        answers = run(inside)
        assert torch_state() == before
    assert_same_bits(inside[-1], plain[-1])
    pd.testing.assert_frame_equal(answers[0], expected[0])
    np.testing.assert_array_equal(answers[1], expected[1])
    pd.testing.assert_frame_equal(answers[2], expected[2])


# Costs are those of what there is


@BOTH
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_a_vast_neg_ratio_costs_what_the_catalogue_holds(cls, loss, monkeypatch):
    draws, draw = [], CandidateSampler.draw
    encoded, forward = [], ItemEncoder.forward
    monkeypatch.setattr(CandidateSampler, "draw", lambda self, n: draws.append(n) or draw(self, n))
    monkeypatch.setattr(
        ItemEncoder,
        "forward",
        lambda self, items, features: encoded.append(len(items)) or forward(self, items, features),
    )
    samples = SequenceSampler(neg_ratio=10**5).fit_transform(EVENTS[PLAIN][:300])
    cls(**SMALL, loss=loss).fit(samples)
    n_items = EVENTS["item_id"][:300].nunique()
    assert max(draws) <= max(candidates.MAX_DRAWS * n_items, 4 * candidates.SHARED_ROWS)
    assert max(encoded[: len(draws)]) <= n_items + 2


@BOTH
def test_a_vast_max_length_costs_what_histories_hold(cls, monkeypatch):
    widths, forward = [], UserEncoder.forward

    def spy(encoder, batch, tokens):
        widths.append((encoder.training, tokens.shape[1]))
        return forward(encoder, batch, tokens)

    monkeypatch.setattr(UserEncoder, "forward", spy)
    samples = SequenceSampler(max_length=10**5).fit_transform(EVENTS[PLAIN][:300])
    longest = int((samples.stop - samples.start).max())
    model = cls(**SMALL).fit(samples)
    model.predict(samples)
    assert max(width for is_training, width in widths if is_training) <= longest + 31
    assert max(width for is_training, width in widths if not is_training) <= longest


# Validation


@BOTH
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_validation_ranks_as_recommendations_do(cls, exclude_seen):
    samples = SequenceSampler().fit_transform(EVENTS[PLAIN])
    options = SMALL | {"max_epochs": 1, "early_stopping": True, "validation_fraction": 1.0}
    model = cls(**options | {"exclude_seen": exclude_seen, "trend": None}, k=100).fit(samples)
    # Repeats are no targets where seen items are left out.
    targets = EVENTS.sort_values("timestamp", kind="stable")
    if exclude_seen:
        targets = targets.drop_duplicates(["user_id", "item_id"])
    held_out = samples[targets.groupby("user_id").tail(1).index.sort_values().to_numpy()]
    gains = []
    scores = model.transform(held_out) @ model.item_vectors_.T
    for score, target, seen, stop in zip(
        scores, held_out.item - 2, held_out.seen, held_out.stop, strict=True
    ):
        if exclude_seen:
            score[samples.log.items[seen:stop] - 2] = -np.inf
        rank = 1 + (score > score[target]).sum()
        gains.append(1 / np.log2(1 + rank) if rank <= 100 else 0.0)
    assert model.validation_curve_ == [pytest.approx(np.mean(gains), abs=1e-6)]
    assert model.score(held_out) == model.validation_curve_[0]


# Content


@BOTH
def test_features_of_items_tell_histories_apart(cls):
    items = [f"i{n}" for n in range(20)]
    rng = np.random.default_rng(0)
    events = pd.DataFrame(
        {"user_id": rng.integers(15, size=300), "item_id": rng.choice(items, 300)}
    )
    events["colour"] = events["item_id"].map({item: "rb"[n % 2] for n, item in enumerate(items)})
    events["timestamp"] = np.arange(300)
    pipe = make_match_pipeline(
        MatchEncoder(item_features=["colour"]), SequenceSampler(), cls(**SMALL)
    ).fit(events)
    # Items that training did not meet have the vectors of their features.
    new = pd.DataFrame({"item_id": ["x", "y", "z"], "colour": ["r", "r", "b"]})
    pipe.add_items(new)
    queries = pd.DataFrame({"user_id": [-1] * 3, "history": [["x"], ["y"], ["z"]]})
    same, alike, other = pipe[-1].transform(pipe[:-1].transform(queries))
    np.testing.assert_allclose(same, alike, rtol=0, atol=1e-6)
    assert np.abs(same - other).max() > 0.01
    vectors = dict(zip(pipe[-1].item_ids_, pipe[-1].item_vectors_, strict=True))
    np.testing.assert_allclose(vectors["x"], vectors["y"], rtol=0, atol=1e-6)
    assert np.abs(vectors["x"] - vectors["z"]).max() > 0.01


# Poolings of the caller


@BOTH
def test_a_pooling_of_the_caller_is_seeded_and_leaves_the_global_generator(cls):
    state = torch.get_rng_state()
    model, again = (cls(**SMALL, pooling=NewestPooling).fit(EVENTS[PLAIN]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_bits(again, model)
    torch.manual_seed(7)
    assert_same_bits(cls(**SMALL, pooling=NewestPooling).fit(EVENTS[PLAIN]), model)
    torch.set_rng_state(state)
    other = cls(**SMALL | {"random_state": 1}, pooling=NewestPooling).fit(EVENTS[PLAIN])
    assert other.loss_curve_ != model.loss_curve_
    name = "members.0.user_encoder.pooling.layers.1.weight"
    assert model.weights_[name].shape == (5, 8)
    assert not np.array_equal(other.weights_[name], model.weights_[name])


def test_a_pooling_of_the_caller_is_loaded_in_a_fresh_process(tmp_path):
    model = DSSMRetriever(**SMALL, pooling=NewestPooling).fit(EVENTS[PLAIN])
    queries = EVENTS[PLAIN][:20]
    joblib.dump(model, tmp_path / "model")
    joblib.dump(queries, tmp_path / "queries")
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, here / "custom_pooling.py", "model", "queries", "result.npy"],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
    )
    np.testing.assert_array_equal(np.load(tmp_path / "result.npy"), model.predict(queries))
    model.partial_fit(queries)


class Scalar(torch.nn.Module):
    def forward(self, history):
        return history.tokens.sum()


@pytest.mark.parametrize(
    ("pooling", "error", "message"),
    [
        (lambda dim, max_length: "mean", TypeError, "returned a str: return a torch.nn.Module"),
        (lambda dim, max_length: Scalar(), ValueError, "one vector per history"),
    ],
)
def test_wrong_poolings_are_refused(pooling, error, message):
    with pytest.raises(error, match=message):
        DSSMRetriever(**SMALL, pooling=pooling).fit(EVENTS[PLAIN])
