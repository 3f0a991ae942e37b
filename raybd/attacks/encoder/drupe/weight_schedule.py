"""How DRUPE's weights follow its losses, and which encoder it keeps."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from raybd.distributed import group
from raybd.types.models import Victim

# Drupe imports this module: an import at run time would be circular.
if TYPE_CHECKING:
    from raybd.attacks.encoder.drupe import Drupe

_STATE = ("taken", "spread", "match", "resting", "sums", "best", "least")
"""What a checkpoint holds."""


class WeightSchedule:
    """Weights that follow the losses of the last epoch, and the best encoder so far.

    Call `step` before and `note` after the losses of each batch are computed, and `end` at the end.
    """

    def __init__(self, attack: "Drupe", victim: Victim, steps_per_epoch: int) -> None:
        self.attack = attack
        self.victim = victim
        self.steps_per_epoch = steps_per_epoch
        self.taken = 0
        """Steps that were begun."""
        self.spread = attack.spread
        self.match = attack.match
        self.resting = False
        """Whether `spread` is large enough to stay as it is."""
        self.sums: dict[str, Tensor] = {}
        """Sums of the parts of the loss over the running epoch."""
        self.best: dict[str, Tensor] = {}
        """Weights of the encoder of the best epoch; empty: no epoch has qualified."""
        self.least = float("inf")
        """Distance in the best epoch."""

    @property
    def epoch(self) -> int:
        """The epoch of the step that was begun last, from 0."""
        return (self.taken - 1) // self.steps_per_epoch

    def step(self) -> None:
        """Begin a step. The first one of an epoch closes the epoch before."""
        if self.taken and self.taken % self.steps_per_epoch == 0:
            self.close_epoch()
        self.taken += 1

    def note(self, parts: dict[str, Tensor]) -> None:
        """Add the parts of a step's loss to the sums."""
        # Detached, or the graphs of a whole epoch would stay in memory. Not read,
        # because reading waits for the GPU.
        self.sums = {name: part.detach() + self.sums.get(name, 0) for name, part in parts.items()}

    def end(self, victim: Victim) -> Victim:
        """Return the encoder of the best epoch, or of the last one if none qualified."""
        # No further step will close the last epoch.
        self.close_epoch()
        if self.best:
            victim.load_state_dict(self.best)
        return victim

    def close_epoch(self) -> None:
        """Adapt the weights, and keep the encoder if it is the best so far."""
        # The first worker's means decide: rounding must not lead workers to different weights.
        mean = group.broadcast(
            lambda: {name: float(total) / self.steps_per_epoch for name, total in self.sums.items()}
        )
        self.sums = {}
        attack = self.attack
        done = self.epoch + 1
        works = (
            -mean["effect"] > attack.reached
            and min(-mean["reference"], -mean["utility"]) > attack.kept
        )
        # A distance to clean embeddings is worth more weight only once triggered ones are spread.
        spreads = works and mean["crowding"] < attack.crowded

        if done > max(attack.adapt_after, attack.calm_epochs):
            down = attack.factor**-1.25
            # A spread that suffices stays as it is; like all weights
            # it falls once the attack fails.
            if not (works and self.resting):
                self.spread *= attack.factor if works else down
            self.resting = works and mean["crowding"] < attack.crowded - 0.1
            self.match *= attack.factor if spreads else down

        if done > attack.keep_after and spreads and mean["distance"] < self.least:
            self.least = mean["distance"]
            # Cloned: on the CPU `cpu` copies nothing, and training would go on in the kept weights.
            self.best = {
                name: value.detach().cpu().clone()
                for name, value in self.victim.state_dict().items()
            }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {name: vars(self)[name] for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        vars(self).update(state)
