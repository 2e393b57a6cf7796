"""`YoutubeDNNRetriever`: a user tower and a table of items."""

from __future__ import annotations

from skmatch.retrieval._neural import NeuralRetriever
from skmatch.retrieval._shared_docs import with_shared_docs


@with_shared_docs
class YoutubeDNNRetriever(NeuralRetriever):
    """Recommend by a network of one user tower and a vector per item (YoutubeDNN).

    Histories and candidates [1]_ share one vector per item, computed from its id and features.
    Vectors are L2-normalised, and the score is their cosine (divided by the temperature in
    training).

    Parameters
    ----------
    embedding_dim : int, default=64
        Width of the id embeddings and of the vectors.
    dims : sequence of int, default=(256, 64)
        Layer sizes of the user tower; the last layer is linear. If its size is not `embedding_dim`,
        a linear layer of that size follows.
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    DSSMRetriever : A user tower and an item tower.

    References
    ----------
    .. [1] P. Covington, J. Adams and E. Sargin, "Deep neural networks for YouTube
       recommendations", RecSys 2016.
    {references}

    Examples
    --------
    >>> from skmatch import YoutubeDNNRetriever
    >>> from skmatch.datasets import make_events
    >>> events = make_events(n_users=50, n_items=40, n_events=1000, random_state=0)
    >>> retriever = YoutubeDNNRetriever(max_epochs=2, random_state=0).fit(events)
    >>> retriever.predict(events[:2], k=5).shape
    (2, 5)
    """

    def _tower_dims(self, dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        width = int(self.embedding_dim)
        return (dims if dims[-1] == width else (*dims, width)), None
