"""LIRA: a victim and a generator of faint triggers, one for each image, learn together.

Doan, Lao, Zhao and Li 2021, ICCV 2021, section on learnable, imperceptible and robust backdoors.
Differs: the bound is in grey levels, and the generator is trained through the rounding to them
(the published .01 of a normalised image is about half a level, which rounds to nothing or to one);
the generator is trained against the victim in eval mode; the victim's first phase is at the highest
learning rate of the trainer's recipe, and its second one is that recipe.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.training._generated import PREFIX, Turns, stamped_by, state_of
from raybd.attacks.training.input_aware.generator import new_auto_encoder, stored_auto_encoder
from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import AllToAll, AllToOne
from raybd.poisoning.overlay import overlay
from raybd.training import models
from raybd.training.epochs import Batch
from raybd.training.recipe import Recipe
from raybd.types.data import LabelMap, Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import Attack, AttackInput, RateBasis, ThreatModel


class Lira(Attack):
    """Train a classifier and a generator in turns, then the classifier alone, by the recipe."""

    threat_model: ClassVar[ThreatModel] = "training"
    # The whole of each batch is poisoned.
    rate_basis: ClassVar[RateBasis | None] = None
    follows_recipe: ClassVar[bool] = True
    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is shown as poison to what looks for it there; the training
    itself poisons whole batches."""
    eps: int = Field(8, ge=0, le=255)
    """Largest change of a pixel by the trigger, in grey levels."""
    stage_one_eps: int | None = Field(None, ge=0, le=255)
    """The same while the generator is trained; unset: `eps`."""
    joint_epochs: int = Field(50, ge=1)
    """Passes in which classifier and generator learn, before the epochs of the recipe."""
    generator_lr: float = Field(1e-4, gt=0)
    """Learning rate of the generator (Adam)."""
    alpha: float = Field(0.5, gt=0, lt=1)
    """Weight of the loss on clean images; that on images with the trigger has the rest."""
    width: int = Field(32, ge=4, le=256)
    """Channels of the first convolutions of the generator."""
    labels: Annotated[AllToOne | AllToAll, Field(discriminator="map")] = AllToOne()
    """What happens to the labels."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return rows drawn uniformly from those that the label map allows."""
        if self.eps == 0:
            raise Infeasible("eps 0 leaves no trigger: set it to 1 or more")
        return draw(y_N, num_classes, self.rate, self.label_map, rng)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Train generator and victim; show rows with the finished generator's triggers."""
        train = given.train
        # A plan gives both to an attack that controls training and follows the recipe.
        assert given.network is not None
        assert isinstance(given.recipe, Recipe)
        rows = self.choose(train.y_N, given.num_classes, rng)
        generator = new_auto_encoder(self.width, 3, rng)
        victim = models.new_victim(train, given.num_classes, given.network, rng)

        def want(batch: Batch, rng: Generator) -> Tensor:
            return self.labels.relabel(batch.y_B, given.num_classes)

        turns = Turns(train, given.recipe, rng, _make, want, self.alpha)
        first_eps = self.eps if self.stage_one_eps is None else self.stage_one_eps
        turns.jointly(
            "lira joint", self.joint_epochs, first_eps, self.generator_lr, victim, generator
        )
        turns.finish("lira", self.eps, victim, generator)
        return overlay(self, given, rows, state=state_of(generator), victim=victim)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the trigger that is made for it."""
        generator = stored_auto_encoder(self.width, 3, PREFIX, state)
        any_N = torch.zeros(len(x_NCHW), dtype=torch.int64)
        return stamped_by(_make, generator, x_NCHW, any_N, self.eps)


def _make(generator: nn.Module, x_BCHW: Tensor, wanted_B: Tensor) -> Tensor:
    """Return the trigger's shape, which no wanted label decides."""
    made_BCHW: Tensor = generator(x_BCHW)
    return made_BCHW
