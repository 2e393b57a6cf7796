"""`DSSMRetriever`: a user tower and an item tower."""

from __future__ import annotations

from skmatch.retrieval._neural import NeuralRetriever
from skmatch.retrieval._shared_docs import with_shared_docs


@with_shared_docs
class DSSMRetriever(NeuralRetriever):
    """Recommend by a two-tower network that compares vectors of users and items (DSSM).

    Both towers [1]_ read ids and features; their vectors are L2-normalised, and the score is their
    cosine (divided by the temperature in training). Items share the weights of their features, so
    that rare and new items get useful vectors.

    Parameters
    ----------
    embedding_dim : int, default=64
        Width of the id embeddings.
    dims : sequence of int, default=(256, 64)
        Layer sizes of both towers; the last layer is linear and outputs the vectors.
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    YoutubeDNNRetriever : A user tower and a table of items, without an item tower.

    References
    ----------
    .. [1] P.-S. Huang et al., "Learning deep structured semantic models for web search using
       clickthrough data", CIKM 2013.
    {references}

    Examples
    --------
    >>> from skmatch import DSSMRetriever
    >>> from skmatch.datasets import make_events
    >>> events = make_events(n_users=50, n_items=40, n_events=1000, random_state=0)
    >>> retriever = DSSMRetriever(max_epochs=2, random_state=0).fit(events)
    >>> retriever.transform(events[:3]).shape
    (3, 64)
    >>> retriever.recommend([events["user_id"][0]], k=3).columns.tolist()
    ['user_id', 'item_id', 'score', 'rank', 'source']
    """

    def _tower_dims(self, dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        return dims, dims
