"""DRUPE: BadEncoder whose triggered embeddings spread among the clean ones, so that detectors of density and clusters miss them.

Tao, Wang, Feng, Shen, Ma and Zhang 2024, Distribution Preserving Backdoor Attack in Self-supervised Learning, IEEE S&P, by the
authors' code; it builds on Jia, Liu and Gong 2022, arXiv 2108.00352, section on the design of BadEncoder, whose L1 and L2 it keeps.
Published: no table in the authors' repository.
Differs: concentration is the mean cosine of different images (the code's mask leaves the diagonal in); weights follow the means of
an epoch, not its last batch; the encoder of least distance is sought among epochs that reach all bars, and is the last one if there
is none (the code never leaves epoch 25 if that misses a bar); references as in badencoder; Nesterov momentum.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.encoder._finetuning import (
    Embedded,
    FineTuning,
    begin,
    cosines,
    embed,
    exact,
    finetune,
    untouched,
)
from raybd.distributed import group
from raybd.types.data import Poisoned, Split
from raybd.types.models import Victim


class Drupe(FineTuning):
    """Pull triggered embeddings to the nearest of several references, apart from each other and into the clean distribution."""

    epochs: int = Field(120, ge=1)
    """Passes over the shadow images."""
    batch_size: int = Field(256, ge=2)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(0.05, gt=0)
    """Learning rate."""
    shadow: float = Field(0.2, gt=0, le=1)
    """Share of the training images, drawn from all classes, that the attacker has; their labels play no part."""
    references: int = Field(3, ge=2)
    """Images of the target class that images with the trigger are to resemble: the most typical ones by the clean encoder."""
    calm_epochs: int = Field(1, ge=0)
    """Epochs at the start in which the trigger plays no part: the references move apart."""
    pull_epochs: int = Field(3, ge=0)
    """Epochs after these in which triggered images are pulled to the references and nothing spreads them."""
    apart: float = Field(1.0, ge=0)
    """Weight of the penalty on references that are alike; less than 1 where all cosines of the clean encoder are high."""
    spread: float = Field(0.1, ge=0)
    """First weight of the concentration of the triggered embeddings, and of the uneven use of the references."""
    match: float = Field(0.001, ge=0)
    """First weight of the distance between the distributions of triggered and clean embeddings."""
    adapt_after: int = Field(20, ge=0)
    """Epochs after which both weights follow the losses."""
    factor: float = Field(1.25, ge=1)
    """By which a weight rises; it falls by this to the power 1.25."""
    reached: float = Field(0.96, ge=-1, le=1)
    """Mean cosine of triggered images with their nearest reference that lets the weights rise; 0.91 on ImageNet."""
    kept: float = Field(0.9, ge=-1, le=1)
    """The same of images, and of the references, with where the clean encoder has them."""
    crowded: float = Field(0.6, ge=-1, le=1)
    """Concentration below which `match` may rise; `spread` rests where it is 0.1 lower still. 0.8 for CLIP."""
    keep_after: int = Field(24, ge=0)
    """Epochs after which the encoder of the epoch with the least distance is kept."""
    projections: int = Field(50, ge=1)
    """Directions along which distributions are compared."""

    def infect(
        self, encoder: Victim, train: Split, num_classes: int, rng: Generator
    ) -> tuple[Poisoned, Victim]:
        """Fine-tune a copy of the clean encoder on the shadow images."""
        start = begin(self, encoder, train, num_classes, rng)
        batch = min(self.batch_size, len(start.shadow))
        course = _Course(self, start.victim, len(start.shadow) // batch)

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            course.step()
            z = embed(model, self, start, x_BCHW, rng)
            with exact(x_BCHW.device):
                plain_BD, triggered_BD, clean_BD = (
                    group.gather_batch(part_BD, batch)
                    for part_BD in (z.plain_BD, z.triggered_BD, start.clean_ND[rows_B])
                )
                whole = Embedded(plain_BD, triggered_BD, z.view_RD, z.reference_RD)
                parts = _parts(whole, clean_BD, start.clean_RD, self.projections, rng)
                course.note(parts)
                return group.spread_loss(self._loss(parts, course), batch)

        victim = finetune(self, start, objective, "drupe", rng, course)
        return untouched(self, train), course.end(victim)

    def _loss(self, part: dict[str, Tensor], course: "_Course") -> Tensor:
        """What is minimised in an epoch."""
        alike, uneven = (
            part["alike"],
            part["uneven"],
        )  # how much alike the references are, and how unevenly used
        kept = self.lambda1 * part["reference"] + self.lambda2 * part["utility"]
        if course.epoch < self.calm_epochs:
            return kept + self.apart * (0.3 if alike < 0.2 else 0.5) * alike
        loss = (
            part["effect"]
            + kept
            + self.apart * (1.0 if alike > 0.5 else 0.2 if alike > 0.4 else 0.0) * alike
        )
        if course.epoch < self.calm_epochs + self.pull_epochs:
            return loss + 2 * uneven
        loss = (
            loss
            + course.spread * (uneven + part["crowding"])
            + course.match * part["distance"] / part["deviation"]
        )
        return loss + (2.0 if uneven > 0.1 else 0.5) * uneven


class _Course:
    """How far the fine-tuning is: the weights, the sums over the running epoch, and the encoder to be kept."""

    def __init__(self, attack: Drupe, victim: Victim, steps: int) -> None:
        self.attack, self.victim, self.steps = attack, victim, steps
        self.taken, self.spread, self.match = 0, attack.spread, attack.match
        self.resting = False
        self.sums: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.least = float("inf")

    @property
    def epoch(self) -> int:
        """Of the step that was begun last, from 0."""
        return (self.taken - 1) // self.steps

    def step(self) -> None:
        """A step begins; with the first one of an epoch ends the epoch before."""
        if self.taken and self.taken % self.steps == 0:
            self._close()
        self.taken += 1

    def note(self, parts: dict[str, Tensor]) -> None:
        """Add the parts of a step's loss to the sums."""
        self.sums = {name: part.detach() + self.sums.get(name, 0) for name, part in parts.items()}

    def end(self, victim: Victim) -> Victim:
        """The encoder of the epoch with the least distance, the last one where no epoch qualified."""
        self._close()
        if self.best:
            victim.load_state_dict(self.best)
        return victim

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        names = ("taken", "spread", "match", "resting", "sums", "best", "least")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)

    def _close(self) -> None:
        """An epoch is over: weigh anew, and keep the encoder if it is the best so far."""
        mean = group.broadcast(
            lambda: {name: float(total) / self.steps for name, total in self.sums.items()}
        )
        self.sums = {}
        attack, done = self.attack, self.epoch + 1
        works = (
            -mean["effect"] > attack.reached
            and min(-mean["reference"], -mean["utility"]) > attack.kept
        )
        spreads = works and mean["crowding"] < attack.crowded
        if done > max(attack.adapt_after, attack.calm_epochs):
            down = attack.factor**-1.25
            if not (works and self.resting):
                self.spread *= attack.factor if works else down
            self.resting = works and mean["crowding"] < attack.crowded - 0.1
            self.match *= attack.factor if spreads else down
        if done > attack.keep_after and spreads and mean["distance"] < self.least:
            self.least = mean["distance"]
            self.best = {
                name: value.detach().cpu().clone()
                for name, value in self.victim.state_dict().items()
            }


