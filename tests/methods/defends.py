"""A trainer that is a defense: it trains as usual and suspects the images that it gets wrong."""

import torch.nn.functional as F
from torch import Generator, tensor

from raybd.fit import Recipe, fit, infer, new_victim
from raybd.types import Defended, Network, Split, Suspicion


class Defends(Recipe):
    """Scores by the loss at the end."""

    def defend(self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator) -> Defended:
        """A classifier and one score for each image."""
        victim = fit(new_victim(split, num_classes, network, rng), split, self, rng, name="victim")
        loss_N = F.cross_entropy(infer(victim, split.x_NCHW), split.y_N, reduction="none")
        return Defended(victim, Suspicion(loss_N, tensor(3.0), warning="it guesses"))
