"""A small convolutional network for quick runs on a CPU: four 3 x 3 convolutions with BN.

No paper; in the style of Springenberg et al. 2015, arXiv 1412.6806, section 2: strides instead of
pooling layers.
Differs: batch normalisation, half as deep; the first convolution strides already, which on the
digits is 2.5 times as fast and learns more in ten epochs.
"""

from pydantic import Field
from torch import nn

from raybd.networks._init import kaiming
from raybd.types.models import Network


class SmallCnn(Network):
    """Four convolutions; 0.24 million parameters."""

    width: int = Field(32, ge=4, le=256)
    """Channels of the first convolution; the others have 2, 4 and 4 times as many."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head, for any image size."""
        layers: list[nn.Module] = []
        channels = 3
        for factor, stride in ((1, 2), (2, 2), (4, 2), (4, 1)):
            out_channels = self.width * factor
            layers += [
                nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            ]
            layers.append(nn.ReLU())
            channels = out_channels
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return kaiming(nn.Sequential(*layers)), nn.Linear(channels, num_classes)
