"""Decode encoded images (PNG, JPEG, ...) into one uint8 tensor."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from raybd.reading.notes import say_once
from raybd.reading.pixels import Fit, Note, Pixels, pixels_of, upright_size
from raybd.reading.sizes import unequal_sizes
from raybd.types.errors import UserError

IMAGES_PER_TASK = 64
"""Images that a thread decodes at a time: few enough to keep all threads busy, and so many that the
hand-over takes no noticeable time."""
MIN_MEAN_BYTES_FOR_THREADS = 8192
"""Below this mean size of an encoded image, threads slow each other down (CIFAR-10: by a third)."""
MAX_THREADS = 8
MAX_PIXELS = 2**25
"""Pixels of one encoded image, 8192 x 4096. A few bytes may stand for many more."""
# What Pillow says of damaged tags names no image. What it can't decode is an error, which does.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded. Pillow knows kinds that run other programs, such as EPS."""


class Encoded(NamedTuple):
    """One image as it lies on disk."""

    position: int
    """Row of the image in the result."""
    where: str
    """Name of the image in error messages."""
    data: bytes | None
    why_none: str = "it has no bytes"
    """What is wrong where there are none."""


SAID: dict[Note, str] = {
    "transparent": "are transparent in places, and were put on white",
    "several pictures": "have several pictures, of which the first was taken",
}


def decode(
    chunks: Iterable[Sequence[Encoded]], count: int, size: int | None, fit: Fit = "resize"
) -> Tensor:
    """Return x_NCHW of `count` images, RGB; see pixels.py for how images of other kinds become so.

    Takes one chunk at a time, so that only one has to be in memory. Raises UserError for a broken
    image, one of more than MAX_PIXELS, for images that differ in size where `size` is None, and if
    the result is larger than the memory of this machine.
    """
    noted: Counter[Note] = Counter()
    # Stays like this where no row is wanted: no image tells a size.
    x_NCHW = torch.empty((0, 3, size or 0, size or 0), dtype=torch.uint8)
    first = True
    # Threads, not processes: Pillow releases the interpreter lock while it decodes.
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for chunk in chunks:
            if first and chunk:
                # The first image tells the size of all others, before any other is decoded.
                height, width = _decode_one(chunk[0], size, fit, None).x_HWC.shape[:2]
                x_NCHW = _room_for(count, height, width, chunk[0].where)
                first = False
            noted.update(_fill(x_NCHW, chunk, size, fit, pool))
    for note, images in noted.items():
        say_once(f"{images} of {count} images {SAID[note]}")
    return x_NCHW


def fault_of(image: Encoded) -> str | None:
    """Return what is wrong with an image that can't be decoded; None if nothing is."""
    try:
        _decode_one(image, None, "resize", None)
    except UserError as error:
        return error.what
    return None


def size_of(image: Encoded) -> tuple[int, int] | None:
    """Return the (height, width) that the header of an image states; None if it can't be read."""
    try:
        opened = Image.open(io.BytesIO(image.data or b""), formats=FORMATS)
        too_large = opened.size[0] * opened.size[1] > MAX_PIXELS
        return None if too_large else upright_size(opened)
    # What is wrong is said when it is decoded.
    except Exception:
        return None


def _fill(
    x_NCHW: Tensor, chunk: Sequence[Encoded], size: int | None, fit: Fit, pool: ThreadPoolExecutor
) -> Counter[Note]:
    """Decode a chunk into its rows; return what is to be said of how many images."""
    blocks = [
        chunk[start : start + IMAGES_PER_TASK] for start in range(0, len(chunk), IMAGES_PER_TASK)
    ]
    encoded_bytes = sum(len(image.data or b"") for image in chunk)
    small = encoded_bytes < MIN_MEAN_BYTES_FOR_THREADS * len(chunk)
    # `map` runs in this thread, where nothing is handed over.
    run = map if small else pool.map
    noted: Counter[Note] = Counter()
    for found in run(partial(_fill_block, x_NCHW, size, fit), blocks):
        noted.update(found)
    return noted


def _fill_block(
    x_NCHW: Tensor, size: int | None, fit: Fit, block: Sequence[Encoded]
) -> Counter[Note]:
    wanted = (x_NCHW.shape[2], x_NCHW.shape[3])
    noted: Counter[Note] = Counter()
    for image in block:
        # One after the other: in memory a decoded image may have a thousand times its bytes.
        pixels = _decode_one(image, size, fit, wanted)
        x_NCHW[image.position] = torch.from_numpy(pixels.x_HWC).permute(2, 0, 1)
        noted.update(pixels.notes)
    return noted


def _decode_one(
    image: Encoded, size: int | None, fit: Fit, wanted: tuple[int, int] | None
) -> Pixels:
    """Decode an image. `wanted` is the (height, width) that it must have; None: any."""
    try:
        # No bytes at all (a null in the file) fail like broken ones, with the name of the image.
        if image.data is None:
            raise ValueError(image.why_none)
        opened = Image.open(io.BytesIO(image.data), formats=FORMATS)
        # Only the header is read so far.
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise _too_large(image.where, f"{width} x {height}")
        if size is None and wanted is not None and wanted != (found := upright_size(opened)):
            raise unequal_sizes(image.where, wanted, found)
        return pixels_of(opened, size, fit)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(image.where, "more than a hundred million") from error
    # Pillow's decoders raise nearly anything for broken bytes.
    except Exception as error:
        known = isinstance(error, UnidentifiedImageError)
        # Pillow's own text would name an object in memory.
        why = f"none of {', '.join(FORMATS)}" if known else _reason(error)
        raise UserError(
            f"{image.where}: not a readable image: {why}",
            "Replace or remove it: it is truncated or of another kind.",
        ) from error


def _room_for(count: int, height: int, width: int, where: str) -> Tensor:
    """Return x_NCHW to be filled. Raises UserError if this machine has no memory for it."""
    needed = count * 3 * height * width
    # The system may promise more than it has, and end the process when it is used.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        if needed > memory:
            raise MemoryError
        return torch.empty((count, 3, height, width), dtype=torch.uint8)
    # torch's own error for memory is a RuntimeError.
    except (MemoryError, RuntimeError) as error:
        raise UserError(
            f"{where}: {count} images of {width} x {height} pixels take {needed / 1e9:.1f} GB; "
            f"this machine has {memory / 1e9:.1f} GB",
            "Set `size` to a smaller side, or `limit` and `test_limit` to fewer images.",
        ) from error


def _too_large(where: str, pixels: str) -> UserError:
    return UserError(
        f"{where}: {pixels} pixels; an image has at most {MAX_PIXELS}",
        "Make it smaller, or remove it.",
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
