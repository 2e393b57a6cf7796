"""Bare torch's side of top-k: a product and a selection, in blocks as large as skmatch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from _side import TOP_K, Clock, main

N_SCORES = 2**24  # in a block


def top_k(clock: Clock, inputs: Path, seed: int) -> None:
    data = np.load(inputs / "vectors.npz")
    users, items = torch.from_numpy(data["users"]), torch.from_numpy(data["items"])

    def call() -> torch.Tensor:
        """Seen items stay in: the product and the selection only."""
        blocks = users.split(N_SCORES // len(items))
        return torch.cat([torch.topk(torch.matmul(b, items.T), TOP_K).indices for b in blocks])

    clock.repeat("total", call)


if __name__ == "__main__":
    main({"top-k": top_k})
