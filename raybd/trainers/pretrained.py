"""Pretrained: a network's published weights as they are; nothing is trained.

As the encoders of Google (ImageNet) and OpenAI (CLIP) in Jia, Liu and Gong 2022, arXiv 2108.00352,
section on real-world encoders.
Differs: images are normalised as the weights need it where the network names its moments (clip),
and by the moments of the split elsewhere.
"""

from torch import Generator

from raybd.trainers._published import published
from raybd.types.data import Split
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim


class Pretrained(Trainer):
    """Take an encoder with `pretrained` weights.

    The images matter only for their moments, the labels not at all.
    """

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return the encoder without a head.

        Raises UserError where the network has no weights of its own.
        """
        return published("pretrained", split, num_classes, network, rng)
