"""What another program has poisoned, by the content of the clean images: a file of tensors.

`key` is a number of 63 bits that stands for an image: the beginning of the SHA-256 of its shape and
pixels. So the images find their rows again in any split, order and subset of the clean data.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from raybd.ops.weights import read_checkpoint
from raybd.types.data import CROSS, POISON
from raybd.types.errors import UserError

HINT = "Write it again: raybd import-record."


@dataclass(frozen=True)
class Recorded:
    """The changed training images, and the test images with the trigger."""

    train_key_M: Tensor
    """Of the clean images, int64."""
    train_true_M: Tensor
    """Their true labels."""
    train_x_MCHW: Tensor
    train_y_M: Tensor
    train_role_M: Tensor
    """POISON, or CROSS: changed, but with the true label."""
    test_key_L: Tensor
    test_x_LCHW: Tensor

    def as_bytes(self) -> bytes:
        """Return a safetensors file."""
        return save({name: tensor.contiguous() for name, tensor in vars(self).items()})


def keys_of(x_NCHW: Tensor) -> Tensor:
    """Return a number for each image that depends on its content alone, int64."""
    keys = []
    for x_CHW in x_NCHW:
        digest = hashlib.sha256(str(tuple(x_CHW.shape)).encode())
        digest.update(x_CHW.contiguous().numpy().tobytes())
        # Seven bytes fit into 63 bits.
        keys.append(int.from_bytes(digest.digest()[:7], "big"))
    return torch.tensor(keys, dtype=torch.int64)


def rows_of(key_M: Tensor, among_N: Tensor) -> Tensor:
    """Return the row of each key among others; -1 where it is not there, the first if several."""
    # Reversed, so that of equal keys the first one stays.
    row = {key: index for index, key in reversed(list(enumerate(among_N.tolist())))}
    return torch.tensor([row.get(key, -1) for key in key_M.tolist()], dtype=torch.int64)


@cache
def read_recorded(path: Path, sha256: str) -> Recorded:
    """Return the content of a file whose hash was checked. Raises UserError if it is another kind.

    The hash is an argument, so that a file which changed is read again.
    """
    content = read_checkpoint(path)
    names = Recorded.__dataclass_fields__
    if not isinstance(content, dict) or content.keys() != names.keys():
        raise UserError(f"{path}: it holds no record of poisoned images", HINT)
    found = Recorded(**content)
    if problem := _problem(found):
        raise UserError(f"{path}: {problem}", HINT)
    return found


def _problem(found: Recorded) -> str | None:
    """Return what is wrong with a record, if anything."""
    for part, images in (("train", found.train_x_MCHW), ("test", found.test_x_LCHW)):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            return f"its {part} images are no uint8 images of three channels"
        beside = [t for name, t in vars(found).items() if name.startswith(part) and t.ndim == 1]
        if any(len(tensor) != len(images) for tensor in beside):
            return f"its {part} images have not as many keys and labels"
    integers = [t for name, t in vars(found).items() if "_x_" not in name]
    if any(t.ndim != 1 or t.dtype not in (torch.int64, torch.int8) for t in integers):
        return "its keys, labels and roles are no lists of integers"
    roles = set(found.train_role_M.tolist())
    return None if roles <= {POISON, CROSS} else "its roles are neither poison nor cross"
