"""Marksman: a generator makes, for each image and each class, a faint trigger that asks for it.

Doan, Lao and Li 2022, NeurIPS 2022, section on the class-conditional generative trigger function.
Differs: the bound is in grey levels, and the generator is trained through the rounding to them; it
is trained against the victim in eval mode; the victim's first phase is at the highest learning rate
of the trainer's recipe, and its second one is that recipe; test images take turns among the
classes, except their own.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.training._generated import PREFIX, Turns, stamped_by, state_of
from raybd.attacks.training.input_aware.generator import AutoEncoder
from raybd.distributed import group
from raybd.poisoning.drawing import draw
from raybd.poisoning.label_maps import EveryOther
from raybd.poisoning.overlay import overlay
from raybd.training import models
from raybd.training.epochs import Batch
from raybd.training.recipe import Recipe
from raybd.types.data import LabelMap, Poisoned
from raybd.types.errors import Infeasible
from raybd.types.methods import Attack, AttackInput, RateBasis, ThreatModel


class Marksman(Attack):
    """Train a classifier and a generator for all classes in turns, then the classifier alone."""

    threat_model: ClassVar[ThreatModel] = "training"
    # The whole of each batch is poisoned.
    rate_basis: ClassVar[RateBasis | None] = None
    follows_recipe: ClassVar[bool] = True
    rate: float = Field(0.1, gt=0, le=1)
    """Share of the training set that is shown as poison to what looks for it there; the training
    itself poisons whole batches."""
    eps: int = Field(8, ge=0, le=255)
    """Largest change of a pixel by the trigger, in grey levels."""
    joint_epochs: int = Field(50, ge=1)
    """Passes in which classifier and generator learn, before the epochs of the recipe."""
    generator_lr: float = Field(1e-4, gt=0)
    """Learning rate of the generator (Adam)."""
    alpha: float = Field(0.5, gt=0, lt=1)
    """Weight of the loss on clean images; that on images with the trigger has the rest."""
    width: int = Field(16, ge=4, le=256)
    """Channels of the first convolutions of the generator."""
    labels: EveryOther = EveryOther()
    """The classes that a trigger can ask for; empty: all classes."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return rows drawn uniformly from all of them."""
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
        pixels = train.x_NCHW.shape[-2] * train.x_NCHW.shape[-1]
        generator = new_aimed(self.width, given.num_classes, pixels, rng)
        victim = models.new_victim(train, given.num_classes, given.network, rng)

        def want(batch: Batch, rng: Generator) -> Tensor:
            # For the whole batch, so that the stream does not depend on the number of workers.
            turn_B = torch.randint(2**31, (batch.size,), generator=rng)
            mine_B = group.to_device(turn_B[group.shard(torch.arange(batch.size))])
            return self.labels.at_turns(batch.y_B, mine_B, given.num_classes)

        turns = Turns(train, given.recipe, rng, _make, want, self.alpha)
        turns.jointly(
            "marksman joint", self.joint_epochs, self.eps, self.generator_lr, victim, generator
        )
        turns.finish("marksman", self.eps, victim, generator)
        state = {**state_of(generator), "target_M": torch.tensor(self._targets(given.num_classes))}
        return overlay(self, given, rows, state=state, victim=victim)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the trigger for the first target."""
        return self.stamp_toward(x_NCHW, state["target_M"][0].expand(len(x_NCHW)), state)

    def stamp_toward(self, x_NCHW: Tensor, wanted_N: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images, each with the trigger for it and the class it shall be."""
        return stamped_by(_make, stored_aimed(self.width, state), x_NCHW, wanted_N, self.eps)

    def _targets(self, num_classes: int) -> tuple[int, ...]:
        return self.labels.targets_of(num_classes)


class Aimed(nn.Module):
    """Images in 0..255 and classes -> maps in -1..1: a learned plane of each class is a channel."""

    def __init__(self, width: int, num_classes: int, pixels: int) -> None:
        super().__init__()
        self.plane_KP = nn.Embedding(num_classes, pixels)
        self.auto_encoder = AutoEncoder(width, 3, planes=4)

    def forward(self, x_BCHW: Tensor, class_B: Tensor) -> Tensor:
        """Return maps_BCHW for float images x_BCHW in 0..255, each for its class."""
        # In the range of pixels, which the auto-encoder expects.
        plane_B1HW = 127.5 * (torch.tanh(self.plane_KP(class_B)) + 1)
        plane_B1HW = plane_B1HW.view(len(x_BCHW), 1, *x_BCHW.shape[-2:])
        maps_BCHW: Tensor = self.auto_encoder(torch.cat([x_BCHW, plane_B1HW], 1))
        return maps_BCHW


def new_aimed(width: int, num_classes: int, pixels: int, rng: Generator) -> Aimed:
    """Return a freshly initialised generator; `rng` decides its weights."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    # torch's layers draw from the global stream, which is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Aimed(width, num_classes, pixels).to(memory_format=torch.channels_last)


def stored_aimed(width: int, state: Mapping[str, Tensor]) -> Aimed:
    """Return a generator on the device, with the weights in `state`."""
    num_classes, pixels = state[f"{PREFIX}plane_KP.weight"].shape
    # No weights are drawn, because stored ones replace all of them.
    with torch.device("meta"):
        network = Aimed(width, num_classes, pixels)
    weights = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }
    network.load_state_dict(weights, assign=True)
    return network.to(group.device()).eval()


def _make(generator: nn.Module, x_BCHW: Tensor, wanted_B: Tensor) -> Tensor:
    made_BCHW: Tensor = generator(x_BCHW, wanted_B)
    return made_BCHW
