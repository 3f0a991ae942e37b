"""A pass: all folds of a data set, as it is or with planted triggers, as stages of the store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raybd.canaries.known_triggers import Kind, KnownTriggers, Strength
from raybd.cells.data import data_key
from raybd.cells.stage import Stage, content_hash
from raybd.plan.graph import Opened, Training, no_attack, victim_stage
from raybd.registry import Method, method_class
from raybd.scanning.suspects import Layout, Suspects
from raybd.stages.score import Score

DETECTORS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("asset", {}),
    ("spectral", {"reference": "trusted"}),
)
"""The ensemble. Each of them compares suspects with trusted images, and reads embeddings alone."""


@dataclass(frozen=True)
class Pass:
    """The scores of all detectors in all folds of one data set."""

    attack: Method
    scores: tuple[tuple[Score, ...], ...]
    """One tuple for each fold, one stage for each detector."""

    @property
    def planted(self) -> tuple[Kind, ...]:
        """The kinds of triggers that were planted; none in the data set as it is."""
        config = self.attack.config
        return config.kinds if isinstance(config, KnownTriggers) else ()

    @property
    def rate(self) -> float:
        """Share of the images that each kind was given."""
        config = self.attack.config
        return config.rate if isinstance(config, KnownTriggers) else 0.0

    @property
    def strength(self) -> Strength | None:
        """How clear the triggers are; None: drawn, or there are none."""
        config = self.attack.config
        return config.strength if isinstance(config, KnownTriggers) else None

    def stages(self) -> Iterator[Stage]:
        """Yield all stages in an order of execution, fold by fold; each once."""
        seen: set[str] = set()
        for scores in self.scores:
            for score in scores:
                for stage in score.path():
                    if stage.key not in seen:
                        seen.add(stage.key)
                        yield stage


@dataclass(frozen=True)
class Scan:
    """What is scanned, and how: everything that its results depend on."""

    suspects: Suspects
    layout: Layout
    training: Training
    detectors: tuple[Method, ...]

    @property
    def key(self) -> str:
        """The name of what a scan leaves in the store, whatever its budget allows for."""
        suspects, training = self.suspects, self.training
        described = [method.describe() for method in (training.network, *self.detectors)]
        return content_hash(
            "scan", suspects.model_dump(mode="json"), self.layout.fingerprint, described
        )[:12]

    def plain(self) -> Pass:
        """Return the pass over the data set as it is."""
        return self._pass(no_attack())

    def with_triggers(self, rate: float, strength: Strength | None = None) -> Pass:
        """Return the pass over a copy in which known triggers were planted."""
        # No decoy is planted: it is to tell how a clean image scores.
        planted = KnownTriggers(rate=rate, strength=strength, among=len(self.layout.label_N))
        return self._pass(Method("attacks", "known_triggers", planted, "known_triggers"))

    def _pass(self, attack: Method) -> Pass:
        return Pass(
            attack,
            tuple(self._scores(fold, attack) for fold in range(self.suspects.folds)),
        )

    def _scores(self, fold: int, attack: Method) -> tuple[Score, ...]:
        config = self.suspects.model_copy(update={"fold": fold})
        dataset = Method("datasets", "suspects", config, "suspects")
        opened = Opened(
            data_key(dataset, self.layout.fingerprint),
            self.layout.label_N,
            len(self.layout.class_names),
        )
        victim = victim_stage(lambda _: opened, dataset, attack, self.training, config.seed)
        return tuple(Score.of(victim, detector) for detector in self.detectors)


def default_detectors() -> tuple[Method, ...]:
    """Return the ensemble."""
    return tuple(
        Method("detectors", kind, method_class("detectors", kind).model_validate(fields), kind)
        for kind, fields in DETECTORS
    )
