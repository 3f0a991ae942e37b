"""Defended: a training defense on the poisoned set, and how well its victim does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from raybd.cells.judging import joined, judge
from raybd.cells.loading import load_poisoned, shape_of, victim_tensors
from raybd.cells.pools import training_pool
from raybd.cells.row_names import name_tensors
from raybd.cells.stage import Facts, Result, Stage, VictimStage, random_stream
from raybd.cells.victim_quality import measure
from raybd.cells.wanted import Wanted
from raybd.results.store import Store
from raybd.stages.score import SCORED
from raybd.stages.victim import defended_columns
from raybd.types.data import Dataset
from raybd.types.methods import TrainingDefense
from raybd.types.models import Network


@dataclass(frozen=True, kw_only=True)
class Defended(VictimStage):
    """A clean victim from the poisoned training set, and perhaps suspicion of each image."""

    name = "defended"
    overlay: Stage

    @classmethod
    def for_cell(cls, wanted: Wanted) -> "Defended | None":
        """Every cell with a training defense has one; it stands beside the undefended victim."""
        if wanted.defense is None or not wanted.defends_by("training_defenses"):
            return None
        # The training set of the undefended victim, so that both rows are about the same poison.
        overlay = wanted.victim.overlay_stage
        return cls(
            method=wanted.defense,
            seed=overlay.seed,
            dataset=overlay.dataset,
            data=overlay.data,
            network=wanted.victim.network,
            overlay=overlay,
        )

    @property
    def poison_stage(self) -> Stage:
        """That of the training set."""
        return self.overlay.poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """What changed the training set last."""
        return self.overlay

    @property
    def suspicion(self) -> Stage:
        """Itself: most training defenses tell which images they distrust."""
        return self

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Train the defended victim."""
        return self.run_again(store, dataset, run=0)

    def run_again(self, store: Store, dataset: Dataset, run: int) -> Result:
        """Train it with the random stream of a further run."""
        assert self.network is not None
        poisoned = load_poisoned(self.overlay, store)
        pool = training_pool(dataset, poisoned)
        defended = cast(TrainingDefense, self.method.config).defend(
            pool.suspects,
            dataset.num_classes,
            cast(Network, self.network.config),
            dataset.clean,
            # The stream of the undefended victim: the two differ by the defense, not by chance.
            random_stream("victim", self.seed, run),
        )
        facts: Facts = {
            **shape_of(dataset),
            **measure(defended.victim, dataset, poisoned),
            "oracle": defended.oracle,
            "warning": defended.warning,
            "facts": dict(defended.facts),
        }
        if defended.verdict is None:
            return Result(victim_tensors(defended.victim), facts)

        tensors, judged = judge(self.method.name, defended.verdict, pool)
        tensors |= name_tensors(dataset, "train", tensors["index_N"])
        facts |= {
            **judged,
            "pool": "train",
            # Either of the two may use what a defender lacks.
            "oracle": defended.oracle or judged["oracle"],
            "warning": joined([defended.warning, judged["warning"]]),
            "facts": {**defended.facts, **judged["facts"]},
        }
        return Result({**tensors, **victim_tensors(defended.victim)}, facts)

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """How well the defended victim does, and how well its verdict found the poison."""
        # A defense without a verdict has no such facts.
        found = {name: facts[name] for name in SCORED if name in facts}
        return {**defended_columns(facts), **found}
