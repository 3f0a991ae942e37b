"""VGG-19 with batch normalisation.

Simonyan and Zisserman 2015, arXiv 1409.1556, table 1, column E. The convolutions are torchvision's.
Differs: the mean over the image and one linear layer replace the three fully connected layers,
which hold 86 % of the weights and on small images see one pixel 49 times.
"""

from torch import nn

from raybd.networks._imagenet import smallest_size
from raybd.networks._init import kaiming
from raybd.types.models import Network


class Vgg19Bn(Network):
    """Sixteen convolutions and a linear head; 20 million parameters."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head, for images of 32 pixels or more. Raises UserError below."""
        from torchvision.models.vgg import cfgs, make_layers

        smallest_size("vgg19_bn", image_size, 32)
        # torchvision's own class initialises convolutions in this way, but `make_layers` does not.
        features = make_layers(cfgs["E"], batch_norm=True)
        return kaiming(nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten())), nn.Linear(
            512, num_classes
        )
