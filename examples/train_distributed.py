"""Train in several processes; killed and restarted, they continue.

torchrun --nproc-per-node 2 examples/train_distributed.py [FOLDER]

All processes end with the same model, which the first one saves in FOLDER.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from skmatch import Checkpoint, DSSMRetriever, persistence
from skmatch.datasets import make_events


def main(folder: Path) -> None:
    """Fit on synthetic events; every process gets all of them."""
    has_gpus = torch.cuda.is_available()
    if has_gpus:  # a GPU for each process
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_gpus else "gloo")
    events = make_events(n_users=1_000, n_items=500, n_events=20_000, random_state=0)
    path = folder / "fit.joblib"
    if path.exists():
        retriever = persistence.load(path)
    else:
        retriever = DSSMRetriever(max_epochs=3, warm_start=True, random_state=0)
        retriever.set_callbacks(Checkpoint(path))
    retriever.fit(events)
    if dist.get_rank() == 0:
        print("loss of each epoch:", ", ".join(f"{loss:.3f}" for loss in retriever.loss_curve_))
        persistence.save(retriever.set_callbacks(), folder / "retriever.joblib")
        path.unlink(missing_ok=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
