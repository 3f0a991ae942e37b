"""Grond: a faint universal noise on target-class images, and a victim without outlying channels.

Xu, Liu, Koffas and Picek 2025, arXiv 2501.05928, section on adversarial backdoor injection.
Differs: noise in whole grey levels; which convolution feeds which normalisation is found by
execution; a channel's bound has the normalisation's eps under its root; the victim that is handed
out has had its channels evened out after the last epoch, too (the authors keep the best epoch
before that).
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.poisoning.attack import DataAttack
from raybd.poisoning.drawing import draw_of_class
from raybd.poisoning.label_maps import CleanLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.twin import classifier
from raybd.poisoning.universal import noise_toward
from raybd.training import models
from raybd.training.layers import channel_bounds, conv_norm_pairs
from raybd.training.loop import fit
from raybd.training.recipe import Recipe
from raybd.types.data import Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput, RateBasis, ThreatModel
from raybd.types.models import Victim


class Grond(DataAttack):
    """Add one noise to target-class images, and even out channels after each epoch."""

    threat_model: ClassVar[ThreatModel] = "training"
    rate_basis: ClassVar[RateBasis | None] = "of_class"
    needs_twin: ClassVar[bool] = True
    follows_recipe: ClassVar[bool] = True
    rate: float = Field(0.5, gt=0, le=1)
    """Share of the target class that is poisoned."""
    eps: int = Field(8, ge=0, le=255)
    """Largest change of a pixel by the noise, in grey levels."""
    steps: int = Field(500, ge=1)
    """Steps in which the noise is found, each of a fifth of `eps` on one batch."""
    batch_size: int = Field(256, ge=1)
    """Training images in each of these steps."""
    u: float = Field(3.0, gt=0)
    """Standard deviations above the mean of its layer from which on a channel is evened out."""
    labels: CleanLabel = CleanLabel()
    """The target class; labels never change."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return rows of the target class."""
        if self.eps == 0:
            raise Infeasible("eps 0 leaves no trigger: set it to 1 or more")
        return draw_of_class(y_N, num_classes, self.rate, self.labels, rng)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Find the noise on the twin, poison rows, and train the victim on the poisoned set."""
        train = given.train
        # A plan gives both to an attack that controls training and follows the recipe.
        assert given.network is not None
        assert isinstance(given.recipe, Recipe)
        twin, _ = classifier("grond", given.twin)
        rows = self.choose(train.y_N, given.num_classes, rng)
        noise_CHW = noise_toward(
            twin,
            train.x_NCHW,
            self.labels.target,
            eps=self.eps,
            step=self.eps / 5,
            steps=self.steps,
            batch_size=self.batch_size,
            rng=rng,
        )
        state = {"noise_CHW": noise_CHW}
        seen = overlay(self, given, rows, state=state).over(train)

        victim = models.new_victim(seen, given.num_classes, given.network, rng)
        # Names, because on GPUs a group replaces the modules while it trains.
        pairs = norms_after_convolutions(victim, train.x_NCHW[:2])
        if not pairs:
            raise Infeasible("grond: no convolution is followed directly by batch normalisation")

        def even_out() -> bool:
            for conv, norm in pairs.items():
                level_outliers(victim, conv, norm, self.u)
            return False

        # Before each epoch is after the one before it, also in a training that resumes. Before the
        # first one, the channels of a layer are all scaled alike, and nothing changes.
        fit(victim, seen, given.recipe, rng, name="grond", until=even_out)
        even_out()
        return overlay(self, given, rows, state=state, victim=victim)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the noise."""
        return to_pixels(x_NCHW.float() + state["noise_CHW"])


def norms_after_convolutions(victim: Victim, x_BCHW: Tensor) -> dict[str, str]:
    """Return the name of the batch normalisation that each convolution feeds, by its own name."""
    names = {module: name for name, module in victim.encoder.named_modules()}
    found = conv_norm_pairs(victim, x_BCHW)
    return {conv: names[norm] for conv, (_, norm) in found.items()}


@torch.no_grad()
def level_outliers(victim: Victim, conv_name: str, norm_name: str, u: float) -> Tensor:
    """Give the channels of outlying bounds the mean scale and shift of their layer; return which.

    Outlying: more than `u` standard deviations above the mean of the layer.
    """
    conv = victim.encoder.get_submodule(conv_name)
    norm = victim.encoder.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    bound_C = channel_bounds(conv, norm)
    # A layer of one channel has no deviation: nothing lies above NaN.
    outlying_C = bound_C > bound_C.mean() + u * bound_C.std()
    norm.weight[outlying_C] = norm.weight.mean()
    norm.bias[outlying_C] = norm.bias.mean()
    return outlying_C
