"""Pretrained: a network's published weights as they are; nothing is trained.

As the encoders of Google (ImageNet) and OpenAI (CLIP) in Jia, Liu and Gong 2022, arXiv 2108.00352, section on real-world encoders.
Differs: images are normalised as the weights want it where the network says how (clip), and by the moments of the split elsewhere.
"""

from torch import Generator

from raybd.trainers._published import published
from raybd.types.data import Split
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim


class Pretrained(Trainer):
    """An encoder of a network with `pretrained` weights; images and labels play no part but for the moments."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """The encoder, without a head. Raises UserError where the network has no weights of its own."""
        return published("pretrained", split, num_classes, network, rng)
