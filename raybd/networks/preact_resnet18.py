"""PreAct-ResNet-18 for small images: 3 x 3 stem, four stages of two pre-activation blocks.

He, Zhang, Ren and Sun 2016, arXiv 1603.05027, section 3 and appendix; the widths of ResNet-18.
Differs: keeps the paper's last BN and ReLU before the mean over the image, which BackdoorBench's
network of this name lacks; see `final_norm`.
"""

from pydantic import Field
from torch import nn

from raybd.networks._preactivation import encoder
from raybd.types.models import Network, Plain

STAGES = [(64, 1), (128, 2), (256, 2), (512, 2)]
"""Channels, and the stride of the first block."""
BLOCKS = 2
"""Blocks of a stage."""


class PreactResnet18(Network):
    """Pre-activation residual network of 18 layers; 11.2 million parameters."""

    final_norm: bool = Field(True)
    """Normalise and rectify what the last block hands out. False: as BackdoorBench's network, whose
    weights need it."""

    def build(self, num_classes: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return encoder and head, for any image size."""
        layers = encoder(64, STAGES, BLOCKS)
        if not self.final_norm:
            # What is left are the blocks, and the mean over the image.
            layers = nn.Sequential(*layers[:-4], *layers[-2:])
        return layers, nn.Linear(512, num_classes)

    def plain(self, image_size: int) -> Plain | None:
        """Return the names of BackdoorBench's network, if it is that."""
        if self.final_norm:
            return None
        renamed = {"0.": "conv1."}
        for index in range(len(STAGES) * BLOCKS):
            there = f"layer{index // BLOCKS + 1}.{index % BLOCKS}."
            # The longer beginning first: the shortcut is a sequence of one there.
            renamed[f"{index + 1}.shortcut."] = f"{there}shortcut.0."
            renamed[f"{index + 1}."] = there
        return Plain("linear", renamed=renamed)
