"""Wrong input and the message that it must give; unusual input and the answer that it must give.

Each case runs against both neural retrievers, alone on plain events and behind the other steps.
"""

import datetime as dt
import decimal
import re
import uuid
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    ItemToItemRetriever,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
)
from skmatch.metrics import evaluate, make_topk_scorer
from skmatch.model_selection import LeaveLastOut, TemporalSplit

SMALL = {"embedding_dim": 4, "dims": (4,), "max_epochs": 1, "random_state": 0}
CLASSES = [DSSMRetriever, YoutubeDNNRetriever]
EVENTS = pd.DataFrame(
    {
        "user_id": ["ann", "ann", "bob", "bob", "cyd", "cyd", "ann"],
        "item_id": ["a", "b", "a", "c", "b", "d", "c"],
        "timestamp": range(7),
    }
)
FEATURES = EVENTS.assign(
    age=[1.0, 2, np.nan, 4, 5, 6, 7], city=list("xyzxyzx"), tags=[["p", "q"], ["p"]] * 3 + [[]]
)
QUERIES = pd.DataFrame({"user_id": ["ann", "eve"]})

both = pytest.mark.parametrize("cls", CLASSES)
alone_or_not = pytest.mark.parametrize("form", ["alone", "pipeline"])


def objects(values):
    return pd.Series(list(values), dtype=object)


def make(cls, form, encoder=None, sampler=None, **parameters):
    retriever = cls(**SMALL | parameters)
    if form == "alone":
        return retriever
    return make_match_pipeline(
        MatchEncoder(**encoder or {}), SequenceSampler(**sampler or {}), retriever
    )


def by_name(names, cases):
    return pytest.mark.parametrize(names, cases.values(), ids=cases.keys())


def says(message, error=ValueError):
    return pytest.raises(error, match=re.compile(message, re.DOTALL))


# Events

NOT_A_TABLE = r"not a table of events.*Pass a DataFrame.*user, item and time"
EVENTS_WRONG = {
    "no user column": (EVENTS.drop(columns="user_id"), r"user column 'user_id' is missing.*Rename"),
    "no item column": (EVENTS.drop(columns="item_id"), r"item column 'item_id' is missing.*Rename"),
    "no columns": (pd.DataFrame(), r"'user_id' is missing; X has no columns"),
    "no rows": (EVENTS[:0], r"0 sample.*at least one event"),
    "array without rows": (np.empty((0, 3)), r"0 sample.*at least one event"),
    "null user": (
        EVENTS.assign(user_id=objects(["ann", None] + ["bob"] * 5)),
        r"user column 'user_id' has 1 missing.*row 1.*Drop",
    ),
    "nan item": (
        EVENTS.assign(item_id=[1.0, 2, 3, np.nan, 1, 2, np.nan]),
        r"item column 'item_id' has 2 missing.*row 3.*Drop",
    ),
    "null category": (
        EVENTS.assign(item_id=pd.Categorical([None] * 7)),
        r"item column 'item_id' has 7 missing.*row 0.*Drop",
    ),
    "null time": (
        EVENTS.assign(timestamp=[1.0, np.nan, 3, 4, 5, 6, 7]),
        r"time column 'timestamp' has 1 missing.*row 1.*Drop those rows, or use time=None",
    ),
    "NaT": (
        EVENTS.assign(timestamp=pd.to_datetime(["2020"] * 6 + [None])),
        r"'timestamp' has 1 missing.*row 6.*Drop",
    ),
    "text as time": (
        EVENTS.assign(timestamp=list("3456789")),
        r"'timestamp' has dtype (str|object).*no order.*'3'.*pd\.to_datetime",
    ),
    "times of mixed types": (
        EVENTS.assign(timestamp=objects([1, "2", 3, 4, 5, 6, 7])),
        r"'timestamp'.*no order.*'2' and 1\b.*pd\.to_datetime",
    ),
    "numbers and dates as times": (
        EVENTS.assign(timestamp=objects([1, pd.Timestamp("2020"), 3, 4, 5, 6, 7])),
        r"'timestamp'.*no order.*Timestamp.* and 1\b.*pd\.to_datetime",
    ),
    "aware and naive times": (
        EVENTS.assign(
            timestamp=objects([pd.Timestamp("2020", tz="UTC")] + [pd.Timestamp("2020")] * 6)
        ),
        r"'timestamp'.*no order.*Timestamp.*pd\.to_datetime",
    ),
    "bool as time": (EVENTS.assign(timestamp=True), r"'timestamp' has dtype bool.*True.*Convert"),
    "complex time": (EVENTS.assign(timestamp=1j), r"'timestamp' is complex; pass real"),
    "infinite time": (
        EVENTS.assign(timestamp=[0, np.inf, 1, 2, 3, 4, 5]),
        r"'timestamp' holds inf in row 1: use finite times",
    ),
    "time beyond 64 bits": (
        EVENTS.assign(timestamp=objects([2**70, 1, 2, 3, 4, 5, 6])),
        r"'timestamp'.*1180591620717411303424.*64 bits",
    ),
    "year 9000": (
        EVENTS.assign(timestamp=np.array(["9000-01-01"] * 7, dtype="M8[s]")),
        r"'timestamp'.*9000-01-01.*Use times from 1678 to 2261",
    ),
    "single item": (EVENTS.assign(item_id="a"), r"'item_id' holds a single item, 'a'.*at least 2"),
    "user column twice": (
        pd.concat([EVENTS, EVENTS[["user_id"]]], axis=1),
        r"'user_id' occurs more than once in X: rename or drop",
    ),
    "other column twice": (
        pd.concat([FEATURES, FEATURES[["city"]]], axis=1),
        r"'city' occurs more than once in X: rename or drop",
    ),
    "columns of two levels": (
        EVENTS.set_axis(pd.MultiIndex.from_product([["x"], EVENTS.columns]), axis=1),
        r"columns of 2 levels, such as \('x', 'user_id'\): use one label per column",
    ),
    "lists as users": (
        EVENTS.assign(user_id=objects([["ann"]] * 7)),
        r"'user_id' holds \['ann'\], an unhashable 'list'.*Use strings",
    ),
    "lists as items": (
        EVENTS.assign(item_id=objects([["a"], ["b"]] * 3 + [["a"]])),
        r"'item_id' holds \['a'\], an unhashable 'list'.*Use strings",
    ),
    "arrow lists as items": (
        EVENTS.assign(item_id=pd.array([[1]] * 7, dtype=pd.ArrowDtype(pa.list_(pa.int64())))),
        r"'item_id' holds \[1\], an unhashable 'list'.*Use strings",
    ),
    "null in an array": (
        np.array([["ann", "a", 1], [None, "b", 2]], dtype=object),
        r"'user_id' has 1 missing.*row 1",
    ),
    "one-dimensional array": (np.arange(5), NOT_A_TABLE),
    "three-dimensional array": (np.zeros((3, 3, 3)), NOT_A_TABLE),
    "array of one column": (np.zeros((3, 1)), r"1 feature.*at least 2: the user in the first"),
    "ragged list": ([[1, 2], [3]], NOT_A_TABLE),
    "series": (EVENTS["user_id"], NOT_A_TABLE),
    "number": (5, NOT_A_TABLE),
    "dict": ({"user_id": [1], "item_id": [2]}, NOT_A_TABLE),
    "None": (None, r"NoneType None.*Pass a DataFrame"),
    "sparse matrix": (scipy.sparse.csr_array(np.eye(3)), NOT_A_TABLE),
}


