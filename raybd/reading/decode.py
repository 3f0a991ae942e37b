"""Decode encoded images (PNG, JPEG, ...) into one uint8 tensor."""

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

from raybd.reading.images import unequal_sizes
from raybd.types.errors import UserError

IMAGES_PER_TASK = 64
"""Images that a thread decodes at a time: few enough to keep all threads busy, and so many that the
hand-over takes no noticeable time."""
MIN_MEAN_BYTES_FOR_THREADS = 8192
"""Below this mean size of an encoded image, threads slow each other down (CIFAR-10: by a third)."""
MAX_THREADS = 8


class Encoded(NamedTuple):
    """One image as it lies on disk."""

    position: int
    """Row of the image in the result."""
    where: str
    """Name of the image in error messages."""
    data: bytes | None


def decode(chunks: Iterable[Sequence[Encoded]], count: int, size: int | None) -> Tensor:
    """Return x_NCHW of `count` images, RGB.

    Takes one chunk at a time, so that only one has to be in memory. Raises UserError for a broken
    image, and for images that differ in size where `size` is None.
    """
    # Stays like this where no row is wanted: no image tells a size.
    x_NCHW = torch.empty((0, 3, size or 0, size or 0), dtype=torch.uint8)
    first = True
    # Threads, not processes: Pillow releases the interpreter lock while it decodes.
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for chunk in chunks:
            for image, x_HWC in _pixels(chunk, size, pool):
                if first:
                    # The first image tells the size of all others.
                    x_NCHW = torch.empty((count, 3, *x_HWC.shape[:2]), dtype=torch.uint8)
                    first = False
                if x_HWC.shape[:2] != x_NCHW.shape[2:]:
                    raise unequal_sizes(image.where, tuple(x_NCHW.shape[2:]), x_HWC.shape[:2])
                x_NCHW[image.position] = torch.from_numpy(x_HWC).permute(2, 0, 1)
    return x_NCHW


def pixels_of(image: Image.Image, size: int | None) -> NDArray[np.uint8]:
    """Return x_HWC, RGB; resized with antialiasing where a size is given."""
    # Before resizing: between the numbers of a palette there is nothing to interpolate.
    image = image.convert("RGB")
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    # A copy: torch wants memory that can be written to, and Pillow's can't.
    return np.array(image)


def _pixels(
    chunk: Sequence[Encoded], size: int | None, pool: ThreadPoolExecutor
) -> Iterable[tuple[Encoded, NDArray[np.uint8]]]:
    blocks = [
        chunk[start : start + IMAGES_PER_TASK] for start in range(0, len(chunk), IMAGES_PER_TASK)
    ]
    encoded_bytes = sum(len(image.data or b"") for image in chunk)
    small = encoded_bytes < MIN_MEAN_BYTES_FOR_THREADS * len(chunk)
    # `map` runs in this thread, where nothing is handed over.
    run = map if small else pool.map
    for block, pixels in zip(blocks, run(partial(_decode_block, size=size), blocks), strict=True):
        yield from zip(block, pixels, strict=True)


def _decode_block(block: Sequence[Encoded], size: int | None) -> list[NDArray[np.uint8]]:
    return [_decode_one(image, size) for image in block]


def _decode_one(image: Encoded, size: int | None) -> NDArray[np.uint8]:
    try:
        # No bytes at all (a null in the file) fail like broken ones, with the name of the image.
        return pixels_of(Image.open(io.BytesIO(image.data or b"")), size)
    # Pillow's decoders raise all of these for broken bytes.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{image.where}: not a readable image: {error}",
            "Replace or remove it: it is truncated or of another kind.",
        ) from error
