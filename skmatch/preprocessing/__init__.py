"""Transformers that turn a table of events into what a retriever learns from."""

from skmatch.preprocessing._match_encoder import MatchEncoder
from skmatch.preprocessing._sequence_sampler import SequenceSampler

__all__ = ["MatchEncoder", "SequenceSampler"]