@both
@alone_or_not
@by_name(("events", "message"), EVENTS_WRONG)
def test_wrong_events(cls, form, events, message):
    error = TypeError if scipy.sparse.issparse(events) else ValueError
    with says(message, error):
        make(cls, form).fit(events)


# Parameters of the retrievers

LAYERS = r"must hold at least one layer size, each an integer of at least 1, as in dims=\(256, 64\)"
WRONG_PARAMETERS = {
    "loss": ({"loss": "hinge"}, r"loss='hinge' is not known.*'bce', 'bpr', 'softmax'"),
    "pooling": ({"pooling": "median"}, r"pooling='median' is not known.*'mean'"),
    "activation": ({"activation": "selu"}, r"activation='selu' is not known.*'gelu'"),
    "index": ({"index": "annoy"}, r"index='annoy' is not known.*'exact'"),
    "device": ({"device": "abacus"}, r"device='abacus' is not known.*'cpu'"),
    "device without a number": (
        {"device": "cpu:x"},
        r"device='cpu:x' is not known.*'cpu', 'cuda', 'mps', or one GPU.*'cuda:1'",
    ),
    "number of no device": ({"device": "auto:1"}, r"device='auto:1' is not known"),
    "precision": (
        {"precision": "float16"},
        r"precision='float16' is not known; choose one of 'float32', 'bfloat16'",
    ),
    "no name": ({"loss": None}, r"'loss'.*instance of 'str'.*None"),
    "zero temperature": ({"temperature": 0}, r"'temperature'.*\(0\.0, inf\).*Got 0"),
    "negative temperature": ({"temperature": -1.0}, r"'temperature'.*\(0\.0, inf\).*Got -1\.0"),
    "NaN temperature": ({"temperature": np.nan}, r"'temperature'.*\(0\.0, inf\).*Got nan"),
    "infinite temperature": ({"temperature": np.inf}, r"'temperature'.*\(0\.0, inf\).*Got inf"),
    "no layer": ({"dims": ()}, rf"dims=\(\) {LAYERS}"),
    "layer of size 0": ({"dims": (8, 0)}, rf"dims=\(8, 0\) {LAYERS}"),
    "negative layer": ({"dims": (-1, 4)}, rf"dims=\(-1, 4\) {LAYERS}"),
    "fractional layer": ({"dims": (8.0,)}, rf"dims=\(8\.0,\) {LAYERS}"),
    "ragged layers": ({"dims": ((8,), 4)}, rf"dims=\(\(8,\), 4\) {LAYERS}"),
    "rectangular layers": ({"dims": [[8, 4], [4, 2]]}, rf"dims=\[\[8, 4\], \[4, 2\]\] {LAYERS}"),
    "layers no sequence": ({"dims": 64}, r"'dims'.*instance of 'list'.*Got 64"),
    "layers in a set": ({"dims": {8}}, r"'dims'.*instance of 'list'.*Got \{8\}"),
    "lr": ({"lr": 0}, r"'lr'.*\(0\.0, inf\).*Got 0"),
    "NaN lr": ({"lr": np.nan}, r"'lr'.*\(0\.0, inf\).*Got nan"),
    "weight_decay": ({"weight_decay": -0.1}, r"'weight_decay'.*\[0\.0, inf\).*Got -0\.1"),
    "dropout": ({"dropout": 1}, r"'dropout'.*\[0\.0, 1\.0\).*Got 1"),
    "id_dropout": ({"id_dropout": 1}, r"'id_dropout'.*\[0\.0, 1\.0\).*'auto'.*Got 1"),
    "batch_size": ({"batch_size": 0}, r"'batch_size'.*\[1, inf\).*Got 0"),
    "fractional batch_size": ({"batch_size": 1.5}, r"'batch_size'.*an int.*'auto'.*Got 1\.5"),
    "max_epochs": ({"max_epochs": 0}, r"'max_epochs'.*\[1, inf\).*Got 0"),
    "embedding_dim": ({"embedding_dim": -4}, r"'embedding_dim'.*\[1, inf\).*Got -4"),
    "validation_fraction": ({"validation_fraction": 2}, r"'validation_fraction'.*1\.0\].*Got 2"),
    "n_iter_no_change": ({"n_iter_no_change": 0}, r"'n_iter_no_change'.*\[1, inf\).*Got 0"),
    "k": ({"k": 0}, r"'k'.*\[1, inf\).*Got 0"),
    "fractional k": ({"k": 2.5}, r"'k'.*an int.*Got 2\.5"),
    "random_state": ({"random_state": "a"}, r"'random_state'.*an int.*Got 'a'"),
}


@both
@alone_or_not
@by_name(("parameters", "message"), WRONG_PARAMETERS)
def test_wrong_parameters(cls, form, parameters, message):
    with says(message):
        make(cls, form, **parameters).fit(EVENTS)


@both
@by_name(
    ("parameters", "message"),
    {
        "negatives": ({"negatives": "hard"}, r"negatives='hard' is not known.*'uniform'"),
        "max_length": ({"max_length": 0}, r"'max_length'.*\[1, 2147483647\].*Got 0"),
        "max_length of any integer": ({"max_length": 10**19}, r"'max_length'.*Got 1000000"),
        "min_history": ({"min_history": -1}, r"'min_history'.*\[0, inf\).*Got -1"),
        "neg_ratio": ({"neg_ratio": 0}, r"'neg_ratio'.*\[1, inf\).*Got 0"),
    },
)
def test_wrong_parameters_of_the_sampler(cls, parameters, message):
    with says(message):
        make(cls, "pipeline", sampler=parameters).fit(EVENTS)


@both
def test_a_max_length_beyond_all_histories_costs_what_these_do(cls):
    short, long = (
        make(cls, "pipeline", sampler={"max_length": length}).fit(EVENTS)[-1]
        for length in (50, 10**9)
    )
    np.testing.assert_array_equal(long.item_vectors_, short.item_vectors_)


@both
@by_name(
    ("parameters", "message"),
    {
        "wide": (
            {"embedding_dim": 10**14},
            r"more memory.*Lower.*embedding_dim=100000",
        ),
        "deep": ({"dims": (10**14, 4)}, r"more memory.*dims=\(100000000000000, 4\)"),
    },
)
def test_more_memory_than_there_is(cls, parameters, message):
    with says(message, MemoryError):
        make(cls, "alone", **parameters).fit(EVENTS)


