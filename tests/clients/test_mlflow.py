"""mlflow logs a search of several metrics, and a model that another process loads."""

import subprocess
import sys

import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV

from skmatch import (
    DSSMRetriever,
    ItemToItemRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    make_match_pipeline,
    make_topk_scorer,
)
from skmatch.datasets import make_events

mlflow = pytest.importorskip("mlflow")

EVENTS = make_events(n_users=60, n_items=40, n_events=800, random_state=0)
QUERIES = pd.DataFrame({"user_id": [1, 2, -1]})
pytestmark = pytest.mark.filterwarnings("ignore")  # of mlflow
PREDICT = """
import sys, pandas as pd, mlflow
mlflow.set_tracking_uri(sys.argv[1])
queries = pd.DataFrame({"user_id": [1, 2, -1]})
pd.DataFrame(mlflow.pyfunc.load_model(sys.argv[2]).predict(queries)).to_csv(sys.argv[3])
mlflow.sklearn.load_model(sys.argv[2]).recommend(queries, k=3).to_csv(sys.argv[4])
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/runs.db")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("skmatch", artifact_location=folder.as_uri())
    )
    return folder


def test_autolog_keeps_the_metrics_of_a_search(store):
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), ItemToItemRetriever())
    search = GridSearchCV(
        pipe, {"itemtoitemretriever__window": [2, 5]}, cv=LeaveLastOut(), refit="ndcg_at_10",
        scoring=make_topk_scorer(["recall", "ndcg"], k=[5, 10]),
    )  # fmt: skip
    mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
    try:
        with mlflow.start_run() as run:
            search.fit(EVENTS)
    finally:
        mlflow.sklearn.autolog(disable=True)
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["best_itemtoitemretriever__window"] == str(
        search.best_params_["itemtoitemretriever__window"]
    )
    assert data.metrics["best_cv_score"] == pytest.approx(search.best_score_)
    runs = mlflow.search_runs(filter_string=f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    for name in ("recall_at_5", "recall_at_10", "ndcg_at_5", "ndcg_at_10"):
        assert sorted(runs[f"metrics.mean_test_{name}"]) == pytest.approx(
            sorted(search.cv_results_[f"mean_test_{name}"])
        )


def test_another_process_loads_a_model(store, tmp_path):
    retriever = DSSMRetriever(embedding_dim=4, dims=(4,), max_epochs=1, random_state=0)
    pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever).fit(EVENTS)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            pipe, name="model", serialization_format="cloudpickle", pip_requirements=["skmatch"]
        )
    files = tmp_path / "predicted.csv", tmp_path / "recommended.csv"
    uri = mlflow.get_tracking_uri()
    subprocess.run([sys.executable, "-c", PREDICT, uri, info.model_uri, *files], check=True)
    predicted, recommended = (pd.read_csv(file, index_col=0) for file in files)
    assert predicted.to_numpy().tolist() == pipe.predict(QUERIES).tolist()
    pd.testing.assert_frame_equal(recommended, pipe.recommend(QUERIES, k=3), check_dtype=False)
