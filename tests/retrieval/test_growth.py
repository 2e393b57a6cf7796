"""`observe`, `partial_fit` and `add_items`: what a fitted retriever takes in."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch._nn.engine import Engine
from skmatch._nn.optimizer import AdamW
from skmatch._nn.training import Trainer
from skmatch.datasets import make_events
from skmatch.neighbors import ItemIndex

SMALL = {"embedding_dim": 8, "dims": (16, 8), "max_epochs": 2, "batch_size": 256, "random_state": 0}
RETRIEVERS = [PopularityRetriever(), DSSMRetriever(**SMALL), YoutubeDNNRetriever(**SMALL)]
# The first events, which are fitted, lack some users and items of the others.
EVENTS = make_events(n_users=80, n_items=60, n_events=1500, random_state=0)
FIRST, NEXT = EVENTS[:700], EVENTS[700:]
PLAIN = ["user_id", "item_id", "timestamp"]

neural = pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
every_class = pytest.mark.parametrize(
    "cls", [type(one) for one in RETRIEVERS], ids=lambda cls: cls.__name__
)


def make_pipe(cls=DSSMRetriever, **options):
    encoder = MatchEncoder(
        user_features=["segment", "age"],
        item_features=["category", "price", "tags"],
        kinds={"tags": "multi_valued"},
    )
    retriever = cls() if cls is PopularityRetriever else cls(**SMALL | options)
    return make_match_pipeline(encoder, SequenceSampler(max_length=10), retriever)


def table_of(pipe, name, member=0):
    return pipe[-1].weights_[f"members.{member}.{name}.weight"]


def embeddings_of(pipe, member=0):
    """Return the embeddings of users and of items."""
    return [table_of(pipe, f"{side}_encoder.embedding", member) for side in ("user", "item")]


def histories(pipe, users=EVENTS["user_id"]):
    """Return the stored history of each user, in the user's own ids."""
    queries = pd.DataFrame({"user_id": sorted(set(users))})
    return pipe[:-1].transform(queries).decode().set_index("user_id")["history"].to_dict()


def stored(pipe):
    """Return all stored events of each user, item and time, oldest first, and items' counts."""
    sampler = pipe["sequencesampler"]
    schema, bounds = sampler.schema_, sampler.offsets_.tolist()
    events = [*zip(schema.items.decode(sampler.log_.items), sampler.times_.tolist(), strict=True)]
    users = schema.users.decode(np.arange(2, len(schema.users)))
    of_users = {user: events[bounds[i] : bounds[i + 1]] for i, user in enumerate(users, start=2)}
    items = schema.items.decode(np.arange(2, len(schema.items)))
    return of_users, dict(zip(items, sampler.item_counts_.tolist(), strict=True))


def state(fitted):
    """Return a hash of all that an estimator holds, except what is built from the rest."""
    steps = [step for _, step in fitted.steps] if hasattr(fitted, "steps") else [fitted]
    return joblib.hash([vars(step) | {"_engine": None} for step in steps])


def test_there_is_something_to_take_in():
    for column in ("user_id", "item_id"):
        assert set(NEXT[column]) - set(FIRST[column])


# observe


@every_class
def test_the_next_answer_knows_what_was_observed(cls):
    pipe = make_pipe(cls).fit(FIRST)
    user, item = FIRST["user_id"].iloc[0], pipe.recommend(FIRST["user_id"][:1], k=1)["item_id"][0]
    event = FIRST[:1].assign(item_id=item, timestamp=EVENTS["timestamp"].max() + 1)
    assert pipe.observe(event) is pipe
    assert item not in pipe.recommend([user], k=1000)["item_id"].tolist()
    assert histories(pipe, [user])[user][-1] == item


