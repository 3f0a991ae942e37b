"""Layers and units of a table, and arrays that a table holds as lists."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def layers(frame: pd.DataFrame, most: int = 1) -> list[str]:
    """Return the last layers, in their order: a backdoor shows there."""
    return [str(name) for name in dict.fromkeys(frame["layer"])][-most:]


def of_layer(frame: pd.DataFrame, layer: str) -> pd.DataFrame:
    """Return the rows of a layer."""
    return frame[frame["layer"] == layer]


def array(values: Any, *shape: int) -> NDArray[Any]:
    """Return a list of a table as an array. Raises ValueError if it does not have this shape."""
    return np.asarray(values).reshape(shape)


def image(values: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Return channels x height x width of a table as an image H x W x C."""
    return array(values, -1, height, width).astype(np.uint8).transpose(1, 2, 0)


def number(value: float, digits: int = 2) -> str:
    """Return a number for a caption, or that there is none."""
    return "not defined" if value is None or math.isnan(value) else f"{value:.{digits}f}"
