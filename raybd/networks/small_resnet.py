"""A small residual network for encoders on a CPU: four stages of one block each.

He, Zhang, Ren and Sun 2016, arXiv 1512.03385, section 4.2 (the stem for small images) and table 1
(four stages). Built on torchvision's blocks.
Differs: one block in each stage, and a quarter of the channels.
"""

from pydantic import Field
from torch import nn

from raybd.networks._init import kaiming
from raybd.types.models import Network


class SmallResnet(Network):
    """Residual network of 10 layers; 0.31 million parameters, embeddings of 128 values."""

    width: int = Field(16, ge=4, le=256)
    """Channels of the first stage; the others have twice, four times and eight times as many."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head, for any image size."""
        from torchvision.models.resnet import BasicBlock

        layers: list[nn.Module] = [
            nn.Conv2d(3, self.width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(self.width),
            nn.ReLU(),
        ]
        channels = self.width
        for stage in range(4):
            out_channels, stride = self.width * 2**stage, 1 if stage == 0 else 2
            shortcut = None
            # The first stage keeps its shape, so that its input can be added as it is.
            if stride > 1:
                shortcut = nn.Sequential(
                    nn.Conv2d(channels, out_channels, 1, stride, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
            layers.append(BasicBlock(channels, out_channels, stride, shortcut))
            channels = out_channels
        return kaiming(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())), nn.Linear(
            channels, num_classes
        )
