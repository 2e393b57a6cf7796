"""The scorer and `evaluate`, on a retriever that counts events."""

import pickle
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import make_pipeline

from skmatch import metrics as public
from skmatch._validation import read_table
from skmatch.metrics import evaluate, make_topk_scorer
from skmatch.metrics._scorer import fitted_schema
from skmatch.model_selection import LeaveLastOut

ALL = ["recall", "hit", "ndcg", "mrr", "precision", "map"]


class Ids:
    def __init__(self, values):
        self.ids = list(dict.fromkeys(values))
        self.code = {value: code for code, value in enumerate(self.ids, start=2)}

    def lookup(self, values):
        return np.array([self.code.get(value, 1) for value in values])


class Popular(BaseEstimator):
    """Recommends unseen items by their number of events, to the power of `sign`."""

    __metadata_request__predict = {"k": True}

    def __init__(self, sign=1, user="user_id", item="item_id", time="timestamp"):
        self.sign = sign
        self.user = user
        self.item = item
        self.time = time

    def fit(self, X, y=None):
        if self.sign == 0:
            raise ValueError("sign=0")
        frame, roles = read_table(X, user=self.user, item=self.item, time=self.time)
        user, item = frame[roles.user].to_numpy(), frame[roles.item].to_numpy()
        self.schema_ = SimpleNamespace(**roles._asdict(), users=Ids(user), items=Ids(item))
        count = pd.Series(item).value_counts().sort_index(kind="stable")
        self.ranked_ = list((count * self.sign).sort_values(ascending=False, kind="stable").index)
        self.seen_ = {}
        for u, i in zip(user, item, strict=True):
            self.seen_.setdefault(u, set()).add(i)
        return self

    def predict(self, X, k=10):
        self.asked_ = X, k
        frame, roles = read_table(X, user=self.user, item=self.item, time=self.time)
        rows = np.full((len(frame), k), None, dtype=object)
        for row, user in zip(rows, frame[roles.user], strict=True):
            new = [i for i in self.ranked_ if i not in self.seen_.get(user, ())][:k]
            row[: len(new)] = new
        return rows


class Identity(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


def make_events(n_users=30, n_items=40, n_events=400, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "city": rng.choice(["Rome", "Oslo"], n_events),
            "user_id": rng.integers(n_users, size=n_events),
            "item_id": [f"i{n}" for n in (rng.random(n_events) ** 3 * n_items).astype(int)],
            "timestamp": rng.permutation(n_events),
        }
    )


@pytest.fixture
def events():
    return make_events()


@pytest.fixture
def split(events):
    [(train, test)] = LeaveLastOut(n_last=3).split(events)
    return events.iloc[train], events.iloc[test]


# What is asked of the estimator


def test_held_out_items_and_times_never_reach_the_query(split):
    train, test = split
    model = Popular().fit(train)
    make_topk_scorer("ndcg", k=[5, 2])(model, test)
    queries, k = model.asked_
    assert k == 5
    assert list(queries.columns) == ["city", "user_id"]
    pd.testing.assert_frame_equal(
        queries, test.drop_duplicates("user_id")[["city", "user_id"]], check_names=True
    )


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("n_columns", [2, 3, 4])
def test_held_out_items_and_times_of_an_array_are_blanked(split, n_columns, as_list):
    order = ["user_id", "item_id", "timestamp", "city"][:n_columns]
    train, test = (part[order].to_numpy(dtype=object) for part in split)
    before = test.copy()
    model = Popular().fit(train)
    make_topk_scorer("ndcg")(model, test.tolist() if as_list else test)
    queries, _ = model.asked_
    assert isinstance(queries, np.ndarray)
    assert queries.dtype == object
    assert queries.shape == (split[1]["user_id"].nunique(), n_columns)
    assert (queries[:, 1:3] == None).all()  # noqa: E711
    users = split[1]["user_id"].unique()
    np.testing.assert_array_equal(queries[:, 0].astype(str), users.astype(str))
    if n_columns == 4:
        np.testing.assert_array_equal(queries[:, 3], split[1].drop_duplicates("user_id")["city"])
    np.testing.assert_array_equal(test, before)


