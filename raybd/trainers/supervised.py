"""Supervised training: cross-entropy on the given labels, by someone who trusts the data set.

Recipe: BackdoorBench (Wu et al. 2022, arXiv 2206.12654), table of training settings for CIFAR-10:
SGD with momentum 0.9, learning rate 0.01, weight decay 5e-4, batch 128, cosine schedule, 100
epochs, random crop and flip.
Differs: the cosine always ends at the last epoch; Nesterov momentum (`nesterov: false`: plain, as
there); a crop is padded by an eighth of the side (4 of 32 pixels, as there); every data set is
mirrored, traffic signs and digits, too; images are normalised with the moments of the training
split itself.
"""

from typing import ClassVar

from torch import Generator

from raybd.training.classifier_recipe import ClassifierRecipe
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim


class Supervised(ClassifierRecipe, Trainer):
    """Train a classifier from scratch (or from the network's own pretrained weights)."""

    only_a_recipe: ClassVar[bool] = True

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """Return a classifier trained on the split."""
        return fit(new_victim(split, num_classes, network, rng), split, self, rng, name="victim")
