"""Fine-tuning: continue training the victim on the clean part.

BackdoorBench (Wu et al. 2022, arXiv 2206.12654), defense FT: all layers, 5 % of the clean training
images, learning rate 0.01.
"""

import copy

from pydantic import Field
from torch import Generator

from raybd.repairs._clean_accuracy import accuracy_facts
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class FineTune(Recipe, Repair):
    """Train all layers on the clean part, a trusted hold-out, and nothing else."""

    batch_size: int = Field(256, ge=1)
    """Images per step over all workers."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a fine-tuned copy; the suspects are not used.

        The accuracy after it, among the facts, is that on the images it was trained on.
        """
        # A copy, because the facts compare it with the victim as it was.
        tuned = fit(copy.deepcopy(victim), clean, self, rng, name="fine_tune")
        return Defended(tuned, facts=accuracy_facts(victim, tuned, clean))
