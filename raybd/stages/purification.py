"""Purification: refuse the inputs that a detector flags, and measure what is left.

For a probe, Hou, Li and Yao 2025, arXiv 2411.16154: its training set is screened, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from raybd.cells.loading import load_poisoned, load_victim, shape_of, victim_tensors
from raybd.cells.stage import Facts, Result, Stage, VictimStage
from raybd.cells.victim_quality import measured
from raybd.cells.wanted import Wanted
from raybd.results.store import Store
from raybd.stages.score import Score
from raybd.stages.victim import Victim, defended_columns
from raybd.types.data import Dataset
from raybd.types.methods import Detector, StreamDetector
from raybd.types.models import Victim as VictimModel


@dataclass(frozen=True, kw_only=True)
class Purification(VictimStage):
    """The victim behind a detector that refuses inputs."""

    name = "purification"
    score: Score

    @classmethod
    def for_cell(cls, wanted: Wanted) -> "Purification | None":
        """Every detector of a stream has one, if the experiment wants removal."""
        score = wanted.stage(Score)
        if score is None or not wanted.removal:
            return None
        detector = cast(Detector, score.method.config)
        # Only what learns once can refuse inputs as they come.
        if detector.scored_pool == "train" or not isinstance(detector, StreamDetector):
            return None
        victim = wanted.victim
        return cls(
            # The method that may train again; the detector is in the key by its score.
            method=victim.method,
            seed=score.seed,
            dataset=score.dataset,
            data=score.data,
            network=victim.network,
            score=score,
        )

    @property
    def poison_stage(self) -> Stage:
        """That of the victim."""
        return self.score.poison_stage

    @property
    def encoder_stage(self) -> VictimStage | None:
        """That of the victim."""
        return self.score.victim.encoder_stage

    @property
    def suspicion(self) -> Stage:
        """The detector's verdict."""
        return self.score

    @property
    def costs(self) -> tuple[Stage, ...]:
        """Detection and retraining."""
        return (*self.score.costs, self)

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Measure the victim on all inputs; a refused one gets no answer."""
        victim, removed = self._screened(store, dataset)
        poisoned = load_poisoned(self.poison_stage, store)
        refused_N = self.refused(store)
        found = measured(victim, dataset, poisoned, refused_N)
        facts = {
            **shape_of(dataset),
            "n_removed": removed,
            "n_refused": int(refused_N.sum()),
            **found.facts,
        }
        return Result(victim_tensors(victim), facts, predictions=found.predictions)

    def refused(self, store: Store) -> Tensor:
        """Return a mask of the inputs that the detector flags."""
        score = store.load(self.score.name, self.score.key).tensors
        return score["score_N"] > score["threshold_N"]

    def _screened(self, store: Store, dataset: Dataset) -> tuple[VictimModel, int]:
        """Return the victim, and how many images of its training set were dropped.

        The training set of a classifier is poisoned by itself: only its inputs are screened.
        """
        undefended = cast(Victim, self.score.victim)
        victim = load_victim(undefended, store)
        if self.encoder_stage is None:
            return victim, 0

        flagged_N = store.load(self.score.name, self.score.key).tensors["train_flagged_N"]
        if flagged_N.all():
            raise ValueError(
                "the detector flagged the whole training set of the probe; "
                "nothing is left to train on"
            )
        # With nothing flagged, the undefended victim was trained on just this set.
        if flagged_N.any():
            split = dataset.train.select(~flagged_N)
            victim = undefended.retrain(split, dataset.num_classes, store, self)
        return victim, int(flagged_N.sum())

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """How well the screened victim does."""
        return defended_columns(facts)
