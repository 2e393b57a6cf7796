"""Vocabularies as JSON: ids and categories of the types that JSON can hold."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from typing import Any
from uuid import UUID

import numpy as np

from skmatch._columns import Vocabulary

_KINDS = {"i": "int", "u": "int", "f": "float", "b": "bool"}


def content_of(vocabulary: Vocabulary, column: Hashable) -> dict[str, Any]:
    """Return the type and the values of a vocabulary; raise if JSON cannot hold them."""
    values = vocabulary.values
    dtypes = [vocabulary.dtype, *([vocabulary.categories.dtype] if vocabulary.categories else [])]
    if values.dtype.kind in _KINDS:
        plain = values.tolist()
        if values.dtype.kind == "u" and max(plain, default=0) > np.iinfo(np.int64).max:
            return {"type": "mixed", "values": plain}
        return {"type": _KINDS[values.dtype.kind], "values": plain}
    if values.dtype.kind == "M":
        if any("," in dtype for dtype in dtypes):
            raise _cannot_export(column, f"datetimes with a time zone ({dtypes[-1]})")
        return {"type": "datetime", "values": values.astype("datetime64[ns]").view(int).tolist()}
    plain = values.tolist()
    types = {type(value) for value in plain}
    if types <= {str}:
        return {"type": "str", "values": plain}
    if types == {UUID}:
        return {"type": "uuid", "values": [str(value) for value in plain]}
    if types == {datetime.date}:
        return {"type": "date", "values": [value.isoformat() for value in plain]}
    if types <= {str, int, float, bool}:
        return {"type": "mixed", "values": plain}
    unsupported = next(kind for kind in types if kind not in (str, int, float, bool))
    example = next(value for value in plain if type(value) is unsupported)
    raise _cannot_export(column, f"a {unsupported.__name__}, {example!r}")


def _cannot_export(column: Hashable, values: str) -> ValueError:
    return ValueError(
        f"Column {column!r} holds {values}, and an exported folder holds text, numbers, booleans, "
        "UUIDs, dates and datetimes without time zone: convert the column before fit, such as with "
        "astype(str)."
    )
