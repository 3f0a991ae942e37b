"""The encoder that hides bits in an image, and the decoder that reads them."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.poisoning.unet import UNet

RESIDUAL = 16.0
"""Largest change of a pixel, on the 0..255 scale."""


class Encoder(nn.Module):
    """Images in 0..255 and bits -> the images with the bits hidden in them."""

    PLANE: ClassVar[int] = 32
    """Side of the plane that the bits are spread over; it is stretched to the size of the image."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.spread = nn.Linear(bits, 3 * self.PLANE**2)
        self.write = UNet(6, 3, width)

    def forward(self, x_BCHW: Tensor, bit_BS: Tensor) -> Tensor:
        """Return float images in 0..255, not rounded."""
        plane_BCHW = self.spread(bit_BS).relu().view(-1, 3, self.PLANE, self.PLANE)
        plane_BCHW = F.interpolate(plane_BCHW, x_BCHW.shape[-2:], mode="nearest")
        both_BCHW = torch.cat([plane_BCHW - 0.5, x_BCHW / 255 - 0.5], dim=1)
        # Float: 8 significant bits of bf16 are too few for pixels of 256 levels.
        change_BCHW: Tensor = RESIDUAL * self.write(both_BCHW).float().tanh()
        return (x_BCHW + change_BCHW).clamp(0, 255)


class Decoder(nn.Module):
    """Images in 0..255 -> a logit for each bit."""

    CELLS: ClassVar[int] = 4
    """Cells along a side that the last maps are averaged over, so that any size can be read."""
    HIDDEN: ClassVar[int] = 512

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        widths = (3, width, width, 2 * width, 2 * width, 4 * width)
        # Two of the five levels keep the size, so that little is lost of small images.
        strides = (2, 1, 2, 1, 2)
        self.look = nn.Sequential()
        for fine, coarse, stride in zip(widths, widths[1:], strides, strict=False):
            self.look.append(nn.Conv2d(fine, coarse, 3, stride=stride, padding=1))
            self.look.append(nn.ReLU())
        self.read = nn.Sequential(
            nn.Linear(4 * width * self.CELLS**2, self.HIDDEN),
            nn.ReLU(),
            nn.Linear(self.HIDDEN, bits),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logit_BS."""
        maps_BCHW = F.adaptive_avg_pool2d(self.look(x_BCHW / 255 - 0.5), self.CELLS)
        logit_BS: Tensor = self.read(maps_BCHW.flatten(1)).float()
        return logit_BS
