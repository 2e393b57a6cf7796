"""`set_output` for transformers whose output is `Events` or `Samples`."""

from __future__ import annotations

from typing import Literal, Self, TypeVar, cast

import numpy as np
from sklearn import get_config
from sklearn.utils.validation import check_is_fitted

from skmatch._data import Events, Samples
from skmatch._schema import Schema
from skmatch._sklearn import OUTPUT_CONFIG

Rows = TypeVar("Rows", Events, Samples)


class FrameOutputMixin:
    """Return `Events` and `Samples`, or DataFrames of their codes if pandas output is set.

    The DataFrame carries in its ``attrs`` all that the next step needs, so a pipeline works the
    same with ``set_output(transform="pandas")``. Frames of polars have no attrs: with "polars" only
    the vectors of a retriever come as a frame.
    """

    schema_: Schema
    _output_type: type[Events] | type[Samples] = Events

    def __init_subclass__(cls, **kwargs: object) -> None:
        # scikit-learn's wrapper would drop the attrs.
        super().__init_subclass__(auto_wrap_output_keys=None, **kwargs)  # type: ignore[call-arg]

    def set_output(
        self, *, transform: Literal["default", "pandas", "polars"] | None = None
    ) -> Self:
        """Choose the form of the output.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            "pandas" returns DataFrames of codes. "polars" leaves this step's output as it is, since
            a frame of polars cannot hold what the next step needs. None leaves the current choice.

        Returns
        -------
        self : estimator instance
        """
        if transform not in (None, "default", "pandas", "polars"):
            raise ValueError(
                f"transform={transform!r} is not known; choose 'default', 'pandas', 'polars' or "
                "None."
            )
        if transform is not None:
            setattr(self, OUTPUT_CONFIG, {"transform": transform})
        return self

    def get_feature_names_out(self, input_features: None = None) -> np.ndarray:
        """Return the column names of the output as a DataFrame.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        features = tuple(feature.name for feature in self.schema_.user_features)
        names = self._output_type.column_names(self.schema_, features)
        return np.asarray([*names, *self._further_columns()], dtype=object)

    def _further_columns(self) -> list[str]:
        """Return the names of columns that depend on the fit."""
        return []

    def _output(self, rows: Rows) -> Rows:
        config = getattr(self, OUTPUT_CONFIG, {})
        output = config.get("transform", get_config()["transform_output"])
        return cast(Rows, rows.to_frame()) if output == "pandas" else rows
