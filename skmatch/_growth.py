"""How fitted estimators take in new events: copies are updated, and replace all steps or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeVar

from sklearn.utils.validation import check_is_fitted

from skmatch._data import Samples, as_coded

Estimator = TypeVar("Estimator")


def replaced(estimator: Estimator, **fitted: Any) -> Estimator:
    """Return a shallow copy with other fitted attributes; no attribute is changed in place."""
    copy = object.__new__(type(estimator))
    vars(copy).update(vars(estimator) | fitted)
    return copy


def propagate(steps: Sequence[Any], verb: str, rows: Any, *args: Any, **of_last: Any) -> None:
    """Pass rows through the steps, then replace the state of all steps, or of none.

    A step returns a copy of itself that has taken the rows in, and the rows for the next one. A
    step without the verb, such as one that cleans the events, transforms them. The last step gets
    further arguments.
    """
    copies = []
    for step in steps:
        if hasattr(step, verb):
            copy, rows = getattr(step, verb)(rows, *args, **(of_last if step is steps[-1] else {}))
            copies.append((step, copy))
        else:
            rows = step.transform(rows)
    before = [(step, vars(step).copy()) for step, _ in copies]
    try:
        for step, copy in copies:
            vars(step).update(vars(copy))
    except BaseException:  # an interrupt would leave steps that disagree
        for step, state in before:
            vars(step).update(state)
        raise


class GrowingMixin:
    """The verbs by which a fitted retriever, or a pipeline of one, takes in what is new."""

    def _growing_steps(self) -> list[Any]:
        """Return the estimators that events pass through."""
        return [self]

    def _weight_param(self, sample_weight: Any) -> dict[str, Any]:
        """Return the parameter of `fit` that holds the weights."""
        return {"sample_weight": sample_weight}

    def observe(self, X: Any) -> Self:
        """Add events to the stored histories, without training: the next answers know them.

        The order of arrival does not matter: an event goes to its place in time, behind those of
        its user at the same time. Users and the values of their features become known. Items that
        are not in the catalogue are unknown until `partial_fit` or `add_items` brings them. Events
        are stored as often as they are given: give those to train on to `partial_fit` alone, which
        stores them, too.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_events, n_columns)
            Plain events, as `fit` got. Columns of features may be absent.

        Returns
        -------
        self : estimator instance
            Where an error is raised, nothing has changed. Not while other threads ask.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import PopularityRetriever
        >>> events = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "jam"]})
        >>> retriever = PopularityRetriever().fit(events)
        >>> news = pd.DataFrame({"user_id": ["eve"], "item_id": ["tea"]})
        >>> retriever.observe(news).recommend(["eve"])["item_id"].tolist()
        ['jam']
        """
        check_is_fitted(self)
        if as_coded(X, Samples) is not None:
            raise ValueError(
                "X holds Samples, whose events a SequenceSampler has stored: give plain events to "
                f"a {type(self).__name__} that was fitted on such, or to a pipeline."
            )
        propagate(self._growing_steps(), "_partial_fit", X, False)
        return self

    def partial_fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Self:
        """Add events to the stored histories and train on them, once over.

        The learning rate is 0.15 of the parameter `lr` in each of as many steps as there are
        events, at most 400: all of it would undo what was learnt of others. New users, items and
        categories get codes of their own, and start from what was learnt of the unknown ones; known
        ones keep their codes and continue from their weights. On an estimator that is not fitted
        this is `fit`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_events, n_columns)
            Plain events, as `fit` got. Columns of features may be absent. Where `fit` got Samples,
            Samples with the same codes.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Weight of each event as a target. Events of weight 0 are stored and not trained on.

        Returns
        -------
        self : estimator instance
            Where an error is raised, nothing has changed. Not while other threads ask.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import PopularityRetriever
        >>> events = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "jam"]})
        >>> retriever = PopularityRetriever().fit(events)
        >>> news = pd.DataFrame({"user_id": ["eve", "ann"], "item_id": ["rye", "rye"]})
        >>> retriever.partial_fit(news).recommend(["bob"])["item_id"].tolist()
        ['rye', 'tea']
        """
        if not hasattr(self, "schema_"):
            weight = {} if sample_weight is None else self._weight_param(sample_weight)
            return self.fit(X, **weight)  # type: ignore[attr-defined]
        propagate(self._growing_steps(), "_partial_fit", X, True, sample_weight=sample_weight)
        return self

    def add_items(self, items: Any) -> Self:
        """Add rows to the catalogue, which can be recommended at once.

        Parameters
        ----------
        items : DataFrame
            One row an item: the column of the id and columns of features. What `DSSMRetriever`
            knows of a new item are its features. An item that is known gets the new features.

        Returns
        -------
        self : estimator instance
            Where an error is raised, nothing has changed. Not while other threads ask.

        Raises
        ------
        ValueError
            On a `YoutubeDNNRetriever`, whose vectors of items come from training only: give
            `partial_fit` events of new items.

        Examples
        --------
        >>> import pandas as pd
        >>> from skmatch import PopularityRetriever
        >>> events = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "jam"]})
        >>> retriever = PopularityRetriever().fit(events)
        >>> retriever.add_items(pd.DataFrame({"item_id": ["rye"]})).item_ids_.tolist()
        ['tea', 'jam', 'rye']
        """
        check_is_fitted(self)
        steps = [step for step in self._growing_steps() if hasattr(step, "_add_items")]
        propagate(steps, "_add_items", items)
        return self
