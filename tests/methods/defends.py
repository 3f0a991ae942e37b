"""A trainer that is a defense: it trains as usual and suspects the images that it gets wrong."""

import torch.nn.functional as F
from torch import Generator, tensor

from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.types.data import Split
from raybd.types.methods import TrainingDefense
from raybd.types.models import Network
from raybd.types.verdicts import Defended, Suspicion


class Defends(Recipe, TrainingDefense):
    """Scores by the loss at the end."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Return a classifier and one score for each image."""
        victim = fit(new_victim(split, num_classes, network, rng), split, self, rng, name="victim")
        loss_N = F.cross_entropy(infer(victim, split.x_NCHW), split.y_N, reduction="none")
        return Defended(victim, Suspicion(loss_N, tensor(3.0), warning="it guesses"))