@both
@pytest.mark.parametrize("place", range(3))
def test_a_class_is_no_step(cls, place):
    steps = [MatchEncoder(), SequenceSampler(), cls()]
    steps[place] = type(steps[place])
    with says(r"Expected an estimator instance.*got estimator class", TypeError):
        make_match_pipeline(*steps).fit(EVENTS)


# Roles and features

ENCODERS_WRONG = {
    "role missing": ({"user": "who"}, r"user column 'who' is missing.*set user="),
    "time missing": ({"time": "when"}, r"time column 'when' is missing.*set time="),
    "position out of range": ({"item": 9}, r"item column 9 is missing"),
    "role is a list": (
        {"user": ["user_id"]},
        r"user=\['user_id'\] is not a column label.*one label",
    ),
    "two roles, one column": (
        {"user": "item_id"},
        r"user and item are both the column 'item_id': name a column for each",
    ),
    "feature missing": (
        {"user_features": ["height"]},
        r"feature column 'height' is missing.*name only features that exist",
    ),
    "feature is user": (
        {"item_features": ["user_id"]},
        r"feature 'user_id' is also the user column: remove it",
    ),
    "feature is time": (
        {"user_features": ["timestamp"]},
        r"feature 'timestamp' is also the time column.*another name",
    ),
    "feature twice": ({"user_features": ["city", "city"]}, r"'city' is named twice; name it once"),
    "feature on both sides": (
        {"user_features": ["city"], "item_features": ["city"]},
        r"'city' is named twice; name it once",
    ),
    "feature as text": ({"user_features": "city"}, r"'user_features'.*'list'.*Got 'city'"),
    "features in a set": ({"item_features": {"city"}}, r"'item_features'.*'list'.*Got \{'city'\}"),
    "features None": ({"user_features": None}, r"'user_features'.*'list'.*Got None"),
    "feature is a list": (
        {"user_features": [["city"]]},
        r"\['city'\] is not a column label.*one label",
    ),
    "feature called history": (
        {"user_features": ["history"]},
        r"'history' is reserved for the histories that queries provide.*rename",
    ),
    "unknown kind": (
        {"user_features": ["city"], "kinds": {"city": "ordinal"}},
        r"kinds\['city'\] is 'ordinal'; choose one of 'categorical'",
    ),
    "kind of no feature": (
        {"kinds": {"city": "categorical"}},
        r"kinds names 'city', which is not a feature; add it",
    ),
    "kinds in a list": ({"kinds": ["city"]}, r"'kinds'.*'dict'.*Got \['city'\]"),
    "numeric text": (
        {"user_features": ["city"], "kinds": {"city": "numeric"}},
        r"numeric feature 'city'.*not a number.*x.*make it numbers",
    ),
    "multi-valued numbers": (
        {"user_features": ["age"], "kinds": {"age": "multi_valued"}},
        r"multi-valued column 'age' holds \d\.0; pass lists",
    ),
    "categorical lists": (
        {"user_features": ["tags"], "kinds": {"tags": "categorical"}},
        r"'tags' holds \['p', 'q'\], an unhashable 'list'",
    ),
    "empty delimiter": ({"delimiter": ""}, r"delimiter='' separates nothing.*one character"),
}


@both
@by_name(("parameters", "message"), ENCODERS_WRONG)
def test_wrong_roles_and_features(cls, parameters, message):
    with says(message):
        make(cls, "pipeline", encoder=parameters).fit(FEATURES)


@by_name(
    ("values", "message"),
    {
        "complex": ([1j] * 7, r"numeric feature 'age'.*complex.*make it numbers"),
        "beyond floats": (objects([10**400] * 7), r"numeric feature 'age'.*too large"),
        "array of no dimension": (objects([[1], np.array(3)] * 3 + [[1]]), r"'age' holds array\(3"),
        "lists in lists": (objects([[[1]]] * 7), r"'age' holds \[1\], an unhashable 'list'"),
        "numbers among lists": (objects([[1]] * 6 + [2]), r"multi-valued column 'age' holds 2"),
    },
)
def test_wrong_features(values, message):
    kinds = {} if isinstance(values[0], list) else {"age": "numeric"}
    encoder = {"user_features": ["age"], "kinds": kinds}
    with says(message):
        make(DSSMRetriever, "pipeline", encoder=encoder).fit(EVENTS.assign(age=values))


# Tables of users and items

USERS = pd.DataFrame({"user_id": ["ann", "eve"], "city": ["x", "y"]})


@both
@alone_or_not
@pytest.mark.parametrize("parameter", ["users", "items"])
@by_name(
    ("change", "message"),
    {
        "no id": (
            lambda t: t.rename(columns={t.columns[0]: "id"}),
            r"{p} table's id column '{role}' is missing; {p} has 'id', 'city'",
        ),
        "ids in the index": (
            lambda t: t.set_index(t.columns[0]),
            r"{p} table's id column '{role}' is missing.*pass {p}\.reset_index\(\)",
        ),
        "id twice": (
            lambda t: pd.concat([t, t]),
            r"{p} has several rows for '{role}'.*keep one, as {p}\.drop_duplicates\('{role}'",
        ),
        "null id": (lambda t: t.mask(t == "eve"), r"{p} table's id.*1 missing.*row 1.*Drop"),
        "column twice": (
            lambda t: pd.concat([t, t[["city"]]], axis=1),
            r"'city' occurs more than once in {p}: rename or drop",
        ),
        "ids of another type": (
            lambda t: t.assign(**{t.columns[0]: [1, 2]}),
            r"{p} has int64 in '{role}', such as 1, and the events have str.*convert",
        ),
        "no frame": (lambda t: t.to_dict(), r"{p} is a dict; pass a DataFrame"),
        "array": (lambda t: t.to_numpy(), r"{p} is a ndarray; pass a DataFrame"),
    },
)
def test_wrong_tables(cls, form, parameter, change, message):
    role = parameter[:-1] + "_id"
    changed = change(USERS.rename(columns={"user_id": role}))
    prefix = "matchencoder__" if form == "pipeline" else ""
    with says(message.format(p=parameter, role=role)):
        make(cls, form).fit(EVENTS, **{prefix + parameter: changed})


@both
@pytest.mark.parametrize("step", [MatchEncoder(), SequenceSampler()])
def test_tables_belong_to_the_encoder(cls, step):
    coded = step.fit_transform(EVENTS)
    with says(r"users and items belong to the MatchEncoder.*matchencoder__users"):
        cls(**SMALL).fit(coded, users=USERS)


