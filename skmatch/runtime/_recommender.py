"""`Recommender`: an exported pipeline that recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skmatch._item_filter import check_exclude_seen
from skmatch.runtime._files import Files
from skmatch.runtime._filters import read_filter
from skmatch.runtime._models import make_model
from skmatch.runtime._queries import QueryReader
from skmatch.runtime._vocabulary import Vocabulary, object_array


class Recommender:
    """An exported pipeline that recommends.

    Do not construct it; `load` returns it. Several threads may call it at the same time.

    Attributes
    ----------
    item_ids_ : ndarray of shape (n_items,)
        Ids of the catalogue.
    columns_ : list
        Names of the columns that queries may have.
    manifest_ : dict
        Versions, parameters and hashes of the files.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from skmatch import PopularityRetriever
    >>> from skmatch.export import to_onnx
    >>> from skmatch.runtime import load
    >>> events = pd.DataFrame({"user_id": ["ann", "bob", "cyd"], "item_id": ["tea", "tea", "jam"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_onnx(PopularityRetriever().fit(events), folder + "/model")
    ...     recommender = load(folder + "/model")
    >>> recommender.recommend(["ann", "eve"], k=1)["item_id"].tolist()
    ['jam', 'tea']
    """

    def __init__(self, files: Files, n_threads: int):
        self.manifest_: dict[str, Any] = files.manifest
        self._items = Vocabulary(files.text(self.manifest_["items"]))
        self._reader = QueryReader(files, self._items)
        self._model = make_model(self.manifest_["model"], files, n_threads)

    @property
    def item_ids_(self) -> np.ndarray:
        return self._items.values

    @property
    def columns_(self) -> list:
        return self._reader.names

    def recommend(
        self,
        X: Mapping | Sequence | np.ndarray | None = None,
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        candidates: Any = None,
        exclude: Any = None,
    ) -> dict[Any, np.ndarray]:
        """Recommend items to users, as the exported pipeline does.

        Parameters
        ----------
        X : list of user ids, list of dicts, dict of lists, or None
            The queries: ids, a dict per query, or a dict of columns. The columns are those of
            ``MatchPipeline.recommend``: the user, and optionally ``history``, the time and
            features of the user. None stands for all known users.
        k : int or None, default=None
            Number of items per query; None takes the retriever's `k`.
        exclude_seen : bool or None, default=None
            Whether to leave out what the user has interacted with; None takes the retriever's
            `exclude_seen`.
        candidates : list of item ids, mapping, list of lists or None, default=None
            The only items that may be recommended; None allows all. A list is for all queries; a
            mapping from user ids to lists, or a list of lists, one per query, for those that have
            one. Ids that are not in the catalogue are ignored, with a warning.
        exclude : list of item ids, mapping, list of lists or None, default=None
            Items that are never recommended, in the same forms as `candidates`.

        Returns
        -------
        recommendations : dict of ndarray
            The columns of the frame that ``MatchPipeline.recommend`` returns, one value per
            recommended item: the user's id, the item's id, ``score``, ``rank``, ``source`` and, of
            a fusion, ``retrievers``.

        Raises
        ------
        ValueError
            If `X` lacks the users, has a column that the model does not know, or a value that its
            column cannot hold.

        Examples
        --------
        >>> import tempfile
        >>> from skmatch import ItemToItemRetriever
        >>> from skmatch.datasets import make_events
        >>> from skmatch.export import to_onnx
        >>> from skmatch.runtime import load
        >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_onnx(ItemToItemRetriever().fit(events), folder + "/model")
        ...     recommender = load(folder + "/model")
        >>> found = recommender.recommend({"user_id": ["new"], "history": [[3, 7]]}, k=2)
        >>> found["rank"].tolist(), found["source"].tolist()
        ([1, 2], ['history', 'history'])
        """
        k = self.manifest_["k"] if k is None else k
        if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ValueError(
                f"k={k!r} must be an integer number of items: use an integer of at least 1."
            )
        queries = self._reader.read(X)
        exclude_seen = self.manifest_["exclude_seen"] if exclude_seen is None else exclude_seen
        exclude_seen = check_exclude_seen(exclude_seen)
        allowed = read_filter(candidates, exclude, exclude_seen, queries, self._reader)
        positions, scores, source, named = self._model.search(queries, int(k), allowed)
        is_item = positions >= 0
        row, rank = np.nonzero(is_item)
        columns = self.manifest_["columns"]
        table = {
            columns["user"]: queries.users[row],
            columns["item"]: self._items.values[positions[is_item]],
            "score": scores[is_item],
            "rank": rank + 1,
            "source": source[row].astype(object),
        }
        if named is not None:
            names = np.array(self._model.names, dtype=object)
            combinations, index = np.unique(named[is_item], axis=0, return_inverse=True)
            texts = object_array([", ".join(names[is_naming]) for is_naming in combinations])
            table["retrievers"] = texts[index.ravel()]
        return table
