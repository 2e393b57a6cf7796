"""`candidates` and `exclude`."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch.datasets import make_events

SMALL = {"embedding_dim": 4, "dims": (4,), "max_epochs": 1, "random_state": 0}
EVENTS = make_events(n_users=12, n_items=15, n_events=60, random_state=0)[
    ["user_id", "item_id", "timestamp"]
]
ITEMS = sorted(EVENTS["item_id"].unique().tolist())
USERS = sorted(EVENTS["user_id"].unique().tolist())
NOBODY, UNKNOWN = -1, -7  # a user and an item that no event holds
SEEN = EVENTS.groupby("user_id")["item_id"].agg(set)


def pipeline(retriever):
    return make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever)


MODELS = {
    "popularity": PopularityRetriever(),
    "dssm": pipeline(DSSMRetriever(**SMALL)),
    "dssm alone": DSSMRetriever(**SMALL),
    "youtube": pipeline(YoutubeDNNRetriever(**SMALL)),
    "youtube alone": YoutubeDNNRetriever(**SMALL),
}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return MODELS[request.param].fit(EVENTS)


@pytest.fixture(scope="module")
def pipe():
    return pipeline(DSSMRetriever(**SMALL)).fit(EVENTS)


def lists_of(table, queries, by="user_id", column="item_id"):
    return [table.loc[table[by] == query, column].tolist() for query in queries]


ids = st.sets(st.sampled_from([*ITEMS, UNKNOWN]))
some_ids = st.sets(st.sampled_from(ITEMS), min_size=1)


@st.composite
def rules(draw, lists, queries, others):
    """Draw a rule in one of its forms, and its list for each query."""
    form = draw(st.sampled_from(["none", "all", "by id", "by row"]))
    if form == "none":
        return None, [None] * len(queries)
    if form == "all":
        rule = draw(lists.map(list))
        return rule, [rule] * len(queries)
    if form == "by id":
        rule = draw(st.dictionaries(st.sampled_from(others), lists.map(list)))
        return rule, [rule.get(query) for query in queries]
    rule = [draw(st.none() | lists.map(list)) for _ in queries]
    return rule, rule


def filtered(rankings, candidates, left_out, k):
    """Return the expected items by a scan of all items."""
    rows = zip(rankings, candidates, left_out, strict=True)
    return [
        [item for item in ranking if (only is None or item in only) and item not in never][:k]
        for ranking, only, never in rows
    ]


@pytest.mark.filterwarnings("ignore:Ignored")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_recommendations_are_the_filtered_full_ranking(model, data):
    everybody = [*USERS, NOBODY]
    users = data.draw(st.lists(st.sampled_from(everybody), min_size=1, max_size=4, unique=True))
    candidates, only = data.draw(rules(some_ids, users, everybody))
    exclude, never = data.draw(rules(ids, users, everybody))
    exclude_seen, k = data.draw(st.booleans()), data.draw(st.integers(1, len(ITEMS) + 1))
    seen = [SEEN.get(user, set()) if exclude_seen else set() for user in users]
    left_out = [one | set(other or ()) for one, other in zip(seen, never, strict=True)]
    everything = model.recommend(users, k=100, exclude_seen=False)
    expected = filtered(lists_of(everything, users), only, left_out, k)
    rule = {"candidates": candidates, "exclude": exclude}
    table = model.recommend(users, k=k, exclude_seen=exclude_seen, **rule)
    assert lists_of(table, users) == expected
    if exclude_seen:
        found = model.predict(pd.DataFrame({"user_id": users}), k=k, **rule)
        assert found.shape == (len(users), min(k, len(ITEMS)))
        assert [[item for item in row if not pd.isna(item)] for row in found.tolist()] == expected


@pytest.mark.filterwarnings("ignore:Ignored")
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_neighbours_are_the_filtered_full_ranking(pipe, data):
    items = data.draw(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=3, unique=True))
    candidates, only = data.draw(rules(some_ids, items, ITEMS))
    exclude, never = data.draw(rules(ids, items, ITEMS))
    rankings = lists_of(pipe.similar_items(items, k=100), items, "item_id", "similar")
    table = pipe.similar_items(items, k=3, candidates=candidates, exclude=exclude)
    expected = filtered(rankings, only, [one or () for one in never], 3)
    assert lists_of(table, items, "item_id", "similar") == expected


FORMS = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "array": np.array,
    "series": pd.Series,
    "objects": lambda ids: pd.Series(ids, dtype=object, index=range(50, 50 + len(ids))),
    "Int64": lambda ids: pd.array(ids, dtype="Int64"),
    "category": lambda ids: pd.Categorical(ids),
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_of_every_form(pipe, form):
    three = FORMS[form](ITEMS[:3])
    user = USERS[0]
    for rule in (three, {user: three}, [three] if form not in ("tuple",) else {user: three}):
        found = pipe.recommend([user], k=9, exclude_seen=False, candidates=rule)["item_id"]
        assert set(found) == set(ITEMS[:3])
        found = pipe.recommend([user], k=99, exclude_seen=False, exclude=rule)["item_id"]
        assert set(found) == set(ITEMS[3:])


@pytest.mark.parametrize(
    "dtype", [object, pd.ArrowDtype(pa.list_(pa.int64()))], ids=["objects", "arrow"]
)
def test_a_column_of_lists_applies_row_by_row(pipe, dtype):
    queries = pd.DataFrame({"user_id": [USERS[0], USERS[0], NOBODY]}, index=[7, 7, 3])
    shelf = pd.Series([ITEMS[:2], None, ITEMS[2:3]], dtype=object).tolist()
    queries["shelf"] = pd.Series(pd.array(shelf, dtype=dtype), index=queries.index)
    table = pipe.recommend(queries, k=99, exclude_seen=False, candidates=queries["shelf"])
    assert set(table["item_id"][:2]) == set(ITEMS[:2])
    assert set(table["item_id"][2:-1]) == set(ITEMS)
    assert table["item_id"].tolist()[-1] == ITEMS[2]


def test_a_list_of_each_query_may_be_an_array(pipe):
    rules = [np.array(ITEMS[:2]), None, np.array(ITEMS[2:5])]
    table = pipe.recommend(USERS[:3], k=99, exclude_seen=False, exclude=rules)
    for found, rule in zip(lists_of(table, USERS[:3]), rules, strict=True):
        assert set(found) == set(ITEMS) - set(() if rule is None else rule.tolist())


def test_ids_of_one_query_do_not_change_those_of_another(pipe):
    rules = [np.array(ITEMS[:2]), np.array(["x"])]  # one array of both holds strings only
    with pytest.warns(UserWarning, match="1 id.s. in exclude"):
        table = pipe.recommend(USERS[:2], k=99, exclude_seen=False, exclude=rules)
    assert set(lists_of(table, USERS[:1])[0]) == set(ITEMS[2:])


def test_a_column_of_missing_lists_has_no_effect(pipe):
    expected = pipe.recommend(USERS[:2])
    for rule in ([None, None], pd.Series([np.nan, None], dtype=object), {}):
        rules = {"candidates": rule, "exclude": rule}
        pd.testing.assert_frame_equal(pipe.recommend(USERS[:2], **rules), expected)


def test_ids_may_be_tuples():
    events = EVENTS.assign(item_id=[(item, "x") for item in EVENTS["item_id"]])
    model = PopularityRetriever().fit(events)
    first = (ITEMS[0], "x")
    for rule in ([first], {NOBODY: [first]}, [[first]]):
        assert model.recommend([NOBODY], candidates=rule)["item_id"].tolist() == [first]
        assert first not in model.recommend([NOBODY], k=99, exclude=rule)["item_id"].tolist()


@pytest.mark.parametrize("form", [list, np.array, lambda ids: pd.Series(ids, dtype="str")])
def test_ids_may_be_text(form):
    model = PopularityRetriever().fit(EVENTS.assign(item_id=EVENTS["item_id"].astype(str)))
    shelf = [str(item) for item in ITEMS[:3]]
    table = model.recommend([NOBODY], k=99, candidates=form([*shelf, shelf[0]]))
    assert sorted(table["item_id"]) == sorted(shelf)
    with pytest.warns(UserWarning, match=r"2 id.s. in exclude.*such as 'x'"):
        table = model.recommend([NOBODY], k=99, exclude=form(["x", *shelf, "y", "x"]))
    assert not set(table["item_id"]) & set(shelf)


def test_unknown_ids_are_counted_in_one_warning(pipe):
    with pytest.warns(
        UserWarning, match=r"2 id.s. in candidates.*-7 and 1 id.s. in exclude.*leading zeros"
    ) as seen:
        table = pipe.recommend(
            USERS[:2], candidates=[ITEMS[0], UNKNOWN, UNKNOWN, "x", None], exclude=[[UNKNOWN], None]
        )
    assert len(seen) == 1
    assert set(table["item_id"]) <= {ITEMS[0]}
    with pytest.warns(UserWarning, match=r"1 id.s. in candidates.*none is known.*leading zeros"):
        assert pipe.recommend(USERS[:2], candidates=[UNKNOWN]).empty
    with pytest.warns(
        UserWarning, match=r"1 key.s. of exclude that are not in 'user_id', such as '0'"
    ):
        pipe.recommend(USERS[:2], exclude={"0": ITEMS, USERS[3]: ITEMS, USERS[0]: ITEMS[:1]})


@pytest.mark.parametrize("parameter", ["candidates", "exclude"])
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("shelf", r"='shelf' is not a list of item ids"),
        (5, r"=5 is not a list of item ids"),
        (EVENTS, r"is a table, and not a list of item ids.*=items\['item_id'\]"),
        (np.ones((2, 2)), "is not a list of item ids"),
        ({USERS[0]: "tea"}, rf"holds 'tea' for {USERS[0]}, which is not a list"),
        ([[1], 5], rf"holds 5 for {USERS[1]}, which is not a list"),
        ([5, [1]], "unhashable"),
        ([[[1]], [1]], "unhashable"),
        ([[1], [1], [1]], "3 lists for 2 queries"),
        ([None], "1 lists for 2 queries"),
    ],
)
def test_rules_that_are_not_lists_raise(pipe, parameter, rule, message):
    with pytest.raises(ValueError, match=rf"{parameter}.*{message}|{message}"):
        pipe.recommend(USERS[:2], **{parameter: rule})


MASK = np.arange(len(ITEMS)) > 3


@pytest.mark.parametrize("parameter", ["candidates", "exclude"])
@pytest.mark.parametrize(
    "mask",
    [MASK, MASK.tolist(), pd.Series(MASK), pd.Series(MASK, dtype="boolean"), {USERS[0]: MASK}],
    ids=["array", "list", "Series", "boolean", "mapping"],
)
def test_a_mask_of_booleans_raises_with_the_remedy(pipe, parameter, mask):
    message = rf"{parameter} holds False: a mask .*{parameter}=items.loc\[items\['stock'\] > 0"
    with pytest.raises(ValueError, match=message):
        pipe.recommend(USERS[:2], **{parameter: mask})


def test_ids_may_be_booleans():
    events = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [True, False, True]})
    model = PopularityRetriever().fit(events)
    assert model.recommend([3], k=2, candidates=[False])["item_id"].tolist() == [False]


@pytest.mark.parametrize("rule", [[], np.array([]), {USERS[0]: []}, [None, []]], ids=repr)
def test_empty_candidates_raise(pipe, rule):
    with pytest.raises(ValueError, match=r"candidates.* is empty.*or None"):
        pipe.recommend(USERS[:2], candidates=rule)
    pd.testing.assert_frame_equal(
        pipe.recommend(USERS[:2], exclude=rule), pipe.recommend(USERS[:2])
    )


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("make", [make_pipeline, make_match_pipeline])
def test_filters_reach_predict_through_a_pipeline(pipe, make, routing):
    model = make(MatchEncoder(), SequenceSampler(), DSSMRetriever(**SMALL)).fit(EVENTS)
    rules = {"candidates": {USERS[0]: ITEMS[:9]}, "exclude": ITEMS[:3]}
    queries = pd.DataFrame({"user_id": USERS[:3]})
    with config_context(enable_metadata_routing=routing):
        found = model.predict(queries, k=5, **rules)
    expected = pipe.recommend(queries, k=5, **rules)
    assert [[i for i in row if not pd.isna(i)] for row in found.tolist()] == lists_of(
        expected, USERS[:3]
    )
