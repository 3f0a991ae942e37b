"""Fine-tuning: continue training the victim on the clean part.

BackdoorBench (Wu et al. 2022, arXiv 2206.12654), defense FT: all layers, 5 % of the clean training
images, learning rate 0.01.
Differs: images are augmented as by the victim's trainer (there: cropped and mirrored on every data
set); a part of the trusted images is held out, to see what the repair costs.
"""

import copy

import torch
from pydantic import Field
from torch import Generator

from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._tuning import Tuning
from raybd.training.loop import fit
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class FineTune(Tuning, Repair):
    """Train all layers on the clean part, a trusted hold-out, and nothing else."""

    version = 2

    batch_size: int = Field(256, ge=1)
    """Images per step over all workers."""
    held: float = Field(0.2, ge=0, lt=1)
    """Share of the clean part that is not trained on, and on which the accuracy before and after is
    compared; 0: the accuracy is that on the images that were trained on."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a fine-tuned copy; the suspects are not used.

        The facts are the accuracy before and after on the held images; a warning says that much of
        it was lost.
        """
        order = torch.randperm(len(clean), generator=rng)
        # Rounded down, so that an image is left to train on.
        held = int(self.held * len(clean))
        # A copy, because the facts compare it with the victim as it was.
        tuned = fit(
            copy.deepcopy(victim),
            clean.select(order[held:]),
            self.resolved(),
            rng,
            self.objective(victim),
            name="fine_tune",
        )

        seen = clean.select(order[:held]) if held else clean
        facts = accuracy_facts(victim, tuned, seen)
        return Defended(tuned, warning=lost("fine_tune", facts, seen), facts=facts)
