"""How fitted estimators learn new events: updated copies replace all steps, or none.

Other threads may recommend meanwhile: they read copies of the steps as of a single moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, Self, TypeVar

from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from skmatch._data import Samples, as_coded
from skmatch._docs import fill_docs
from skmatch._typing import PlainEvents, SampleTable, Table

Estimator = TypeVar("Estimator")
_SWAPPING = Lock()  # held for microseconds, while references are copied

_shared_docs = fill_docs(
    returns="""\
Returns
-------
self : estimator instance
    Unchanged if an error is raised. Other threads may recommend meanwhile, from the state before
    or after the call; only one thread at a time may call methods that add events or items.""",
    example="""\
Examples
--------
>>> import pandas as pd
>>> from skmatch import PopularityRetriever
>>> events = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "jam"]})
>>> retriever = PopularityRetriever().fit(events)""",
)


def replaced(estimator: Estimator, **fitted: Any) -> Estimator:
    """Return a shallow copy with other fitted attributes; no attribute is changed in place."""
    copy = object.__new__(type(estimator))
    vars(copy).update(vars(estimator) | fitted)
    return copy


def snapshot(steps: Sequence[Any]) -> list[Any]:
    """Return copies of the steps as of a single moment, also while other threads `propagate`.

    Steps that cannot grow are returned themselves.
    """
    with _SWAPPING:
        return [replaced(step) if hasattr(step, "_partial_fit") else step for step in steps]


def propagate(steps: Sequence[Any], verb: str, rows: Any, *args: Any, **of_last: Any) -> None:
    """Pass rows through the steps, then update the state of all steps, or of none.

    The method `verb` of a step returns an updated copy and the rows for the next step. Steps
    without it transform the rows. The last step gets the arguments `of_last`.
    """
    copies = []
    for step, before in zip(steps, snapshot(steps), strict=True):
        if hasattr(step, verb):
            arguments = of_last if step is steps[-1] else {}
            copy, rows = getattr(before, verb)(rows, *args, **arguments)
            copies.append((step, vars(before), vars(copy)))
        else:
            rows = step.transform(rows)
    with _SWAPPING:
        for step, state, _ in copies:
            if any(vars(step).get(name) is not value for name, value in state.items()):
                raise RuntimeError(
                    f"Another thread changed the {type(step).__name__} during this call, whose "
                    "events or items are not added. Fit, add events or add items in one thread "
                    "at a time, for example under a lock."
                )
        try:
            for step, _, updated in copies:
                vars(step).update(updated)
        except BaseException:  # an interrupt would leave inconsistent steps
            for step, state, _ in copies:
                vars(step).update(state)
            raise


class GrowingMixin:
    """Methods that add events and items to a fitted retriever or pipeline."""

    def _growing_steps(self) -> list[Any]:
        return [self]

    def _weight_param(self, sample_weight: Any) -> dict[str, Any]:
        return {"sample_weight": sample_weight}

    @_shared_docs
    def observe(self, X: PlainEvents) -> Self:
        """Add events to the stored histories, without training.

        Events may arrive in any order: they are inserted by time, after their user's events of
        equal time. Users and the values of their features become known. Items that are not in the
        catalogue are unknown until `partial_fit` or `add_items` adds them. An event that is passed
        twice is stored twice; pass events to train on only to `partial_fit`, which stores them.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_events, n_columns)
            Plain events, as in `fit`. Columns of features may be absent.

        {returns}

        {example}
        >>> news = pd.DataFrame({"user_id": ["eve"], "item_id": ["tea"]})
        >>> retriever.observe(news).recommend(["eve"])["item_id"].tolist()
        ['jam']
        """
        check_is_fitted(self)
        if as_coded(X, Samples) is not None:
            raise ValueError(
                "X holds Samples, whose events a SequenceSampler has stored: pass plain events "
                f"to a {type(self).__name__} that was fitted on plain events, or to a pipeline."
            )
        propagate(self._growing_steps(), "_partial_fit", X, False)
        return self

    @_shared_docs
    def partial_fit(
        self, X: SampleTable, y: None = None, *, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Add events to the stored histories and train on them for one pass.

        Training takes one step per event, at most 400, with 0.15 times the learning rate `lr`,
        which preserves what was learned before. New users and categories start from the weights of
        the unknown code, new items with features as in `add_items`; known ones continue from their
        own weights. On an estimator that is not fitted, this is `fit`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_events, n_columns)
            Plain events, as in `fit`. Columns of features may be absent. If `fit` got Samples,
            Samples with the same codes.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Weight of each event as a target. Events of weight 0 are stored, but not trained on.

        {returns}

        {example}
        >>> news = pd.DataFrame({"user_id": ["eve", "ann"], "item_id": ["rye", "rye"]})
        >>> retriever.partial_fit(news).recommend(["bob"])["item_id"].tolist()
        ['rye', 'tea']
        """
        if not hasattr(self, "schema_"):
            weight = {} if sample_weight is None else self._weight_param(sample_weight)
            return self.fit(X, **weight)  # type: ignore[attr-defined]
        propagate(self._growing_steps(), "_partial_fit", X, True, sample_weight=sample_weight)
        return self

    @_shared_docs
    def add_items(self, items: Table) -> Self:
        """Add rows to the catalogue, which can be recommended at once.

        Parameters
        ----------
        items : DataFrame
            One row per item: the column of the id and columns of features. A neural retriever
            represents a new item by its features and by the 20 trained items nearest to it by the
            cosine of their features. Known items get the new features.

        {returns}

        Raises
        ------
        ValueError
            In a neural retriever whose encoder has no item features: its item vectors come from
            training only, so pass events of new items to `partial_fit`.

        {example}
        >>> retriever.add_items(pd.DataFrame({"item_id": ["rye"]})).item_ids_.tolist()
        ['tea', 'jam', 'rye']
        """
        check_is_fitted(self)
        steps = [step for step in self._growing_steps() if hasattr(step, "_add_items")]
        propagate(steps, "_add_items", items)
        return self
