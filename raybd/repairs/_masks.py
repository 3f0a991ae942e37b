"""A victim with a mask on the weight of each channel of its batch normalisations (ANP, RNP)."""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from raybd.repairs._pruning import THRESHOLDS, Channels, prune
from raybd.training.loop import Objective, fit
from raybd.training.recipe import Recipe
from raybd.types.data import Split
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

Noise = Sequence[Tensor]
"""What is added to the mask (row 0) and to a factor of the bias (row 1) of each channel, 2 x C, for
each batch normalisation."""


class MaskedNorms(nn.Module):
    """A frozen victim; what is learned is a factor of each channel's weight, in 0..1, first 1.

    In training mode the normalisations use the statistics of the batch, and the rest of the victim
    stays in eval mode. Their running statistics drift, so that a copy is taken.
    """

    def __init__(self, victim: Victim, norms: Mapping[str, nn.BatchNorm2d]) -> None:
        super().__init__()
        self.victim = copy.deepcopy(victim).requires_grad_(False).eval()
        self.norms = tuple(norms)
        self.masks = nn.ParameterList(torch.ones_like(norm.weight) for norm in norms.values())

    def train(self, mode: bool = True) -> "MaskedNorms":
        """Put the normalisations into a mode; all else, like dropout, stays in eval mode."""
        super().train(mode)
        self.victim.eval()
        for name in self.norms:
            # Asked for by name: on GPUs a process group replaces the modules.
            self.victim.encoder.get_submodule(name).train(mode)
        return self

    def forward(self, x_BCHW: Tensor, *noises: Noise | None) -> tuple[Tensor, ...]:
        """Return the logits of uint8 images under each of these noises; None: under none.

        Several in one call, because data parallelism expects one call for each step.
        """
        return tuple(self._logits(x_BCHW, noise) for noise in noises)

    def _logits(self, x_BCHW: Tensor, noise: Noise | None) -> Tensor:
        changed: dict[str, Tensor] = {}
        for at, (name, mask_C) in enumerate(zip(self.norms, self.masks, strict=True)):
            weight = f"encoder.{name}.weight"
            factor_C = mask_C if noise is None else mask_C + noise[at][0]
            changed[weight] = factor_C * self.victim.get_parameter(weight)
            if noise is not None:
                bias = f"encoder.{name}.bias"
                changed[bias] = (1 + noise[at][1]) * self.victim.get_parameter(bias)
        logits_BK: Tensor = functional_call(self.victim, changed, (x_BCHW,))
        return logits_BK

    @torch.no_grad()
    def clamp(self) -> None:
        """Put the masks back into 0..1, after a step."""
        for mask_C in self.masks:
            mask_C.clamp_(0, 1)

    def learn(
        self,
        split: Split,
        objective: Objective,
        rng: Generator,
        *,
        name: str,
        epochs: int,
        batch_size: int,
        lr: float,
        momentum: float,
        precision: Literal["auto", "fp32"],
    ) -> dict[str, Tensor]:
        """Train the masks with SGD of a constant rate, without decay; return them by norm, C."""
        recipe = Recipe(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            momentum=momentum,
            weight_decay=0,
            schedule="constant",
            augment="none",
            precision=precision,
        )
        fit(self, split, recipe, rng, objective, name, after_step=self.clamp)
        return {name: mask_C.detach() for name, mask_C in zip(self.norms, self.masks, strict=True)}


def prune_small(
    kind: str,
    victim: Victim,
    masks: Channels,
    threshold: float | None,
    held: Split,
    facts: Mapping[str, float],
) -> Defended:
    """Return a copy without the channels whose masks are at most a threshold; biases are kept.

    No threshold: the strongest of THRESHOLDS that keeps the accuracy on held images. Adds the least
    mask of each layer (`least_mask[name]`) to the facts.
    """

    def choose(value: float) -> Channels:
        return {name: mask_C <= value for name, mask_C in masks.items()}

    pruned = prune(victim, choose, THRESHOLDS if threshold is None else threshold, held)
    least = {f"least_mask[{name}]": float(mask_C.min()) for name, mask_C in masks.items()}
    return pruned.defended(kind, victim, held, "threshold", {**facts, **least})
