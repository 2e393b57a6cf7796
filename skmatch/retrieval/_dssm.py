from __future__ import annotations
from skmatch.retrieval._neural import NeuralRetriever
class DSSMRetriever(NeuralRetriever):
    def _tower_dims(self, dims):
        return dims, dims
