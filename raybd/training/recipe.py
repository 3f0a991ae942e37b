"""The hyperparameters of a training, and the optimizer and learning rate that follow from them."""

import math
from typing import Literal, Self

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from raybd.training.augmentation import Augment
from raybd.types.config import Config


class Recipe(Config):
    """How a network is trained: the fields that every trainer has.

    Defaults: the CIFAR-10 settings of BackdoorBench (Wu et al. 2022, arXiv 2206.12654): SGD with
    momentum 0.9, learning rate 0.01, weight decay 5e-4, batches of 128, a cosine, 100 epochs.
    Differs: Nesterov momentum; a crop is padded by an eighth of the side at any size; images of
    every data set are mirrored, also traffic signs and digits (set `augment: crop` for these).
    """

    epochs: int = Field(100, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD has Nesterov momentum; Adam decouples its weight decay."""
    lr: float = Field(0.01, gt=0)
    """Highest learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam)."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls: to zero at the last step (cosine), by `gamma` at each milestone
    (step), or not at all."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where a step schedule falls, as shares of the training, in 0..1."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor at each milestone."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the training over which the learning rate rises from zero."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient; unset: gradients are not clipped."""
    augment: Augment = "crop_flip"
    """Random crop (padded by an eighth of the side) and flip, either of them, or none; each image
    has its own draw."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware has it."""
    channels_last: bool = True
    """Memory layout; faster for convolutions."""

    def step_count(self, images: int) -> int:
        """Return the number of steps of a training on so many images."""
        return self.epochs * (images // min(self.batch_size, images))


class FollowingRecipe(Recipe):
    """The recipe of a defense that trains: it augments images as the victim's trainer does.

    Differs from the papers, which mirror and crop whatever they defend: a network that has never
    seen a mirrored traffic sign would first have to learn it, from few images.
    """

    augment: Literal["victim", Augment] = "victim"  # type: ignore[assignment]
    """As the victim's trainer (victim); or crop_flip, crop, flip, none as in every recipe. `victim`
    outside of an experiment, where no trainer is known: none."""

    def following(self, trainer: Config) -> Self:
        """Return it with the augmentation of the victim's trainer, unless it names its own."""
        # A trainer that has no such field shows its images as they are.
        return self._with(dict(trainer).get("augment", "none"))

    def resolved(self) -> Self:
        """Return it as `fit` takes it: with an augmentation, whether or not a trainer is known."""
        return self._with("none")

    def _with(self, augment: str) -> Self:
        if self.augment != "victim":
            return self
        return self.model_copy(update={"augment": augment})


def new_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer of all parameters that require a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(
            parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
    # torch refuses Nesterov's form without momentum.
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(
        parameters,
        recipe.lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=nesterov,
        fused=True,
    )


def new_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LambdaLR:
    """Return the recipe's schedule of a training of so many steps."""
    return LambdaLR(optimizer, lambda step: lr_factor(recipe, step / steps))


def lr_factor(recipe: Recipe, progress: float) -> float:
    """Return the learning rate at a share of the training (0..1), as a factor of `lr`."""
    if progress < recipe.warmup:
        # The first step is not wasted at a rate of zero, nor is it taken at more than `lr`.
        return min(1.0, max(progress, 1e-3) / recipe.warmup)
    if recipe.schedule == "cosine":
        past_warmup = (progress - recipe.warmup) / (1 - recipe.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(past_warmup, 1.0)))
    if recipe.schedule == "step":
        return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)
    return 1.0
