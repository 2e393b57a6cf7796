"""`set_output` for transformers whose output is `Events` or `Samples`."""

from __future__ import annotations

from typing import Any, Self

from sklearn import get_config


class FrameOutputMixin:
    """Give `Events` and `Samples` as they are, or as frames where pandas output is asked for.

    Such a frame carries in its ``attrs`` what the next step needs, so that a pipeline works the
    same under ``set_output(transform="pandas")``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # scikit-learn's own wrapping would strip a frame of what it carries.
        super().__init_subclass__(auto_wrap_output_keys=None, **kwargs)  # type: ignore[call-arg]

    def set_output(self, *, transform: str | None = None) -> Self:
        """Choose the form of the output.

        Parameters
        ----------
        transform : {"default", "pandas"} or None, default=None
            "pandas" gives frames of codes; None leaves the choice as it was.

        Returns
        -------
        self : estimator instance
        """
        if transform not in (None, "default", "pandas"):
            raise ValueError(
                f"transform is {transform!r}; {type(self).__name__} gives 'default' or 'pandas'."
            )
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def _output(self, rows: Any) -> Any:
        config = getattr(self, "_sklearn_output_config", {})
        wanted = config.get("transform", get_config()["transform_output"])
        return rows.to_frame() if wanted == "pandas" else rows
