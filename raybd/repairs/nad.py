"""NAD: a fine-tuned copy teaches the victim where to look.

Li, Lyu, Koren, Lyu, Li and Ma 2021, arXiv 2101.05930, section on neural attention distillation.
The teacher is the victim, fine-tuned on trusted images; the student starts at the victim. Its loss
is the cross-entropy and, for the last stages, `beta` times the mean squared difference of their
attention maps. The attention of a stage is the sum over channels of |activation|^p, divided by its
norm over positions.
Differs: stages are the last modules of each size of maps, in any network; those of a transformer
are its last blocks, with tokens for positions. No cutout; images are augmented as by the victim's
trainer. Teacher and student share the recipe. A part of the trusted images is held out.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._tuning import Tuning
from raybd.training import layers
from raybd.training.held_out import fit_and_held
from raybd.training.loop import Objective, fit
from raybd.training.runtime import current, running
from raybd.training.trusted import trusted_accuracy
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

TINY = 1e-6
"""Added to the norm of an attention map."""


class Nad(Tuning, Repair):
    """Fine-tune the victim so that its attention becomes that of a fine-tuned copy."""

    epochs: int = Field(20, ge=1)
    """Passes of the student over the trusted images. BackdoorBench: 10."""
    batch_size: int = Field(64, ge=1)
    """Images per step over all workers."""
    lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=1e-3, high=0.2, log=True))
    """Highest learning rate, of teacher and student."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    schedule: Literal["cosine", "step", "constant"] = "step"
    """How the learning rate falls: to zero at the last step (cosine), by `gamma` at each milestone
    (step), or not at all."""
    milestones: tuple[float, ...] = (0.1,)
    """Where a step schedule falls, as shares of the training, in 0..1: after 2 epochs of 20."""
    teacher_epochs: int = Field(10, ge=1)
    """Passes of the teacher over the trusted images."""
    power: float = Field(2.0, gt=0)
    """Exponent of an activation in its attention map."""
    beta: tuple[Annotated[float, Field(ge=0)], ...] = Field((500.0, 1000.0, 1000.0), min_length=1)
    """Weights of the attention maps of the last stages, early ones first. A network of fewer stages
    takes the last weights."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why an encoder has no attention: nothing in it is trained."""
        if any(True for _ in encoder.parameters()):
            return None
        return "nad compares maps inside the network, and this one has nothing to train"

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return the student; the suspects are not used.

        The facts are the numbers of steps of teacher and student together and of compared stages,
        the teacher's accuracy and the accuracy before and after, all on held images. Raises
        Infeasible for a network that puts out neither maps nor tokens.
        """
        names = attended(victim, clean.x_NCHW[:2], len(self.beta))
        if not names:
            raise Infeasible("nad: the network has neither maps nor tokens to compare")
        weights = dict(zip(names, self.beta[-len(names) :], strict=True))

        learned, held = fit_and_held(clean, rng)
        recipe = self.resolved()
        as_teacher = recipe.model_copy(update={"epochs": self.teacher_epochs})
        student = copy.deepcopy(victim)
        # Not compiled: the hooks that read the maps would not run.
        with running(replace(current(), compile=False)), layers.reading(student, names) as shown:
            taught = self.objective(victim)
            teacher = fit(
                copy.deepcopy(victim), learned, as_teacher, rng, taught, name="nad teacher"
            )
            distilled = _Distilled(teacher, weights, shown, self.power, taught)
            fit(student, learned, recipe, rng, distilled, name="nad")

        facts = {
            "steps": float(recipe.step_count(len(learned)) + as_teacher.step_count(len(learned))),
            "stages": float(len(names)),
        }
        if (accuracy := trusted_accuracy(teacher, held)) is not None:
            facts["teacher_accuracy"] = accuracy

        facts |= accuracy_facts(victim, student, held)
        return Defended(student, warning=lost("nad", facts, held), facts=facts)


def attended(victim: Victim, x_BCHW: Tensor, count: int) -> list[str]:
    """Return the modules whose outputs are compared, at most `count`, the last ones in order.

    They are the stages of a convolutional network, or the blocks of a transformer.
    """
    blocks: list[str] = []
    inside = dict(victim.encoder.named_modules())
    calls = layers.trace(victim, x_BCHW)
    in_a_list = [
        call.name
        for call in calls
        if len(call.shape) == 3
        and len(x_BCHW) == call.shape[0]
        and isinstance(inside[call.name.rpartition(".")[0]], nn.Sequential | nn.ModuleList)
    ]
    for name in in_a_list:
        # Blocks are lists of layers themselves, which do not count.
        if not any(name.startswith(f"{other}.") for other in in_a_list):
            blocks.append(name)
    return (blocks or layers.stages(victim, x_BCHW))[-count:]


def attention(out: Tensor, power: float) -> Tensor:
    """Return the attention map of each image over its positions, B x T, of norm one."""
    map_BT = layers.by_position(out.float()).abs().pow(power).sum(1)
    normed_BT: Tensor = map_BT / (map_BT.norm(dim=1, keepdim=True) + TINY)
    return normed_BT


class _Distilled:
    """The student's losses: of its predictions, and of its attention against the teacher's."""

    def __init__(
        self,
        teacher: Victim,
        weights: Mapping[str, float],
        shown: Mapping[str, Tensor],
        power: float,
        objective: Objective,
    ) -> None:
        self.objective = objective
        self.teacher = teacher.to(group.device()).eval()
        self.weights = weights
        self.shown = shown
        """What the student's modules put out in the last pass."""
        self.power = power

    def __call__(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        with torch.no_grad(), layers.reading(self.teacher, list(self.weights)) as taught:
            self.teacher(x_BCHW)
        loss_B = self.objective(model, x_BCHW, y_B, rows_B)
        for name, weight in self.weights.items():
            wanted_BT = attention(taught[name], self.power)
            found_BT = attention(self.shown[name], self.power)
            loss_B = loss_B + weight * (found_BT - wanted_BT).square().mean(1)
        return loss_B