def test_an_array_of_numbers_scores_as_the_frame(events):
    events = events.assign(item_id=events["item_id"].str[1:].astype(int))[
        ["user_id", "item_id", "timestamp"]
    ]
    [(train, test)] = LeaveLastOut(n_last=3).split(events)
    scorer = make_topk_scorer(ALL, k=[1, 3])
    on_frame = scorer(Popular().fit(events.iloc[train]), events.iloc[test])
    values = events.to_numpy()
    assert scorer(Popular().fit(values[train]), values[test]) == on_frame


def test_the_frame_is_not_changed(split):
    train, test = split
    before = test.copy(deep=True)
    evaluate(Popular().fit(train), test, confidence=0.9)
    pd.testing.assert_frame_equal(test, before)


def test_columns_are_those_the_estimator_names(split):
    names = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    train, test = split
    renamed = Popular(user="who", item="what", time="when").fit(train.rename(columns=names))
    scorer = make_topk_scorer("ndcg", k=3)
    assert scorer(renamed, test.rename(columns=names)) == scorer(Popular().fit(train), test)
    assert list(renamed.asked_[0].columns) == ["city", "who"]


def test_columns_of_any_label(split):
    train, test = (part.set_axis([10, 11, ("a", 1), None], axis=1) for part in split)
    model = Popular(user=11, item=("a", 1), time=None)
    model.fit(train)
    assert 0 < make_topk_scorer("hit", k=3)(model, test) <= 1


# What comes out


def test_scores_are_those_of_the_functions(split):
    train, test = split
    model = Popular().fit(train)
    scores = make_topk_scorer(ALL, k=[1, 3, 10])(model, test)
    y_true = test.groupby("user_id", sort=False)["item_id"].agg(list)
    y_pred = model.predict(y_true.index.to_frame(), k=10)
    for name in ALL:
        for k in (1, 3, 10):
            expected = getattr(public, f"{name}_at_k")(y_true, y_pred, k)
            assert scores[f"{name}_at_{k}"] == expected
    assert list(scores) == [f"{name}_at_{k}" for name in ALL for k in (1, 3, 10)]


def test_values_counted_by_hand():
    train = pd.DataFrame({"user_id": [1, 1, 2, 3], "item_id": ["a", "b", "a", "c"]})
    # "a" is most popular, then "b" and "c"; 2 has seen "a", 9 has seen nothing.
    test = pd.DataFrame(
        {"user_id": [9, 2, 2, 9, 9], "item_id": ["x", "c", "c", "a", "b"]}, index=list("vwxyz")
    )
    model = Popular().fit(train)
    assert make_topk_scorer("recall", k=2)(model, test) == pytest.approx((2 / 3 + 1) / 2)
    assert make_topk_scorer("mrr", 2)(model, test) == pytest.approx((1 + 1 / 2) / 2)
    table = evaluate(model, test, ["recall", "mrr"], 2, average=False)
    pd.testing.assert_frame_equal(
        table,
        pd.DataFrame(
            {
                "user_id": [9, 2],
                "unknown_user": [True, False],
                "n_relevant": [3, 1],
                "n_unknown_items": [1, 0],
                "recall_at_2": [2 / 3, 1],
                "mrr_at_2": [1, 1 / 2],
            }
        ),
    )


def test_one_score_is_a_float_and_several_are_a_dict(split):
    train, test = split
    model = Popular().fit(train)
    assert type(make_topk_scorer("ndcg", k=10)(model, test)) is float
    assert type(make_topk_scorer(["ndcg"], k=[10])(model, test)) is float
    scores = make_topk_scorer("ndcg", k=[1, np.int64(10), 1])(model, test)
    assert list(scores) == ["ndcg_at_1", "ndcg_at_10"]
    assert {type(value) for value in scores.values()} == {float}
    assert list(make_topk_scorer()(model, test)) == ["recall_at_10", "hit_at_10", "ndcg_at_10"]


def test_a_k_beyond_the_catalogue_counts_the_rest_as_misses(split):
    train, test = split
    model = Popular().fit(train)
    scores = make_topk_scorer("precision", k=[40, 80])(model, test)
    assert scores["precision_at_80"] == pytest.approx(scores["precision_at_40"] / 2)