@every_class
def test_an_unknown_user_gets_a_history_and_a_plain_retriever_observes_alike(cls):
    pipe = make_pipe(cls).fit(FIRST)
    alone = (cls() if cls is PopularityRetriever else cls(**SMALL)).fit(FIRST[PLAIN])
    items = FIRST["item_id"].unique()[:3]
    news = pd.DataFrame({"user_id": 999, "item_id": items, "timestamp": [3, 1, 2]})
    for retriever in (pipe, alone):
        retriever.observe(news)
        answer = retriever.recommend([999], k=1000)
        assert not set(answer["item_id"]) & set(items)
        source = "popularity" if cls is PopularityRetriever else "history"
        assert set(answer["source"]) == {source}
    assert histories(pipe, [999])[999] == items[[1, 2, 0]].tolist()
    # An array stands for a frame where fit got one.
    array = alone.__class__(**alone.get_params()).fit(FIRST[PLAIN].to_numpy())
    array.observe(news.to_numpy())
    assert not set(array.recommend([999], k=1000)["item_id"]) & set(items)


@pytest.mark.parametrize("n_calls", [1, 7])
def test_neither_the_order_nor_the_split_into_calls_matters(n_calls):
    pipe, other = make_pipe().fit(FIRST), make_pipe().fit(FIRST)
    pipe.observe(NEXT)
    shuffled = NEXT.sample(frac=1, random_state=n_calls)
    for rows in np.array_split(np.arange(len(NEXT)), n_calls):
        other.observe(shuffled.iloc[rows])
    assert histories(other) == histories(pipe)
    users = EVENTS["user_id"].unique()
    pd.testing.assert_frame_equal(other.recommend(users, k=5), pipe.recommend(users, k=5))
    queries = EVENTS[["user_id", "timestamp"]]
    np.testing.assert_array_equal(other.predict(queries, k=5), pipe.predict(queries, k=5))


def test_late_events_go_to_their_place_in_time_and_do_not_age_features():
    pipe = make_pipe().fit(FIRST)
    known = NEXT["item_id"].isin(FIRST["item_id"])
    pipe.observe(NEXT[known])
    whole = make_pipe().fit(pd.concat([FIRST, NEXT[known]]))
    assert histories(pipe) == histories(whole)
    before = user_column(pipe, "age")
    pipe.observe(FIRST[:1].assign(timestamp=-5, age=1e3))
    pd.testing.assert_series_equal(user_column(pipe, "age"), before)
    for name in ("age", "segment"):
        assert user_column(pipe, name).equals(user_column(whole, name))


def user_column(pipe, name):
    """Return what is known of the feature of each user, decoded where it has categories."""
    schema = pipe.schema_
    feature = next(one for one in schema.user_features if one.name == name)
    values = schema.user_table[name]
    if feature.vocabulary is None:
        # Deviations from the mean of each fit are told apart by their rank only.
        values = pd.Series(values).rank()
    else:
        values = feature.vocabulary.decode(values).astype(str)
    ids = schema.users.decode(np.arange(len(schema.users)))
    return pd.Series(values.to_numpy()[2:], index=ids.to_numpy()[2:]).sort_index()


def test_observing_trains_nothing_and_leaves_the_catalogue():
    pipe = make_pipe().fit(FIRST)
    before = pipe[-1].item_vectors_, pipe[-1].weights_, pipe[-1].item_ids_.tolist()
    pipe.observe(NEXT)
    after = pipe[-1].item_vectors_, pipe[-1].weights_, pipe[-1].item_ids_.tolist()
    assert before[0] is after[0]
    assert before[1] is after[1]
    assert before[2] == after[2]
    new = set(NEXT["item_id"]) - set(FIRST["item_id"])
    user = NEXT.loc[NEXT["item_id"].isin(new), "user_id"].iloc[0]
    assert any(pd.isna(item) for item in histories(pipe, [user])[user])


def test_events_of_the_same_time_stay_as_they_arrive():
    events = pd.DataFrame({"user_id": "a", "item_id": list("wxyz"), "timestamp": [1, 2, 2, 3]})
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever())
    pipe.fit(events).observe(events.assign(item_id=list("zyxw")))
    assert histories(pipe, ["a"])["a"] == list("wzxyyxzw")


