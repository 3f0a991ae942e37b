"""The hyperparameters of a training, and the optimizer and learning rate that follow from them."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from raybd.training.augmentation import Augment, Bounds
from raybd.training.plateau import Plateau
from raybd.types.config import Config

Beta = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Config):
    """How a network is trained: the fields that every trainer has.

    Defaults: the CIFAR-10 settings of BackdoorBench (Wu et al. 2022, arXiv 2206.12654): SGD with
    momentum 0.9, learning rate 0.01, weight decay 5e-4, batches of 128, a cosine, 100 epochs.
    Differs: Nesterov momentum (theirs is plain: `nesterov: false`); a crop is padded by an eighth
    of the side at any size (`padding: 4` has their pixels); images of every data set are mirrored,
    also traffic signs and digits (set `augment: crop` for these).

    Fields that came later are left out of keys where they have their default: results of older
    versions stay.
    """

    epochs: int = Field(100, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD has Nesterov momentum (see `nesterov`); Adam decouples its weight decay."""
    lr: float = Field(0.01, gt=0)
    """Highest learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = Field(True, exclude_if=lambda it: it is True)
    """Whether the momentum of SGD is Nesterov's; false: plain, as in BackdoorBench."""
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), exclude_if=lambda it: it == (0.9, 0.999))
    """Adam: shares that its means of gradients and of their squares keep at each step."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    decay_norms: bool = Field(True, exclude_if=lambda it: it is True)
    """Whether scales and offsets decay, too: those of normalisations, and biases; false: only
    weights of two dimensions or more."""
    schedule: Literal["cosine", "linear", "step", "plateau", "constant"] = "cosine"
    """How the learning rate falls: to zero at the last step (cosine, linear), by `gamma` at each
    milestone (step) or where the loss does not fall (plateau), or not at all."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where a step schedule falls, as shares of the training, in 0..1."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor at each milestone, or plateau."""
    patience: int = Field(10, ge=0, exclude_if=lambda it: it == 10)
    """`schedule: plateau`: this many epochs in a row may pass without a training loss below the
    lowest one; at the next such epoch the learning rate falls."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the training over which the learning rate rises from zero."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient; unset: gradients are not clipped."""
    augment: Augment = "crop_flip"
    """Random crop (padded by an eighth of the side, or `padding`) and flip, either of them, or
    none; each image has its own draw."""
    padding: int | None = Field(None, ge=0, exclude_if=lambda it: it is None)
    """Pixels by which a crop is padded, and the most that it moves; unset: an eighth of the
    side."""
    rotation: float = Field(0.0, ge=0, le=180, exclude_if=lambda it: it == 0)
    """Largest angle by which an augmented image is turned to either side, in degrees."""
    cutout: int = Field(0, ge=0, exclude_if=lambda it: it == 0)
    """Side of the black square in an augmented image, in pixels, anywhere in it, and cut at the
    border (DeVries and Taylor 2017, arXiv 1708.04552)."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware has it."""
    channels_last: bool = True
    """Memory layout; faster for convolutions."""

    @model_validator(mode="after")
    def _augmented_at_all(self) -> Self:
        """Refuse to turn or cut images that are shown as they are."""
        if self.augment == "none" and (self.rotation or self.cutout or self.padding is not None):
            raise ValueError(
                "rotation, cutout and padding change nothing with augment: none "
                "(augment: crop with padding: 0 only turns and cuts)"
            )
        return self

    @property
    def bounds(self) -> Bounds:
        """How far the augmentation goes."""
        return Bounds(self.padding, self.rotation, self.cutout)

    def refused(self, side: int) -> str | None:
        """Return that the square would be larger than the image, if so."""
        if self.cutout > side:
            return f"cutout {self.cutout} is larger than the images, {side} pixels"
        return None

    def step_count(self, images: int) -> int:
        """Return the number of steps of a training on so many images."""
        return self.epochs * (images // min(self.batch_size, images))


class FollowingRecipe(Recipe):
    """The recipe of a defense that trains: it augments images as the victim's trainer does.

    Differs from the papers, which mirror and crop whatever they defend: a network that has never
    seen a mirrored traffic sign would first have to learn it, from few images.
    """

    augment: Literal["victim", Augment] = "victim"  # type: ignore[assignment]
    """As the victim's trainer, with its padding, rotation and cutout (victim); or crop_flip, crop,
    flip, none as in every recipe. `victim` outside of an experiment, where no trainer is known:
    none."""

    def following(self, trainer: Config) -> Self:
        """Return it with the augmentation of the victim's trainer, unless it names its own."""
        # A trainer that has no such field shows its images as they are.
        shown = dict(trainer)
        return self._with(shown.get("augment", "none"), shown)

    def resolved(self) -> Self:
        """Return it as `fit` takes it: with an augmentation, whether or not a trainer is known."""
        return self._with("none", {})

    def _with(self, augment: str, shown: Mapping[str, Any]) -> Self:
        if self.augment != "victim":
            return self
        # A bound that the entry sets itself stays.
        taken = {"padding", "rotation", "cutout"} - self.model_fields_set
        update = {name: shown[name] for name in taken if name in shown}
        return self.model_copy(update={**update, "augment": augment})


def new_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer of all parameters that require a gradient."""
    parameters: Any = [p for p in model.parameters() if p.requires_grad]
    if not recipe.decay_norms:
        decaying = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decaying},
            {"params": others, "weight_decay": 0.0},
        ]
        # torch takes a group without parameters, but its learning rate would be nobody's.
        parameters = [group for group in groups if group["params"]]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(
            parameters, recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        recipe.lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        # torch refuses Nesterov's form without momentum.
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=True,
    )


def new_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LambdaLR:
    """Return the recipe's schedule of a training of so many steps."""
    if recipe.schedule == "plateau":
        return Plateau(
            optimizer,
            lambda step: lr_factor(recipe, step / steps),
            recipe.gamma,
            recipe.patience,
        )
    return LambdaLR(optimizer, lambda step: lr_factor(recipe, step / steps))


def lr_factor(recipe: Recipe, progress: float) -> float:
    """Return the learning rate at a share of the training (0..1), as a factor of `lr`.

    What a plateau takes from it depends on the losses, and is left to `Plateau`.
    """
    if progress < recipe.warmup:
        # The first step is not wasted at a rate of zero, nor is it taken at more than `lr`.
        return min(1.0, max(progress, 1e-3) / recipe.warmup)
    if recipe.schedule == "cosine":
        past_warmup = (progress - recipe.warmup) / (1 - recipe.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(past_warmup, 1.0)))
    if recipe.schedule == "linear":
        return max(0.0, (1 - progress) / (1 - recipe.warmup))
    if recipe.schedule == "step":
        return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)
    return 1.0
