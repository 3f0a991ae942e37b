"""Residual blocks that normalise before they convolve, for pre-activation and wide ResNets.

He, Zhang, Ren and Sun 2016, Identity Mappings in Deep Residual Networks, arXiv 1603.05027,
figure 4e.
"""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks._init import kaiming


class Block(nn.Module):
    """Twice BN, ReLU and a 3 x 3 convolution, added to the input.

    The input goes through a 1 x 1 convolution where the shape changes.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        changes = stride != 1 or channels != out_channels
        self.shortcut = (
            nn.Conv2d(channels, out_channels, 1, stride, bias=False) if changes else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the features after the block."""
        active_BCHW = F.relu(self.bn1(x_BCHW))
        # An identity passes the signal on unchanged; a convolution takes it normalised.
        skip_BCHW = x_BCHW if self.shortcut is None else self.shortcut(active_BCHW)
        out_BCHW: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active_BCHW))))
        return out_BCHW + skip_BCHW


def encoder(stem: int, stages: Iterable[tuple[int, int]], blocks: int) -> nn.Sequential:
    """Return a 3 x 3 stem, stages of blocks, a last BN and ReLU, and the mean over the image.

    A stage is (channels, stride of its first block); each has `blocks` blocks.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, 1, 1, bias=False)]
    channels = stem
    for out_channels, stride in stages:
        for index in range(blocks):
            # Only the first block of a stage lowers the resolution.
            layers.append(Block(channels, out_channels, stride if index == 0 else 1))
            channels = out_channels
    # The last block ends in a sum, which nothing has normalised yet.
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return kaiming(nn.Sequential(*layers))
