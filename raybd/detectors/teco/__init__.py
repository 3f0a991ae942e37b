"""TeCo: with a trigger, predictions withstand some corruptions of the image and not others.

Liu et al. 2023, arXiv 2303.18191, section on corruption robustness consistency.
Differs: eleven corruptions (corruptions.py says which); each starts from the image itself, where
the authors' public code corrupts on what an earlier one has left; a corruption is not run again on
an image whose prediction it has changed already. What is random in them is drawn `draws` times,
and an image has the draw that its pixels choose, so that its place in the stream plays no part.
The threshold comes from trusted images; nothing is learned from them. Where a small network changes
its mind about a clean image at the first blur or noise, clean images deviate as much as triggered
ones or more, and the method fails.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor

from raybd.detectors._inputs import needs_classes
from raybd.detectors.teco.corruptions import NAMES, SEVERITIES, Constants, Draw, corrupted
from raybd.distributed import group
from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import UserError
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Teco(StreamDetector):
    """Score by the deviation, over corruptions, of the severity that changes the prediction."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    corruptions: Annotated[tuple[str, ...], Field(min_length=2)] = NAMES
    """Which ones."""
    constants: Constants = Field(
        "imagenet", json_schema_extra=searched(choices=["imagenet", "cifar"])
    )
    """Strength of the severities: as for images of 224 pixels (the authors' choice at all sizes),
    or the milder one for images of 32."""
    draws: int = Field(8, ge=1)
    """Draws of noise, fog and direction."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold."""

    @field_validator("corruptions")
    @classmethod
    def _are_known(cls, corruptions: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(corruptions) - set(NAMES))
        if unknown:
            raise ValueError(f"no corruption {unknown[0]!r}; there are {', '.join(NAMES)}")
        return corruptions

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Draw what is random, and take the threshold from all clean images; ignores labels.

        Raises Infeasible without a head, UserError without clean images.
        """
        needs_classes(victim, "teco")
        if not len(clean):
            raise UserError("teco: no clean images", "Set `clean`.", exit_code=1)
        drawn = [Draw.of(clean.x_NCHW.shape[1:], rng).to(group.device()) for _ in range(self.draws)]

        def deviation(x_BCHW: Tensor) -> Tensor:
            return deviation_of(self.turning_points(victim, x_BCHW, drawn))

        held_M = infer(victim, clean.x_NCHW, deviation)
        threshold = torch.tensor(thresholds.conformal(held_M, self.fpr))
        return lambda suspects: Suspicion(infer(victim, suspects.x_NCHW, deviation), threshold)

    def turning_points(self, victim: Victim, x_BCHW: Tensor, drawn: list[Draw]) -> Tensor:
        """Return the first severity of each corruption that changes the prediction, B x T.

        It is SEVERITIES + 1 if none does.
        """
        class_B = victim(x_BCHW).argmax(1)
        which_B = x_BCHW.long().sum((1, 2, 3)) % len(drawn)
        x_BCHW = x_BCHW.float() / 255
        turned_BT = torch.full(
            (len(x_BCHW), len(self.corruptions)), SEVERITIES + 1, device=x_BCHW.device
        )

        for column, name in enumerate(self.corruptions):
            kept_R = torch.arange(len(x_BCHW), device=x_BCHW.device)
            for severity in range(1, SEVERITIES + 1):
                worse = torch.empty_like(x_BCHW[kept_R])
                for number, draw in enumerate(drawn):
                    mine_R = which_B[kept_R] == number
                    if mine_R.any():
                        worse[mine_R] = corrupted(
                            x_BCHW[kept_R[mine_R]], name, severity, draw, self.constants
                        )
                # As an image has them: whole numbers.
                changed_R = victim((255 * worse).round()).argmax(1) != class_B[kept_R]
                turned_BT[kept_R[changed_R], column] = severity
                kept_R = kept_R[~changed_R]
                if not len(kept_R):
                    break
        return turned_BT


def deviation_of(turned_BT: Tensor) -> Tensor:
    """Return the standard deviation of each row, over all of its values."""
    return turned_BT.float().std(1, correction=0)
