"""Stored images as PNG data URIs."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

MAX_SIDE = 96
"""Side in pixels above which an image is scaled down, to keep the page small. It is shown at 64."""


def data_uris(x_NCHW: "Tensor") -> list[str]:
    """Return each image as a PNG data URI. Images up to MAX_SIDE keep their pixels."""
    return [_data_uri(x_HWC) for x_HWC in x_NCHW.permute(0, 2, 3, 1).cpu().numpy()]


def difference(before_NCHW: "Tensor", after_NCHW: "Tensor") -> tuple["Tensor", int]:
    """Return what an attack changed, amplified, and by which factor.

    The factor is the largest integer with which no change exceeds 255; all images have the same.
    """
    # In uint8 a pixel that gets darker would wrap around.
    change = (after_NCHW.int() - before_NCHW.int()).abs()
    largest = int(change.max()) if change.numel() else 0
    # An attack without a trigger changes no pixel. A whole factor is easy to state.
    factor = 255 // largest if largest else 1
    return (change * factor).byte(), factor


def _data_uri(x_HWC: NDArray[np.uint8]) -> str:
    # PIL takes grey images only without an axis for channels.
    image = Image.fromarray(x_HWC[..., 0] if x_HWC.shape[-1] == 1 else x_HWC)
    # It never enlarges. BOX averages pixels: sharper filters would ring around a trigger.
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
