"""A scanner that recovers the same trigger from every model."""

import torch
from torch import Generator

from raybd.types.data import Split
from raybd.types.methods import Scanner
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Recovers(Scanner):
    """Suspect class 7, and show a square in the lower right corner as its trigger."""

    side: int = 3
    """Side of the square."""
    for_each_class: bool = True
    """Whether there is a mask for each class; the others cover the whole image."""

    def scan(self, victim: Victim, clean: Split, rng: Generator) -> Suspicion:
        """Return the same verdict for every model."""
        height, width = clean.x_NCHW.shape[-2:]
        mask_KHW = torch.ones(10, height, width)
        mask_KHW[7] = 0
        mask_KHW[7, -self.side :, -self.side :] = 0.4
        return Suspicion(
            torch.tensor([3.0]),
            torch.tensor([2.0]),
            tensors={
                "mask": mask_KHW if self.for_each_class else mask_KHW[7],
                "index": torch.tensor([3.0 if k == 7 else 0.0 for k in range(10)]),
            },
        )
