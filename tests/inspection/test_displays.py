"""The displays: content of their axes, and comparison with plain matplotlib."""

import builtins
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.testing.compare import compare_images
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmatch import (
    DSSMRetriever,
    ItemMapDisplay,
    LeaveLastOut,
    MatchEncoder,
    PopularityRetriever,
    SequenceSampler,
    TopKCurveDisplay,
    TrainingCurveDisplay,
    evaluate,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

EVENTS = make_events(n_users=40, n_items=30, n_events=800, random_state=0)
SMALL = {"embedding_dim": 4, "dims": (8, 4), "max_epochs": 3, "batch_size": 256, "random_state": 0}
ENCODER = MatchEncoder(item_features=["category", "price", "tags"], kinds={"tags": "multi_valued"})
TRAIN, TEST = (EVENTS.iloc[rows] for rows in next(LeaveLastOut().split(EVENTS)))


@pytest.fixture(scope="module")
def pipe():
    retriever = DSSMRetriever(**SMALL, early_stopping=True)
    return make_match_pipeline(ENCODER, SequenceSampler(), retriever).fit(TRAIN)


@pytest.fixture(scope="module")
def popular():
    return make_match_pipeline(ENCODER, SequenceSampler(), PopularityRetriever()).fit(TRAIN)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def assert_look_the_same(one, other, folder):
    paths = [str(folder / name) for name in ("one.png", "other.png")]
    for figure, path in zip((one, other), paths, strict=True):
        figure.savefig(path)
    assert compare_images(*paths, tol=0) is None


# TopKCurveDisplay

Y_TRUE = [["a", "b"], ["c"]]
RANKINGS = {"good": [["a", "x", "b"], ["c", "x", "y"]], "poor": [["x", "y", "a"], ["x", "c", "y"]]}


def test_topk_curves_of_predictions_hold_the_metric_at_each_k():
    display = TopKCurveDisplay.from_predictions(Y_TRUE, RANKINGS, metric="recall", k=[3, 1, 2])
    good, poor = display.lines_
    np.testing.assert_array_equal(good.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(good.get_ydata(), [0.75, 0.75, 1.0])
    np.testing.assert_array_equal(poor.get_ydata(), [0, 0.5, 0.75])
    assert [text.get_text() for text in display.ax_.get_legend().texts] == ["good", "poor"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("k", "Recall@k")
    assert display.ax_.get_xscale() == "linear"
    assert display.figure_ is display.ax_.figure


def test_topk_curves_of_estimators_are_those_of_evaluate(pipe, popular):
    estimators = {"DSSM": pipe, "popularity": popular}
    display = TopKCurveDisplay.from_estimator(estimators, TEST, metric="ndcg", k=[1, 2, 5, 10, 20])
    for name, line in zip(estimators, display.lines_, strict=True):
        expected = evaluate(estimators[name], TEST, "ndcg", [1, 2, 5, 10, 20])["value"]
        np.testing.assert_array_equal(line.get_ydata(), expected)
        assert line.get_label() == name
    assert display.ax_.get_ylabel() == "NDCG@k"
    assert display.ax_.get_xscale() == "log"
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == [
        "1",
        "2",
        "5",
        "10",
        "20",
    ]


def test_topk_queries_each_estimator_once_per_user(popular, monkeypatch):
    calls = []
    rank = PopularityRetriever._rank

    def counted(self, samples, **parameters):
        calls.append((len(samples), parameters))
        return rank(self, samples, **parameters)

    monkeypatch.setattr(PopularityRetriever, "_rank", counted)
    TopKCurveDisplay.from_estimator(popular, TEST, k=[1, 5, 10])
    assert calls == [(TEST["user_id"].nunique(), {"k": 10})]


def test_a_single_estimator_is_named_after_its_class(popular):
    search = GridSearchCV(
        make_pipeline(ENCODER, SequenceSampler(), PopularityRetriever()),
        {"popularityretriever__k": [5]}, cv=LeaveLastOut(), scoring=make_topk_scorer("ndcg"),
    ).fit(TRAIN)  # fmt: skip
    for estimator in (popular, search):
        display = TopKCurveDisplay.from_estimator(estimator, TEST, k=5)
        assert list(display.values) == ["PopularityRetriever"]


def test_curves_added_to_axes_get_a_style_of_their_own():
    display = TopKCurveDisplay(k=[1, 2], values={"one": [0.1, 0.2]}, metric="map").plot()
    other = TopKCurveDisplay(k=[1, 2], values={"two": [0.2, 0.3]}, metric="map")
    other.plot(display.ax_)
    first, second = display.ax_.lines
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert getattr(first, look)() != getattr(second, look)()
    assert [text.get_text() for text in display.ax_.get_legend().texts] == ["one", "two"]


def test_curves_differ_without_colour():
    values = {str(i): [i, i] for i in range(20)}
    lines = TopKCurveDisplay(k=[1, 2], values=values, metric="map").plot().lines_
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(lines)


def test_curve_kwargs_replace_the_defaults_also_by_their_short_names():
    display = TopKCurveDisplay(k=[1, 2], values={"one": [0.1, 0.2]}, metric="map")
    (line,) = display.plot(curve_kwargs={"ls": ":", "c": "red", "marker": ""}).lines_
    assert (line.get_linestyle(), line.get_color(), line.get_marker()) == (":", "red", "")


def test_topk_curves_look_like_those_drawn_by_hand(tmp_path):
    display = TopKCurveDisplay.from_predictions(Y_TRUE, RANKINGS, metric="hit", k=[1, 2, 3])
    figure, ax = plt.subplots(layout="constrained")
    ax.plot([1, 2, 3], [1, 1, 1], "o-", color="#0072B2", label="good")
    ax.plot([1, 2, 3], [0, 0.5, 1], "s--", color="#D55E00", label="poor")
    ax.set_xticks([1, 2, 3], ["1", "2", "3"])
    ax.set_xlabel("k")
    ax.set_ylabel("Hit@k")
    ax.set_ylim(bottom=0)
    ax.legend()
    assert_look_the_same(display.figure_, figure, tmp_path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"metric": "auc"}, "metric='auc' is not known; choose one of 'recall'"),
        ({"k": []}, "k=.* is empty"),
        ({"k": [0]}, "k=0 must be an integer"),
        ({"k": [5]}, "ranks 3 items per query and k=5"),
        ({"y_pred": {}}, "y_pred={} is empty"),
    ],
)
def test_topk_raises_on_invalid_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        TopKCurveDisplay.from_predictions(Y_TRUE, **{"y_pred": RANKINGS} | parameters)


