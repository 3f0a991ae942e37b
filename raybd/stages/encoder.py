"""Encoder: what a probe or a training defense stands on.

It is trained on poisoned data, or made by an attack on encoders.
"""

from dataclasses import dataclass
from typing import cast

from raybd.cells.loading import load_poisoned, load_victim, shape_of, victim_tensors
from raybd.cells.stage import Result, Stage, VictimStage, random_stream
from raybd.results.store import Store
from raybd.stages.poison import Poison
from raybd.types.data import Dataset
from raybd.types.methods import Attack, Trainer
from raybd.types.models import Network


@dataclass(frozen=True, kw_only=True)
class Encoder(VictimStage):
    """An encoder under attack."""

    name = "encoder"
    poison: Stage
    """What changed its training data last, canaries or the poison; or its attacker."""

    @property
    def poison_stage(self) -> Stage:
        """The poison in its training data, or its attacker."""
        return self.poison.poison_stage

    @property
    def overlay_stage(self) -> Stage:
        """What changed its training data last."""
        return self.poison

    def run(self, store: Store, dataset: Dataset) -> Result:
        """Train it, or take the one that the attacker hands out."""
        attack = cast(Attack, self.poison_stage.method.config)
        if attack.threat_model == "encoder":
            # The attacker changed the clean encoder, and hands out the result.
            encoder = load_victim(cast(Poison, self.poison), store)
        else:
            assert self.network is not None
            split = load_poisoned(self.poison, store).over(dataset.train)
            encoder = cast(Trainer, self.method.config).train(
                split,
                dataset.num_classes,
                cast(Network, self.network.config),
                random_stream(self.name, self.seed),
            )
        return Result(victim_tensors(encoder), shape_of(dataset))