def test_ids_of_a_table_take_the_dtype_of_the_events():
    events = EVENTS.assign(item_id=EVENTS["item_id"].map(ord).astype("int32"))
    for dtype in ("float64", "int64", "Int64", "int64[pyarrow]", "object"):
        items = pd.DataFrame({"item_id": pd.Series([97, 120], dtype=dtype)})
        retriever = PopularityRetriever().fit(events, items=items)
        answer = retriever.recommend(["eve"])
        assert answer["item_id"].dtype == "int32"
        assert 120 in answer["item_id"].tolist()


# Weights


@pytest.mark.parametrize("cls", [*CLASSES, PopularityRetriever])
@alone_or_not
@by_name(
    ("weight", "message"),
    {
        "negative": ([1, 1, -2.0, 1, 1, 1, 1], r"sample_weight holds -2\.0 in row 2.*at least 0"),
        "NaN": ([1, np.nan, 1, 1, 1, 1, 1], r"sample_weight holds nan in row 1.*at least 0"),
        "infinite": ([1, np.inf, 1, 1, 1, 1, 1], r"sample_weight holds inf in row 1"),
        "too short": ([1.0] * 3, r"sample_weight has shape \(3,\).*each of the 7 rows"),
        "two-dimensional": (np.ones((7, 2)), r"sample_weight has shape \(7, 2\).*7 rows"),
        "all zero": ([0] * 7, r"sample_weight is zero in every row.*not all of them 0"),
        "text": (["a"] * 7, r"sample_weight holds a value that is not a number.*'a'"),
        "dates": (
            pd.to_datetime(["2020"] * 7),
            r"sample_weight holds a value that is not a number \(datetime64\[\w+\] is a time\)",
        ),
        "huge": ([1, 1, 1e300, 1, 1, 1, 1], r"holds 1e\+300 in row 2, too large.*at most 1e\+30"),
    },
)
def test_wrong_weights(cls, form, weight, message):
    retriever = cls(**SMALL if cls in CLASSES else {})
    name, model = "sample_weight", retriever
    if form == "pipeline":
        model = make_pipeline(MatchEncoder(), SequenceSampler(), retriever)
        name = f"{cls.__name__.lower()}__sample_weight"
    with says(message):
        model.fit(EVENTS, **{name: weight})


# Queries


@pytest.fixture(scope="module", params=[(c, f) for c in CLASSES for f in ("alone", "pipeline")])
def fitted(request):
    return make(*request.param).fit(EVENTS)


QUERIES_WRONG = {
    "no user column": (
        EVENTS[["item_id"]],
        r"user column 'user_id' is missing; X has 'item_id'.*unknown user.*holds None",
    ),
    "no columns": (pd.DataFrame(), r"'user_id' is missing; X has no columns"),
    "user column twice": (pd.concat([QUERIES, QUERIES], axis=1), r"'user_id' occurs more than"),
    "lists as users": (
        pd.DataFrame({"user_id": objects([["ann"]])}),
        r"'user_id' holds \['ann'\], an unhashable 'list'",
    ),
    "time of another kind": (
        QUERIES.assign(timestamp=pd.Timestamp("2020")),
        r"'timestamp' holds a datetime here and a number at fit; convert",
    ),
    "text as time": (QUERIES.assign(timestamp="noon"), r"'timestamp'.*'noon'.*pd\.to_datetime"),
    "scalar history": (QUERIES.assign(history=[1, 2]), r"'history' holds 1; pass lists"),
    "dict as history": (
        QUERIES.assign(history=objects([{"a": 1}, None])),
        r"'history' holds \{'a': 1\}; pass lists",
    ),
    "set as history": (
        QUERIES.assign(history=objects([{"a", "b"}, None])),
        r"'history' holds \{.*\}, a set without an order: pass lists, newest last",
    ),
    "series as history": (
        QUERIES.assign(history=objects([pd.Series(["a"]), None])),
        r"'history' holds .*; pass lists",
    ),
    "lists in a history": (
        QUERIES.assign(history=objects([[["a"]], None])),
        r"'history' holds \['a'\], an unhashable 'list'",
    ),
    "one-dimensional array": (np.array(["ann"]), NOT_A_TABLE),
    "three-dimensional array": (np.zeros((2, 2, 2)), NOT_A_TABLE),
    "list of users": (["ann"], NOT_A_TABLE),
    "text": ("ann", r"str 'ann'.*Pass a DataFrame"),
    "None": (None, r"NoneType None.*Pass a DataFrame"),
}


@by_name(("queries", "message"), QUERIES_WRONG)
def test_wrong_queries(fitted, queries, message):
    for method in (fitted.predict, fitted.transform):
        with says(message):
            method(queries)


@alone_or_not
def test_ids_of_users_in_another_dtype_are_told(form):
    numbers = EVENTS.assign(user_id=[1, 1, 2, 2, 3, 3, 1])
    texts = numbers.assign(user_id=numbers["user_id"].astype(str))
    for events, asked, dtype in ((numbers, ["1", "2"], "int64"), (texts, [1, 2], "str")):
        model = make(DSSMRetriever, form).fit(events)
        message = rf"'user_id' holds {asked[0]!r}, and fit got .*unknown.*Convert it to {dtype}"
        with pytest.warns(UserWarning, match=message):
            answer = model.recommend(asked)
        assert set(answer["source"]) == {"popularity"}
    # Strangers are no mistake, nor is what no conversion makes known.
    model = PopularityRetriever().fit(numbers)
    for asked in (["x"], ["1", 1], [1.5], [None]):
        model.recommend(pd.DataFrame({"user_id": objects(asked)}))


@alone_or_not
def test_ids_of_a_history_in_another_dtype_are_told(form):
    events = EVENTS.assign(item_id=EVENTS["item_id"].factorize()[0])
    model = make(DSSMRetriever, form).fit(events)
    queries = pd.DataFrame({"user_id": ["eve"], "history": [["0", "7000"]]})
    with pytest.warns(UserWarning, match=r"'history' holds '0', and fit got 0.*to int64"):
        model.recommend(queries)
    # Items that the catalogue lacks are no mistake, nor are histories without any.
    for history in ([7000], ["x"], ["0", 0], []):
        model.recommend(queries.assign(history=objects([history])))


@both
@alone_or_not
def test_an_array_has_as_many_columns_as_at_fit(cls, form):
    array = EVENTS.to_numpy(dtype=object)
    model = make(cls, form).fit(array)
    with says(r"X has 2 features, but \w+ is expecting 3"):
        model.predict(array[:, :2])


@pytest.mark.parametrize("k", [0, -1, 1.0, "3", True, np.nan, [1]], ids=repr)
def test_wrong_k(fitted, k):
    for call in (fitted.recommend, lambda k: fitted.predict(QUERIES, k=k)):
        with says(rf"k={re.escape(repr(k))} must be an integer.*at least 1"):
            call(k=k)
    with says(r"k=.*must be an integer"):
        fitted.similar_items(["a"], k=k)


