"""Scan: a scanner's suspicion of the whole model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.stage import (
    Facts,
    OnVictim,
    ResourceRole,
    Result,
    Stage,
    VictimStage,
    random_stream,
)
from raybd.cells.wanted import Wanted
from raybd.metrics.overlap import patch_iou, touched
from raybd.registry import Method
from raybd.results.store import Store
from raybd.types.data import Dataset
from raybd.types.methods import Attack, Scanner
from raybd.types.verdicts import Suspicion

SCANNED = ("model_score", "model_threshold", "n_flagged", "trigger_iou")
"""The columns that come from a scan."""
MEASURED_IMAGES = 256
"""Test images on which the place of the true trigger is seen."""
FOUND_PREFIX = "found."
"""The names of the tensors that a scanner found begin with this in its artefact."""


@dataclass(frozen=True, kw_only=True)
class Scan(OnVictim):
    """One score for a victim, and what the scanner found: pictures and tensors."""

    name = "scan"

    @classmethod
    def for_cell(cls, wanted: Wanted) -> "Scan | None":
        """Every cell with a scanner has one, and every repair that stands on a scan."""
        return cls._of(wanted.victim, wanted.scanner) if wanted.scanner is not None else None

    @classmethod
    def control_for_cell(cls, wanted: Wanted) -> "Scan | None":
        """A scan of an encoder is compared with that of its clean twin."""
        if not wanted.has_control or not wanted.defends_by("scanners"):
            return None
        assert wanted.defense is not None
        return cls._of(wanted.twin, wanted.defense)

    @classmethod
    def _of(cls, victim: VictimStage, scanner: Method) -> "Scan":
        return cls(
            method=scanner,
            seed=victim.seed,
            dataset=victim.dataset,
            data=victim.data,
            victim=victim,
        )

    @property
    def resource_role(self) -> ResourceRole:
        """Scanners have resources of their own."""
        return "scanners"

    @property
    def suspicion(self) -> Stage:
        """Itself."""
        return self

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Scan the victim. Raises ValueError for a score that is not finite."""
        scanner = cast(Scanner, self.method.config)
        victim = load_victim(self.victim, store)
        verdict = scanner.scan(victim, dataset.clean, random_stream(self.name, self.seed))

        score = float(verdict.score_N)
        threshold = float(verdict.threshold_N)
        # NaN is above no threshold: it would count as a clean model.
        if not math.isfinite(score):
            raise ValueError(f"{self.method.name} returned a score that is not finite")
        found = {
            # The prefixes keep names of pictures and of findings apart.
            **{f"picture.{name}": tensor.cpu() for name, tensor in verdict.pictures.items()},
            **{f"{FOUND_PREFIX}{name}": tensor.cpu() for name, tensor in verdict.tensors.items()},
        }
        facts = {
            "model_score": score,
            "model_threshold": threshold,
            "n_flagged": int(score > threshold),
            "trigger_iou": self._trigger_iou(verdict, store, dataset),
            "oracle": verdict.oracle,
            "warning": verdict.warning,
            "facts": dict(verdict.facts),
        }
        return Result(found, facts)

    def _trigger_iou(self, verdict: Suspicion, store: Store, dataset: Dataset) -> float | None:
        """Return how well the recovered trigger lies on the true one, which no scanner sees.

        None where the scanner recovers no mask, and where the true trigger is no patch.
        """
        mask = verdict.tensors.get("mask")
        if mask is None or not cast(Attack, self.poison_stage.method.config).has_trigger:
            return None
        # Of a scanner of classes, the trigger of the class that it suspects most.
        mask_HW = mask[verdict.tensors["index"].argmax()] if mask.dim() == 3 else mask
        poisoned = load_poisoned(self.poison_stage, store)
        counted = dataset.test.select(poisoned.counted(dataset.test))
        x_NCHW = counted.x_NCHW[:MEASURED_IMAGES]
        y_N = counted.y_N[:MEASURED_IMAGES]
        if not len(x_NCHW):
            return None
        worn_NCHW = poisoned.with_trigger(x_NCHW, y_N, dataset.num_classes)
        return patch_iou(mask_HW.cpu(), touched(x_NCHW, worn_NCHW))

    def found(self, store: Store) -> dict[str, Tensor]:
        """Return the tensors that the scanner found, from the store."""
        tensors = store.load(self.name, self.key).tensors
        return {
            name.removeprefix(FOUND_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(FOUND_PREFIX)
        }

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """The suspicion of the model."""
        # Scans of older stores have no overlap.
        return {name: facts.get(name) for name in SCANNED}

    def control_columns(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Facts:
        """The suspicion of the clean twin."""
        return {"control_model_score": facts["model_score"]}
