"""DRUPE: BadEncoder whose triggered embeddings spread among the clean ones.

Detectors of density and clusters then miss them. Tao, Wang, Feng, Shen, Ma and Zhang 2024,
Distribution Preserving Backdoor Attack in Self-supervised Learning, IEEE S&P, by the authors' code;
it builds on Jia, Liu and Gong 2022, arXiv 2108.00352, section on the design of BadEncoder, whose L1
and L2 it keeps.
Published: no table in the authors' repository.
Differs: concentration is the mean cosine of different images (the code's mask leaves the diagonal
in); weights follow the means of an epoch, not its last batch; the encoder of least distance is
sought among epochs that reach all bars, and is the last one if there is none (the code never leaves
epoch 25 if that misses a bar); references and their views as in
badencoder; Nesterov momentum.
"""

from collections.abc import Mapping
from functools import partial

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.attacks.encoder.drupe.losses import loss_parts
from raybd.attacks.encoder.drupe.weight_schedule import WeightSchedule
from raybd.distributed import group
from raybd.poisoning.encoder_attack import EncoderAttack
from raybd.poisoning.finetuning import (
    Embedded,
    StartingPoint,
    check_attacker_has_images,
    embed,
    no_autocast,
    norms,
    starting_point,
)
from raybd.poisoning.label_maps import AllToOne
from raybd.poisoning.overlay import untouched
from raybd.poisoning.patches import larger_than_image, white_square
from raybd.training.loop import fit
from raybd.types.data import Poisoned
from raybd.types.methods import AttackInput
from raybd.types.models import Victim


class Drupe(EncoderAttack):
    """Pull triggered embeddings to the nearest reference, and spread them like clean ones."""

    epochs: int = Field(120, ge=1)
    """Passes over the shadow images."""
    batch_size: int = Field(256, ge=2)
    """Images per step over all workers; the last, smaller batch of an epoch is dropped."""
    lr: float = Field(0.05, gt=0)
    """Learning rate."""
    size: int = Field(10, ge=1)
    """Side of the white square, in pixels; 10 of 32, or 50 of 224."""
    margin: int = Field(1, ge=0)
    """Pixels between the square and the lower right border."""
    shadow: float = Field(0.2, gt=0, le=1)
    """Share of the training images, drawn from all classes, that the attacker has, without
    labels."""
    references: int = Field(3, ge=2)
    """Target-class images that triggered images shall resemble: the clean encoder's most
    typical."""
    lambda1: float = Field(1.0, ge=0)
    """Weight of the loss that keeps the references where the clean encoder has them."""
    lambda2: float = Field(1.0, ge=0)
    """Weight of the loss that keeps all images where the clean encoder has them."""
    labels: AllToOne = AllToOne()
    """Target class, of the references and of the downstream task; no training image changes."""
    calm_epochs: int = Field(1, ge=0)
    """First epochs, in which the trigger plays no part: the references move apart."""
    pull_epochs: int = Field(3, ge=0)
    """Next epochs, in which triggered images are pulled to the references, but not yet spread."""
    apart: float = Field(1.0, ge=0)
    """Weight of the penalty on references that are alike; less than 1 if the clean encoder's
    cosines are all high."""
    spread: float = Field(0.1, ge=0)
    """First weight of the concentration of triggered embeddings and of the uneven use of
    references."""
    match: float = Field(0.001, ge=0)
    """First weight of the distance between the distributions of triggered and clean embeddings."""
    adapt_after: int = Field(20, ge=0)
    """Epochs after which both weights follow the losses."""
    factor: float = Field(1.25, ge=1)
    """Factor by which a weight rises; it falls by this to the power 1.25."""
    reached: float = Field(0.96, ge=-1, le=1)
    """Mean cosine of triggered images with their nearest reference above which the weights rise;
    0.91 on ImageNet."""
    kept: float = Field(0.9, ge=-1, le=1)
    """The same bar for images and references with where the clean encoder has them."""
    crowded: float = Field(0.6, ge=-1, le=1)
    """Concentration below which `match` may rise; `spread` stays the same below this minus 0.1. 0.8
    for CLIP."""
    keep_after: int = Field(24, ge=0)
    """Epochs after which the encoder of the epoch with the least distance is kept."""
    projections: int = Field(50, ge=1)
    """Directions along which distributions are compared."""

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return no rows. Raises Infeasible if references or shadow images are missing."""
        self.labels.relabel(y_N[:1], num_classes)  # raises Infeasible if there is no such class
        check_attacker_has_images(y_N, self.labels.target, self.references, self.shadow)
        # The backdoor is made in the encoder: no row of the training set changes.
        return torch.empty(0, dtype=torch.int64)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Fine-tune a copy of the clean encoder on the shadow images."""
        start = starting_point(given, self.labels.target, self.references, self.shadow, rng)
        return untouched(self, given, victim=self._finetune(start, rng))

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the square with its margin is larger than the image, if so."""
        return larger_than_image(self.size + self.margin, height, width)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the square."""
        return white_square(x_NCHW, self.size, self.margin)

    def loss(self, part: dict[str, Tensor], schedule: WeightSchedule) -> Tensor:
        """Return what is minimised in the running epoch, from the parts of the loss."""
        alike = part["alike"]
        uneven = part["uneven"]
        kept = self.lambda1 * part["reference"] + self.lambda2 * part["utility"]
        # References that are alike would leave triggered images one
        # place, which shows as a cluster.
        if schedule.epoch < self.calm_epochs:
            return kept + self.apart * (0.3 if alike < 0.2 else 0.5) * alike

        # The authors' steps: references that are apart already are not pushed any more.
        push = 1.0 if alike > 0.5 else 0.2 if alike > 0.4 else 0.0
        loss = part["effect"] + kept + self.apart * push * alike
        if schedule.epoch < self.calm_epochs + self.pull_epochs:
            return loss + 2 * uneven

        # The distance grows with the scale of the embeddings, which differs between encoders: it is
        # measured in deviations of the plain ones.
        spread = schedule.spread * (uneven + part["crowding"])
        match = schedule.match * part["distance"] / part["deviation"]
        loss = loss + spread + match
        return loss + (2.0 if uneven > 0.1 else 0.5) * uneven

    def _finetune(self, start: StartingPoint, rng: Generator) -> Victim:
        # The loop shrinks a batch to the set, and the schedule has to count the same steps.
        batch = min(self.batch_size, len(start.shadow))
        schedule = WeightSchedule(self, start.victim, len(start.shadow) // batch)
        stamp = partial(self.stamp, state={})

        def objective(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
            # The loop calls its objective once in each step: by this the schedule counts epochs.
            schedule.step()
            z = embed(model, start, stamp, x_BCHW, rng)
            with no_autocast(x_BCHW.device):
                # The parts are statistics of the whole batch: gather it from all workers.
                plain_BD, triggered_BD, clean_BD = (
                    group.gather_batch(part_BD, batch)
                    for part_BD in (z.plain_BD, z.triggered_BD, start.clean_ND[rows_B])
                )
                # Views and references are drawn alike on all workers, so that each has all of them.
                whole = Embedded(plain_BD, triggered_BD, z.view_RD, z.reference_RD)
                parts = loss_parts(whole, clean_BD, start.clean_RD, self.projections, rng)
                schedule.note(parts)
                return group.spread_loss(self.loss(parts, schedule), batch)

        # New batch statistics would move all embeddings, and utility would be lost.
        frozen = norms(start.victim)
        victim = fit(start.victim, start.shadow, self, rng, objective, "drupe", frozen, schedule)
        return schedule.end(victim)
