"""Repair: make the victim clean with trusted images, and measure the result."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from raybd.cells.loading import load_poisoned, load_victim, shape_of, victim_tensors
from raybd.cells.stage import Facts, ResourceRole, Result, Stage, VictimStage, random_stream
from raybd.cells.victim_quality import measured
from raybd.cells.wanted import Wanted
from raybd.registry import Method
from raybd.results.store import Store
from raybd.stages.scan import Scan
from raybd.stages.victim import Victim, defended_columns
from raybd.types.config import Config
from raybd.types.data import Dataset
from raybd.types.methods import Repair as RepairMethod
from raybd.types.methods import ScannedRepair


@dataclass(frozen=True, kw_only=True)
class Repair(VictimStage):
    """A repaired victim."""

    name = "repair"
    version = 2
    victim: Victim
    scan: Scan | None = None
    """What the repair stands on, if it stands on a scan."""

    @classmethod
    def for_cell(cls, wanted: Wanted) -> "Repair | None":
        """Every cell with a repair has one."""
        if wanted.defense is None or not wanted.defends_by("repairs"):
            return None
        victim = cast(Victim, wanted.victim)
        return cls(
            method=wanted.defense,
            seed=victim.seed,
            dataset=victim.dataset,
            data=victim.data,
            victim=victim,
            scan=wanted.stage(Scan),
        )

    @property
    def poison_stage(self) -> Stage:
        """That of the victim."""
        return self.victim.poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """That of the victim."""
        return self.victim.overlay_stage

    @property
    def encoder_stage(self) -> VictimStage | None:
        """That of the victim."""
        return self.victim.encoder_stage

    @property
    def victim_network(self) -> Method:
        """That of the victim."""
        return self.victim.victim_network

    @property
    def reshapers(self) -> tuple[Config, ...]:
        """Trainer and repair, in this order."""
        return (*self.victim.reshapers, self.method.config)

    @property
    def resource_role(self) -> ResourceRole:
        """Repairs have resources of their own."""
        return "repairs"

    @property
    def suspicion(self) -> Stage | None:
        """The scan that it stands on."""
        return self.scan

    @property
    def costs(self) -> tuple[Stage, ...]:
        """A scan counts for each repair on it: a row tells what it costs on its own."""
        return (self.scan, self) if self.scan is not None else (self,)

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Repair the victim; the suspects are its training set."""
        poisoned = load_poisoned(self.overlay_stage, store)
        repair = cast(RepairMethod, self.method.config)
        act = repair.repair
        if isinstance(repair, ScannedRepair) and self.scan is not None:
            act = partial(repair.repair_with, self.scan.found(store))
        defended = act(
            load_victim(self.victim, store),
            # A probe's training set is clean; its poison is in the encoder.
            self.victim.training_split(poisoned, dataset),
            dataset.clean,
            random_stream(self.name, self.seed),
        )
        found = measured(defended.victim, dataset, poisoned)
        facts = {
            **shape_of(dataset),
            **found.facts,
            "oracle": defended.oracle,
            "warning": defended.warning,
            "facts": dict(defended.facts),
        }
        return Result(victim_tensors(defended.victim), facts, predictions=found.predictions)

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """How well the repaired victim does."""
        return defended_columns(facts)