# TrainingCurveDisplay


def test_training_curves_of_estimators(pipe):
    other = DSSMRetriever(**SMALL | {"max_epochs": 2}).fit(TRAIN)
    display = TrainingCurveDisplay.from_estimator({"one": pipe, "two": other})
    one, two = display.lines_
    np.testing.assert_array_equal(one.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(one.get_ydata(), pipe[-1].loss_curve_)
    np.testing.assert_array_equal(two.get_xdata(), [1, 2])
    (validation,) = display.validation_lines_
    np.testing.assert_array_equal(validation.get_ydata(), pipe[-1].validation_curve_)
    legend = display.validation_ax_.get_legend()
    texts = [text.get_text() for text in legend.texts]
    assert texts == ["one, loss", "two, loss", "one, validation"]
    assert display.ax_.get_xlabel() == "Epoch"
    assert all(tick == int(tick) for tick in display.ax_.get_xticks())


def test_training_curves_without_validation_have_one_scale(pipe):
    display = TrainingCurveDisplay(loss={"one": [2.0, 1.0]}, validation={}).plot()
    assert display.validation_ax_ is None
    assert display.figure_.axes == [display.ax_]


def test_training_curves_look_like_those_drawn_by_hand(tmp_path):
    display = TrainingCurveDisplay(
        loss={"A": [3.0, 2.0, 1.5], "B": [2.5, 2.0]}, validation={"A": [0.1, 0.3, 0.2]}
    ).plot()
    figure, left = plt.subplots(layout="constrained")
    right = left.twinx()
    handles = [
        *left.plot([1, 2, 3], [3, 2, 1.5], "o-", color="#0072B2", label="A, loss"),
        *left.plot([1, 2], [2.5, 2], "s-", color="#D55E00", label="B, loss"),
        *right.plot([1, 2, 3], [0.1, 0.3, 0.2], "o--", c="#0072B2", mfc="w", label="A, validation"),
    ]
    left.set_xlabel("Epoch")
    left.set_ylabel("Training loss")
    left.set_xticks([1, 2, 3])
    right.set_ylabel("Validation NDCG@100")
    right.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    assert_look_the_same(display.figure_, figure, tmp_path)


def test_training_curves_need_a_training(popular):
    with pytest.raises(TypeError, match="has no loss_curve_: pass a fitted retriever that has it"):
        TrainingCurveDisplay.from_estimator(popular)


def test_compared_estimators_need_names(pipe, popular):
    for display in (TopKCurveDisplay, TrainingCurveDisplay):
        with pytest.raises(TypeError, match="estimator is a list of 2; pass a dict"):
            display.from_estimator([pipe, popular], *([TEST] * (display is TopKCurveDisplay)))


# ItemMapDisplay


def test_map_shows_the_principal_components_most_popular_items_first(pipe):
    display = ItemMapDisplay.from_estimator(pipe)
    vectors = pipe[-1].item_vectors_
    order = np.argsort(-pipe[-1].popularity_, kind="stable")
    pca = PCA(2).fit(vectors)
    np.testing.assert_allclose(display.coordinates, pca.transform(vectors)[order], atol=1e-5)
    np.testing.assert_array_equal(display.labels, pipe[-1].item_ids_[order])
    (points,) = display.scatters_
    np.testing.assert_allclose(points.get_offsets(), display.coordinates)
    share = f"{pca.explained_variance_ratio_[0]:.0%}"
    assert display.ax_.get_xlabel() == f"Component 1 ({share} of the variance)"


@pytest.mark.parametrize("feature", ["category", "tags"])
def test_map_gives_the_frequent_values_of_a_feature_a_colour_and_a_marker(pipe, feature):
    display = ItemMapDisplay.from_estimator(pipe, feature=feature)
    ids = pd.Series(display.labels)
    latest = EVENTS.groupby("item_id")[feature].last().astype(str).str.split("|").str[0]
    counts = latest[ids].value_counts()
    *groups, rest = display.scatters_[1:] + display.scatters_[:1]
    assert rest.get_label() == "other"
    assert len(groups) == 7
    for points in groups:
        assert len(points.get_offsets()) == counts[points.get_label()]
    assert sum(len(points.get_offsets()) for points in display.scatters_) == len(ids)
    legend = display.ax_.get_legend()
    assert legend.get_title().get_text() == feature
    assert [text.get_text() for text in legend.texts][-1] == "other"


def test_map_gives_numbers_a_scale(pipe):
    display = ItemMapDisplay.from_estimator(pipe, feature="price")
    points = display.scatters_[-1]
    prices = EVENTS.groupby("item_id")["price"].last()[display.labels].to_numpy()
    np.testing.assert_allclose(points.get_array(), prices[~np.isnan(prices)], rtol=1e-5)
    assert display.figure_.axes[-1].get_ylabel() == "price"


def test_map_takes_values_and_labels_by_item_id(pipe):
    first = pipe[-1].item_ids_[0]
    display = ItemMapDisplay.from_estimator(
        pipe, feature=pd.Series({first: "yes"}, name="new"), labels=pd.Series({first: "The first"})
    )
    assert [len(points.get_offsets()) for points in display.scatters_] == [29, 1]
    assert "The first" in display.labels
    assert set(display.labels) - {"The first"} == set(pipe[-1].item_ids_) - {first}


def test_map_takes_categorical_labels_that_lack_some_items(pipe):
    first, second = pipe[-1].item_ids_[:2]
    labels = pd.Series({first: "The first"}, dtype="category")
    display = ItemMapDisplay.from_estimator(pipe, labels=labels)
    assert {"The first", second} <= set(display.labels)


def test_map_labels_stay_inside_and_do_not_overlap():
    places = np.random.default_rng(0).normal(size=(200, 2))
    labels = [f"the item {i}" for i in range(200)]
    display = ItemMapDisplay(coordinates=places, labels=labels).plot(max_labels=200)
    display.figure_.canvas.draw()
    frame = display.ax_.get_window_extent()
    boxes = [text.get_window_extent() for text in display.texts_]
    assert 10 < len(boxes) < 200
    assert display.texts_[0].get_text() == "the item 0"
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i])
        assert frame.containsx(box.x0)
        assert frame.containsx(box.x1)
    assert len(display.plot(max_labels=3).texts_) <= 3


