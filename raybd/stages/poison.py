"""Poison: the attack changes the training set, or makes a backdoored encoder or victim."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Generator, Tensor

from raybd.cells.data import load_data
from raybd.cells.judging import GALLERY
from raybd.cells.loading import load_victim, overlay_tensors, shape_of, victim_tensors
from raybd.cells.promises import check_overlay
from raybd.cells.stage import ResourceRole, Result, Stage, VictimStage, random_stream
from raybd.registry import Method
from raybd.results.store import Store
from raybd.types.data import POISON, Dataset, Poisoned, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Attack, AttackInput, Trainer
from raybd.types.models import Network, Victim

MEASURED_IMAGES = 256
"""Test images on which the trigger's largest change of a pixel is measured."""


@dataclass(frozen=True, kw_only=True)
class Poison(VictimStage):
    """The overlay of an attack, and its victim or encoder if it controls training."""

    name = "poison"
    twin: VictimStage | None = None
    """The clean twin, or the clean encoder that the attack starts from."""
    prepared: Stage | None = None
    """What the attack computed once for all poison rates and label maps."""
    trainer: Method | None = None
    """The trainer of the victim, for an attack that trains as it does."""
    side_data: str | None = None
    """Hash of the content of the attack's side data."""

    @property
    def poison_stage(self) -> Stage:
        """Itself."""
        return self

    @property
    def title(self) -> str:
        """The attack is named in every progress line."""
        return self.name

    @property
    def resource_role(self) -> ResourceRole:
        """An attack that only changes images needs no GPU."""
        computes = self.twin is not None or self.prepared is not None or self.network is not None
        return "trainers" if computes else "data"

    @property
    def extra_key(self) -> tuple[Any, ...]:
        """The trainer and the side data, if the attack uses them."""
        # Nothing if unused, so that the keys of other attacks stay as they are.
        trainer = (self.trainer.describe(),) if self.trainer else ()
        side_data = (self.side_data,) if self.side_data else ()
        return trainer + side_data

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Poison the training set.

        Raises Infeasible if the trigger does not fit into the images, or changes no pixel.
        """
        attack = cast(Attack, self.method.config)
        check_that_trigger_fits(attack, dataset)
        poisoned = attack.poison(self._given(store, dataset), random_stream("poison", self.seed))
        check_overlay(self.method.name, poisoned, dataset.train)
        change = _largest_change(poisoned, dataset)
        n_poison = int((poisoned.role_M == POISON).sum())
        # No victim can learn a trigger that is not there: all numbers would mislead.
        if n_poison and attack.has_trigger and change == 0:
            raise Infeasible("the trigger changes no pixel of the test images")

        shown = poisoned.index_M[:GALLERY]
        tensors = {
            **overlay_tensors(poisoned),
            "gallery_before": dataset.train.x_NCHW[shown],
            "gallery_after": poisoned.x_MCHW[:GALLERY],
            **(victim_tensors(poisoned.victim) if poisoned.victim is not None else {}),
        }
        facts = {
            **shape_of(dataset),
            "n_train": len(dataset.train),
            "n_poison": n_poison,
            "n_cross": int((poisoned.role_M > POISON).sum()),
            "largest_pixel_change": change,
        }
        return Result(tensors, facts)

    def _given(self, store: Store, dataset: Dataset) -> AttackInput:
        attack = cast(Attack, self.method.config)
        return AttackInput(
            train=dataset.train,
            num_classes=dataset.num_classes,
            twin=load_victim(self.twin, store) if self.twin is not None else None,
            network=cast(Network, self.network.config) if self.network is not None else None,
            recipe=self.trainer.config if self.trainer and attack.follows_recipe else None,
            retrain=self._retrain(dataset.num_classes) if attack.retrains else None,
            side_data=self._side_images(),
            prepared=_prepared(self.prepared, store),
            role_N=dataset.role_N if attack.reads_flags else None,
        )

    def _side_images(self) -> Split | None:
        """The images of the data set that the attack's entry names as its side data."""
        if self.method.side_data is None or self.side_data is None:
            return None
        return load_data(self.method.side_data, self.side_data).train

    def _retrain(self, num_classes: int) -> Any:
        assert self.trainer is not None
        assert self.network is not None
        trainer = cast(Trainer, self.trainer.config)
        network = cast(Network, self.network.config)

        def retrain(split: Split, rng: Generator) -> Victim:
            return trainer.train(split, num_classes, network, rng)

        return retrain


def check_that_trigger_fits(attack: Attack, dataset: Dataset) -> None:
    """Raise Infeasible if an attack's trigger does not fit into the images of a data set."""
    height, width = dataset.train.x_NCHW.shape[-2:]
    if reason := attack.does_not_fit(height, width):
        raise Infeasible(reason)


def _prepared(stage: Stage | None, store: Store) -> Mapping[str, Tensor]:
    return store.load(stage.name, stage.key).tensors if stage is not None else {}


def _largest_change(poisoned: Poisoned, dataset: Dataset) -> int:
    """Largest change of a pixel by the trigger, in grey levels."""
    counted = dataset.test.select(poisoned.counted(dataset.test))
    x_NCHW = counted.x_NCHW[:MEASURED_IMAGES]
    y_N = counted.y_N[:MEASURED_IMAGES]
    if not len(x_NCHW):
        return 0
    worn_NCHW = poisoned.with_trigger(x_NCHW, y_N, dataset.num_classes)
    # int: a difference of uint8 wraps around at 0.
    return int((worn_NCHW.int() - x_NCHW.int()).abs().max())