def test_without_times_the_order_of_arrival_is_that_of_time():
    pipe = make_match_pipeline(MatchEncoder(time=None), SequenceSampler(), PopularityRetriever())
    events = pd.DataFrame({"user_id": ["a", "b", "a"], "item_id": ["x", "y", "z"]})
    pipe.fit(events).observe(events[:2]).observe(events[::-1])
    assert histories(pipe, ["a", "b"]) == {"a": list("xzxzx"), "b": list("yyy")}


def test_observing_costs_a_pass_over_the_log_whatever_the_number_of_events(monkeypatch):
    """Counted in insertions into the log, of which one per call is enough."""
    pipe = make_pipe(PopularityRetriever).fit(FIRST)
    inserted, insert = [], np.insert
    monkeypatch.setattr(
        np,
        "insert",
        lambda into, *args, **kw: inserted.append(len(into)) or insert(into, *args, **kw),
    )
    n_calls = []
    for news in (NEXT[:1], NEXT[1:]):
        inserted.clear()
        pipe.observe(news)
        n_calls.append(len(inserted))
    assert n_calls[0] == n_calls[1] <= 4


# partial_fit


@every_class
def test_fifty_small_calls_store_what_one_fit_does(cls):
    pipe, whole = make_pipe(cls).fit(FIRST), make_pipe(cls).fit(EVENTS)
    for rows in np.array_split(np.arange(len(NEXT)), 50):
        pipe.partial_fit(NEXT.iloc[rows])
    assert stored(pipe) == stored(whole)
    assert histories(pipe) == histories(whole)
    assert pipe[-1].item_ids_.tolist() == whole[-1].item_ids_.tolist()
    np.testing.assert_allclose(pipe[-1].popularity_, whole[-1].popularity_, rtol=1e-5)
    for name in ("segment", "age"):
        assert user_column(pipe, name).equals(user_column(whole, name))
    assert len(pipe.recommend(k=3)) == 3 * EVENTS["user_id"].nunique()


@every_class
@pytest.mark.parametrize("dtype", ["int64", "str", "category", "datetime64[s, UTC]"])
def test_observed_items_are_known_once_they_are_in_the_catalogue(cls, dtype):
    events = EVENTS[PLAIN].assign(item_id=EVENTS["item_id"].astype(dtype))
    first, news = events[:700], events[700:]
    last = news.index.isin(news.drop_duplicates("item_id", keep="last").index)
    pipe, whole = make_pipe(cls), make_pipe(cls)
    for one in (pipe, whole):
        one.set_params(matchencoder=MatchEncoder())
    pipe.fit(first)
    for rows in np.array_split(np.flatnonzero(~last)[::-1], 3):
        pipe.observe(news.iloc[rows])
    assert stored(pipe) != stored(whole.fit(events))
    pipe.partial_fit(news[last])
    assert stored(pipe) == stored(whole)
    assert pipe["sequencesampler"].log_.pending.shape == (2, 0)


def test_observed_items_are_known_once_they_are_added():
    pipe, whole = make_pipe().fit(FIRST).observe(NEXT), make_pipe().fit(EVENTS)
    new = NEXT[~NEXT["item_id"].isin(FIRST["item_id"])].drop_duplicates("item_id")
    half = len(new) // 2
    pipe.add_items(new[:half])
    assert pipe["sequencesampler"].log_.pending.size > 0
    pipe.add_items(new[half:])
    assert stored(pipe) == stored(whole)
    answer = pipe.recommend(k=1000)
    pairs = set(zip(answer["user_id"], answer["item_id"], strict=True))
    assert not pairs & set(zip(EVENTS["user_id"], EVENTS["item_id"], strict=True))


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize("id_dropout", [0, 0.3])
def test_users_and_items_without_training_stay_as_they_were(id_dropout, member):
    pipe = make_pipe(id_dropout=id_dropout, n_estimators=2).fit(FIRST).add_items(new_items())
    new = pipe.schema_.items.lookup([901, 902, 903])
    added = table_of(pipe, "item_encoder.embedding", member)[new]
    pipe.observe(FIRST[:1].assign(user_id=999))
    pipe.partial_fit(FIRST[:200].assign(timestamp=10**12))
    users, items = (
        table_of(pipe, f"{side}_encoder.embedding", member) for side in ("user", "item")
    )
    np.testing.assert_array_equal(users[pipe.schema_.users.lookup([999])], users[[1]])
    np.testing.assert_array_equal(items[new], added)
    # Once there is something to learn of them, they do.
    pipe.partial_fit(FIRST[:1].assign(user_id=999, item_id=901))
    users, items = (
        table_of(pipe, f"{side}_encoder.embedding", member) for side in ("user", "item")
    )
    assert (users[pipe.schema_.users.lookup([999])] != users[1]).any()
    assert (items[new[0]] != added[0]).any()
    np.testing.assert_array_equal(items[new[1:]], added[1:])
    assert len(pipe[-1].item_vectors_) == len(pipe.schema_.items.values)


