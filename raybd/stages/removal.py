"""Removal: drop what a detector flags of the training set, train again, measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from raybd.cells.loading import load_poisoned, load_victim, shape_of, victim_tensors
from raybd.cells.stage import Facts, Result, Stage, VictimStage
from raybd.cells.victim_quality import measured
from raybd.cells.wanted import Wanted
from raybd.cells.watching import watching
from raybd.results.store import Store
from raybd.stages.score import Score
from raybd.stages.victim import Victim, defended_columns
from raybd.types.data import Dataset
from raybd.types.methods import Detector, Trainer


@dataclass(frozen=True, kw_only=True)
class Removal(VictimStage):
    """A victim of the same recipe, trained without the flagged images."""

    name = "removal"
    version = 2
    score: Score

    @classmethod
    def for_cell(cls, wanted: Wanted) -> "Removal | None":
        """Every detector of the training set has one, if the experiment wants it.

        A probe has none: what is flagged was in the training set of its encoder.
        """
        score = wanted.stage(Score)
        if score is None or not wanted.removal or wanted.victim.encoder_stage is not None:
            return None
        # A victim that was trained elsewhere can't be trained again.
        if not cast(Trainer, wanted.victim.method.config).trains:
            return None
        # What it flags are inputs, which no training used.
        if cast(Detector, score.method.config).scored_pool == "test":
            return None
        victim = wanted.victim
        return cls(
            # The method that trains again; the detector is in the key by its score.
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
    def overlay_stage(self) -> Stage:
        """That of the victim."""
        return self.score.overlay_stage

    @property
    def title(self) -> str:
        """The trainer, and the detector whose flagged images it goes without."""
        return f"{self.name} {self.method.name} after {self.score.method.name}"

    @property
    def suspicion(self) -> Stage:
        """The detector's verdict."""
        return self.score

    @property
    def costs(self) -> tuple[Stage, ...]:
        """Detection and retraining."""
        return (*self.score.costs, self)

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Train on what was kept. Raises ValueError if that is nothing."""
        score = store.load(self.score.name, self.score.key).tensors
        keep_N = score["score_N"] <= score["threshold_N"]
        poisoned = load_poisoned(self.overlay_stage, store)
        undefended = cast(Victim, self.score.victim)

        # What was planted goes in any case, so the victim stays only where nothing was planted.
        watcher = None
        if keep_N.all() and len(keep_N) == len(dataset.train):
            victim = load_victim(undefended, store)
        elif not keep_N.any():
            raise ValueError(
                "the detector flagged the whole training set; nothing is left to train on"
            )
        else:
            # By index: rows that were planted have no score, and go with the flagged ones.
            split = undefended.training_split(poisoned, dataset).select(score["index_N"][keep_N])
            whole = poisoned.over(dataset.train)
            with watching(self, dataset, poisoned, whole) as watcher:
                victim = undefended.retrain(split, dataset.num_classes, store, self)

        found = measured(victim, dataset, poisoned)
        facts = {
            **shape_of(dataset),
            "n_removed": int((~keep_N).sum()),
            **found.facts,
        }
        result = Result(victim_tensors(victim), facts, predictions=found.predictions)
        return result if watcher is None else watcher.add_to(result)

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """How well the new victim does."""
        return defended_columns(facts)
