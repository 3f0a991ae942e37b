"""Encoded images (PNG, JPEG, ...) to one uint8 tensor, large ones in a pool of threads."""

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raybd.datasets._images import unequal_sizes
from raybd.types.errors import UserError

_BLOCK = 64
"""Images per task: small enough to spread, large enough that the hand-over costs nothing."""
_SMALL = 8192
"""Encoded bytes per image below which threads slow each other down, by a third for CIFAR-10."""


class Encoded(NamedTuple):
    """One image as it lies on disk."""

    position: int
    """Where it goes in the result."""
    where: str
    """What an error message calls it."""
    data: bytes | None


def decode(chunks: Iterable[Sequence[Encoded]], count: int, size: int | None) -> Tensor:
    """x_NCHW of `count` images, RGB. Chunks are taken one at a time, so only one needs to be in memory."""
    x_NCHW, first = torch.empty((0, 3, size or 0, size or 0), dtype=torch.uint8), True
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for chunk in chunks:
            blocks = [chunk[start : start + _BLOCK] for start in range(0, len(chunk), _BLOCK)]
            run = (
                map
                if sum(len(image.data or b"") for image in chunk) < _SMALL * len(chunk)
                else pool.map
            )
            for block, pixels in zip(
                blocks, run(partial(_decode_block, size=size), blocks), strict=True
            ):
                for image, x_HWC in zip(block, pixels, strict=True):
                    if first:
                        x_NCHW, first = (
                            torch.empty((count, 3, *x_HWC.shape[:2]), dtype=torch.uint8),
                            False,
                        )
                    if x_HWC.shape[:2] != x_NCHW.shape[2:]:
                        raise unequal_sizes(image.where, tuple(x_NCHW.shape[2:]), x_HWC.shape[:2])
                    x_NCHW[image.position] = torch.from_numpy(x_HWC).permute(2, 0, 1)
    return x_NCHW


def pixels_of(image: Image.Image, size: int | None) -> NDArray[np.uint8]:
    """x_HWC, RGB; resized with antialiasing where a size is given."""
    image = image.convert("RGB")
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image)


def _decode_block(block: Sequence[Encoded], size: int | None) -> list[NDArray[np.uint8]]:
    return [_decode_one(image, size) for image in block]


def _decode_one(image: Encoded, size: int | None) -> NDArray[np.uint8]:
    try:
        return pixels_of(Image.open(io.BytesIO(image.data or b"")), size)
    # Pillow's decoders raise all of these for broken bytes.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{image.where}: not a readable image: {error}",
            "Replace or remove it: it is truncated or of another kind.",
        ) from error