@pytest.mark.parametrize("cls", [DSSMRetriever, YoutubeDNNRetriever])
def test_old_ones_keep_codes_and_meaning_and_new_ones_get_rows(cls):
    pipe = make_pipe(cls, max_epochs=10).fit(FIRST)
    codes = pipe.schema_.items.values.tolist(), pipe.schema_.users.values.tolist()
    before = pipe[-1].item_vectors_
    pipe.partial_fit(NEXT.assign(category=NEXT["category"].astype(str) + "!"))
    assert pipe.schema_.items.values.tolist()[: len(codes[0])] == codes[0]
    assert pipe.schema_.users.values.tolist()[: len(codes[1])] == codes[1]
    category = pipe.schema_.item_features[0].vocabulary.values
    assert sum(value.endswith("!") for value in category) == NEXT["category"].nunique()
    assert len(table_of(pipe, "item_encoder.features.tables.0")) == len(category) + 2
    assert len(table_of(pipe, "item_encoder.embedding")) == EVENTS["item_id"].nunique() + 2
    assert len(table_of(pipe, "user_encoder.embedding")) == EVENTS["user_id"].nunique() + 2
    assert pipe[-1].n_iter_ == len(pipe[-1].loss_curve_) == 11
    if cls is YoutubeDNNRetriever:
        cosines = (pipe[-1].item_vectors_[: len(before)] * before).sum(1)
        assert np.median(cosines) > 0.9


def test_training_on_events_makes_them_likelier_than_storing_them():
    item = EVENTS["item_id"].value_counts().index[-1]
    users = EVENTS["user_id"].unique()
    end = EVENTS["timestamp"].max()
    scores = {}
    for verb in ("observe", "partial_fit"):
        pipe = make_pipe().fit(EVENTS)
        for shift in range(5):
            news = {"user_id": users, "item_id": item, "timestamp": end + 1 + shift}
            getattr(pipe, verb)(pd.DataFrame(news))
        answer = pipe.recommend(users, k=1000, exclude_seen=False, candidates=[item])
        scores[verb] = answer["score"].mean()
    assert scores["partial_fit"] > scores["observe"] + 0.01


@every_class
def test_on_what_is_not_fitted_it_fits(cls):
    np.testing.assert_array_equal(
        make_pipe(cls).partial_fit(FIRST)[-1].item_vectors_,
        make_pipe(cls).fit(FIRST)[-1].item_vectors_,
    )
    alone = cls() if cls is PopularityRetriever else cls(**SMALL)
    samples = SequenceSampler().fit_transform(FIRST[PLAIN])
    assert len(alone.partial_fit(samples).partial_fit(samples).item_ids_) == len(
        set(FIRST["item_id"])
    )


@every_class
def test_a_saved_one_goes_on_like_the_one_saved(cls, tmp_path):
    pipe = make_pipe(cls).fit(FIRST)
    joblib.dump(pipe, tmp_path / "pipe.joblib")
    other = joblib.load(tmp_path / "pipe.joblib")
    for one in (pipe, other):
        one.observe(NEXT[:100]).partial_fit(NEXT[100:])
    pd.testing.assert_frame_equal(other.recommend(k=3), pipe.recommend(k=3))


