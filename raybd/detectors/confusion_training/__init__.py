"""Confusion training: what a network still knows when its clean knowledge is destroyed.

Qi, Xie, Wang, Wu, Mahloujifar and Mittal 2023, arXiv 2205.13616, sections 4 and 5. A copy of a
network learns wrong labels of trusted images and, at the same time, the labels of the suspects.
What is common to both is forgotten; a trigger is on no trusted image, so its label stays. In
rounds, the training set shrinks to the images whose labels were kept best.
Differs: settings are the authors' for CIFAR-10 and can be given for each round; the classes are
tested on embeddings of the victim, centred before their two main directions are taken; the
covariances of the test are enlarged on the diagonal alone; chunks of the suspects that the authors'
code computes and does not use are left out; a suspect is flagged if the network after the last
round still says its label, in a class that the test finds, or (`flags: trusted`) if it is surer of
it than of the labels of trusted images that were held back.
"""

import copy
from typing import ClassVar, Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Generator, Tensor

from raybd.detectors.asset.inner_loop import by_content
from raybd.detectors.confusion_training.class_test import found, ratios
from raybd.detectors.confusion_training.confusing import Round, confuse
from raybd.metrics import thresholds
from raybd.training.augmentation import Augment
from raybd.training.inference import embeddings, infer
from raybd.training.loop import fit
from raybd.training.models import fresh_copy
from raybd.training.recipe import Recipe
from raybd.types.data import Pool, Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

FEWEST_OF_CLASS = 0.02
"""Share of each class that stays in the training set of every round."""
NOTHING = 1.0
"""A threshold that no probability exceeds."""
Number = TypeVar("Number", int, float)


