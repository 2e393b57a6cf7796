"""The contract of retrievers, as classes of tests that any retriever can enter.

A test module makes a subclass of `RetrieverContract`, and of the others where the retriever has the
mixins, and sets `retriever`. The retriever's class must be importable in another process.
"""

import os
import re
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from skmatch import LeaveLastOut, MatchEncoder, SequenceSampler, make_match_pipeline
from skmatch import make_topk_scorer as scorer_of
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=40, n_events=1500, random_state=0)
EVENTS["user_id"] = "u" + EVENTS["user_id"].astype(str)
PLAIN = EVENTS[["user_id", "item_id", "timestamp"]]
ITEMS = EVENTS["item_id"].unique()
USER = EVENTS["user_id"][0]
GROWTH_VERBS = ("observe", "partial_fit", "add_items")


def make_steps(retriever):
    encoder = MatchEncoder(
        user_features=["segment", "age"],
        item_features=["category", "price", "tags"],
        kinds={"tags": "multi_valued"},
    )
    return encoder, SequenceSampler(max_length=10), clone(retriever)


def run_in_a_fresh_process(code, *arguments):
    """Run a program with the import path of this process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    subprocess.run(command, check=True, env=environment)


def seen_by(user):
    return set(EVENTS.loc[EVENTS["user_id"] == user, "item_id"])


# The checks of scikit-learn that a retriever cannot pass, and why.
EXPECTED_FAILURES = {
    "check_estimators_pickle": "puts missing values into the time, which has no order then; "
    "features may miss values, times and ids may not",
    "check_sample_weights_pandas_series": "its frame has no columns user_id and item_id",
    "check_sample_weight_equivalence_on_dense_data": "a weight is how much an event counts as a "
    "target; without any it still is in its user's history and in the catalogue",
}


def power_of_trend(pipe, query):
    """Return the power of the ratio of shares by which the scores of a query change."""
    begins = pipe[:-1].transform(query).begins_visit
    return 0.5 if begins is None else np.where(begins, 0.75, 0.25)[0]


class RetrieverContract:
    """Tests that every retriever passes."""

    retriever = None
    further_columns = ()

    @pytest.fixture(scope="class")
    @classmethod
    def pipe(cls):
        return make_match_pipeline(*make_steps(cls.retriever)).fit(EVENTS)

    def test_recommend_gives_k_new_items_in_the_users_own_ids(self, pipe):
        table = pipe.recommend(k=5)
        assert list(table.columns) == [
            *("user_id", "item_id", "score", "rank", "source"), *self.further_columns
        ]  # fmt: skip
        assert table["user_id"].dtype == EVENTS["user_id"].dtype
        assert table["item_id"].dtype == EVENTS["item_id"].dtype
        assert table["user_id"].unique().tolist() == EVENTS["user_id"].unique().tolist()
        for user, rows in table.groupby("user_id"):
            n_left = EVENTS["item_id"].nunique() - len(seen_by(user))
            assert rows["rank"].tolist() == list(range(1, min(5, n_left) + 1))
            assert rows["item_id"].is_unique
            assert not set(rows["item_id"]) & seen_by(user)
            assert rows["score"].is_monotonic_decreasing

    def test_predict_has_a_row_per_query_and_recommends_the_same(self, pipe):
        queries = pd.DataFrame({"user_id": EVENTS["user_id"].unique()[:7]})
        items = pipe.recommend(queries, k=4)["item_id"].to_numpy()
        np.testing.assert_array_equal(pipe.predict(queries, k=4), items.reshape(7, 4))

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_batches_are_the_recommendations_in_parts(self, pipe, batch_size):
        frames = [*pipe.recommend_batches(k=3, batch_size=batch_size)]
        assert len(frames) == -(-EVENTS["user_id"].nunique() // batch_size)
        columns = ["user_id", "item_id", "rank", "source"]
        pd.testing.assert_frame_equal(
            pd.concat(frames, ignore_index=True)[columns], pipe.recommend(k=3)[columns]
        )

    def test_an_unknown_user_gets_the_most_popular_items(self, pipe):
        retriever = pipe[-1]
        members = getattr(retriever, "retrievers_", [retriever])
        trends = [getattr(member, "trend_", None) for member in members]
        power = power_of_trend(pipe, pd.DataFrame({"user_id": ["nobody"]}))
        factor = 1 if trends[0] is None else np.exp(power * trends[0])
        top = pd.Series(retriever.popularity_ * factor, index=retriever.item_ids_).nlargest(3)
        table = pipe.recommend(["nobody"], k=3)
        assert table["user_id"].tolist() == ["nobody"] * 3
        assert table["source"].tolist() == ["popularity"] * 3
        assert table["item_id"].tolist() == top.index.tolist()

    def test_a_query_brings_its_history(self, pipe):
        history = EVENTS.loc[EVENTS["user_id"] == USER, "item_id"].tolist()
        queries = pd.DataFrame({"user_id": [USER, "nobody"], "history": [None, history]})
        table = pipe.recommend(queries, k=3)
        assert table["user_id"].tolist() == [USER] * 3 + ["nobody"] * 3
        assert not set(table["item_id"]) & set(history)
        assert table["source"].nunique() == 1

    def test_seen_items_are_left_out_only_when_asked(self, pipe):
        everything = pipe.recommend([USER], k=1000, exclude_seen=False)
        assert set(everything["item_id"]) == set(ITEMS)
        assert len(everything) == len(ITEMS)

    def test_filters_hold_for_known_and_unknown_users(self, pipe):
        users = [USER, "nobody"]
        options = {"candidates": ITEMS[:20].tolist(), "exclude": {"nobody": ITEMS[:5].tolist()}}
        items = pipe.recommend(users, k=50, **options).groupby("user_id")["item_id"].agg(set)
        assert items[USER] == set(ITEMS[:20]) - seen_by(USER)
        assert items["nobody"] == set(ITEMS[5:20])

    def test_filters_keep_the_order(self, pipe):
        everything = pipe.recommend([USER], k=50)["item_id"]
        filtered = pipe.recommend([USER], k=50, candidates=ITEMS[:20])["item_id"]
        assert filtered.tolist() == everything[everything.isin(ITEMS[:20])].tolist()

    def test_a_user_who_has_seen_everything_gets_nothing(self):
        everything = pd.DataFrame({"user_id": "all", "item_id": ITEMS, "timestamp": 0})
        fitted = clone(self.retriever).fit(pd.concat([PLAIN, everything]))
        assert fitted.recommend(["all"]).empty
        assert pd.isna(fitted.predict(pd.DataFrame({"user_id": ["all"]}))).all()
        assert len(fitted.recommend(["all"], k=7, exclude_seen=False)) == 7

    @pytest.mark.parametrize("k", [0, -1, True, 2.0, "10"])
    def test_k_is_a_number_of_items(self, pipe, k):
        for call in (pipe.recommend, lambda k: pipe.predict(EVENTS[:1], k=k)):
            with pytest.raises(ValueError, match=r"k=.*must be an integer"):
                call(k=k)

    def test_fits_are_repeated_exactly(self, pipe):
        pd.testing.assert_frame_equal(
            clone(pipe).fit(EVENTS).recommend(k=5), pipe.recommend(k=5), check_exact=True
        )

    def test_input_and_parameters_are_never_changed(self):
        before = EVENTS.copy(deep=True)
        fitted = clone(self.retriever)
        assert fitted.fit(EVENTS) is fitted
        fitted.predict(EVENTS[:5])
        pd.testing.assert_frame_equal(EVENTS, before)
        assert str(fitted.get_params()) == str(self.retriever.get_params())

    def test_weights_of_one_change_nothing(self):
        plain = clone(self.retriever).fit(PLAIN)
        weighted = clone(self.retriever).fit(PLAIN, sample_weight=np.ones(len(PLAIN)))
        pd.testing.assert_frame_equal(weighted.recommend(k=5), plain.recommend(k=5))

    def test_score_is_that_of_the_scorer(self, pipe):
        train, test = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))
        fitted = clone(pipe).fit(train)
        assert fitted.score(test) == pytest.approx(scorer_of("ndcg", k=10)(fitted, test))

    def test_a_search_tunes_a_step_before_it(self, pipe):
        search = GridSearchCV(
            pipe,
            {"sequencesampler__max_length": [2, 10]},
            cv=LeaveLastOut(),
            scoring=scorer_of("ndcg", k=5),
        ).fit(EVENTS)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        assert len(search.best_estimator_.recommend([USER], k=2)) == 2

    def test_a_plain_pipeline_predicts_the_same(self, pipe):
        plain = make_pipeline(*make_steps(self.retriever)).fit(EVENTS)
        np.testing.assert_array_equal(plain.predict(EVENTS[:9]), pipe.predict(EVENTS[:9]))

    def test_pandas_output_all_the_way_gives_the_same(self, pipe):
        encoder, sampler, retriever = make_steps(self.retriever)
        encoder.set_output(transform="pandas")
        sampler.set_output(transform="pandas")
        framed = make_match_pipeline(encoder, sampler, retriever).fit(EVENTS)
        np.testing.assert_array_equal(framed.predict(EVENTS[:9]), pipe.predict(EVENTS[:9]))

    def test_plain_events_need_no_other_step(self):
        alone = clone(self.retriever).fit(PLAIN)
        assert len(alone.recommend([USER], k=2)) == 2
        np.testing.assert_array_equal(
            clone(self.retriever).fit(PLAIN.to_numpy()).predict(PLAIN.to_numpy()[:3]),
            alone.predict(PLAIN[:3]),
        )

    def test_tables_do_not_stand_beside_samples(self):
        samples = SequenceSampler().fit_transform(EVENTS)
        with pytest.raises(ValueError, match=r"MatchEncoder.*matchencoder__users"):
            clone(self.retriever).fit(samples, users=EVENTS[["user_id"]].drop_duplicates())

    def test_a_saved_pipeline_recommends_the_same_in_a_fresh_process(self, pipe, tmp_path):
        path, result = tmp_path / "pipe.joblib", tmp_path / "found.pkl"
        joblib.dump(pipe, path)
        code = "import sys, joblib; joblib.load(sys.argv[1]).recommend(k=3).to_pickle(sys.argv[2])"
        run_in_a_fresh_process(code, path, result)
        pd.testing.assert_frame_equal(pd.read_pickle(result), pipe.recommend(k=3), check_exact=True)

    def test_not_fitted(self):
        for verb in ("recommend", "predict", "score"):
            with pytest.raises(NotFittedError):
                getattr(clone(self.retriever), verb)(EVENTS[:1])

    def test_verbs_without_a_mixin_are_not_there(self, pipe):
        expected = {
            "transform": isinstance(self, VectorsContract),
            "similar_items": isinstance(self, SimilarItemsContract),
        } | dict.fromkeys(GROWTH_VERBS, isinstance(self, GrowthContract))
        for estimator in (pipe, pipe[-1], clone(pipe), clone(self.retriever)):
            assert {name: hasattr(estimator, name) for name in expected} == expected
        for name in [name for name, is_there in expected.items() if not is_there]:
            with pytest.raises(AttributeError, match=name):
                getattr(pipe, name)

    def test_documented_attributes_exist(self):
        fitted = clone(self.retriever).fit(EVENTS)
        attributes = type(fitted).__doc__.split("Attributes\n")[1].split("\n\n    ")[0]
        names = re.findall(r"^    (\w+_) :", attributes, re.MULTILINE)
        assert names
        for name in [*names, "item_ids_", "schema_", "feature_names_in_"]:
            assert hasattr(fitted, name), name

    def test_scikit_learns_checks(self, subtests):
        checks = estimator_checks_generator(clone(self.retriever), legacy=True)
        for estimator, check in checks:
            name = check.func.__name__
            with subtests.test(name):
                if name in EXPECTED_FAILURES:
                    with pytest.raises(Exception):  # noqa: B017, PT011
                        check(estimator)
                else:
                    check(estimator)


class SimilarItemsContract:
    """Tests of `SimilarItemsMixin`."""

    def test_similar_items_never_hold_the_item_itself(self, pipe):
        table = pipe.similar_items(ITEMS[:5], k=3)
        assert len(table) == 15
        assert (table["item_id"] != table["similar"]).all()


class VectorsContract(SimilarItemsContract):
    """Tests of `VectorsMixin`."""

    def test_transform_has_a_vector_per_query(self, pipe):
        vectors = pipe.transform(EVENTS[:7])
        assert vectors.shape == (7, pipe[-1].item_vectors_.shape[1])
        assert vectors.dtype == np.float32
        framed = clone(pipe).set_output(transform="pandas").fit(EVENTS)
        assert list(framed.transform(EVENTS[:2]).columns) == list(pipe[-1].get_feature_names_out())

    def test_scores_are_inner_products(self, pipe):
        query = pd.DataFrame({"user_id": [USER]})
        table = pipe.recommend(query, k=3)
        vectors = pd.Series([*pipe[-1].item_vectors_], index=pipe[-1].item_ids_)
        expected = [pipe.transform(query)[0] @ vectors[item] for item in table["item_id"]]
        if getattr(pipe[-1], "trend_", None) is not None:
            trend = pd.Series(pipe[-1].trend_, index=pipe[-1].item_ids_)
            power = power_of_trend(pipe, query)
            expected += pipe[-1].temperature * power * trend[table["item_id"]].to_numpy()
        if table["source"][0] != "popularity":
            np.testing.assert_allclose(table["score"], expected, atol=1e-5)

    def test_vectors_are_repeated_exactly(self, pipe):
        again = clone(pipe).fit(EVENTS)
        np.testing.assert_array_equal(again[-1].item_vectors_, pipe[-1].item_vectors_)


class GrowthContract:
    """Tests of `GrowthMixin`."""

    NEWS = pd.DataFrame({"user_id": "new", "item_id": ITEMS[:2], "timestamp": 10**12})

    @pytest.fixture
    def fitted(self):
        return clone(self.retriever).fit(PLAIN)

    def test_observed_events_are_seen(self, fitted):
        table = fitted.observe(self.NEWS).recommend(["new"], k=1000)
        assert set(table["item_id"]) == set(ITEMS[2:])

    def test_partial_fit_brings_new_items(self, fitted):
        fitted.partial_fit(self.NEWS.assign(item_id=[-7, -8]))
        assert set(fitted.item_ids_) == {*ITEMS, -7, -8}
        assert {-7, -8} <= set(fitted.recommend([USER], k=1000)["item_id"])

    def test_a_pipeline_grows_as_its_retriever_does(self):
        pipe = make_match_pipeline(*make_steps(self.retriever)).fit(EVENTS)
        pipe.partial_fit(self.NEWS)
        assert not set(pipe.recommend(["new"], k=1000)["item_id"]) & set(ITEMS[:2])
