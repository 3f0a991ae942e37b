"""MCR: walk along a curve of good weights from the victim toward a fine-tuned copy.

Zhao, Chen, Das, Natesan Ramamurthy and Lin 2020, arXiv 2005.00060, section on mode connectivity.
The curve is (1 - t)^2 w1 + 2 t (1 - t) w + t^2 w2, with the victim w1 at one end; its bend w is
trained so that the loss of trusted images is low all along it. The repaired network is the point t.
Differs: the other end is the victim, fine-tuned on trusted images, as in BackdoorBench; the paper
connects two backdoored networks, which a single defender does not have. Statistics of batch
normalisation are found anew at t (BackdoorBench keeps those of a fresh network and moves them by a
tenth at each pass). A part of the trusted images is held out.
"""

import copy
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.repairs._tuning import Tuning
from raybd.training.epochs import Epochs
from raybd.training.held_out import fit_and_held, strongest
from raybd.training.loop import fit
from raybd.training.passes import relearn_statistics, with_weights
from raybd.training.trusted import trusted_accuracy
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

POINTS = tuple(place / 20 for place in range(1, 11))
"""Points of the curve that are tried where `t` is held: from near the victim to the middle."""


class Mcr(Tuning, Repair):
    """Take a point of a low-loss curve between the victim and a fine-tuned copy."""

    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=1e-3, high=0.2, log=True))
    """Highest learning rate of the bend. BackdoorBench: 0.00003, which hardly moves it."""
    end_epochs: int = Field(100, ge=1)
    """Passes of the fine-tuned end over the trusted images."""
    end_lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=1e-3, high=0.2, log=True))
    """Highest learning rate of the fine-tuned end."""
    t: Annotated[float, Field(ge=0, le=1)] | Literal["held"] = 0.1
    """Place on the curve, from the victim (0) to the fine-tuned end (1). held: the largest of .05,
    .1, ... .5 that costs little accuracy on held images, and so do all before it."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return the network at t; the suspects are not used.

        The facts are t, the number of steps of end and bend together, the accuracy of the
        fine-tuned end, and the accuracy before and after, all on held images. The victim is
        returned as it was where no point of the curve is allowed.
        """
        learned, held = fit_and_held(clean, rng)
        recipe = self.resolved()
        to_end = recipe.model_copy(update={"epochs": self.end_epochs, "lr": self.end_lr})
        taught = self.objective(victim)
        end = fit(copy.deepcopy(victim), learned, to_end, rng, taught, name="mcr end")
        curve = _Curve(victim, end, rng)
        fit(curve.bend, learned, recipe, rng, taught, name="mcr", step=curve.step)
        facts = {"steps": float(recipe.step_count(len(learned)) + to_end.step_count(len(learned)))}
        if (accuracy := trusted_accuracy(end, held)) is not None:
            facts["end_accuracy"] = accuracy

        chosen: float | None = self.t if isinstance(self.t, float) else None
        if self.t == "held":
            chosen = self._furthest(curve, learned, held, trusted_accuracy(victim, held))
        if chosen is None:
            facts |= {"t": 0.0} | accuracy_facts(victim, victim, held)
            missed = f"mcr: the victim is unchanged: t = {POINTS[0]:g} already costs too much"
            return Defended(copy.deepcopy(victim).cpu(), warning=missed, facts=facts)

        repaired = curve.at(chosen, learned.x_NCHW, self.batch_size)
        facts |= {"t": chosen} | accuracy_facts(victim, repaired, held)
        return Defended(repaired.cpu(), warning=lost("mcr", facts, held), facts=facts)

    def _furthest(
        self, curve: "_Curve", learned: Split, held: Split, before: float | None
    ) -> float | None:
        """Return the largest t that costs little on held images; None: none does."""
        networks = (curve.at(t, learned.x_NCHW, self.batch_size) for t in POINTS)
        accuracies = [trusted_accuracy(network, held) or 0.0 for network in networks]
        place = strongest(before or 0.0, accuracies)
        return None if place is None else POINTS[place]


def shares(t: float) -> tuple[float, float, float]:
    """Return the shares of start, bend and end in the point t of the curve; they sum to one."""
    return (1 - t) ** 2, 2 * t * (1 - t), t**2


class _Curve:
    """A curve of networks from one end to the other, and its bend, which is trained."""

    def __init__(self, start: Victim, end: Victim, rng: Generator) -> None:
        self.rng = rng
        self.start = [each.detach().to(group.device()) for each in _trained(start)]
        self.end = [each.detach().to(group.device()) for each in _trained(end)]
        self.bend = copy.deepcopy(start).to(group.device())
        with torch.no_grad():
            for weight, one, other in zip(_trained(self.bend), self.start, self.end, strict=True):
                weight.copy_((one + other) / 2)

    def step(self, loop: Epochs, loss: Callable[[], Tensor]) -> None:
        """Move the bend down the loss at a random point of the curve."""
        t = float(torch.rand((), generator=self.rng))
        bend = _trained(self.bend)
        with with_weights(bend, self.weights(t)):
            loop.backward(loss())
        for parameter in bend:
            # The bend is only a share of the point, and its gradient only that share.
            if parameter.grad is not None:
                parameter.grad.mul_(shares(t)[1])
        loop.descend()

    def weights(self, t: float) -> list[Tensor]:
        """Return the weights of the point t."""
        from_start, from_bend, from_end = shares(t)
        bend = [each.detach().to(group.device()) for each in _trained(self.bend)]
        parts = zip(self.start, bend, self.end, strict=True)
        return [from_start * a + from_bend * b + from_end * c for a, b, c in parts]

    def at(self, t: float, x_NCHW: Tensor, batch_size: int) -> Victim:
        """Return the network at the point t, with statistics of these images."""
        network = copy.deepcopy(self.bend)
        with torch.no_grad():
            for parameter, weight in zip(_trained(network), self.weights(t), strict=True):
                parameter.copy_(weight)
        relearn_statistics(network, x_NCHW, batch_size)
        return network


def _trained(victim: Victim) -> list[nn.Parameter]:
    return [parameter for parameter in victim.parameters() if parameter.requires_grad]
