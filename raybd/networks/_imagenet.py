"""ImageNet weights of torchvision's models, and the image sizes that these models take."""

import sys
from contextlib import redirect_stdout
from http.client import HTTPException
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.ops.download import patience
from raybd.types.errors import UserError


class Resize(nn.Module):
    """Resize images to one side, bilinear with antialiasing."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the images with the wanted side."""
        if x_BCHW.shape[-2:] == (self.side, self.side):
            return x_BCHW
        return F.interpolate(
            x_BCHW, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False
        )


def resizing(side: int) -> str:
    """Return a line of code that makes plain code resize the images of `model` like `Resize`."""
    return (
        "resize = lambda model, images: (torch.nn.functional.interpolate(images[0], "
        f"({side}, {side}), mode='bilinear', antialias=True, align_corners=False),)\n"
        "model.register_forward_pre_hook(resize)"
    )


def imagenet_weights(kind: str, weights: Any) -> dict[str, Tensor]:
    """Return the state of a torchvision weights entry, from torch's cache or downloaded.

    Never unpickles code. Raises UserError if the weights cannot be had.
    """
    try:
        # torch announces the download on stdout, which is for data.
        with patience(), redirect_stdout(sys.stderr):
            state: dict[str, Tensor] = weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
            return state
    # urllib's errors are OSErrors; torch raises RuntimeError for a wrong checksum.
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"{kind}: ImageNet weights could not be had from {weights.url}: {error}",
            f"Set `pretrained` to false, or put that file into {torch.hub.get_dir()}/checkpoints.",
        ) from error


def smallest_size(kind: str, image_size: int, side: int) -> None:
    """Raise UserError for images that the network's strides would shrink to nothing."""
    # torch's own error would name a tensor of a hidden layer, not the image size.
    if image_size < side:
        raise UserError(
            f"{kind}: images of {image_size} pixels are too small, "
            "it halves them until nothing is left",
            f"Set the data set's `size` to {side} or more, or take another network.",
        )