@pytest.mark.parametrize("exclude_seen", ["no", 0, 1.0, [True]], ids=repr)
def test_wrong_exclude_seen(fitted, exclude_seen):
    for call in (fitted.recommend, partial(fitted.predict, QUERIES), partial(fitted.score, EVENTS)):
        with says(rf"exclude_seen={re.escape(repr(exclude_seen))} .*pass True, False or None"):
            call(exclude_seen=exclude_seen)


@pytest.mark.skipif(
    pd.Series(["text"]).dtype == object, reason="before pandas 3 texts are objects, as any id is"
)
def test_items_observed_in_another_dtype(fitted):
    with says(r"'item_id' holds 5, but the fitted values have dtype \w+: convert the column"):
        fitted.observe(EVENTS.assign(item_id=5))


@pytest.mark.parametrize("ids", ["ann", 5, {"ann"}, {"ann": 1}], ids=repr)
def test_ids_come_in_a_list(fitted, ids):
    for call in (fitted.recommend, fitted.similar_items):
        with says(r"is not a list of ids; pass a list, also for a single id"):
            call(ids)
    with says(r"Queries with several columns are a DataFrame"):
        fitted.recommend({"user_id": ["ann"], "history": [["a"]]})


def test_wrong_items(fitted):
    with says(r"'zz' is not in the catalogue; item_ids_ lists"):
        fitted.similar_items(["a", "zz"])
    with says(r"'item_id' holds \['a'\], an unhashable 'list'"):
        fitted.similar_items([["a"]])


def test_a_score_needs_items(fitted):
    with says(r"item column 'item_id' is missing; score needs the held-out items"):
        fitted.score(QUERIES)
    with says(r"0 sample.*at least one event"):
        fitted.score(EVENTS[:0])


@both
@alone_or_not
@pytest.mark.parametrize("method", ["predict", "transform", "recommend", "similar_items", "score"])
def test_not_fitted(cls, form, method):
    with says("not fitted yet", NotFittedError):
        getattr(make(cls, form), method)(QUERIES)


# What one step hands to another

OTHER = EVENTS.assign(user_id="q" + EVENTS["user_id"], item_id="q" + EVENTS["item_id"])
ANOTHER = r"encoded by another MatchEncoder.*Encode X with the same one"


@both
@by_name(
    ("parameters", "events"),
    {
        "ids": ({}, OTHER),
        "one id more": ({}, pd.concat([EVENTS, OTHER[:1]])),
        "order of ids": ({}, EVENTS[::-1]),
        "features": ({"user_features": ["city"]}, FEATURES),
    },
)
def test_codes_of_another_encoder(cls, parameters, events):
    own = MatchEncoder().fit(EVENTS)
    sampler = SequenceSampler().fit(own.transform(EVENTS))
    other = MatchEncoder(**parameters).fit_transform(events)
    with says(rf"{ANOTHER}"):
        sampler.transform(other)
    samples = SequenceSampler().fit_transform(other)
    for learnt_from in (own.transform(EVENTS), SequenceSampler().fit_transform(EVENTS)):
        retriever = cls(**SMALL).fit(learnt_from)
        with says(ANOTHER):
            retriever.predict(samples)
    with says(ANOTHER):
        cls(**SMALL).fit(own.transform(EVENTS)).predict(other)


@both
def test_an_encoder_that_learnt_the_same_is_as_good(cls):
    retriever = cls(**SMALL).fit(MatchEncoder().fit_transform(EVENTS))
    again = MatchEncoder().fit(EVENTS)
    assert retriever.predict(again.transform(QUERIES)).shape == (2, 4)


@both
def test_queries_of_another_form_than_at_fit(cls):
    events = MatchEncoder().fit_transform(EVENTS)
    samples = SequenceSampler().fit_transform(events)
    with says(r"fitted on Samples.*DataFrame.*MatchEncoder and SequenceSampler"):
        cls(**SMALL).fit(samples).predict(QUERIES)
    with says(r"fitted on Samples.*Events.*MatchEncoder and SequenceSampler"):
        cls(**SMALL).fit(samples).predict(events)
    with says(r"fitted on Events.*DataFrame.*same MatchEncoder"):
        cls(**SMALL).fit(events).predict(QUERIES)
    for none in (events[:0], samples[:0]):
        with says(r"0 sample.*at least one event"):
            cls(**SMALL).fit(none)
    with says(r"already encoded \(a Samples"):
        SequenceSampler().fit(samples)


@alone_or_not
def test_an_encoder_takes_no_codes(form):
    encoder = MatchEncoder().fit(EVENTS)
    events = encoder.transform(EVENTS)
    coded = events if form == "alone" else events.to_frame()
    for call in (encoder.fit, encoder.transform):
        with says(r"already encoded \(a \w+ of an earlier step\): pass plain events"):
            call(coded)
    with says(r"frame of codes lacks the column 'user_id'.*pass on all"):
        SequenceSampler().fit(events.to_frame().drop(columns="user_id"))


@by_name(
    ("codes", "message"),
    {
        "beyond the last": ([[99, 1]], r"99 is not a code: codes are 0 to 4"),
        "negative": ([[1, -5]], r"-5 is not a code: codes are 0 to 5"),
        "ids": (EVENTS, r"does not hold the codes.*'ann'.*pass the output of transform"),
        "one column": ([[2]], r"does not hold the codes.*pass the output of transform"),
        "one dimension": ([2, 2], r"one-dimensional|Reshape your data"),
    },
)
def test_wrong_codes(codes, message):
    with says(message):
        MatchEncoder().fit(EVENTS).inverse_transform(codes)


# A failed fit


@both
@alone_or_not
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@by_name(
    ("parameters", "events"),
    {
        "in the encoder": ({}, OTHER.assign(timestamp="noon", more=1)),
        "in the ids": ({}, EVENTS.assign(item_id=objects([["a"]] * 7))),
        "in the retriever": ({}, OTHER.assign(item_id="a", more=1)),
        "in the parameters": ({"dims": ()}, OTHER.assign(more=1)),
        "in the device": ({"device": "abacus"}, OTHER.assign(more=1)),
        "in the training": ({"temperature": 1e-40}, OTHER.assign(more=1)),
        "no frame": ({}, [[1, 2], [3]]),
    },
)
def test_a_failed_fit_leaves_the_last_one_whole(cls, form, parameters, events):
    model = make(cls, form).fit(EVENTS)
    steps = [model] if form == "alone" else [step for _, step in model.steps]
    answer, before = model.recommend(QUERIES), [vars(step).copy() for step in steps]
    steps[-1].set_params(**parameters)
    with pytest.raises((ValueError, FloatingPointError)):
        model.fit(events)
    pd.testing.assert_frame_equal(model.recommend(QUERIES), answer)
    for step, state in zip(steps, before, strict=True):
        names = {name for name in vars(step) if name.endswith("_")}
        assert names == {name for name in state if name.endswith("_")}
        assert all(vars(step)[name] is state[name] for name in names)