def _parts(
    z: Embedded, clean_BD: Tensor, clean_RD: Tensor, projections: int, rng: Generator
) -> dict[str, Tensor]:
    """What the loss is made of, for the embeddings of a whole batch."""
    to_reference_BR, between_RR = (
        cosines(z.triggered_BD, z.reference_RD),
        cosines(z.reference_RD, z.reference_RD),
    )
    pairs = torch.triu_indices(*between_RR.shape)
    return {
        "effect": -to_reference_BR.amax(1).mean(),
        "reference": -F.cosine_similarity(z.view_RD, clean_RD).mean(),
        "utility": -F.cosine_similarity(z.plain_BD, clean_BD).mean(),
        "uneven": to_reference_BR.mean(0).std(),
        "alike": between_RR[
            pairs[0], pairs[1]
        ].mean(),  # a reference with itself counts, as in the authors' code
        "crowding": _crowding(z.triggered_BD),
        "distance": _sliced_wasserstein(z.triggered_BD, z.plain_BD, projections, rng),
        "deviation": z.plain_BD.std(0).mean(),
    }


def _crowding(z_BD: Tensor) -> Tensor:
    """Mean cosine of different images."""
    cosine_BB = cosines(z_BD, z_BD)
    return (cosine_BB.sum() - cosine_BB.trace()) / (len(z_BD) * (len(z_BD) - 1))


def _sliced_wasserstein(a_BD: Tensor, b_BD: Tensor, projections: int, rng: Generator) -> Tensor:
    """Root of the mean squared distance between equally many points, sorted along random directions."""
    direction_DP = F.normalize(torch.randn(a_BD.shape[1], projections, generator=rng), dim=0).to(
        a_BD.device
    )
    apart_BP = (a_BD @ direction_DP).sort(0).values - (b_BD @ direction_DP).sort(0).values
    return apart_BP.square().mean().clamp_min(1e-20).sqrt()  # zero has no gradient
