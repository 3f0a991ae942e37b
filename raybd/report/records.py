"""Rows of a table of the store as the report reads them: what can't be shown is missing."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a frame; a value that is missing or not finite is None."""
    # Only a column of objects can hold None; a column of floats turns it into NaN.
    known = frame.astype(object).where(frame.notna(), None)
    return [
        {str(name): _shown(value) for name, value in row.items()}
        for row in known.to_dict("records")
    ]


def scalars(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a mapping of JSON with its values as numbers, words and None.

    Somebody else may have written it: lists, mappings, and numbers that no float can hold, become
    words.
    """
    return {str(name): _scalar(value) for name, value in values.items()}


def _shown(value: Any) -> Any:
    # JSON has no infinity, and no plot a place for it.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    # An integer of thousands of digits can't even be printed.
    return str(value) if not isinstance(value, int) else "a large number"