@pytest.mark.parametrize("step", [MatchEncoder(), SequenceSampler()])
def test_a_failed_fit_of_a_transformer_leaves_the_last_one_whole(step):
    step.fit(EVENTS)
    before = vars(step).copy()
    for wrong in (OTHER.assign(more=1, timestamp="noon"), OTHER[:0].assign(more=1), None):
        with pytest.raises(ValueError, match=r"timestamp|sample|table"):
            step.fit(wrong)
        assert vars(step).keys() == before.keys()
        assert all(vars(step)[name] is before[name] for name in before)


# What must work

ARROW = pd.ArrowDtype
TEXTS = ["", "\0", "a\0b", "😀", "שלום", "e\u0301", "é", "\ud800", "a|b", " "]
ZONED = pd.date_range("2020-10-25", periods=5, freq="h", tz="Europe/Oslo")  # an hour comes twice
IDS = {
    "any text": objects(TEXTS),
    "huge integers": objects([2**70, -(2**70), 2**64, 2**63, 1]),
    "mixed types": objects([1, "1", (1,), 2.5, b"1", uuid.UUID(int=1), dt.date(1, 1, 1)]),
    "tuples": objects([(1, 2), (3, 4), (5, 6)]),
    "ragged tuples": objects([(1,), (1, 2), ()]),
    "frozensets": objects([frozenset({1}), frozenset({2}), frozenset()]),
    "infinities": pd.Series([np.inf, -np.inf, 0.0]),
    "uint8": pd.Series([0, 1, 255], dtype="uint8"),
    "bool": pd.Series([True, False]),
    "Int64": pd.Series([2**62 + 1, 2**62, 0], dtype="Int64"),
    "string": pd.Series(["x", "", "é"], dtype="string"),
    "boolean": pd.Series([True, False], dtype="boolean"),
    "arrow int": pd.Series([2**62 + 1, 2**62, 0], dtype="int64[pyarrow]"),
    "arrow text": pd.Series(["x", "", "😀"], dtype=ARROW(pa.string())),
    "arrow large text": pd.Series(["x", "", "😀"], dtype=ARROW(pa.large_string())),
    "arrow date": pd.Series([dt.date(2020, 1, d) for d in (1, 2, 3)], dtype=ARROW(pa.date32())),
    "unused categories": pd.Series(pd.Categorical(["x", "y"], categories=["z", "x", "w", "y"])),
    "ordered categories": pd.Series(pd.Categorical([5, 3], categories=[9, 5, 3, 1], ordered=True)),
    "times of a zone": pd.Series(ZONED),
    "categories of a zone": pd.Series(ZONED).astype("category"),
    "periods": pd.Series(pd.period_range("2020", periods=3, freq="M")),
    "intervals": pd.Series(pd.interval_range(0, 3)),
}
WITHOUT_A_NAMED_DTYPE = {
    "arrow decimal": pd.Series(
        [decimal.Decimal(i) for i in range(3)], dtype=ARROW(pa.decimal128(5))
    ),
    "arrow dictionary": pd.Series(list("xyz"), dtype=ARROW(pa.dictionary(pa.int8(), pa.string()))),
}


def events_of(ids):
    """Return every user two events, with ids that are users and items alike."""
    shifted = [pd.Series(np.roll(np.arange(len(ids)), n)) for n in (1, 2)]
    items = pd.concat([ids.iloc[order] for order in shifted], ignore_index=True)
    users = pd.concat([ids, ids], ignore_index=True)
    return pd.DataFrame({"user_id": users, "item_id": items}).assign(timestamp=range(len(users)))


def check_ids(model, ids):
    """Check that all ids come back, however they are asked for."""
    events = events_of(ids)
    before = events.copy(deep=True)
    answer = model.fit(events).recommend(exclude_seen=False)
    found = list(zip(answer["user_id"].tolist(), answer["item_id"].tolist(), strict=True))
    assert len(found) == len(ids) ** 2
    assert set(found) == {(user, item) for user in ids.tolist() for item in ids.tolist()}
    expected = model.recommend(ids)
    pd.testing.assert_frame_equal(model.recommend(ids.to_frame("user_id")), expected)
    assert model.recommend(ids.tolist())["item_id"].tolist() == expected["item_id"].tolist()
    # Each user has seen two other items; a history brings the third.
    histories = objects([[item] for item in ids.tolist()])
    answer = model.recommend(pd.DataFrame({"user_id": ids, "history": histories}))
    assert len(answer) == len(ids) * max(len(ids) - 3, 0)
    assert len(model.similar_items(ids.tolist())) == len(ids) * (len(ids) - 1)
    pd.testing.assert_frame_equal(events, before)
    return expected


@both
@alone_or_not
@by_name("ids", IDS)
def test_ids_of_any_kind_come_back_in_their_dtype(cls, form, ids):
    answer = check_ids(make(cls, form, k=99), ids)
    assert answer["item_id"].dtype == answer["user_id"].dtype == ids.dtype


@by_name("ids", WITHOUT_A_NAMED_DTYPE)
def test_ids_of_a_dtype_that_no_name_stands_for_come_back_by_value(ids):
    answer = check_ids(make(DSSMRetriever, "alone", k=99), ids)
    assert answer["item_id"].dtype == object


def test_ids_that_are_equal_in_python_are_the_same():
    events = EVENTS.assign(item_id=objects([1, True, 1.0, "1", 2, 2.0, np.int64(2)]))
    assert PopularityRetriever().fit(events).item_ids_.tolist() == [1, "1", 2]


def test_any_text_in_an_array():
    array = events_of(objects(TEXTS)).to_numpy(dtype=object)
    model = DSSMRetriever(**SMALL).fit(array)
    answer = model.predict(array, k=99)
    assert {item for row in answer for item in row if not pd.isna(item)} == set(TEXTS)
    assert 0 <= model.score(array) <= 1


@both
@alone_or_not
@by_name(
    "times",
    {
        "Int64": pd.array(range(7), dtype="Int64"),
        "Float64": pd.array(range(7), dtype="Float64"),
        "arrow int": pd.array(range(7), dtype="int64[pyarrow]"),
        "uint64": np.arange(7, dtype="uint64") * 2**61,
        "integers as objects": objects(range(7)),
        "datetimes": pd.date_range("2020", periods=7),
        "seconds": pd.date_range("2020", periods=7).as_unit("s"),
        "zone": pd.date_range("2020", periods=7, tz="Asia/Tokyo"),
        "python datetimes": objects(dt.datetime(2020, 1, d, tzinfo=dt.UTC) for d in range(1, 8)),
        "arrow zone": pd.array(
            pd.date_range("2020", periods=7, tz="UTC"), dtype=ARROW(pa.timestamp("us", "UTC"))
        ),
        "arrow dates": pd.array(
            [dt.date(2020, 1, d) for d in range(1, 8)], dtype=ARROW(pa.date32())
        ),
    },
)
def test_times_of_any_kind(cls, form, times):
    expected = make(cls, form).fit(EVENTS).recommend(["ann", "bob"])
    model = make(cls, form).fit(EVENTS.assign(timestamp=times))
    pd.testing.assert_frame_equal(model.recommend(["ann", "bob"]), expected)
    # A query as of its own time, and one with none.
    asked = pd.DataFrame({"user_id": "ann", "timestamp": pd.Series(times)[[0, 6]]})
    assert len(model.recommend(asked)) == 4 + 2


