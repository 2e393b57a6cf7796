"""`TrainingCurveDisplay`: loss and validation by epoch."""

from __future__ import annotations

from typing import Any, Self

from skmatch._validation import fitted_retriever
from skmatch.inspection._drawing import axes_for, line_options, named, shared_docs, style_of


class TrainingCurveDisplay:
    """Curves of the training loss and of the validation score by epoch.

    The loss is solid with full markers; the validation score is dashed with hollow markers, on a
    scale at the right. Use `from_estimator` to make one. All parameters are stored as attributes.

    Parameters
    ----------
    loss : dict of str to array-like of shape (n_epochs,)
        Loss of each epoch, by the name of the retriever.
    validation : dict of str to array-like of shape (n_epochs,)
        NDCG@100 after each epoch, by the name of the retriever, for those that have it.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        The curves of the loss, in the order of `loss`.
    validation_lines_ : list of matplotlib Line2D
        The curves of the validation, in the order of `validation`.
    ax_ : matplotlib Axes
        Axes with the loss.
    validation_ax_ : matplotlib Axes or None
        Axes with the validation, or None without validation.
    figure_ : matplotlib Figure
        Figure with the axes.

    Examples
    --------
    >>> from skmatch import TrainingCurveDisplay
    >>> display = TrainingCurveDisplay(
    ...     loss={"DSSM": [3.0, 2.0, 1.5]}, validation={"DSSM": [0.01, 0.04, 0.05]}
    ... )
    >>> display.plot().validation_ax_.get_ylabel()
    'Validation NDCG@100'
    """

    def __init__(self, *, loss: dict[str, Any], validation: dict[str, Any]):
        self.loss = loss
        self.validation = validation

    @shared_docs
    def plot(self, ax: Any = None, *, curve_kwargs: dict[str, Any] | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        {curve}

        Returns
        -------
        display : TrainingCurveDisplay
        """
        self.ax_ = axes_for(self, ax)
        self.figure_ = self.ax_.figure
        validation_ax = self.ax_.twinx() if self.validation else None
        self.validation_ax_ = validation_ax
        self.lines_, self.validation_lines_ = [], []
        options = line_options(curve_kwargs)
        for number, (name, loss) in enumerate(self.loss.items()):
            style = {"label": f"{name}, loss"} | style_of(number) | options
            self.lines_ += self.ax_.plot(_epochs(loss), loss, **style)
            if validation_ax is not None and name in self.validation:
                scores = self.validation[name]
                hollow = {"linestyle": "--", "markerfacecolor": "white"}
                style = style_of(number) | hollow | {"label": f"{name}, validation"} | options
                self.validation_lines_ += validation_ax.plot(_epochs(scores), scores, **style)
        self.ax_.set(xlabel="Epoch", ylabel="Training loss")
        self.ax_.xaxis.get_major_locator().set_params(integer=True)
        if validation_ax is None:
            self.ax_.legend()
        else:
            validation_ax.set_ylabel("Validation NDCG@100")
            # Above the axes, where it covers no curve.
            handles = self.lines_ + self.validation_lines_
            validation_ax.legend(
                handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2
            )
        return self

    @classmethod
    @shared_docs
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, curve_kwargs: dict[str, Any] | None = None
    ) -> Self:
        """Draw the training curves of fitted retrievers.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            A fitted `DSSMRetriever` or `YoutubeDNNRetriever`, a pipeline that ends in one or a
            search over one, or several by the names that the legend shows. A validation score
            needs ``early_stopping=True``.
        {curve}

        Returns
        -------
        display : TrainingCurveDisplay

        Examples
        --------
        >>> from skmatch import DSSMRetriever, TrainingCurveDisplay
        >>> from skmatch.datasets import make_events
        >>> events = make_events(n_users=20, n_items=10, n_events=100, random_state=0)
        >>> retriever = DSSMRetriever(max_epochs=3, random_state=0).fit(events)
        >>> display = TrainingCurveDisplay.from_estimator(retriever)
        >>> display.lines_[0].get_label()
        'DSSMRetriever, loss'
        """
        retrievers = {
            name: fitted_retriever(retriever, "loss_curve_")
            for name, retriever in named(estimator, "estimator").items()
        }
        display = cls(
            loss={name: retriever.loss_curve_ for name, retriever in retrievers.items()},
            validation={
                name: retriever.validation_curve_
                for name, retriever in retrievers.items()
                if retriever.validation_curve_
            },
        )
        return display.plot(ax, curve_kwargs=curve_kwargs)


def _epochs(curve: Any) -> range:
    return range(1, len(curve) + 1)
