"""Prepare: what an attack computes once for all its poison rates and label maps."""

from dataclasses import dataclass
from typing import Any, cast

from raybd.cells.loading import load_victim
from raybd.cells.stage import Result, Stage, VictimStage, random_stream
from raybd.registry import PRECISION_FIELD, SOURCE_FIELD
from raybd.results.store import Store
from raybd.stages.poison import check_that_trigger_fits
from raybd.types.data import Dataset
from raybd.types.methods import Attack, AttackInput


@dataclass(frozen=True, kw_only=True)
class Prepare(Stage):
    """A generator or a pattern; its key holds only the attack's fields that it depends on."""

    name = "prepare"
    twin: VictimStage | None = None

    @property
    def poison_stage(self) -> Stage:
        """Itself: nothing is poisoned yet."""
        return self

    @property
    def described(self) -> dict[str, Any]:
        """The attack without its poison rate and labels."""
        attack = cast(Attack, self.method.config)
        described = self.method.describe()
        # One artefact then serves all rates and label maps.
        names = ("kind", "version", SOURCE_FIELD, PRECISION_FIELD, *attack.prepared_from)
        return {name: described[name] for name in names if name in described}

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Let the attack prepare. Raises Infeasible if its trigger does not fit into the images."""
        attack = cast(Attack, self.method.config)
        check_that_trigger_fits(attack, dataset)
        twin = load_victim(self.twin, store) if self.twin is not None else None
        given = AttackInput(train=dataset.train, num_classes=dataset.num_classes, twin=twin)
        return Result(attack.prepare(given, random_stream("prepare", self.seed)))
