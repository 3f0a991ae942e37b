"""Victim: the undefended model, trained on the poisoned set, and how well the attack worked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from raybd.cells.loading import load_poisoned, load_victim, shape_of, victim_tensors
from raybd.cells.stage import Facts, Result, Stage, VictimStage, random_stream
from raybd.cells.victim_quality import measured
from raybd.cells.watching import watching, without_poison
from raybd.metrics.catalogue import QUALITY
from raybd.results.store import Store
from raybd.stages.encoder import Encoder
from raybd.stages.plant import canaries_learned
from raybd.types.data import Dataset, Poisoned, Split
from raybd.types.methods import Attack, Trainer, TransferTrainer
from raybd.types.models import Network
from raybd.types.models import Victim as VictimModel


@dataclass(frozen=True, kw_only=True)
class Victim(VictimStage):
    """A classifier: a probe on an encoder, or trained on an overlay, perhaps from a source."""

    name = "victim"
    version = 2
    encoder: Encoder | None = None
    """The encoder that it is a probe of."""
    source: VictimStage | None = None
    """The victim of another experiment that its training starts from."""
    overlay: Stage | None = None
    """What changed its training set last; None for a probe, whose poison is in its encoder."""

    @property
    def poison_stage(self) -> Stage:
        """The poison in its own training set, or in its encoder."""
        below = self.overlay or self.encoder
        assert below is not None
        return below.poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """What changed the training set last."""
        return self.overlay or self.poison_stage

    @property
    def encoder_stage(self) -> VictimStage | None:
        """The encoder that it is a probe of."""
        return self.encoder

    @property
    def costs(self) -> tuple[Stage, ...]:
        """What the attack cost belongs to the undefended victim."""
        return (self.poison_stage, self)

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Train it, or take the one that the attacker hands out, and measure it."""
        poisoned = load_poisoned(self.overlay_stage, store)
        attack = cast(Attack, self.poison_stage.method.config)
        # The attacker trained it already: the user gets the finished model.
        if attack.threat_model == "training":
            victim = load_victim(cast(VictimStage, self.poison_stage), store)
            watcher = None
        else:
            split = self.training_split(poisoned, dataset)
            inside = poisoned if self.encoder is None else without_poison(poisoned)
            with watching(self, dataset, inside, split) as watcher:
                victim = self.retrain(split, dataset.num_classes, store, self)
            cast(Trainer, self.method.config).check(victim, dataset.clean)

        found = measured(victim, dataset, poisoned)
        facts = {
            **shape_of(dataset),
            **found.facts,
            **canaries_learned(victim, poisoned),
        }
        result = Result(victim_tensors(victim), facts, predictions=found.predictions)
        return result if watcher is None else watcher.add_to(result)

    def training_split(self, poisoned: Poisoned, dataset: Dataset) -> Split:
        """Return what it is trained on: poisoned data, or clean data for a probe."""
        return dataset.train if self.encoder is not None else poisoned.over(dataset.train)

    def retrain(self, split: Split, num_classes: int, store: Store, stage: Stage) -> VictimModel:
        """Train a victim of the same recipe on other data, with the random stream of a stage."""
        assert self.network is not None
        network = cast(Network, self.network.config)
        rng = random_stream(stage.name, stage.seed)
        trainer = self.method.config

        if isinstance(trainer, TransferTrainer):
            below = self.source or self.encoder
            # None: the network's published weights are the start.
            start = load_victim(below, store) if below is not None else None
            return trainer.train_from(start, split, num_classes, network, rng)
        return cast(Trainer, trainer).train(split, num_classes, network, rng)

    def columns(self, facts: Mapping[str, Any]) -> Facts:
        """Clean accuracy, attack success, robust accuracy."""
        # Artefacts of older versions lack the numbers that were added later.
        return {name: facts.get(name) for name in (*QUALITY, "counted_n", "test_n")}


def defended_columns(facts: Mapping[str, Any]) -> Facts:
    """Return how well a defended victim does, as columns of a row."""
    names = (*QUALITY, "accuracy_on_kept")
    return {f"defended_{name}": facts.get(name) for name in names}
