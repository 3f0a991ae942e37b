"""ABL, Anti-Backdoor Learning: isolate what is learned first, train on the rest, unlearn it.

Li, Lyu, Koren, Lyu, Li and Ma 2021, arXiv 2110.11571, sections 3.3 and 3.4 (local gradient ascent,
isolation, global gradient ascent); defaults from the authors' code, where BackdoorBench has 20
epochs of isolation, and 20 of unlearning at 1e-4.
Differs: see training/isolation.py; no Cutout; the ascent, which has no bound, ends once the network
gives the isolated images their label no more often than chance, and an epoch that costs more than a
tenth of the accuracy on trusted images is taken back, where there are any.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.metrics.classification import predictions
from raybd.training.held_out import strongest
from raybd.training.inference import infer
from raybd.training.isolation import Isolating
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import FollowingRecipe
from raybd.training.trusted import lost_accuracy, trusted_accuracy
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.methods import TrainingDefense
from raybd.types.models import Network, Victim
from raybd.types.verdicts import Defended

STILL_KNOWN = 0.5
"""Share of the isolated images with their label after the ascent from which on it has failed."""


class ABL(Isolating, FollowingRecipe, TrainingDefense):
    """Isolate the images that are learned first, train on the others, and unlearn the isolated.

    Needs no trusted images; with some, the ascent ends before it costs much.
    """

    epochs: int = Field(60, ge=1, json_schema_extra=searched(low=10, high=100, log=True))
    """Passes over the images that are not isolated; they follow the first stage."""
    lr: float = Field(0.1, gt=0, json_schema_extra=searched(low=0.01, high=0.1, log=True))
    """Highest learning rate of these passes."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty (SGD) or decoupled decay (Adam), in all stages."""
    schedule: Literal["cosine", "step", "constant"] = "step"
    """How the learning rate falls while it trains on the rest; in the other stages it is
    constant."""
    milestones: tuple[float, ...] = (2 / 3,)
    """Where a step schedule falls, as shares of the training."""
    ascent_epochs: int = Field(5, ge=0, json_schema_extra=searched(low=5, high=100, log=True))
    """Most passes over the isolated images. They are few: of 5,000 images, 1 % is one step."""
    ascent_lr: float = Field(5e-4, gt=0, json_schema_extra=searched(low=1e-4, high=1e-2, log=True))
    """Learning rate of the ascent."""

    def defend(
        self, split: Split, num_classes: int, network: Network, clean: Split, rng: Generator
    ) -> Defended:
        """Train on the poisoned split; on trusted images nothing is learned."""
        if (known := self.resolved()) is not self:
            return known.defend(split, num_classes, network, clean, rng)
        victim = new_victim(split, num_classes, network, rng)
        isolated = self.isolate(victim, split, self, rng, "abl")
        rest_N = torch.ones(len(split), dtype=torch.bool)
        rest_N[isolated.rows_M] = False
        fit(victim, split.select(rest_N), self, rng, name="abl rest")

        ascent = Ascent(victim, split.select(isolated.rows_M), clean, num_classes)
        facts = {**isolated.verdict.facts, "isolated known before": ascent.known()}
        if self.ascent_epochs:
            self.ascend(victim, ascent, rng)
        facts |= {"isolated known after": ascent.known(), "ascent epochs": float(ascent.epochs)}
        after = trusted_accuracy(victim, clean)
        if ascent.before is not None and after is not None:
            facts |= {"trusted accuracy before": ascent.before, "trusted accuracy": after}
        lost = lost_accuracy("abl", ascent.before, after, len(clean), "before the ascent")
        warnings = [isolated.problem, ascent.problem(facts["isolated known after"]), lost]
        return Defended(
            victim, isolated.verdict, "; ".join(text for text in warnings if text) or None, facts
        )

    def ascend(self, victim: Victim, ascent: "Ascent", rng: Generator) -> None:
        """Unlearn the isolated images, in place, until the ascent says that it is over."""

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            return -F.cross_entropy(model(x_BCHW).float(), y_B, reduction="none")

        fields = {
            "epochs": self.ascent_epochs,
            "lr": self.ascent_lr,
            "schedule": "constant",
            "warmup": 0.0,
        }
        recipe = self.model_copy(update=fields)
        fit(
            victim,
            ascent.isolated,
            recipe,
            rng,
            objective,
            name="abl ascent",
            extra_state=ascent,
            until=ascent.is_over,
        )
        if not ascent.ended:
            # The last epoch may have cost too much, too.
            ascent.is_over()
        # Looking has left it on the device.
        victim.cpu()


class Ascent:
    """When an ascent ends, by what a defender sees."""

    def __init__(self, victim: Victim, isolated: Split, clean: Split, num_classes: int) -> None:
        self.victim = victim
        self.isolated = isolated
        self.clean = clean
        self.chance = 1 / num_classes
        self.before = trusted_accuracy(victim, clean)
        self.kept: dict[str, Tensor] = {}
        """The weights after the last epoch that did not cost too much."""
        self.epochs = -1
        """Epochs that were kept; the first look comes before the first one."""
        self.cost_too_much = False
        self.ended = False

    def known(self) -> float:
        """Return the share of the isolated images that the victim gives their label."""
        found_M = predictions(infer(self.victim, self.isolated.x_NCHW))
        return float((found_M == self.isolated.y_N).double().mean())

    def is_over(self) -> bool:
        """Return whether the ascent ends here; takes an epoch back that cost too much."""
        accuracy = trusted_accuracy(self.victim, self.clean)
        costly = (
            self.before is not None
            and accuracy is not None
            and strongest(self.before, [accuracy]) is None
        )
        if costly:
            self.cost_too_much = True
            self.ended = True
            self.victim.load_state_dict(self.kept)
            return True
        self.epochs += 1
        state = self.victim.state_dict()
        # Cloned: on a CPU, `cpu` copies nothing, and the ascent goes on.
        self.kept = {name: tensor.cpu().clone() for name, tensor in state.items()}
        self.ended = self.known() <= self.chance
        return self.ended

    def problem(self, known: float) -> str | None:
        """Return why the isolated images are not unlearned, if so."""
        if known <= STILL_KNOWN:
            return None
        why = (
            "more would cost too much accuracy on the trusted images"
            if self.cost_too_much
            else "raise ascent_epochs or ascent_lr"
        )
        return f"abl: {known:.0%} of the isolated images still have their label: {why}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed ascent needs."""
        return {"kept": self.kept, "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.kept = state["kept"]
        self.epochs = state["epochs"]
