"""NPD: a small layer inside the network, trained to filter what adversarial images add.

Zhu, Wei, Zha and Wu 2023, arXiv 2306.16697, algorithm 1. A 1 x 1 convolution and a batch
normalisation, the polarizer, stand before a late convolution; nothing else is trained. After a few
epochs of cross-entropy, each batch is perturbed toward the class that is second, since a trigger's
class is near. The polarizer then learns the images, to see perturbed images as clean ones, and to
give little probability to the wrong classes that they lean to.
Differs: the place is the input of the second-last convolution that runs, in any network; in a
pre-activation ResNet-18 it is BackdoorBench's. Nesterov momentum; a part of the trusted images is
held out.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.distributed import group
from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.training import layers
from raybd.training.augmentation import Augment
from raybd.training.held_out import fit_and_held
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

ALMOST_ONE = 1.0001
"""What a probability is taken from before the logarithm, which stays finite at a probability of
one."""
TINY = 1e-12
"""Smallest norm that is divided by."""
NEEDS = "npd stands before the second-last convolution, and the network has fewer than two"


class Npd(Recipe, Repair):
    """Put a trained filter before the second-last convolution, and change nothing else."""

    epochs: int = Field(50, ge=1)
    """Passes over the trusted images with perturbed ones."""
    lr: float = Field(0.01, gt=0, json_schema_extra=searched(low=1e-3, high=0.2, log=True))
    """Highest learning rate."""
    augment: Augment = "none"
    """Random crop and flip, either of them, or none, before an image is perturbed."""
    first_epochs: int = Field(5, ge=1)
    """Passes over the trusted images before any is perturbed."""
    first_lr: float = Field(1e-4, gt=0, json_schema_extra=searched(low=1e-5, high=0.1, log=True))
    """Highest learning rate of these passes."""
    radius: float = Field(3.0, gt=0, json_schema_extra=searched(low=0.3, high=6.0))
    """Largest norm of a perturbation, over all pixels of an image, in 0..1."""
    search_step: float = Field(0.1, gt=0, le=1)
    """Change of a pixel in a step of the search, in 0..1."""
    search_steps: int = Field(2, ge=1)
    """Steps of the search, at most."""
    enough: float = Field(0.6, gt=0, le=1)
    """Share of a batch that has the wanted class, at which the search stops."""
    clean_weight: float = Field(1.0, ge=0)
    """Weight of the loss of trusted images (lambda 1)."""
    agreement_weight: float = Field(0.4, ge=0)
    """Weight of the loss of perturbed images with the labels that they have without (lambda 2)."""
    top_weight: float = Field(0.4, ge=0)
    """Weight against the most probable wrong class of a perturbed image (lambda 3)."""
    target_weight: float = Field(0.4, ge=0)
    """Weight against the class that an image was perturbed toward (lambda 4)."""

    def cannot(self, encoder: nn.Module, num_classes: int) -> str | None:
        """Return why there is no place for a filter: there are too few convolutions."""
        convolutions = [each for each in encoder.modules() if isinstance(each, nn.Conv2d)]
        return None if len(convolutions) > 1 else NEEDS

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Put the filter where `state` has one; its weights are loaded afterwards."""
        end = f".{Filtered.FILTER}.0.weight"
        for name in state:
            if name.startswith("encoder.") and name.endswith(end):
                insert(victim, name.removeprefix("encoder.").removesuffix(end))

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a copy with a filter inside; the suspects are not used.

        The facts are the number of steps, the share of the perturbed images over all steps that
        took the class wanted of them, and the accuracy before and after on held images. Raises
        Infeasible where fewer than two convolutions run.
        """
        name = place(victim, clean.x_NCHW[:2])
        learned, held = fit_and_held(clean, rng)
        filtered = copy.deepcopy(victim)
        polarizer = insert(filtered, name)
        others = list(_beside(filtered, polarizer))

        first = self.model_copy(update={"epochs": self.first_epochs, "lr": self.first_lr})
        with _only(filtered, polarizer):
            fit(filtered, learned, first, rng, name="npd first", frozen=others)
        polarizing = _Polarizing(self, filtered)
        with _only(filtered, polarizer):
            fit(
                filtered,
                learned,
                self,
                rng,
                polarizing,
                name="npd",
                frozen=others,
                extra_state=polarizing,
                moving_statistics=False,
            )

        steps = first.step_count(len(learned)) + self.step_count(len(learned))
        facts = {"steps": float(steps), "led_share": polarizing.led_share}
        facts |= accuracy_facts(victim, filtered, held)
        missed = "npd: no image took the class that it was perturbed toward; raise radius"
        warning = lost("npd", facts, held) if polarizing.led else missed
        return Defended(filtered, warning=warning, facts=facts)

    def search(self, victim: Victim, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return perturbed images (0..255, float), the classes wanted of them, and said before."""
        with torch.no_grad():
            plain_BK = victim(x_BCHW).float()
        wanted_B = without(plain_BK, y_B).argmax(1)
        pixels_BCHW = x_BCHW.float() / 255
        d_BCHW = torch.zeros_like(pixels_BCHW)
        for _ in range(self.search_steps):
            d_BCHW.requires_grad_()
            worn_BK = victim(255 * (pixels_BCHW + d_BCHW)).float()
            # Decided on the whole batch, so that all workers stop at once.
            reached, images = _counted(worn_BK.argmax(1) == wanted_B)
            if reached >= self.enough * images:
                break

            loss = F.cross_entropy(worn_BK, wanted_B, reduction="sum")
            (slope_BCHW,) = torch.autograd.grad(loss, d_BCHW)
            d_BCHW = in_ball(d_BCHW.detach() - self.search_step * slope_BCHW.sign(), self.radius)
            d_BCHW = (pixels_BCHW + d_BCHW).clamp(0, 1) - pixels_BCHW
        worn_BCHW = 255 * (pixels_BCHW + d_BCHW.detach())
        return worn_BCHW, wanted_B, plain_BK.argmax(1)