# add_items


def new_items(**columns):
    features = ["category", "price", "tags"]
    row = FIRST.drop_duplicates("item_id")[features].iloc[[0, 0, 5]]
    return row.assign(**{"item_id": [901, 902, 903]} | columns)


@neural
def test_new_items_are_recommended_at_once_by_their_features(cls):
    pipe = make_pipe(cls).fit(FIRST)
    old, weights = pipe[-1].item_vectors_, pipe[-1].weights_
    weights_before = {name: array.copy() for name, array in weights.items()}
    assert pipe.add_items(new_items()) is pipe
    assert set(pipe.recommend([999, FIRST["user_id"].iloc[0]], k=1000)["item_id"]) >= {901, 903}
    for name, array in weights.items():  # other threads may read them
        np.testing.assert_array_equal(array, weights_before[name])
        np.testing.assert_array_equal(pipe[-1].weights_[name][: len(array)], array)
    vectors = pipe[-1].item_vectors_
    np.testing.assert_array_equal(vectors[:-3], old)
    # The same features are the same vector.
    np.testing.assert_allclose(vectors[-3], vectors[-2], rtol=1e-5, atol=1e-6)
    assert not np.allclose(vectors[-3], vectors[-1])
    assert pipe.similar_items([901], k=1)["similar"].tolist() == [902]
    # Their events are stored, and trained on, as those of any item.
    event = pd.DataFrame({"user_id": [999], "item_id": [901], "timestamp": [0]})
    pipe.observe(event)
    assert histories(pipe, [999]) == {999: [901]}
    pipe.partial_fit(event.assign(item_id=902, timestamp=1))
    assert len(table_of(pipe, "item_encoder.embedding")) == len(pipe.schema_.items)


KINDS = {"category": "categorical", "price": "numeric", "tags": "multi_valued", "text": "vector"}


def events_of_two_groups(feature):
    """Return events of two groups of users with items of their own."""
    rng = np.random.default_rng(0)
    user = rng.integers(40, size=1200)
    item = 2 * rng.integers(15, size=1200) + user % 2
    values = {
        "category": [f"c{item}" for item in range(30)],
        "price": np.tile([1.0, 9.0], 15) + rng.random(30),
        "tags": [[f"t{item}", f"u{item}"] for item in range(30)],
        "text": list(rng.normal(size=(30, 32))),
    }
    features = pd.DataFrame({"item_id": range(30), feature: values[feature]})
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": np.arange(1200)})
    return events, features


@pytest.mark.parametrize("form", ["added", "fitted", "trained later"])
@pytest.mark.parametrize("feature", KINDS)
def test_an_item_without_events_is_recommended_to_the_users_of_its_trained_twin(feature, form):
    events, items = events_of_two_groups(feature)
    twins = items.iloc[[4, 7]].assign(item_id=[104, 107])
    encoder = MatchEncoder(item_features=[feature], kinds={feature: KINDS[feature]})
    model = DSSMRetriever(**SMALL | {"max_epochs": 10}, id_dropout=0)
    pipe = make_match_pipeline(encoder, SequenceSampler(), model)
    if form == "fitted":
        pipe.fit(events, matchencoder__items=pd.concat([items, twins]))
    else:
        pipe.fit(events, matchencoder__items=items).add_items(twins)
    if form == "trained later":
        pipe.partial_fit(events[:50].assign(timestamp=2000))
    queries = pd.DataFrame({"user_id": range(40)})
    chosen, of_twins = (
        pipe.predict(queries, k=1, candidates=both, exclude_seen=False).ravel()
        for both in ([4, 7], [104, 107])
    )
    assert (of_twins == chosen + 100).mean() > 0.9