def test_narrow_rankings_are_padded_with_misses(split):
    train, test = split
    model = Popular().fit(train)
    expected = make_topk_scorer(ALL, k=3)(model, test)
    model.predict = lambda X, k: Popular.predict(model, X, 3)
    wide = make_topk_scorer(ALL, k=[3, 6])(model, test)
    assert {name: wide[name] for name in expected} == expected
    assert wide["recall_at_6"] == wide["recall_at_3"]


def test_events_in_another_order_score_the_same(split):
    train, test = split
    model = Popular().fit(train)
    scorer = make_topk_scorer(ALL, k=[1, 5])
    scores = scorer(model, test.sample(frac=1, random_state=0))
    assert scores == pytest.approx(scorer(model, test), rel=1e-12)


@pytest.mark.parametrize("dtype", ["category", "object", "str", "string[pyarrow]"])
def test_dtype_of_the_ids_does_not_matter(split, dtype):
    train, test = split
    scorer = make_topk_scorer(ALL, k=[1, 5])
    model = Popular().fit(train)
    assert scorer(model, test.astype({"item_id": dtype})) == scorer(model, test)
    evaluate(model, test.astype({"item_id": dtype, "user_id": "Int64"}))


# The table


def test_table_has_the_numbers_of_the_scorer(split):
    train, test = split
    test = pd.concat([test, pd.DataFrame({"user_id": [99, 99, 1], "item_id": ["x", "y", "x"]})])
    model = Popular().fit(train)
    scores = make_topk_scorer(ALL, k=[3, 1])(model, test)
    table = evaluate(model, test, ALL, k=[3, 1])
    counts = ["n_queries", "n_unknown_users", "n_unknown_items"]
    assert list(table.columns) == ["metric", "k", "value", *counts]
    assert (
        table["value"].set_axis(table["metric"] + "_at_" + table["k"].astype(str)).to_dict()
        == scores
    )
    n_queries = test["user_id"].nunique()
    assert table["n_queries"].eq(n_queries).all()
    assert table["n_unknown_users"].eq(1).all()
    assert table["n_unknown_items"].eq(3).all()

    rows = evaluate(model, test, ALL, k=[3, 1], average=False)
    assert list(rows.columns[:4]) == ["user_id", "unknown_user", "n_relevant", "n_unknown_items"]
    assert list(rows.columns[4:]) == list(scores)
    assert rows[list(scores)].mean().to_dict() == scores
    assert list(rows["user_id"]) == list(test["user_id"].unique())
    assert rows.loc[rows["user_id"] == 99, "unknown_user"].all()
    assert rows["unknown_user"].sum() == 1
    assert rows["n_unknown_items"].sum() == 3
    assert rows["n_relevant"].sum() == len(test.drop_duplicates(["user_id", "item_id"]))


def test_interval_holds_the_value_and_narrows_with_more_users():
    widths = []
    for n_users in (50, 800):
        events = make_events(n_users, 30, 20 * n_users)
        [(train, test)] = LeaveLastOut().split(events)
        model = Popular().fit(events.iloc[train])
        test = events.iloc[test]
        table = evaluate(model, test, ["hit", "ndcg"], [5, 10], confidence=0.95, random_state=0)
        assert list(table.columns[2:5]) == ["value", "low", "high"]
        assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
        pd.testing.assert_frame_equal(
            table.drop(columns=["low", "high"]), evaluate(model, test, ["hit", "ndcg"], [5, 10])
        )
        widths.append(table["high"] - table["low"])
        # A share of n users has a standard error of sqrt(p (1 - p) / n).
        p = table.loc[0, "value"]
        normal = 2 * 1.96 * np.sqrt(p * (1 - p) / table.loc[0, "n_queries"])
        assert widths[-1][0] == pytest.approx(normal, rel=0.15)
    assert (widths[1] < widths[0] / 2).all()


def test_interval_is_fixed_by_random_state_and_leaves_the_global_one(split):
    train, test = split
    model = Popular().fit(train)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (
        evaluate(model, test, confidence=0.9, random_state=seed) for seed in (0, 0, 1)
    )
    evaluate(model, test, confidence=0.9)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    wider = evaluate(model, test, confidence=0.99, random_state=0)
    assert (wider["low"] < first["low"]).all()
    assert (wider["high"] > first["high"]).all()


# scikit-learn's searches


