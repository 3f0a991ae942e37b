"""A small vision transformer for small images: short, narrow, and on patches of 4 x 4 pixels.

Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.1; width and heads as in DeiT-Ti, Touvron et
al. 2021, arXiv 2012.12877. Built on torchvision's.
Differs: half as deep; an embedding is the mean over the patches, not the class token, which masked
autoencoders do not train.
"""

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from raybd.types.errors import UserError
from raybd.types.models import Network


class VitTiny(Network):
    """Transformer of 6 layers; 2.7 million parameters, embeddings of 192 values."""

    squares_only: ClassVar[bool] = True
    patch: int = Field(4, ge=1, le=32)
    """Side of a patch, in pixels; the image's side is a multiple of it."""
    width: int = Field(192, ge=16, le=1024, multiple_of=4)
    """Values of a token; a multiple of `heads`."""
    depth: int = Field(6, ge=1, le=24)
    """Layers."""
    heads: int = Field(3, ge=1, le=16)
    """Heads of the attention."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "VitTiny":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} can't be shared by {self.heads} heads")
        return self

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder (mean over the patches after the last layer) and head.

        They take images of this size only. Raises UserError if patches do not fit.
        """
        if image_size % self.patch:
            raise UserError(
                f"vit_tiny: images of {image_size} pixels "
                f"can't be cut into patches of {self.patch}",
                "Set `patch` to a divisor of the image's side.",
            )
        encoder = _MeanOfPatches(
            image_size, self.patch, self.depth, self.heads, self.width, 4 * self.width
        )
        encoder.heads = nn.Identity()
        return encoder, nn.Linear(self.width, num_classes)


class _MeanOfPatches(VisionTransformer):  # type: ignore[misc]
    """torchvision's transformer, whose embedding is the mean over the patches."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # As torchvision's, but for the last line: the class token
        # takes part, and is left out there.
        patch_BTD = self._process_input(x_BCHW)
        class_B1D = self.class_token.expand(len(patch_BTD), -1, -1)
        z_BD: Tensor = self.encoder(torch.cat([class_B1D, patch_BTD], 1))[:, 1:].mean(1)
        return z_BD
