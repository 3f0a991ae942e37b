"""Defended: a training defense on the poisoned set, and how well its victim does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from raybd.cells.judging import joined, judge
from raybd.cells.loading import load_poisoned, load_victim, shape_of, victim_tensors
from raybd.cells.pools import training_pool
from raybd.cells.row_names import name_tensors
from raybd.cells.stage import Facts, Result, Stage, VictimStage, random_stream
from raybd.cells.victim_quality import measured
from raybd.cells.wanted import Wanted
from raybd.cells.watching import watching
from raybd.results.store import Store
from raybd.stages.encoder import Encoder
from raybd.stages.score import SCORED
from raybd.stages.victim import defended_columns
from raybd.types.data import Dataset
from raybd.types.methods import StartedDefense, TrainingDefense
from raybd.types.models import Network


@dataclass(frozen=True, kw_only=True)
class Defended(VictimStage):
    """A clean victim from the poisoned training set, and perhaps suspicion of each image."""

    name = "defended"
    overlay: Stage
    encoder: Encoder | None = None
    """The encoder of the poisoned set that it starts from."""

    @classmethod
    def for_cell(cls, wanted: Wanted) -> "Defended | None":
        """Every cell with a training defense has one; it stands beside the undefended victim."""
        if wanted.defense is None or not wanted.defends_by("training_defenses"):
            return None
        # The training set of the undefended victim, so that both rows are about the same poison.
        overlay = wanted.victim.overlay_stage
        common: dict[str, Any] = {
            "seed": overlay.seed,
            "dataset": overlay.dataset,
            "data": overlay.data,
            "network": wanted.victim.network,
        }
        trainer = wanted.defense.encoder
        # The same stage for all defenses that start from it.
        encoder = Encoder(method=trainer, poison=overlay, **common) if trainer else None
        return cls(method=wanted.defense, overlay=overlay, encoder=encoder, **common)

    @property
    def poison_stage(self) -> Stage:
        """That of the training set."""
        return self.overlay.poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """What changed the training set last."""
        return self.overlay

    @property
    def costs(self) -> tuple[Stage, ...]:
        """The encoder is trained for the defense alone: the undefended victim needs none."""
        return (self,) if self.encoder is None else (self.encoder, self)

    @property
    def suspicion(self) -> Stage:
        """Itself: most training defenses tell which images they distrust."""
        return self

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Train the defended victim."""
        poisoned = load_poisoned(self.overlay, store)
        with watching(self, dataset, poisoned, poisoned.over(dataset.train)) as watcher:
            return watcher.add_to(self.run_again(store, dataset, run=0))

    def run_again(self, store: Store, dataset: Dataset, run: int) -> Result:
        """Train it with the random stream of a further run."""
        assert self.network is not None
        poisoned = load_poisoned(self.overlay, store)
        pool = training_pool(dataset, poisoned)
        network = cast(Network, self.network.config)
        # The stream of the undefended victim: the two differ by the defense, not by chance.
        rng = random_stream("victim", self.seed, run)
        given = (
            pool.suspects,
            dataset.num_classes,
            network,
            dataset.clean,
            rng,
        )
        method = self.method.config
        if isinstance(method, StartedDefense):
            start = load_victim(self.encoder, store) if self.encoder is not None else None
            defended = method.defend_from(start, *given)
        else:
            defended = cast(TrainingDefense, method).defend(*given)
        found = measured(defended.victim, dataset, poisoned)
        facts: Facts = {
            **shape_of(dataset),
            **found.facts,
            "oracle": defended.oracle,
            "warning": defended.warning,
            "facts": dict(defended.facts),
        }
        if defended.verdict is None:
            return Result(victim_tensors(defended.victim), facts, predictions=found.predictions)

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
        tensors |= victim_tensors(defended.victim)
        return Result(tensors, facts, predictions=found.predictions)

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """How well the defended victim does, and how well its verdict found the poison."""
        # A defense without a verdict has no such facts.
        found = {name: facts[name] for name in SCORED if name in facts}
        return {**defended_columns(facts), **found}