@pytest.mark.parametrize("routing", [False, True])
def test_grid_search_over_a_pipeline(events, routing):
    with sklearn.config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            make_pipeline(Identity(), Popular()),
            {"popular__sign": [-1, 1]},
            cv=LeaveLastOut(n_splits=2),
            scoring=make_topk_scorer(["recall", "ndcg"], k=[3, 5]),
            refit="ndcg_at_3",
            error_score="raise",
        ).fit(events)
        assert search.best_params_ == {"popular__sign": 1}
        assert search.multimetric_
        assert search.cv_results_["split1_test_recall_at_5"].shape == (2,)
        # Asked of the search itself, the scorer finds the estimator that the search has chosen.
        scores = search.scorer_(search, events)
        assert search.score(events) == scores["ndcg_at_3"]
        assert scores == search.scorer_(search.best_estimator_, events)
        clone(search)


@pytest.mark.parametrize("scoring", [make_topk_scorer("ndcg", 3), make_topk_scorer("ndcg", [3, 5])])
def test_a_failing_fit_gets_the_error_score(events, scoring):
    search = GridSearchCV(
        Popular(), {"sign": [0, 1]}, cv=LeaveLastOut(), scoring=scoring, refit=False
    )
    with pytest.warns(FitFailedWarning, match="sign=0"), pytest.warns(UserWarning, match="finite"):
        search.fit(events)
    for name, values in search.cv_results_.items():
        if name.startswith("mean_test_"):
            np.testing.assert_array_equal(np.isnan(values), [True, False])


def test_randomized_search(events):
    search = RandomizedSearchCV(
        Popular(), {"sign": [-1, 1]}, n_iter=2, cv=LeaveLastOut(), random_state=0,
        scoring=make_topk_scorer(k=[1, 3]), refit="hit_at_3",
    ).fit(events)  # fmt: skip
    assert search.best_params_ == {"sign": 1}


@pytest.mark.parametrize(
    "search", [HalvingGridSearchCV, partial(HalvingRandomSearchCV, n_candidates=2)]
)
@pytest.mark.parametrize("routing", [False, True])
def test_halving_search_with_one_score(events, search, routing):
    with sklearn.config_context(enable_metadata_routing=routing):
        halving = search(
            Popular(), {"sign": [-1, 1]}, cv=LeaveLastOut(), scoring=make_topk_scorer("ndcg", k=3),
            min_resources=200, factor=2, random_state=0, error_score="raise",
        ).fit(events)  # fmt: skip
    assert halving.n_iterations_ == 2
    assert halving.best_params_ == {"sign": 1}


@pytest.mark.parametrize("routing", [False, True])
def test_cross_validate(events, routing):
    scorer = make_topk_scorer(["hit", "map"], k=3)
    with sklearn.config_context(enable_metadata_routing=routing):
        cv = LeaveLastOut(n_splits=2)
        # Before 1.8, scikit-learn cannot route params=None.
        options = {"cv": cv, "error_score": "raise", "params": {}}
        result = cross_validate(Popular(), events, scoring=scorer, **options)
        nested = cross_validate(
            GridSearchCV(Popular(), {"sign": [-1, 1]}, cv=cv, scoring=scorer, refit="map_at_3"),
            events, scoring={"one": make_topk_scorer("hit", 3)}, **options,
        )  # fmt: skip
    for fold, (train, test) in enumerate(cv.split(events)):
        scores = scorer(Popular().fit(events.iloc[train]), events.iloc[test])
        assert {name: result[f"test_{name}"][fold] for name in scores} == scores
    np.testing.assert_array_equal(nested["test_one"], result["test_hit_at_3"])


def test_scorer_can_be_pickled_and_cloned(split):
    train, test = split
    model = Popular().fit(train)
    scorer = make_topk_scorer(ALL, k=(1, 5))
    for other in (pickle.loads(pickle.dumps(scorer)), deepcopy(scorer), clone(scorer, safe=False)):
        assert other(model, test) == scorer(model, test)
        assert repr(other) == repr(scorer)


@pytest.mark.parametrize(
    "text",
    [
        "make_topk_scorer('ndcg', k=10)",
        "make_topk_scorer(['hit', 'map'], k=[1, 5])",
        "make_topk_scorer('mrr', k=[3, 1])",
    ],
)
def test_repr_is_the_call(text):
    assert repr(eval(text)) == text


