"""Fits of two processes, in a process of their own that imports torch once and forks.

``python together.py FOLDER`` writes FOLDER/results, which test_distributed.py reads.
"""

import os
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import joblib
import numpy as np
import torch.distributed as dist

from skmatch import (
    Checkpoint,
    DSSMRetriever,
    LeaveLastOut,
    MatchEncoder,
    SequenceSampler,
    YoutubeDNNRetriever,
    make_match_pipeline,
    persistence,
)
from skmatch._nn import distributed, embedding, features, training
from skmatch.datasets import make_events

EVENTS = make_events(n_users=60, n_items=100, n_events=1000, random_state=0)
SMALL = {
    "embedding_dim": 4, "dims": (8, 4), "max_epochs": 3, "batch_size": 256, "random_state": 0
}  # fmt: skip
PLAIN = {"dropout": 0.0, "id_dropout": 0.0}


def together(function, size=2):
    """Call a function in each process of a group; return their results, errors, or None."""
    with tempfile.TemporaryDirectory() as scratch:
        children = []
        for rank in range(size):
            child = os.fork()
            if not child:
                group = {"rank": rank, "world_size": size}
                dist.init_process_group("gloo", init_method=f"file://{scratch}/group", **group)
                try:
                    result = function(rank)
                except Exception as error:
                    result = error
                joblib.dump(result, f"{scratch}/{rank}")
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        paths = [Path(scratch) / str(rank) for rank in range(size)]
        return [joblib.load(path) if path.exists() else None for path in paths]


def trained(model):
    """Return weights and losses."""
    retriever = getattr(model, "steps", [(None, model)])[-1][1]
    return {"weights": retriever.weights_, "losses": retriever.loss_curve_}


class Stop:
    """Counts the epochs that it sees, and stops the fit after two."""

    n_seen = 0

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        self.n_seen += context.task_name == "epoch"
        return self.n_seen == 2


def fits(rank):
    """Return the results of fits of several settings."""
    models = {
        "dssm": DSSMRetriever(**SMALL),
        "youtube_dnn": YoutubeDNNRetriever(**SMALL, loss="bpr"),
        "batch_norm": DSSMRetriever(**SMALL, batch_norm=True),
        "any_seed": DSSMRetriever(**SMALL | {"random_state": None}),
        "early_stopping": DSSMRetriever(**SMALL, early_stopping=True, n_iter_no_change=1),
    }
    results = {name: trained(model.fit(EVENTS)) for name, model in models.items()}
    weight = np.linspace(0.1, 1, len(EVENTS))
    results["sample_weight"] = trained(DSSMRetriever(**SMALL).fit(EVENTS, sample_weight=weight))
    modules = (embedding, distributed, features)
    patches = [patch.object(module, "is_async", lambda device: True) for module in modules]
    with patches[0], patches[1], patches[2]:
        results["async"] = trained(DSSMRetriever(**SMALL | PLAIN).fit(EVENTS))
    results["not_async"] = trained(DSSMRetriever(**SMALL | PLAIN).fit(EVENTS))
    few = EVENTS[EVENTS["user_id"].isin(EVENTS["user_id"].unique()[:2])]
    results["few_rows"] = trained(DSSMRetriever(**SMALL | {"batch_size": 1}).fit(few))
    partial = DSSMRetriever(**SMALL | {"random_state": None}).fit(EVENTS)
    results["partial_fit"] = trained(partial.partial_fit(EVENTS[-500:]))
    return results


def stopped(rank):
    stop = Stop()
    model = DSSMRetriever(**SMALL).set_callbacks(stop).fit(EVENTS)
    return stop.n_seen, model.n_iter_, model._skl_callbacks == [stop]


def different(rank):
    fit = DSSMRetriever(**SMALL).fit
    errors = []
    for events in (EVENTS[rank:], EVENTS[: len(EVENTS) - rank]):
        try:
            fit(events)
        except ValueError as error:
            errors.append(str(error))
    return errors


def pipe():
    retriever = DSSMRetriever(**SMALL, warm_start=True)
    return make_match_pipeline(MatchEncoder(), SequenceSampler(), retriever)


def die_in_epoch(number, of_rank, rank):
    """Let one process of the group be killed in an epoch."""
    run_epoch = training.Trainer.run_epoch

    def run(trainer):
        if rank == of_rank and trainer.step * SMALL["max_epochs"] // trainer.n_steps == number - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return run_epoch(trainer)

    training.Trainer.run_epoch = run


def death(path):
    """Return what happens where a process dies, and where the group then continues."""

    def dying(of_rank):
        def fit(rank):
            die_in_epoch(3, of_rank, rank)
            model = pipe().set_callbacks(Checkpoint(path))
            began = time.monotonic()
            try:
                model.fit(EVENTS)
            except RuntimeError as error:
                return str(error), time.monotonic() - began, hasattr(model[-1], "weights_")

        return fit

    def whole(rank):
        return trained(pipe().fit(EVENTS))

    def going_on(rank):
        return trained(persistence.load(path).fit(EVENTS))

    results = {"whole": together(whole)}
    for of_rank in (0, 1):
        results[f"died_{of_rank}"] = together(dying(of_rank))
        results[f"files_{of_rank}"] = [file.name for file in Path(path).parent.iterdir()]
        results[f"saved_{of_rank}"] = persistence.load(path)[-1].n_iter_
        results[f"going_on_{of_rank}"] = together(going_on)
    return results


def quality():
    """Return the NDCG@10 of fits by one process and by two."""
    events = make_events(n_users=300, n_items=150, n_events=6000, random_state=0)
    train, test = next(LeaveLastOut().split(events))
    params = SMALL | {"max_epochs": 6, "embedding_dim": 16, "dims": (32, 16)}

    def ndcg(rank):
        model = DSSMRetriever(**params).fit(events.iloc[train])
        return model.score(events.iloc[test])

    return ndcg(0), together(ndcg)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "checkpoint").mkdir()
    alone = quality()
    embedding.SMALL = 8  # tables learn by row, as large ones do
    results = {"quality": alone, "fits": together(fits), "different": together(different)}
    if find_spec("sklearn.callback"):
        results["stopped"] = together(stopped)
        results["death"] = death(folder / "checkpoint" / "fit")
    joblib.dump(results, folder / "results")
