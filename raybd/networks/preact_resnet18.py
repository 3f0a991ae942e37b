"""PreAct-ResNet-18 for small images: 3 x 3 stem, four stages of two pre-activation blocks.

He, Zhang, Ren and Sun 2016, arXiv 1603.05027, section 3 and appendix; the widths of ResNet-18.
Differs: keeps the paper's last BN and ReLU before the mean over the image, which BackdoorBench's
network of this name lacks.
"""

from torch import nn

from raybd.networks._preactivation import encoder
from raybd.types.models import Network


class PreactResnet18(Network):
    """Pre-activation residual network of 18 layers; 11.2 million parameters."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head, for any image size."""
        return encoder(64, [(64, 1), (128, 2), (256, 2), (512, 2)], blocks=2), nn.Linear(
            512, num_classes
        )
