"""Transfer learning: start from a network that was trained on other data.

Pan, Zeng, Lyu, Lin and Jia 2023, arXiv 2302.11408: one of the three ways of training on which ASSET
is measured.
Differs: the recipe has the defaults of BackdoorBench, not those of that paper; images are
normalised as the start was trained to see them.
"""

from typing import Literal

from torch import Generator

from raybd.training.classifier_recipe import ClassifierRecipe
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import TransferTrainer
from raybd.types.models import Network, Victim


class Transfer(ClassifierRecipe, TransferTrainer):
    """Fine-tune a pretrained encoder.

    It is that of the victim that `source` names, or has the network's own weights.
    """

    layers: Literal["all", "head"] = "all"
    """What is trained. `head`: the encoder keeps its weights and batch statistics; the classifier
    on top is trained from scratch."""

    def train_from(
        self, start: Victim | None, split: Split, num_classes: int, network: Network, rng: Generator
    ) -> Victim:
        """Return a classifier with a new head on the encoder of `start`, trained on the split.

        Raises UserError where the encoder does not fit the images.
        """
        victim = new_victim(split, num_classes, network, rng)
        if start is not None:
            try:
                # Some networks have weights of a size that depends on the images, like positions.
                victim.encoder.load_state_dict(start.encoder.state_dict())
            except RuntimeError as error:
                # torch lists every tensor that does not fit, and one is enough.
                why = str(error).splitlines()[-1].strip()
                height, width = split.x_NCHW.shape[-2:]
                raise UserError(
                    f"transfer: the encoder does not fit images of {width} x {height} pixels: "
                    f"{why}",
                    "Give both data sets the same `size`, or take a network that works at any"
                    " size, like resnet18.",
                    exit_code=1,
                ) from error
            # The first layer has learned pixels on this scale.
            victim.mean_C = start.mean_C.clone()
            victim.std_C = start.std_C.clone()
        frozen = [victim.encoder] if self.layers == "head" else []
        return fit(victim, split, self, rng, name="transfer", frozen=frozen)