@by_name(
    ("values", "known"),
    {
        "NaN": ([1.0, np.nan] * 3 + [2.0], True),
        "infinities": ([np.inf, 1, -np.inf, 2, 3, 4, 5], True),
        "all missing": ([np.nan] * 7, False),
        "almost infinite": ([1e308, -1e308, 1e308, 1, 2, 3, 4], True),
        "almost zero": ([1e-320, 0, 0, 0, 1e-310, 0, 0], True),
        "constant": ([1.0] * 7, True),
        "Float64": (pd.array([1.0, None] * 3 + [2.0], dtype="Float64"), True),
        "arrow": (pd.array([1.0, None] * 3 + [2.0], dtype="float64[pyarrow]"), True),
    },
)
@both
def test_numbers_of_any_size(cls, values, known):
    model = make(cls, "pipeline", encoder={"user_features": ["age"]})
    model.fit(EVENTS.assign(age=values))
    ages = [np.nan, np.inf, 1e308, -1e308, 0.0]
    vectors = model.transform(pd.DataFrame({"user_id": "eve", "age": ages}))
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert len(model.recommend(["ann", "bob", "cyd"])) == 1 + 2 + 2


def test_rows_may_have_any_index(fitted):
    for index in ([3, 3, 3, 0, 0, 1, 1], list("abcabca"), [np.nan] * 7):
        events = EVENTS.set_axis(index, axis=0)
        pd.testing.assert_frame_equal(fitted.recommend(events), fitted.recommend(EVENTS))
        again = clone(fitted).fit(events)
        pd.testing.assert_frame_equal(again.recommend(), fitted.recommend())


def test_nothing_asked_nothing_answered(fitted):
    for none in (EVENTS[:0], QUERIES[:0]):
        assert fitted.predict(none).shape == (0, 4)
        assert fitted.transform(none).shape == (0, 4)
        assert fitted.recommend(none).shape == (0, 5)
    assert fitted.recommend([]).shape == (0, 5)


@pytest.mark.parametrize("k", [5, np.int64(5), 10**30])
def test_k_beyond_the_catalogue_gives_all_that_remain(fitted, k):
    assert fitted.predict(QUERIES, k=k).shape == (2, 4)
    assert fitted.recommend(["ann", "eve", "bob"], k=k)["rank"].tolist() == [1, 1, 2, 3, 4, 1, 2]


def test_queries_of_any_users(fitted):
    users = pd.DataFrame({"user_id": objects(["ann", None, 3, "eve", b"ann", ("ann",)])})
    answer = fitted.recommend(users)
    assert answer["rank"].tolist() == [1] + [1, 2, 3, 4] * 5
    assert fitted.predict(users.assign(extra=1)[["extra", "user_id"]]).shape == (6, 4)


def test_histories_of_any_kind(fitted):
    histories = [["zz", "a"], ("a",), np.array(["a"]), [None, "a"], ["a"] * 200, [], None]
    queries = pd.DataFrame({"user_id": "eve", "history": objects(histories)})
    answer = [set(items) - {np.nan} for items in fitted.predict(queries)]
    assert [items & set("abcd") for items in answer] == [set("bcd")] * 5 + [set("abcd")] * 2
    # What a query brings replaces nothing of what its user has seen; a null says nothing.
    own = pd.DataFrame({"user_id": ["ann", "ann"], "history": objects([["d"], None])})
    assert fitted.recommend(own)["item_id"].tolist() == ["d"]
    arrow = pd.array([["a"], None], dtype=ARROW(pa.list_(pa.string())))
    assert fitted.recommend(QUERIES[::-1].assign(history=arrow))["item_id"].tolist()[3:] == ["d"]


@both
@alone_or_not
@pytest.mark.parametrize("values", [["page"] * 7, [1] * 7, [["a"]] * 7, [None] * 7], ids=repr)
def test_a_column_called_history_in_events_is_ignored_and_said_so(cls, form, values):
    with pytest.warns(UserWarning, match="'history' of X is ignored.*Drop or rename the column"):
        model = make(cls, form).fit(EVENTS.assign(history=objects(values)))
    expected = make(cls, form).fit(EVENTS)
    pd.testing.assert_frame_equal(model.recommend(QUERIES), expected.recommend(QUERIES))


@both
@alone_or_not
def test_y_is_ignored(cls, form):
    model = make(cls, form).fit(EVENTS, y="whatever")
    expected = make(cls, form).fit(EVENTS)
    pd.testing.assert_frame_equal(model.recommend(QUERIES), expected.recommend(QUERIES))


@pytest.mark.parametrize("scale", [1e30, 1e-30, 3])
@both
def test_weights_of_any_size(cls, scale):
    plain = cls(**SMALL).fit(EVENTS)
    scaled = cls(**SMALL).fit(EVENTS, sample_weight=np.full(7, scale))
    np.testing.assert_array_equal(scaled.item_vectors_, plain.item_vectors_)
    assert scaled.loss_curve_ == plain.loss_curve_
    pd.testing.assert_frame_equal(scaled.recommend(QUERIES), plain.recommend(QUERIES))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_counts_of_any_size(scale):
    for retriever in (ItemToItemRetriever(smoothing=0), PopularityRetriever(half_life="auto")):
        expected = clone(retriever).fit(EVENTS).recommend(QUERIES)
        scaled = retriever.fit(EVENTS, sample_weight=np.full(7, scale)).recommend(QUERIES)
        pd.testing.assert_frame_equal(scaled, expected)


# Names, ids and tables that would be ignored


@pytest.mark.parametrize("role", ["user", "item"])
def test_names_of_columns_of_answers(role):
    names = ["score", "rank", "source", "history_start", "user_as_given", "similar"]
    for name in [*names, "reason", "kind", "contribution", "outcome"]:
        encoder = MatchEncoder(**{role: name})
        with says(rf"column {name!r} has the name of a column that .* adds: rename it"):
            encoder.fit(EVENTS.rename(columns={f"{role}_id": name}))


