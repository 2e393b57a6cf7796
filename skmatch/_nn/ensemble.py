"""An ensemble: networks that train apart and are served as a single network.

Averaging models with uncorrelated errors improves ranking (Lakshminarayanan et al., NeurIPS 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from skmatch._nn.encoders import NetworkConfig, TwoTower, UserBatch
from skmatch._nn.features import FeatureTensor
from skmatch._nn.training import Trainer


class Ensemble(nn.Module):
    """Networks of the same sizes, whose vectors are concatenated.

    Vectors are scaled to length 1 again, so that a score is the mean of the members' cosines.
    """

    def __init__(self, config: NetworkConfig, seed: int = 0):
        super().__init__()
        self.config = config
        members = nn.ModuleList(TwoTower(config, seed + i) for i in range(config.n_estimators))
        self.members = cast(
            Sequence[TwoTower], members
        )  # torch does not type the modules of a list

    def initialise(self, generator: torch.Generator) -> None:
        for member in self.members:
            member.initialise(generator)

    def encode_users(self, batch: UserBatch, token_features: list[FeatureTensor]) -> Tensor:
        """Return the vectors of users, (R, V), given the item features of all tokens."""
        return concatenate([member.encode_users(batch, token_features) for member in self.members])

    def encode_items(self, items: Tensor, features: list[FeatureTensor]) -> Tensor:
        return concatenate([member.encode_items(items, features) for member in self.members])


def concatenate(vectors: list[Tensor]) -> Tensor:
    """Concatenate vectors of length 1 to vectors of length 1."""
    return torch.cat(vectors, 1) / math.sqrt(len(vectors))


class EnsembleTrainer:
    """Train the members in turn, an epoch at a time; each member has its own `Trainer`."""

    def __init__(self, members: list[Trainer]):
        self.members = members

    def run_epoch(self) -> float:
        """Train each member on every row once; return the mean loss."""
        return float(np.mean([member.run_epoch() for member in self.members]))

    def state(self) -> list[dict[str, Any]]:
        """Return the members' states; until the next epoch, without copies."""
        return [member.state() for member in self.members]

    def load(self, states: list[dict[str, Any]]) -> None:
        """Load a state that `state` returned."""
        for member, state in zip(self.members, states, strict=True):
            member.load(state)

    def close(self) -> None:
        """Free the memory that only further epochs would need."""
        for member in self.members:
            member.close()