@pytest.mark.parametrize("others", [[], ["category"]])
def test_a_feature_that_no_item_has_says_nothing_of_likeness(others):
    events, items = events_of_two_groups("category")
    items = pd.concat([items, items[:1].assign(item_id=100)]).assign(color=None)
    encoder = MatchEncoder(item_features=["color", *others])
    pipe = make_match_pipeline(encoder, SequenceSampler(), DSSMRetriever(**SMALL))
    pipe.fit(events, matchencoder__items=items)
    assert 100 in pipe.recommend([0], k=200, exclude_seen=False)["item_id"].tolist()


def test_an_item_unlike_all_others_counts_as_unknown():
    events, items = events_of_two_groups("category")
    encoder = MatchEncoder(item_features=["category"])
    pipe = make_match_pipeline(encoder, SequenceSampler(), DSSMRetriever(**SMALL))
    new = pd.DataFrame({"item_id": [100, 101], "category": ["new", None]})
    pipe.fit(events, matchencoder__items=items).add_items(new)
    embeddings = table_of(pipe, "item_encoder.embedding")
    np.testing.assert_array_equal(embeddings[-2:], embeddings[[1, 1]])


@neural
def test_added_items_are_saved_and_the_same_in_every_run(cls, tmp_path):
    first, second = (make_pipe(cls).fit(FIRST).add_items(new_items()) for _ in range(2))
    vectors = first[-1].item_vectors_
    np.testing.assert_array_equal(second[-1].item_vectors_, vectors)
    joblib.dump(first, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model")
    queries = pd.DataFrame({"user_id": [-1, -1], "history": [[901], [903]]})
    pd.testing.assert_frame_equal(loaded.recommend(queries), first.recommend(queries))
    loaded.add_items(new_items())  # once more, which changes nothing
    np.testing.assert_array_equal(loaded[-1].item_vectors_, vectors)


def test_a_known_item_gets_new_features_and_they_outlast_events():
    pipe = make_pipe().fit(FIRST)
    item = FIRST["item_id"].iloc[0]
    other = FIRST.loc[FIRST["category"] != FIRST["category"].iloc[0], "category"].iloc[0]
    before, place = pipe[-1].item_vectors_, pipe[-1].item_ids_.tolist().index(item)
    pipe.add_items(pd.DataFrame({"item_id": [item], "category": [other]}))
    changed = (pipe[-1].item_vectors_ != before).any(axis=1)
    assert changed.tolist() == [row == place for row in range(len(before))]
    codes = pipe.schema_.item_table["category"].copy()
    pipe.partial_fit(FIRST[FIRST["item_id"] == item].assign(timestamp=10**12))
    np.testing.assert_array_equal(pipe.schema_.item_table["category"], codes)


def test_an_item_that_comes_without_features_and_no_item_at_all():
    pipe = make_pipe().fit(FIRST)
    pipe.add_items(pd.DataFrame({"item_id": pd.Series(dtype="int64")}))
    assert pipe[-1].item_ids_.tolist() == FIRST["item_id"].unique().tolist()
    pipe.add_items(pd.DataFrame({"item_id": [901]}))
    assert 901 in pipe.recommend(FIRST["user_id"][:1], k=1000)["item_id"].tolist()


def test_popularity_puts_new_items_last():
    alone = PopularityRetriever().fit(FIRST[PLAIN]).add_items(new_items()[["item_id"]])
    assert alone.recommend([999], k=1000)["item_id"].tolist()[-3:] == [901, 902, 903]


@neural
def test_without_item_features_new_items_are_refused(cls):
    """All of them would have one vector, that of the unknown item."""
    alone = cls(**SMALL).fit(FIRST[PLAIN])
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), cls(**SMALL)).fit(FIRST[PLAIN])
    message = (
        rf"{cls.__name__} cannot add items: its MatchEncoder has no item_features.*partial_fit "
        r"with events of the new items, or fit with MatchEncoder\(item_features="
    )
    for model in (alone, pipe):
        before = state(model)
        with pytest.raises(ValueError, match=message):
            model.add_items(new_items()[["item_id"]])
        assert state(model) == before


