"""Fine-pruning: prune the units that clean images leave idle, then fine-tune.

Liu, Dolan-Gavitt and Garg 2018, arXiv 1805.12185, section on fine-pruning. Units are pruned in the
order of their mean activation on clean images, the idlest first, as many as the accuracy on clean
images allows; the others are then trained on clean images.
Differs: what is pruned are the embedding's units, by zeroing their columns of the head's first
linear layer: with a residual sum, the filter of one convolution does not silence a unit. How many
is chosen on held-out trusted images (BackdoorBench, arXiv 2206.12654: on test images); units are
ordered by the size of their activations, which is the paper's order behind a ReLU; images are
augmented as by the victim's trainer.
"""

import copy
import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.metrics.classification import clean_accuracy, predictions
from raybd.repairs._clean_accuracy import AFTER, accuracy_facts, lost
from raybd.repairs._pruning import need_labels
from raybd.repairs._tuning import Tuning
from raybd.training.held_out import fit_and_held, strongest
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

PRUNED = "clean_part_accuracy_pruned"
"""Fact: accuracy on held-out images between pruning and training."""


class FinePruning(Tuning, Repair):
    """Silence the idlest units of the embedding, and train the rest on the clean part."""

    batch_size: int = Field(256, ge=1)
    """Images per step over all workers."""
    share: float | None = Field(None, ge=0, lt=1, json_schema_extra=searched(low=0.05, high=0.95))
    """Share of the units that is pruned; unset: as many as the accuracy on held-out trusted images
    allows, in steps of `step`."""
    step: float = Field(0.01, gt=0, le=0.5)
    """Share of the units by which the choice goes on."""
    tune: bool = True
    """Train after pruning; otherwise the paper's pruning alone."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a copy that is pruned and then fine-tuned; the suspects are not used.

        The facts are the number of pruned units, of how many, their share, and the accuracy on
        held-out images before, between and after. Raises Infeasible without trusted images, or if
        no layer of the head is linear in the embedding.
        """
        need_labels("fine_pruning", victim, clean)
        fitted, held = fit_and_held(clean, rng)
        order_D = idlest_first(infer(victim, fitted.x_NCHW, victim.embed))
        repaired = copy.deepcopy(victim).cpu()
        first = _first_linear(repaired, len(order_D))
        count = self._count(victim, held, order_D)
        idle_D = order_D[:count]

        def silence() -> None:
            with torch.no_grad():
                first.weight[:, idle_D] = 0

        silence()
        facts = {
            "pruned_channels": float(count),
            "channels": float(len(order_D)),
            "share": count / len(order_D),
        }
        if self.tune:
            between = accuracy_facts(repaired, repaired, held)
            facts |= {PRUNED: between[AFTER]} if between else {}
            # Momentum and decay of the untouched columns would not stop at zero.
            fit(
                repaired,
                fitted,
                self.resolved(),
                rng,
                self.objective(victim),
                name="fine_pruning",
                after_step=silence,
            )
        facts |= accuracy_facts(victim, repaired.eval(), held)
        missed = "nothing was pruned: even the idlest units cost too much on held-out images"
        warning = lost("fine_pruning", facts, held) if count else missed
        return Defended(repaired.cpu(), warning=warning, facts=facts)

    def _count(self, victim: Victim, held: Split, order_D: Tensor) -> int:
        """Return how many units are pruned: the share that is set, or what held images allow."""
        units = len(order_D)
        if self.share is not None:
            return round(self.share * units)
        if not len(held):
            raise Infeasible("fine_pruning: there is nothing to choose on: trust more images")

        steps = range(1, math.ceil(1 / self.step))
        counts = [round(step * self.step * units) for step in steps]
        # The head alone, on stored embeddings: each count costs one product of matrices.
        z_ND = infer(victim, held.x_NCHW, victim.embed)
        before, *accuracies = head_accuracies(victim, z_ND, held.y_N, order_D, [0, *counts])
        place = strongest(before, accuracies)
        return 0 if place is None else counts[place]


def idlest_first(z_ND: Tensor) -> Tensor:
    """Return the units in the order of the mean size of their activations, D; ties by index."""
    return z_ND.abs().mean(0).argsort(stable=True)


@torch.no_grad()
def head_accuracies(
    victim: Victim, z_ND: Tensor, y_N: Tensor, order_D: Tensor, counts: Sequence[int]
) -> list[float]:
    """Return the accuracy of the head, 0..1, without the first units of an order, by count."""
    pruned = copy.deepcopy(victim).cpu().eval()
    first = _first_linear(pruned, len(order_D))
    assert pruned.head is not None
    found = []
    for count in counts:
        # Counts may come in any order.
        kept_D = torch.ones(len(order_D)).index_fill(0, order_D[:count], 0)
        whole_OD = first.weight.clone()
        first.weight.mul_(kept_D)
        accuracy = clean_accuracy(predictions(pruned.head(z_ND)), y_N)
        assert accuracy is not None
        found.append(accuracy)
        first.weight.copy_(whole_OD)
    return found


def _first_linear(victim: Victim, units: int) -> nn.Linear:
    """Return the layer of the head that reads the embedding. Raises Infeasible."""
    assert victim.head is not None
    for module in victim.head.modules():
        if isinstance(module, nn.Linear) and module.in_features == units:
            return module
    raise Infeasible("fine_pruning: no layer of the head is linear in the embedding")
