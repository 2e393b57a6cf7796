from __future__ import annotations
from skmatch.retrieval._neural import NeuralRetriever
class YoutubeDNNRetriever(NeuralRetriever):
    def _tower_dims(self, dims):
        return (*dims, int(self.embedding_dim)), None
