"""What the repairs that silence channels of batch normalisations share."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.training import layers
from raybd.training.held_out import strongest
from raybd.training.trusted import trusted_accuracy
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

ROUNDING = 1e-9
"""Deviation in a layer that counts as zero, as a share of its mean."""
BOUNDS = tuple(10 - step / 2 for step in range(19))
"""Deviations above the mean of its layer from which on a channel is pruned: the grid of a choice,
10 to 1."""
THRESHOLDS = tuple(step / 20 for step in range(19))
"""Masks up to which a channel is pruned: the grid of a choice, 0 to .9 (as in the public sweeps of
ANP, which choose on test images)."""

Channels = Mapping[str, Tensor]
"""Something about each channel, C, of each batch normalisation, by its name."""


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a victim, and what was done to it."""

    victim: Victim
    setting: float | None
    """The strength that was used; None: even the weakest costs too much, and nothing is pruned."""
    pruned_channels: int
    """Channels that were silenced."""
    channels: int
    """Channels that could have been."""

    def defended(
        self, kind: str, before: Victim, held: Split, setting: str, facts: Mapping[str, float]
    ) -> Defended:
        """Return what a repair hands out, with facts of its own and a warning where it has one.

        The others are the counts of channels, the strength under the name `setting`, and the
        accuracy before and after on held images.
        """
        found = {"pruned_channels": float(self.pruned_channels), "channels": float(self.channels)}
        if self.setting is not None:
            found[setting] = self.setting
        found |= {**facts, **accuracy_facts(before, self.victim, held)}

        warning = lost(kind, found, held)
        if self.setting is None:
            warning = (
                f"nothing was pruned: even the weakest {setting} costs too much on held-out images"
            )
        elif not self.pruned_channels:
            warning = f"nothing was pruned: no channel is as far out as {setting} asks"
        return Defended(self.victim, warning=warning, facts=found)


def missing_norms(kind: str, encoder: nn.Module) -> str | None:
    """Return why an encoder has nothing to prune, if so: it has no batch normalisation."""
    modules = encoder.modules()
    if any(isinstance(module, nn.BatchNorm2d) and module.affine for module in modules):
        return None
    return f"{kind} needs batch normalisation, and the network has none"


def affine_norms(kind: str, victim: Victim, x_BCHW: Tensor) -> dict[str, nn.BatchNorm2d]:
    """Return the batch normalisations with a weight, by name, in the order of their first calls.

    Raises Infeasible if there is none.
    """
    if (reason := missing_norms(kind, victim.encoder)) is not None:
        raise Infeasible(reason)
    names = {module: name for name, module in victim.encoder.named_modules()}
    called = layers.norms(victim, x_BCHW)
    return {names[norm]: norm for norm in called if norm.affine}


def need_labels(kind: str, victim: Victim, clean: Split) -> None:
    """Raise Infeasible if there are no trusted images, or no head that predicts their labels."""
    if victim.head is None:
        raise Infeasible(f"{kind} needs a classifier, and the encoder has no head")
    if not len(clean):
        raise Infeasible(f"{kind} needs trusted images: set the data set's `clean`")


def deviation(value_C: Tensor) -> float:
    """Return the standard deviation of a sample (n - 1); infinite if all its values are equal.

    Then no value lies any number of deviations from the mean.
    """
    # A sample of one has no deviation: `std` gives NaN.
    found = float(value_C.std()) if len(value_C) > 1 else 0.0

    # Equal values differ by rounding, and then one of them would be an outlier.
    return found if found > ROUNDING * float(value_C.mean().abs()) else math.inf


def deviations(value_C: Tensor) -> Tensor:
    """Return by how many standard deviations each value lies above the mean, C; NaN stays NaN.

    NaN stands for channels of which nothing can be said: they count for neither moment.
    """
    known_C = value_C[~value_C.isnan()]
    return (value_C - known_C.mean()) / deviation(known_C)


def silenced(victim: Victim, chosen: Channels, bias: bool) -> Victim:
    """Return a copy whose chosen channels (masks, by norm) have weight 0, and if asked bias 0."""
    copied = copy.deepcopy(victim).cpu().eval()
    for name, chosen_C in chosen.items():
        norm = copied.encoder.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            norm.weight[chosen_C] = 0
            if bias:
                norm.bias[chosen_C] = 0
    return copied


def prune(
    victim: Victim,
    choose: Callable[[float], Channels],
    strength: float | Sequence[float],
    held: Split,
    bias: bool = False,
) -> Pruned:
    """Return a copy of which the channels that `choose` names at a strength are silenced.

    `strength` is one value, or the weak to strong ones of which the strongest is taken that keeps
    the accuracy on held images (`held_out.strongest`). `bias`: they put out nothing, instead of
    their bias.
    """
    if isinstance(strength, Sequence):
        setting = _strongest(victim, choose, strength, held, bias)
    else:
        setting = strength
    chosen = {} if setting is None else choose(setting)
    return Pruned(
        silenced(victim, chosen, bias),
        setting,
        sum(int(chosen_C.sum()) for chosen_C in chosen.values()),
        sum(len(chosen_C) for chosen_C in choose(0).values()),
    )


def _strongest(
    victim: Victim,
    choose: Callable[[float], Channels],
    strengths: Sequence[float],
    held: Split,
    bias: bool,
) -> float | None:
    """Return the strongest of these values that keeps the accuracy on held images, if any does."""
    before = trusted_accuracy(victim, held)
    if before is None:
        raise Infeasible("there is nothing to choose a strength on: trust more images, or set it")

    accuracies: list[float] = []
    for strength in strengths:
        accuracy = trusted_accuracy(silenced(victim, choose(strength), bias), held)
        assert accuracy is not None
        accuracies.append(accuracy)
    place = strongest(before, accuracies)
    return None if place is None else strengths[place]
