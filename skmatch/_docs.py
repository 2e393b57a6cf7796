"""Docstrings that share parts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import TypeVar

Documented = TypeVar("Documented")


def fill_docs(**texts: str) -> Callable[[Documented], Documented]:
    """Return a decorator that replaces each line ``{name}`` of a docstring with that text."""

    def fill(documented: Documented) -> Documented:
        documented.__doc__ = re.sub(
            r"^( *)\{(\w+)\}$",
            lambda line: textwrap.indent(texts[line[2]], line[1]),
            documented.__doc__ or "",
            flags=re.MULTILINE,
        )
        return documented

    return fill