@neural
def test_a_new_item_tells_of_its_features_as_part_of_a_history(cls):
    pipe = make_pipe(cls).fit(FIRST).add_items(new_items())
    histories = [[901], [902], [903]]
    same, alike, other = pipe[-1].transform(
        pipe[:-1].transform(pd.DataFrame({"user_id": [-1] * 3, "history": histories}))
    )
    np.testing.assert_allclose(same, alike, rtol=0, atol=1e-6)
    assert np.abs(same - other).max() > 0.01


@pytest.mark.parametrize("cls", [DSSMRetriever, PopularityRetriever])
@pytest.mark.parametrize("form", ["pipeline", "alone"])
def test_features_that_nobody_named_are_refused(cls, form):
    model = cls(**SMALL if cls is DSSMRetriever else {})
    if form == "pipeline":
        model = make_match_pipeline(MatchEncoder(), SequenceSampler(), model)
    model.fit(FIRST[PLAIN])
    message = (
        r"items has the columns \['category', 'price', 'tags'\], but none is a feature.*"
        r"make_match_pipeline\(MatchEncoder\(item_features=\['category', 'price', 'tags'\]\), "
        r"SequenceSampler\(\), DSSMRetriever\(\)\), or pass only the column 'item_id'"
    )
    with pytest.raises(ValueError, match=message):
        model.add_items(new_items())
    assert not {901, 902, 903} & set(model.recommend(k=1000, exclude_seen=False)["item_id"])


# failures


class InjectedError(Exception):
    pass


def fail(*args, **kwargs):
    raise InjectedError


IN_EVENTS = [
    (MatchEncoder, "_partial_fit"),
    (MatchEncoder, "_with_users"),
    (SequenceSampler, "_partial_fit"),
    (SequenceSampler, "_samples"),
    (DSSMRetriever, "_check_codes"),
]
IN_TRAINING = [
    (DSSMRetriever, "_learn_more"),
    (Engine, "load"),
    (Trainer, "run_epoch"),
    (Engine, "item_vectors"),
    (ItemIndex, "fit"),
]
IN_ITEMS = [
    (MatchEncoder, "_add_items"),
    (SequenceSampler, "_add_items"),
    (DSSMRetriever, "_learn_items"),
    (Engine, "item_vectors"),
    (ItemIndex, "fit"),
]
FAILURES = [
    *(("observe", NEXT, *place) for place in IN_EVENTS),
    *(("partial_fit", NEXT, *place) for place in (*IN_EVENTS, *IN_TRAINING)),
    *(("add_items", new_items(), *place) for place in IN_ITEMS),
]


@pytest.fixture(scope="module", params=["pipeline", "alone"])
def fitted(request):
    if request.param == "pipeline":
        return make_pipe().fit(FIRST)
    return DSSMRetriever(**SMALL).fit(FIRST[PLAIN])


@pytest.mark.parametrize(
    ("verb", "rows", "owner", "name"),
    FAILURES,
    ids=[f"{verb}-{owner.__name__}.{name}" for verb, _, owner, name in FAILURES],
)
def test_an_error_at_any_step_changes_nothing(fitted, monkeypatch, verb, rows, owner, name):
    if verb == "add_items" and not fitted.schema_.item_features:
        if owner in (Engine, ItemIndex):
            pytest.skip("refused before")
        rows = rows[["item_id"]]
    before, answer = state(fitted), fitted.recommend(k=3)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(InjectedError):
            getattr(fitted, verb)(rows)
    assert state(fitted) == before
    pd.testing.assert_frame_equal(fitted.recommend(k=3), answer)


class Interrupting(dict):
    """State of a step that is interrupted while it is replaced, once."""

    is_armed = True

    def update(self, *args, **kwargs):
        if self.is_armed:
            self.is_armed = False
            super().update(dict(list(dict(*args).items())[:1]), **kwargs)
            raise KeyboardInterrupt
        super().update(*args, **kwargs)


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize(
    ("verb", "rows"), [("observe", NEXT), ("partial_fit", NEXT), ("add_items", new_items())]
)
def test_an_interrupt_between_two_steps_leaves_all_as_they_were(verb, rows, step, monkeypatch):
    pipe = make_pipe(PopularityRetriever).fit(FIRST)
    before, answer = state(pipe), pipe.recommend(k=3)
    pipe[step].__dict__ = Interrupting(vars(pipe[step]))
    with pytest.raises(KeyboardInterrupt):
        getattr(pipe, verb)(rows)
    pipe[step].__dict__ = dict(vars(pipe[step]))
    assert state(pipe) == before
    pd.testing.assert_frame_equal(pipe.recommend(k=3), answer)