class ConfusionTraining(Detector):
    """Score by how sure a confused network is of the label.

    It costs about twice the training of the victim, or more. Lists have a value for each round; the
    last one counts for all that follow.
    """

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    shares: tuple[float, ...] = Field((1, 1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100), min_length=1)
    """Share of the training set that each round learns from; the first is 1."""
    epochs: tuple[int, ...] = Field((100, 100, 40), min_length=1)
    """Epochs of the network that is confused, which goes on from that of the round before."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of that training."""
    augment: Augment = "crop_flip"
    """How its images are augmented; those of the confusion are not."""
    steps: tuple[int, ...] = Field((6000, 6000, 6000, 6000, 2000), min_length=1)
    """Steps of the confusion."""
    confusion_lr: tuple[float, ...] = Field((0.001, 0.001, 0.001, 0.01), min_length=1)
    """Learning rate of the confusion."""
    weight: tuple[float, ...] = Field((20, 20, 20, 30, 30, 15), min_length=1)
    """How much more the wrong labels count, plus 1, than those of the suspects."""
    confusion_momentum: float = Field(0.7, ge=0, lt=1)
    """Momentum of the confusion."""
    confusion_batch: int = Field(32, ge=2)
    """Trusted images, and suspects, per step of the confusion over all workers."""
    every: int = Field(2, ge=1)
    """Every so many steps, suspects are learned, too."""
    batch_size: int = Field(128, ge=1)
    """Images per step of the training."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the training."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty of the training and of the confusion."""
    flags: Literal["classes", "trusted"] = "classes"
    """What is flagged: kept labels in the classes that the test finds; or labels that are surer
    than those of trusted images that no training saw (a fifth of them)."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """`trusted`: share of the trusted images above the threshold."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware has it."""

    @model_validator(mode="after")
    def _shares_shrink(self) -> Self:
        if self.shares[0] != 1:
            raise ValueError("the first of shares must be 1: all suspects are looked at")
        if any(not 0 < share <= 1 for share in self.shares):
            raise ValueError("each of shares must lie in (0, 1]")
        lists = (self.epochs, self.steps, self.confusion_lr, self.weight)
        if any(value <= 0 for values in lists for value in values) or min(self.weight) < 1:
            raise ValueError("epochs, steps and confusion_lr must be above 0, weight at least 1")
        return self

    @property
    def fewest_trusted(self) -> int:
        """Return how many trusted images it needs: two of them in a batch."""
        return 10

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image.

        The facts are the ratio of each class, as `index[k]`, and how many suspects keep their
        label.
        Raises Infeasible for an encoder without a head, and UserError for too few trusted images.
        """
        if victim.head is None:
            raise Infeasible("confusion_training trains a classifier: an encoder has no classes")
        if len(clean) < self.fewest_trusted:
            raise UserError(
                f"confusion_training: {len(clean)} clean images",
                f"Give it at least {self.fewest_trusted}.",
                exit_code=1,
            )
        # Batches follow the content, so that the order of the suspects plays no part.
        canonical_N = by_content(suspects.x_NCHW)
        used, held = self._divided(clean, rng)
        confused = self._confused(victim, suspects.select(canonical_N), used, rng)

        p_NK = infer(confused, suspects.x_NCHW).float().softmax(1)
        score_N = p_NK.gather(1, suspects.y_N[:, None]).squeeze(1)
        kept_N = p_NK.argmax(1) == suspects.y_N
        # In this order, too, so that a sum has the same last bits.
        z_ND = embeddings(victim, suspects)[canonical_N]
        ratio_K = ratios(z_ND, suspects.y_N[canonical_N], kept_N[canonical_N], p_NK.shape[1])
        facts = {f"index[{k}]": float(ratio) for k, ratio in enumerate(ratio_K)}
        facts["kept labels"] = float(kept_N.sum())
        if self.flags == "trusted":
            held_M = infer(confused, held.x_NCHW).float().softmax(1).gather(1, held.y_N[:, None])
            threshold_N = torch.full_like(score_N, thresholds.conformal(held_M[:, 0], self.alpha))
            return Suspicion(score_N, threshold_N, facts=facts)
        is_found_K = found(ratio_K)
        # Its label is kept: no other class is likelier.
        others_NK = p_NK.scatter(1, suspects.y_N[:, None], 0)
        threshold_N = torch.where(is_found_K[suspects.y_N], others_NK.amax(1), NOTHING)
        return Suspicion(score_N, threshold_N, facts=facts)

    def _divided(self, clean: Split, rng: Generator) -> tuple[Split, Split]:
        """Return the trusted images that are used, and those that are held back."""
        if self.flags == "classes":
            return clean, clean
        order_M = torch.randperm(len(clean), generator=rng)
        fifth = max(1, len(clean) // 5)
        return clean.select(order_M[fifth:]), clean.select(order_M[:fifth])

    def _confused(self, victim: Victim, split: Split, clean: Split, rng: Generator) -> Victim:
        """Return the confused network of the last round."""
        base = confused = fresh_copy(victim, rng)
        rows_M = torch.arange(len(split))
        for number, share in enumerate(self.shares):
            if number:
                rows_M = kept_best(confused, split, share)
            learned = split.select(rows_M)
            last = number == len(self.shares) - 1 and number > 0
            known = _joined(learned, clean) if last else learned
            base = fit(base, known, self._recipe(number), rng, name=f"confusion_training {number}")
            turn = Round(
                name=f"confusion_training {number} confusion",
                steps=_of(self.steps, number),
                lr=_of(self.confusion_lr, number),
                weight=_of(self.weight, number),
                momentum=self.confusion_momentum,
                weight_decay=self.weight_decay,
                batch_size=self.confusion_batch,
                every=self.every,
                exact=self.precision == "fp32",
            )
            confused = confuse(copy.deepcopy(base), learned, clean, turn, rng)
        return confused

    def _recipe(self, number: int) -> Recipe:
        return Recipe(
            epochs=_of(self.epochs, number),
            lr=self.lr,
            augment=self.augment,
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            precision=self.precision,
        )


def kept_best(victim: Victim, split: Split, share: float) -> Tensor:
    """Return the rows with the lowest losses: this share, and at least 2 % of each label."""
    loss_N = F.cross_entropy(infer(victim, split.x_NCHW).float(), split.y_N, reduction="none")
    # Stable, so that equal losses are ordered by row.
    order_N = loss_N.argsort(stable=True)
    taken_N = torch.zeros(len(split), dtype=torch.bool)
    taken_N[order_N[: max(1, round(share * len(split)))]] = True
    for label in split.y_N.unique():
        of_class_M = order_N[split.y_N[order_N] == label]
        taken_N[of_class_M[: max(1, round(FEWEST_OF_CLASS * len(of_class_M)))]] = True
    return taken_N.nonzero().squeeze(1)


def _joined(first: Split, second: Split) -> Split:
    return Split(torch.cat([first.x_NCHW, second.x_NCHW]), torch.cat([first.y_N, second.y_N]))


def _of(values: tuple[Number, ...], number: int) -> Number:
    return values[min(number, len(values) - 1)]