@by_name(
    ("parameters", "message"),
    {
        "similar": ({"user": "similar"}, "'similar' .* similar_users adds"),
        "reason": ({"item": "reason"}, "'reason' .* explain or trace adds"),
        "n_relevant": ({"user": "n_relevant"}, "'n_relevant' .* evaluate adds"),
        "score": ({"user": "ndcg_at_10"}, "'ndcg_at_10' .* evaluate adds"),
        "window": ({"user_features": ["history_start"]}, "'history_start' .* to_frame adds"),
        "time": ({"time": "seen_start"}, "'seen_start' .* to_frame adds"),
    },
)
def test_names_of_columns_of_other_answers(parameters, message):
    [label] = parameters.values()
    columns = {"item": "item_id", "user": "user_id", "time": "timestamp"}
    name = label[0] if isinstance(label, list) else label
    events = FEATURES.rename(columns={columns.get(next(iter(parameters)), "city"): name})
    with says(message):
        MatchEncoder(**parameters).fit(events)


def test_names_that_collide_with_nothing_are_free():
    for parameters, column in (
        ({"item": "n_relevant"}, "item_id"),
        ({"time": "score"}, "timestamp"),
        ({"item_features": ["history_start"]}, "city"),
        ({"user_features": ["rank"]}, "age"),
    ):
        [label] = parameters.values()
        name = label[0] if isinstance(label, list) else label
        MatchEncoder(**parameters).fit(FEATURES.rename(columns={column: name}))


BIG = 2**53
NUMBERS = pd.DataFrame(
    {
        "user_id": [BIG, BIG + 1, BIG + 1, BIG],
        "item_id": [BIG, BIG + 1, BIG + 2, BIG + 3],
        "timestamp": range(4),
    }
)


def test_ids_beside_none_stay_what_they_are():
    model = PopularityRetriever(k=4).fit(NUMBERS)
    for asked in ([BIG + 1, None], (BIG + 1, None), objects([BIG + 1, None])):
        answer = model.recommend(asked)
        assert answer["user_id"].tolist() == [BIG + 1] * 2 + [None] * 4
        assert set(map(type, answer["user_id"])) == {int, type(None)}
        assert sorted(answer["item_id"][:2]) == [BIG, BIG + 3]
    queries = pd.DataFrame({"user_id": objects([BIG + 1, None])})
    assert sorted(model.recommend(queries)["item_id"][:2]) == [BIG, BIG + 3]
    query = pd.DataFrame({"user_id": [None], "history": [[BIG + 1, None]]})
    assert sorted(model.recommend(query)["item_id"]) == [BIG, BIG + 2, BIG + 3]
    for rule in ([BIG + 1, None], [[BIG + 1, None], None], {BIG: [BIG + 1, None]}):
        only = model.recommend([BIG, None], candidates=rule)
        assert only["item_id"][0] == BIG + 1
        never = model.recommend([BIG, None], exclude=rule)
        assert never["item_id"][0] == BIG + 2
    with says("item None is not in the catalogue"):
        model.similar_items([BIG, None])


@alone_or_not
@pytest.mark.parametrize("parameter", ["users", "items"])
def test_tables_of_columns_that_nobody_named(form, parameter):
    role = parameter[:-1]
    table = USERS.rename(columns={"user_id": f"{role}_id"})
    prefix = "matchencoder__" if form == "pipeline" else ""
    model = make(DSSMRetriever, form)
    with says(
        rf"{parameter} has the columns \['city'\].*make_match_pipeline\(MatchEncoder\("
        rf"{role}_features=\['city'\]\), SequenceSampler\(\), DSSMRetriever\(\)\), "
        rf"or pass only the column '{role}_id'"
    ):
        model.fit(EVENTS, **{prefix + parameter: table})
    model.fit(EVENTS, **{prefix + parameter: table[[f"{role}_id"]]})
    assert "eve" in getattr(model.schema_, parameter).values
    named = make(DSSMRetriever, "pipeline", encoder={f"{role}_features": ["city"]})
    named.fit(EVENTS, **{f"matchencoder__{parameter}": table.assign(other=1)})


def test_tables_that_cross_validation_has_cut():
    rows = pd.concat([EVENTS] * 3, ignore_index=True).assign(timestamp=range(21))
    events = rows.assign(user_id=[f"u{row % 7}" for row in range(21)])
    events = events[::-1]  # the last events of all users stand first, and the first rows are cut
    items = pd.DataFrame({"item_id": [*"abcd", *"wxyzvutsrqponmlkj"], "kind": "k"})
    encoder = MatchEncoder(item_features=["kind"])
    model = make_match_pipeline(encoder, SequenceSampler(), PopularityRetriever())
    scoring = {"cv": LeaveLastOut(), "scoring": make_topk_scorer("hit"), "error_score": "raise"}
    assert len(items) == len(events)
    with says("items has as many rows as X, 14, and lacks ids of X.*cross_validate.*merge"):
        cross_validate(model, events, params={"matchencoder__items": items}, **scoring)
    params = {"matchencoder__items": items[1:]}
    assert len(cross_validate(model, events, params=params, **scoring)["test_score"]) == 1


# Times


@pytest.mark.parametrize("name", ["ts", "time", "date", "Event_Time", "created_at", "eventTime"])
@pytest.mark.parametrize("kind", ["number", "text"])
def test_a_forgotten_time_column_is_named(name, kind):
    values = range(7) if kind == "number" else [f"2024-01-0{day}" for day in range(1, 8)]
    events = EVENTS.drop(columns="timestamp").assign(**{name: values})
    message = (
        rf"no column 'timestamp'.*{name!r} looks like the time: set time={name!r}, or time=None"
    )
    for call in (
        PopularityRetriever().fit,
        MatchEncoder().fit,
        lambda X: list(LeaveLastOut().split(X)),
        lambda X: list(TemporalSplit(2).split(X)),
    ):
        with pytest.warns(UserWarning, match=message):
            call(events)


def test_columns_that_are_not_a_forgotten_time():
    when = pd.Timestamp("2024-01-01")
    rows = EVENTS.drop(columns="timestamp")
    with pytest.warns(UserWarning, match="'when' looks like the time"):
        MatchEncoder().fit(rows.assign(when=when))
    MatchEncoder(time=None).fit(rows.assign(when=when))
    MatchEncoder(user_features=["when"]).fit(rows.assign(when="x"))
    MatchEncoder().fit(EVENTS.assign(when=when))
    MatchEncoder().fit(rows.assign(rating=1, lifetime=2, update="text"))
    for cv in (LeaveLastOut(time=None), TemporalSplit(2, time=None)):
        assert len(list(cv.split(rows.assign(when=when)))) == cv.get_n_splits()


@pytest.mark.parametrize("values", [["page"] * 7, [1] * 7], ids=["text", "numbers"])
def test_scorers_drop_a_column_called_history(values):
    model = PopularityRetriever().fit(EVENTS)
    new = EVENTS.assign(user_id="eve")
    expected = evaluate(model, new)["value"].tolist()
    assert evaluate(model, new.assign(history=values))["value"].tolist() == expected
