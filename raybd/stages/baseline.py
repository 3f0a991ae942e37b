"""Baseline: the clean twin on images with the trigger: what the trigger does without a backdoor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.stage import Facts, ResourceRole, Result, Stage, VictimStage
from raybd.cells.victim_quality import measure
from raybd.cells.wanted import Wanted
from raybd.results.store import Store
from raybd.stages.poison import Poison
from raybd.types.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Baseline(Stage):
    """Clean accuracy and attack success of the clean twin of an attacked encoder's probe."""

    name = "baseline"
    twin: VictimStage
    poison: Poison

    @classmethod
    def control_for_cell(cls, wanted: Wanted) -> "Baseline | None":
        """The undefended victim is compared with it."""
        if wanted.defense is not None or not wanted.has_control:
            return None
        # The trigger of the attack, on a victim that the attack did not touch.
        poison = cast(Poison, wanted.victim.poison_stage)
        return cls(
            method=poison.method,
            seed=wanted.twin.seed,
            dataset=wanted.twin.dataset,
            data=wanted.twin.data,
            twin=wanted.twin,
            poison=poison,
        )

    @property
    def poison_stage(self) -> Stage:
        """The attack, not the (missing) one of the clean twin."""
        return self.poison

    @property
    def resource_role(self) -> ResourceRole:
        """It only runs a victim."""
        return "detectors"

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Measure the clean twin with the attack's trigger."""
        poisoned = load_poisoned(self.poison, store)
        return Result({}, dict(measure(load_victim(self.twin, store), dataset, poisoned)))

    def control_columns(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Facts:
        """Accuracy of the twin, and the attack success that the trigger has by itself."""
        return {
            "twin_clean_accuracy": facts["clean_accuracy"],
            "twin_attack_success": facts["attack_success"],
        }