def test_map_looks_like_that_drawn_by_hand(tmp_path):
    display = ItemMapDisplay(
        coordinates=[[0, 0], [1, 1], [2, 0], [2, 2]], values=["tea", "jam", "tea", None],
        labels=["a", "b"], value_name="kind",
    ).plot()  # fmt: skip
    figure, ax = plt.subplots(layout="constrained")
    look = {"s": 16, "linewidths": 0, "alpha": 0.8}
    rest = ax.scatter([2], [2], color="0.6", marker=".", label="other", **look)
    tea = ax.scatter([0, 2], [0, 0], color="#0072B2", marker="o", label="tea", **look)
    jam = ax.scatter([1], [1], color="#D55E00", marker="s", label="jam", **look)
    ax.legend(handles=[tea, jam, rest], title="kind", loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_xlabel("Component 1")
    ax.set_ylabel("Component 2")
    for text, place in (("a", (0, 0)), ("b", (1, 1))):
        ax.annotate(text, place, (4, 3), textcoords="offset points", fontsize="x-small")
    assert_look_the_same(display.figure_, figure, tmp_path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"feature": "colour"},
            "feature='colour' is not an item feature .* has 'category', 'price'",
        ),
        ({"feature": pd.Series({"x": 1})}, "feature holds no item of the catalogue"),
        ({"labels": pd.Series(["a", "b"], index=[1, 1])}, "labels has several values for .* 1"),
        ({"labels": {1: "a"}}, "labels is a dict; pass a Series"),
    ],
)
def test_map_raises_on_invalid_parameters(pipe, parameters, message):
    with pytest.raises(ValueError, match=message):
        ItemMapDisplay.from_estimator(pipe, **parameters)


def test_map_needs_two_dimensions(popular):
    with pytest.raises(ValueError, match="30 item vectors of 1 dimension"):
        ItemMapDisplay.from_estimator(popular)


# matplotlib


@pytest.mark.parametrize(
    "display",
    [
        TopKCurveDisplay(k=[1], values={"A": [0.5]}, metric="hit"),
        TrainingCurveDisplay(loss={"A": [1.0]}, validation={}),
        ItemMapDisplay(coordinates=[[0, 0]]),
    ],
)
def test_without_matplotlib_the_error_names_the_command(display, monkeypatch):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        display.plot()


def test_the_displays_are_importable_without_matplotlib():
    program = (
        "import sys, skmatch; skmatch.TopKCurveDisplay, skmatch.ItemMapDisplay; "
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
