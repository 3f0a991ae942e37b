"""A trainer whose process dies in the middle of the third epoch, once."""

import os
import time
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.training.loop import cross_entropy, fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.types.data import Split
from raybd.types.methods import Trainer
from raybd.types.models import Network, Victim


class DiesOnce(Recipe, Trainer):
    """Supervised training that leaves a trace of every step in a file."""

    trace: str
    """File that is given one line for each step."""
    dies: bool = True
    """Whether it does."""
    pause: float = 0.0
    """Seconds that each step takes longer."""

    def train(self, split: Split, num_classes: int, network: Network, rng: Generator) -> Victim:
        """A classifier, in the second attempt."""
        trace, steps = Path(self.trace), len(split) // self.batch_size

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            taken = trace.read_text().splitlines() if trace.exists() else []
            time.sleep(self.pause)
            if (
                self.dies
                and len(taken) == 2 * steps + 1
                and "died" not in taken
                and group.rank() == 0
            ):
                trace.write_text("\n".join([*taken, "died"]) + "\n")
                os._exit(1)
            if group.rank() == 0:
                with trace.open("a") as file:
                    file.write("step\n")
            return cross_entropy(model, x_BCHW, y_B, rows_B) + torch.zeros(())

        return fit(
            new_victim(split, num_classes, network, rng), split, self, rng, objective, name="victim"
        )
