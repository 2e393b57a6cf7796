"""Transformers that encode a table of events for a retriever, and their outputs."""

from skmatch._data import Events, Samples
from skmatch._schema import Schema
from skmatch.preprocessing._match_encoder import MatchEncoder
from skmatch.preprocessing._sequence_sampler import SequenceSampler

__all__ = ["Events", "MatchEncoder", "Samples", "Schema", "SequenceSampler"]