class Filtered(nn.Module):
    """A convolution with a filter before it, which passes its input on until it is trained."""

    FILTER: ClassVar[str] = "polarizer"
    """The name of the filter inside of this module."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        channels = convolution.in_channels
        # torch's own weights would be drawn from the global stream, and be replaced.
        identity = nn.utils.skip_init(nn.Conv2d, channels, channels, 1, bias=False)
        nn.init.dirac_(identity.weight)
        self.polarizer = nn.Sequential(identity, nn.BatchNorm2d(channels))
        self.convolution = convolution
        self.to(convolution.weight.device).train(convolution.training)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the convolution of the filtered maps."""
        out_BCHW: Tensor = self.convolution(self.polarizer(x_BCHW))
        return out_BCHW


def place(victim: Victim, x_BCHW: Tensor) -> str:
    """Return the name of the second-last convolution that runs. Raises Infeasible without one."""
    calls = layers.trace(victim, x_BCHW)
    names = list(dict.fromkeys(c.name for c in calls if isinstance(c.module, nn.Conv2d)))
    if len(names) < 2:
        raise Infeasible(NEEDS)
    return names[-2]


def insert(victim: Victim, name: str) -> nn.Module:
    """Put an untrained filter before a convolution of the encoder, in place; return the filter."""
    parent, _, child = name.rpartition(".")
    convolution = victim.encoder.get_submodule(name)
    assert isinstance(convolution, nn.Conv2d)
    filtered = Filtered(convolution)
    setattr(victim.encoder.get_submodule(parent), child, filtered)
    return filtered.polarizer


def in_ball(d_BCHW: Tensor, radius: float) -> Tensor:
    """Return perturbations, each shortened to a norm of at most `radius`."""
    norm_B111 = d_BCHW.flatten(1).norm(dim=1).clamp_min(TINY).view(-1, 1, 1, 1)
    shortened_BCHW: Tensor = d_BCHW * (radius / norm_B111).clamp_max(1)
    return shortened_BCHW


def without(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """Return logits in which one class of each image is out of the question."""
    return logits_BK.scatter(1, label_B[:, None], -torch.inf)


def suppressed(p_BK: Tensor, label_B: Tensor) -> Tensor:
    """Return the loss -ln(1.0001 - p) of the probability of a class, B."""
    p_B = p_BK.gather(1, label_B[:, None])[:, 0]
    return -(ALMOST_ONE - p_B).log()


class _Polarizing:
    """The losses of the filter once images are perturbed."""

    def __init__(self, npd: Npd, victim: Victim) -> None:
        self.npd = npd
        self.victim = victim
        self.images = 0
        self.led = 0

    def __call__(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        # The network itself, not the wrapped one: a search needs no gradients of weights.
        worn_BCHW, wanted_B, said_B = self.npd.search(self.victim, x_BCHW, y_B)
        logits_BK = model(torch.cat([x_BCHW.float(), worn_BCHW])).float()
        plain_BK, worn_BK = logits_BK.chunk(2)
        led, images = _counted(worn_BK.argmax(1) == wanted_B)
        self.led += led
        self.images += images

        p_BK = worn_BK.softmax(1)
        top_B = without(worn_BK, y_B).argmax(1)
        agree_B = F.cross_entropy(worn_BK, said_B, reduction="none")
        return (
            self.npd.clean_weight * F.cross_entropy(plain_BK, y_B, reduction="none")
            + self.npd.agreement_weight * agree_B
            + self.npd.top_weight * suppressed(p_BK, top_B)
            + self.npd.target_weight * suppressed(p_BK, wanted_B)
        )

    @property
    def led_share(self) -> float:
        """Share of the perturbed images, over all steps, that took the class wanted of them."""
        return self.led / max(1, self.images)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {"images": self.images, "led": self.led}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.images = state["images"]
        self.led = state["led"]


def _counted(hit_B: Tensor) -> tuple[int, int]:
    """Return how many images of the whole batch are hit, and how many there are."""
    counts = torch.tensor([int(hit_B.sum()), len(hit_B)], device=hit_B.device)
    hits, images = group.sum_over(counts).tolist()
    return hits, images


@contextmanager
def _only(victim: Victim, part: nn.Module) -> Iterator[None]:
    """Let a part of a network alone have gradients, and put all back afterwards.

    Also parameters that lie beside modules on the way to the part, like the scale of a block.
    """
    before = [(each, each.requires_grad) for each in victim.parameters()]
    victim.requires_grad_(False)
    part.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, had_gradient in before:
            parameter.requires_grad_(had_gradient)


def _beside(module: nn.Module, part: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules that do not contain a part, which lies below `module`."""
    for child in module.children():
        if child is part:
            continue
        if any(each is part for each in child.modules()):
            yield from _beside(child, part)
        else:
            yield child
