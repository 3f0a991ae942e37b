"""Analysis: a table about a victim, undefended or defended."""

from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from raybd.cells.loading import load_poisoned, load_victim
from raybd.cells.predicted import predictions_of
from raybd.cells.stage import OnVictim, ResourceRole, Result, Stage, VictimStage, random_stream
from raybd.cells.wanted import Wanted
from raybd.cells.watching import TRAJECTORIES
from raybd.registry import Method
from raybd.results.store import Store
from raybd.stages.poison import Poison
from raybd.types.data import Dataset, Poisoned
from raybd.types.methods import Analysis as AnalysisMethod
from raybd.types.methods import AnalysisInput, Attack, Pairs


@dataclass(frozen=True, kw_only=True)
class Analysis(OnVictim):
    """What a tool says of a victim: an artefact that marks it as done, and rows of a table."""

    name = "analysis"
    poison: Poison | None = None
    """The attack whose trigger the clean twin is shown, if it looks at the clean twin."""
    twin: VictimStage | None = None
    """The clean twin, if the tool compares the victim with it."""
    before: VictimStage | None = None
    """The undefended victim, if the tool compares a defended one with it."""

    @classmethod
    def after_cell(cls, wanted: Wanted, last: Stage) -> tuple[Stage, ...]:
        """Every tool looks at the victim at the end of a cell's path, if there is one."""
        # Without tools nothing below is asked for: keys of large plans take time.
        if not wanted.analyses or not isinstance(last, VictimStage):
            return ()
        attack = cast(Attack, last.poison_stage.method.config)
        # Without a trigger there are no pairs of images to compare.
        attacked = attack.threat_model != "none" and attack.has_trigger
        is_twin = wanted.victim.key == wanted.twin.key
        asked = [
            method
            for method in wanted.analyses
            if (attacked or not cast(AnalysisMethod, method.config).needs_trigger)
            and not (is_twin and cast(AnalysisMethod, method.config).needs_twin)
        ]
        # The control of the undefended victim, and with it of all that stands on that.
        compared = attacked and wanted.defense is None
        poison = cast(Poison, last.poison_stage)
        twins = [
            cls._of(method, wanted.twin, poison)
            for method in asked
            if compared and cast(AnalysisMethod, method.config).looks_at_twin
        ]
        before = None if last.key == wanted.victim.key else wanted.victim
        return (
            *(cls._of(method, last, twin=wanted.twin, before=before) for method in asked),
            *twins,
        )

    @classmethod
    def _of(
        cls,
        method: Method,
        victim: VictimStage,
        poison: Poison | None = None,
        twin: VictimStage | None = None,
        before: VictimStage | None = None,
    ) -> "Analysis":
        tool = cast(AnalysisMethod, method.config)
        return cls(
            method=method,
            seed=victim.seed,
            dataset=victim.dataset,
            data=victim.data,
            victim=victim,
            poison=poison,
            twin=twin if tool.needs_twin else None,
            before=before if tool.compares_before else None,
        )

    @property
    def poison_stage(self) -> Stage:
        """The attack whose trigger the clean twin is shown, or that of the victim."""
        return self.poison or super().poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """That of the attack, or of the victim."""
        return self.poison or super().overlay_stage

    @property
    def resource_role(self) -> ResourceRole:
        """It runs a victim; what it trains, if anything, is a copy for a few steps."""
        return "detectors"

    def has_tables(self, store: Store) -> bool:
        """Return whether the table of the analysis is there and sound."""
        return store.has_analysis(self.method.name, self.key)

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Let the tool look at the victim."""
        tool = cast(AnalysisMethod, self.method.config)
        poisoned = load_poisoned(self.poison_stage, store)
        given = AnalysisInput(
            victim=load_victim(self.victim, store),
            clean=dataset.clean,
            pairs=_pairs(dataset, poisoned),
            test=dataset.test,
            train=poisoned.over(dataset.train),
            role_N=poisoned.role_N(len(dataset.train)),
            num_classes=dataset.num_classes,
            trigger=poisoned.trigger,
            twin=None if self.twin is None else load_victim(self.twin, store),
            attack=cast(Attack, self.poison_stage.method.config),
            state=poisoned.state,
            **self._stored(tool, store, dataset),
        )
        table = tool.analyse(given, random_stream(self.name, self.seed))

        # Each is put in front of the others.
        for name, value in reversed(self.about().items()):
            table = table.add_column(0, name, pa.array([value] * len(table)))
        return Result({}, {"rows": len(table)}, table)

    def _stored(self, tool: AnalysisMethod, store: Store, dataset: Dataset) -> dict[str, Any]:
        """What was kept of the victim, as far as the tool reads it."""
        found: dict[str, Any] = {}
        if "predictions" in tool.reads:
            # The twin is shown the trigger of another victim's attack.
            found["predictions"] = predictions_of(self.victim, store, dataset, self.poison)
        if "dynamics" in tool.reads:
            found["dynamics"] = store.victim_table("dynamics", self.victim.key)
        kept = "trajectories" in tool.reads and store.state(TRAJECTORIES, self.victim.key) == "ok"
        if kept:
            found["trajectories"] = store.load(TRAJECTORIES, self.victim.key).tensors
        if self.before is not None:
            found["before"] = predictions_of(self.before, store, dataset)
        return found

    def about(self) -> dict[str, Any]:
        """Return which victim the rows are about: the columns that every table begins with."""
        victim = self.victim
        return {
            "victim": victim.key,
            "stage": "twin" if self.poison is not None else victim.name,
            "network": victim.victim_network.name,
            "dataset": victim.dataset.name,
            "attack": self.poison_stage.method.name,
            "method": victim.method.name,
            "seed": self.seed,
            "tool_version": type(self.method.config).version,
        }


def _pairs(dataset: Dataset, poisoned: Poisoned) -> Pairs:
    counted = dataset.test.select(poisoned.counted(dataset.test))
    wanted_M = poisoned.labels.wanted(counted.y_N, dataset.num_classes)
    worn_MCHW = poisoned.trigger(counted.x_NCHW, wanted_M)
    return Pairs(counted.x_NCHW, worn_MCHW, counted.y_N, wanted_M)
