"""D-BR: unlearn the images that are most sensitive to being moved, relearn the least sensitive.

Chen, Wu and Wang 2022, "Effective backdoor defense by exploiting sensitivity of poisoned samples"
(NeurIPS 2022; no arXiv number is known to us), backdoor removal; defaults from the authors' public
code. It needs the victim's training set, and no trusted images.
Differs: see training/sensitivity.py; images are augmented as by the victim's trainer; a round does
not unlearn while the poisoned part is already far from its labels, because ascent has no end.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.distributed import ddp, group
from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.training.epochs import Epochs, Stream
from raybd.training.inference import infer
from raybd.training.models import fresh_copy
from raybd.training.precision import bf16
from raybd.training.recipe import FollowingRecipe, new_optimizer, new_schedule
from raybd.training.sensitivity import SensitivitySplit
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended

ONE_LABEL = 0.5
"""Share of one label in the poisoned part below which it is not taken for poison of one target."""
STILL_KNOWN = 0.5
"""Share of the poisoned part's commonest label that is still given after the repair, above which
the repair has failed."""


class DBR(FollowingRecipe, Repair):
    """Ascend on the part of the training set that looks poisoned, descend on the clean part.

    The recipe is that of the rounds, of which each is one epoch.
    """

    epochs: int = Field(20, ge=1, json_schema_extra=searched(low=5, high=50, log=True))
    """Rounds: one pass over the poisoned part, then one over the clean part."""
    lr: float = Field(1e-4, gt=0, json_schema_extra=searched(low=1e-5, high=1e-2, log=True))
    """Highest learning rate of both passes."""
    schedule: Literal["cosine", "step", "constant"] = "constant"
    """How the learning rate falls."""
    split: SensitivitySplit = SensitivitySplit()
    """How the training set is divided."""
    furthest: float = Field(5.0, gt=0)
    """Mean cross-entropy of the poisoned part from which on a round does not unlearn."""

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a repaired copy; trusted images are only looked at.

        The facts are the parts, the share of the poisoned part's commonest label that the victim
        gives its images before and after, and the accuracy on the clean images.
        Raises Infeasible for an encoder without a head.
        """
        if victim.head is None:
            raise Infeasible("dbr unlearns labels, and an encoder without a head has none")
        with torch.no_grad():
            num_classes = infer(victim, suspects.x_NCHW[:1]).shape[1]
        victim.cpu()
        fresh = fresh_copy(victim, rng)
        sensitive = self.split.divide(fresh, suspects, num_classes, rng, "dbr", self.precision)

        repaired = copy.deepcopy(victim)
        poison = suspects.select(sensitive.poison_P)
        # Clean images among them keep their labels, and should: poison of one target is looked at.
        of_target = poison.select(poison.y_N == poison.y_N.mode().values)
        facts = sensitive.facts(suspects.y_N) | {
            "poison part known before": known(victim, of_target)
        }
        unlearned = self.resolved().rounds(
            repaired, poison, suspects.select(sensitive.clean_C), rng
        )
        repaired.to("cpu").to(memory_format=torch.contiguous_format).eval()
        facts |= {
            "rounds that unlearned": float(unlearned),
            "poison part known after": known(repaired, of_target),
            **accuracy_facts(victim, repaired, clean),
        }
        repaired.cpu()
        victim.cpu()
        warnings = [_nothing_found(facts), _still_known(facts), lost("dbr", facts, clean)]
        return Defended(repaired, None, "; ".join(text for text in warnings if text) or None, facts)

    def rounds(self, victim: Victim, poison: Split, clean: Split, rng: Generator) -> int:
        """Train the victim in place; return the number of rounds that unlearned."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        victim.to(group.device()).to(memory_format=layout)
        model = ddp.wrap(victim).train()
        augment = self.augment
        assert augment != "victim"
        stream = Stream(
            torch.cat([poison.x_NCHW, clean.x_NCHW]),
            torch.cat([poison.y_N, clean.y_N]),
            self.batch_size,
            augment,
            self.bounds,
        )
        poison_P = torch.arange(len(poison))
        clean_C = len(poison) + torch.arange(len(clean))
        count = _Count()
        loop = Epochs(
            "dbr",
            self.epochs,
            stream,
            rng,
            {"victim": victim, "count": count},
            optimizers=[new_optimizer(model, self)],
            schedule=lambda optimizer, steps: new_schedule(optimizer, self, steps),
            clip=self.clip,
            hint=f"Lower lr (now {self.lr:g}) or furthest.",
        )

        for _ in loop.remaining():
            passes = [(1.0, clean_C)]
            if distance(victim, poison) <= self.furthest:
                passes = [(-1.0, poison_P), *passes]
                count.unlearned += 1
            model.train()
            for sign, rows in passes:
                for batch in loop.batches(loop.drawn(rows)):
                    x_BCHW = batch.augmented(batch.x_B).contiguous(memory_format=layout)
                    with bf16(group.device(), self.precision == "auto"):
                        loss = F.cross_entropy(model(x_BCHW), batch.y_B, reduction="sum").float()
                    loop.step(sign * loss * (group.world() / batch.size))
                    loop.add_loss(loss, batch.size)
            loop.end_epoch(lr=loop.lr)
        ddp.unwrap(model)
        return count.unlearned


class _Count:
    """Rounds that unlearned, as a part of a checkpoint."""

    def __init__(self) -> None:
        self.unlearned = 0

    def state_dict(self) -> dict[str, int]:
        return {"unlearned": self.unlearned}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.unlearned = state["unlearned"]


def distance(victim: Victim, split: Split) -> float:
    """Return the mean cross-entropy of images."""
    return float(F.cross_entropy(infer(victim, split.x_NCHW), split.y_N))


def known(victim: Victim, split: Split) -> float:
    """Return the share of images that a victim gives their label."""
    right_N: Tensor = infer(victim, split.x_NCHW).argmax(1) == split.y_N
    return float(right_N.double().mean())


def _nothing_found(facts: dict[str, float]) -> str | None:
    share = facts["poison part label share"]
    if share > ONE_LABEL:
        return None
    return (
        f"dbr: only {share:.0%} of the most sensitive images have one label: either there is no "
        "backdoor of one target, or the division does not find it"
    )


def _still_known(facts: dict[str, float]) -> str | None:
    share = facts["poison part known after"]
    if share <= STILL_KNOWN:
        return None
    return (
        f"dbr: {share:.0%} of the images with the commonest label of the poisoned part still get "
        "it: raise epochs or lr"
    )
