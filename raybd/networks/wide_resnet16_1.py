"""WRN-16-1: wide residual network of depth 16 and width factor 1; embeddings of 64 values.

Zagoruyko and Komodakis 2016, arXiv 1605.07146, table 1; the network of CBD and ABL.
Differs: no dropout.
"""

from torch import nn

from raybd.networks._preactivation import encoder
from raybd.types.models import Network


class WideResnet16x1(Network):
    """Thin residual network of 16 layers; 0.18 million parameters."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head, for any image size."""
        return encoder(16, [(16, 1), (32, 2), (64, 2)], blocks=2), nn.Linear(64, num_classes)