@neural
@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_an_interrupt_of_a_training_step_leaves_gradients_on_and_all_as_it_was(
    cls, verb, monkeypatch
):
    pipe = make_pipe(cls).fit(FIRST)
    before, n_steps = state(pipe), []

    def step(optimizer, lr):
        n_steps.append(lr)
        if len(n_steps) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "step", torch.no_grad()(step))
        with pytest.raises(KeyboardInterrupt):
            getattr(pipe, verb)(NEXT)
    assert len(n_steps) == 2
    assert torch.is_grad_enabled()
    assert state(pipe) == before
    pipe.partial_fit(NEXT)
    assert state(pipe) != before


@pytest.mark.parametrize("verb", ["observe", "partial_fit"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda events: events.drop(columns="timestamp"), "time column 'timestamp' is missing"),
        (lambda events: events.drop(columns="item_id"), "item column 'item_id' is missing"),
        (lambda events: events.assign(user_id=None), "'user_id' has 800 missing values"),
        (lambda events: events.assign(timestamp=np.inf), "finite times"),
        (
            lambda events: events.assign(timestamp=pd.Timestamp("2024-01-01")),
            "a datetime here and a number at fit",
        ),
        (lambda events: events.assign(user_id="u1"), r"'user_id' holds 'u1'.*int64.*convert"),
        (lambda events: events.assign(item_id="u1"), r"'item_id' holds 'u1'.*int64.*convert"),
        (lambda events: events[:0], "at least one event"),
    ],
)
def test_events_that_cannot_be_taken_in_change_nothing(fitted, verb, change, message):
    before = state(fitted)
    with pytest.raises(ValueError, match=message):
        getattr(fitted, verb)(change(NEXT))
    assert state(fitted) == before


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([901], "items is a list; pass a DataFrame with a column 'item_id'"),
        (new_items().drop(columns="item_id"), "id column 'item_id' is missing"),
        (new_items(item_id=901), "several rows for 'item_id' = 901"),
        (new_items(item_id=None), "missing values"),
    ],
)
def test_items_that_cannot_be_added_change_nothing(fitted, items, message):
    before = state(fitted)
    with pytest.raises(ValueError, match=message):
        fitted.add_items(items)
    assert state(fitted) == before


def test_training_that_diverges_changes_nothing(fitted):
    before = state(fitted)
    retriever = fitted[-1] if hasattr(fitted, "steps") else fitted
    lr = retriever.lr
    retriever.set_params(lr=1e30)
    try:
        with pytest.raises(FloatingPointError, match="lr="):
            fitted.partial_fit(NEXT)
    finally:
        retriever.set_params(lr=lr)
    assert state(fitted) == before


def test_samples_hold_no_events_to_store():
    samples = SequenceSampler().fit_transform(FIRST[PLAIN])
    retriever = PopularityRetriever().fit(samples)
    with pytest.raises(ValueError, match="Samples"):
        retriever.observe(samples)
    for verb in (retriever.observe, retriever.partial_fit):
        with pytest.raises(ValueError, match="fitted on Samples; got a DataFrame"):
            verb(NEXT)
    with pytest.raises(ValueError, match="encoded by another MatchEncoder"):
        retriever.partial_fit(SequenceSampler().fit_transform(NEXT[PLAIN]))


@every_class
def test_what_is_not_fitted_neither_observes_nor_adds(cls):
    for estimator in (cls(), make_pipe(cls)):
        with pytest.raises(NotFittedError):
            estimator.observe(NEXT)
        with pytest.raises(NotFittedError):
            estimator.add_items(new_items())
