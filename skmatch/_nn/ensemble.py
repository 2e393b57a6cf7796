"""An ensemble: networks that train apart, and answer with one vector.

What errs in other places ranks better together (Lakshminarayanan et al., NeurIPS 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from skmatch._nn.towers import NetworkConfig, TwoTowers
from skmatch._nn.training import Trainer


class Ensemble(nn.Module):
    """Networks of the same sizes, whose vectors stand end to end.

    Vectors are scaled to length 1 again, so that a score is the mean of the members' cosines.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        members = nn.ModuleList(TwoTowers(config) for _ in range(config.n_members))
        self.members = cast(Sequence[TwoTowers], members)  # a ModuleList does not say of what

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew."""
        for member in self.members:
            member.initialise(generator)

    def encode_users(self, *columns: Any) -> Tensor:
        """Give the users' vectors of what `TwoTowers.encode_users` takes."""
        return end_to_end([member.encode_users(*columns) for member in self.members])

    def encode_items(self, *columns: Any) -> Tensor:
        """Give the items' vectors of what `TwoTowers.encode_items` takes."""
        return end_to_end([member.encode_items(*columns) for member in self.members])


def end_to_end(vectors: list[Tensor]) -> Tensor:
    """Give vectors of length 1, of as many of length 1."""
    return torch.cat(vectors, 1) / math.sqrt(len(vectors))


class EnsembleTrainer:
    """Trains one member after the other, an epoch at a time; each has a `Trainer` of its own."""

    def __init__(self, members: list[Trainer]):
        self.members = members

    def state(self) -> list[dict[str, Any]]:
        """Give what the epochs to come depend on, beside the weights: until the next, no copies."""
        return [member.state() for member in self.members]

    def load(self, states: list[dict[str, Any]]) -> None:
        """Take what `state` gave."""
        for member, state in zip(self.members, states, strict=True):
            member.load(state)

    def end(self) -> None:
        """Let go of what only further epochs would need."""
        for member in self.members:
            member.end()

    def run_epoch(self) -> float:
        """Train each member on every row once; give the mean loss."""
        return float(np.mean([member.run_epoch() for member in self.members]))
