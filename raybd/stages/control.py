"""Control: a detector of test inputs on the clean twin: what the trigger alone gives away."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from raybd.cells.stage import Facts, Stage
from raybd.cells.wanted import Wanted
from raybd.stages.poison import Poison
from raybd.stages.score import Score
from raybd.types.methods import Detector


@dataclass(frozen=True, kw_only=True)
class Control(Score):
    """The same detector on the same inputs, where no encoder was attacked."""

    name = "control"
    version = 2
    poison: Poison | None = None
    """The attack whose trigger the inputs wear."""

    @classmethod
    def for_cell(cls, wanted: Wanted) -> None:
        """It is no part of a cell's own path."""

    @classmethod
    def control_for_cell(cls, wanted: Wanted) -> "Control | None":
        """A detector of test inputs is compared with itself on the clean twin of the encoder."""
        defense = wanted.defense
        if defense is None or not wanted.has_control or not wanted.defends_by("detectors"):
            return None
        # The twin's training set has no poison to find.
        if cast(Detector, defense.config).scored_pool != "test":
            return None
        return cls(
            method=defense,
            seed=wanted.twin.seed,
            dataset=wanted.twin.dataset,
            data=wanted.twin.data,
            victim=wanted.twin,
            poison=cast(Poison, wanted.victim.poison_stage),
        )

    @property
    def poison_stage(self) -> Stage:
        """The attack, not the (missing) one of the clean twin."""
        return cast(Poison, self.poison)

    @property
    def overlay_stage(self) -> Stage:
        """That of the attack."""
        return self.poison_stage

    @property
    def screens_training_set(self) -> bool:
        """No: nothing is trained on what it would keep."""
        return False

    def control_columns(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Facts:
        """The AUROC on the twin, and what the backdoor adds to it."""
        auroc = facts["auroc"]
        return {
            "control_auroc": auroc,
            "auroc_over_control": None if auroc is None else row["auroc"] - auroc,
            "control_auroc_outside_trigger": facts["auroc_outside_trigger"],
        }
