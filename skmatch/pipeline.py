"""`MatchPipeline`: scikit-learn's Pipeline with the methods of retrievers."""

from __future__ import annotations

from typing import Any, cast

from sklearn import get_config
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from skmatch._data import Samples
from skmatch._growth import GrowingMixin, snapshot
from skmatch._schema import Schema
from skmatch._sklearn import CallbackSupportMixin
from skmatch._typing import EventTable
from skmatch._validation import Method, unwrap_searches
from skmatch.persistence import VersionedMixin
from skmatch.retrieval._explain import ExplainMixin
from skmatch.retrieval._queries import queries_of
from skmatch.retrieval._scores import ScoreMixin, SimilarUsersMixin
from skmatch.retrieval._verbs import RecommendMixin, SimilarItemsMixin


def _if_final_has(method: Method) -> Method:
    """Offer a method where the last step of the pipeline has it."""
    check = available_if(lambda pipeline: hasattr(pipeline._final_retriever(), method.__name__))
    return cast(Method, check(method))


class MatchPipeline(
    RecommendMixin,
    ExplainMixin,
    ScoreMixin,
    GrowingMixin,
    VersionedMixin,
    Pipeline,
    CallbackSupportMixin,
):
    """A Pipeline of encoder, sampler and retriever that returns the original ids.

    It is scikit-learn's `~sklearn.pipeline.Pipeline` with the retriever's further methods.

    Parameters
    ----------
    steps : list of (name, estimator) tuples
        As in `~sklearn.pipeline.Pipeline`; the last is a retriever.
    transform_input : list of str or None, default=None
        As in `~sklearn.pipeline.Pipeline`.
    memory : str, object with the joblib.Memory interface or None, default=None
        As in `~sklearn.pipeline.Pipeline`; with it a search caches encoding per fold.
    verbose : bool, default=False
        As in `~sklearn.pipeline.Pipeline`.

    See Also
    --------
    make_match_pipeline : Names the steps by their classes.

    Examples
    --------
    >>> from skmatch import MatchEncoder, MatchPipeline, PopularityRetriever, SequenceSampler
    >>> from skmatch.datasets import make_events
    >>> events = make_events(n_users=50, n_items=40, n_events=500, random_state=0)
    >>> pipe = MatchPipeline([
    ...     ("encode", MatchEncoder()),
    ...     ("sample", SequenceSampler()),
    ...     ("retrieve", PopularityRetriever()),
    ... ])
    >>> pipe.fit(events).recommend(k=2).shape
    (100, 5)
    """

    def fit(self, X: EventTable, y: None = None, **params: Any) -> MatchPipeline:
        """Fit all steps in order; if one fails, all keep their previous state.

        Parameters
        ----------
        X : DataFrame, array-like of shape (n_events, n_columns), or Parquet
            The events, as in `MatchEncoder`.
        y : None
            Ignored.
        **params : dict of str -> object
            As in `~sklearn.pipeline.Pipeline`: parameters of the steps' fits.

        Returns
        -------
        self : MatchPipeline
        """
        self._check_fit_params(params)
        # Fitted attributes are never changed in place, so shallow copies are enough.
        steps = [*self.named_steps.items()]
        for name, step in steps:
            if isinstance(step, type):  # scikit-learn before 1.9 takes classes
                raise TypeError(
                    f"Expected an estimator instance as step {name!r}, got estimator class "
                    f"{step.__name__}: pass {step.__name__}()."
                )
        states = [(step, vars(step).copy()) for _, step in steps if hasattr(step, "__dict__")]
        try:
            return super().fit(X, y, **params)
        except BaseException:
            self.steps = steps
            for step, state in states:
                vars(step).clear()
                vars(step).update(state)
            raise

    def _check_fit_params(self, params: dict[str, Any]) -> None:
        """Raise if a step's parameter lacks the step's name, with the name that it should have."""
        if get_config()["enable_metadata_routing"]:
            return
        for name in params:
            steps = [
                step
                for step, estimator in self.steps
                if hasattr(estimator, "fit") and has_fit_parameter(estimator, name)
            ]
            if name in ("users", "items"):
                steps = steps[:1]  # the first step encodes the events; later ones refuse tables
            if "__" not in name and steps:
                raise ValueError(
                    f"fit got {name} without the step that it is for: pass it as "
                    f"{' or '.join(f'{step}__{name}' for step in steps)}, or use metadata routing, "
                    "sklearn.set_config(enable_metadata_routing=True)."
                )

    @property
    def schema_(self) -> Schema:
        """Roles, ids and features of the events."""
        return self._final_retriever().schema_

    def _growing_steps(self) -> list[Any]:
        return [unwrap_searches(step) for step in self._active_steps()]

    def _active_steps(self) -> list[Any]:
        return [step for _, step in self.steps if step not in (None, "passthrough")]

    def _weight_param(self, sample_weight: Any) -> dict[str, Any]:
        is_routed = get_config()["enable_metadata_routing"]
        name = "sample_weight" if is_routed else f"{self.steps[-1][0]}__sample_weight"
        return {name: sample_weight}

    def _final_retriever(self) -> Any:
        return unwrap_searches(self[-1])

    def _read(self, X: Any) -> tuple[Any, Samples]:
        check_is_fitted(self)
        *steps, retriever = snapshot(self._growing_steps())
        rows = queries_of(X, retriever.schema_)
        for step in steps:
            try:
                rows = step.transform(rows)
            except (KeyError, ValueError) as error:
                if hasattr(step, "schema_"):
                    raise
                raise ValueError(
                    f"{type(step).__name__} cannot transform the queries ({error}): pass all "
                    "columns that it has seen in fit, or transform events and queries before the "
                    "pipeline."
                ) from error
        return retriever, retriever._read_queries(rows)

    similar_users = _if_final_has(SimilarUsersMixin.similar_users)
    similar_items = _if_final_has(SimilarItemsMixin.similar_items)
    observe = _if_final_has(GrowingMixin.observe)
    partial_fit = _if_final_has(GrowingMixin.partial_fit)
    add_items = _if_final_has(GrowingMixin.add_items)


def make_match_pipeline(
    *steps: Any, memory: Any = None, transform_input: Any = None, verbose: bool = False
) -> MatchPipeline:
    """Make a `MatchPipeline`, its steps named by their classes in lower case.

    Parameters
    ----------
    *steps : estimators
        A `MatchEncoder`, a `SequenceSampler` and a retriever.
    memory : str, object with the joblib.Memory interface or None, default=None
        As in `~sklearn.pipeline.Pipeline`.
    transform_input : list of str or None, default=None
        As in `~sklearn.pipeline.Pipeline`.
    verbose : bool, default=False
        As in `~sklearn.pipeline.Pipeline`.

    Returns
    -------
    pipeline : MatchPipeline

    Examples
    --------
    >>> from skmatch import (
    ...     MatchEncoder, PopularityRetriever, SequenceSampler, make_match_pipeline
    ... )
    >>> pipe = make_match_pipeline(MatchEncoder(), SequenceSampler(), PopularityRetriever())
    >>> list(pipe.named_steps)
    ['matchencoder', 'sequencesampler', 'popularityretriever']
    """
    named = make_pipeline(*steps).steps
    return MatchPipeline(named, transform_input=transform_input, memory=memory, verbose=verbose)