# The schema


def test_schema_is_found_inside(events):
    model = Popular().fit(events)
    assert fitted_schema(model) is model.schema_
    pipe = make_pipeline(Identity(), make_pipeline(Identity(), Popular())).fit(events)
    assert fitted_schema(pipe) is pipe[-1][-1].schema_
    search = GridSearchCV(
        pipe, {"pipeline__popular__sign": [1]}, cv=LeaveLastOut(), scoring=make_topk_scorer("hit")
    ).fit(events)
    assert fitted_schema(search) is search.best_estimator_[-1][-1].schema_


@pytest.mark.parametrize(
    "estimator",
    [
        Popular(),
        make_pipeline(Identity(), Popular()),
        make_pipeline(Popular(), Identity()),
        GridSearchCV(Popular(), {}),
        Popular,
        None,
        "popular",
    ],
    ids=lambda estimator: repr(estimator)[:20],
)
def test_estimator_that_is_not_a_fitted_retriever_raises(estimator, events):
    for call in (make_topk_scorer(), evaluate):
        with pytest.raises(TypeError, match=r"estimator=.* has no schema_: pass a fitted"):
            call(estimator, events)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "auc"}, r"metrics='auc': 'auc' is unknown; use some of 'recall', 'hit'"),
        ({"metrics": "recall@10"}, r"'recall@10' is unknown.*the parameter k, such as k=10"),
        ({"metrics": ["hit", "auc"]}, r"'auc' is unknown"),
        ({"metrics": ["hit", 3]}, r"3 is unknown"),
        ({"metrics": []}, r"metrics=\[\] is empty: name at least one of 'recall'"),
        ({"metrics": None}, r"None is unknown"),
        ({"k": 0}, r"k=0 .*at least 1"),
        ({"k": [10, -1]}, r"k=-1 .*at least 1"),
        ({"k": True}, r"k=True .*integer"),
        ({"k": 2.5}, r"k=2.5 .*integer"),
        ({"k": "10"}, r"k='10' .*integer"),
        ({"k": []}, r"k=\[\] is empty.* k=10"),
        ({"k": None}, r"k=None .*integer"),
    ],
    ids=repr,
)
def test_parameters_are_checked_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_topk_scorer(**arguments)
    with pytest.raises(ValueError, match=message):
        evaluate(None, None, **arguments)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, "0.95", True, np.nan])
def test_confidence_is_a_level(confidence):
    with pytest.raises(ValueError, match=r"confidence=.* between 0 and 1"):
        evaluate(None, None, confidence=confidence)


def test_confidence_needs_averages():
    with pytest.raises(ValueError, match="average=True"):
        evaluate(None, None, confidence=0.95, average=False)


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_missing_columns_and_values_are_named(events, column):
    model = Popular().fit(events)
    scorer = make_topk_scorer()
    with pytest.raises(ValueError, match=f"column '{column}' is missing"):
        scorer(model, events.drop(columns=column))
    holed = events.astype({column: object}).set_index(events.index + 1000)
    holed.loc[[1007, 1009], column] = None
    with pytest.raises(ValueError, match=rf"'{column}' of X has no value in row 1007 \(2 such"):
        scorer(model, holed)


def test_no_events_are_an_error(events):
    model = Popular().fit(events)
    with pytest.raises(ValueError, match="X has no rows"):
        make_topk_scorer()(model, events[:0])
    with pytest.raises(ValueError, match="X has no rows"):
        make_topk_scorer()(model, np.empty((0, 3)))


@pytest.mark.parametrize("shape", [(5,), (5, 10), (30, 0)])
def test_rankings_of_the_wrong_shape_are_an_error(events, shape):
    model = Popular().fit(events)
    model.predict = lambda X, k: np.zeros(shape)
    with pytest.raises(ValueError, match=r"predict\(X, k=10\) returned shape .* for 30 queries"):
        make_topk_scorer()(model, events)


def test_sample_weight_raises(events):
    with pytest.raises(TypeError, match="sample_weight"):
        make_topk_scorer()(Popular().fit(events), events, sample_weight=np.ones(len(events)))
