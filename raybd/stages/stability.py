"""Stability: the same verdict on the training set from further random streams."""

from dataclasses import dataclass
from typing import cast

import torch

from raybd.canaries.canaries import Canaries, agreed
from raybd.cells.stage import ResourceRole, Result, Stage
from raybd.cells.wanted import Wanted
from raybd.results.store import Store
from raybd.stages.defended import Defended
from raybd.stages.score import Score
from raybd.types.data import Dataset
from raybd.types.methods import Detector


@dataclass(frozen=True, kw_only=True)
class Stability(Stage):
    """How well the verdicts of several runs of a detector agree."""

    name = "stability"
    scored: Score | Defended

    @classmethod
    def after_cell(cls, wanted: Wanted, last: Stage) -> tuple[Stage, ...]:
        """Every verdict on the training set has one, if the experiment repeats verdicts."""
        scored = last.suspicion
        if wanted.canaries is None or not isinstance(scored, Score | Defended):
            return ()
        method = scored.method.config
        # Canaries are in the training set; a stream of test inputs has none.
        if isinstance(method, Detector) and method.scored_pool != "train":
            return ()
        return (
            cls(
                method=wanted.canaries,
                seed=scored.seed,
                dataset=scored.dataset,
                data=scored.data,
                scored=scored,
            ),
        )

    @property
    def poison_stage(self) -> Stage:
        """That of the verdict."""
        return self.scored.poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """That of the verdict."""
        return self.scored.overlay_stage

    @property
    def resource_role(self) -> ResourceRole:
        """It runs the same method again."""
        return self.scored.resource_role

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Repeat the verdict and compare the flagged rows."""
        first = store.load(self.scored.name, self.scored.key)
        # A training defense need not have a verdict.
        if "score_N" not in first.tensors:
            return Result({}, {"facts": {}})
        runs = cast(Canaries, self.method.config).runs
        # Run 0 is the verdict in the store.
        again = [self.scored.run_again(store, dataset, run) for run in range(1, runs)]

        tensors = [first.tensors, *(result.tensors for result in again)]
        flagged_RN = torch.stack([found["score_N"] > found["threshold_N"] for found in tensors])
        facts = [first.manifest["facts"], *(result.facts["facts"] for result in again)]
        return Result({}, {"facts": agreed(flagged_RN, facts)})
