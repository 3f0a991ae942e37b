"""SCALE-UP: an input with a trigger keeps its prediction when its pixels are multiplied.

Guo, Li, Chen, Guo, Sun and Liu 2023, arXiv 2302.03251, sections on the data-free and the
data-limited setting.
Differs: statistics are those of the class that the victim predicts, with a least deviation of one
factor's share; a class with few trusted images has those of all classes. The threshold comes from
trusted images outside of the statistics (`threshold: 0.5` is the paper's without trusted images).
The share of kept predictions has one value more than there are factors: many inputs tie, clean ones
with the highest share among them, and no threshold flags a small share of them. So by default the
mean probability of the predicted class stands for it; `soft: false` is the paper's count.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.detectors._inputs import halves, needs_classes
from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

Factor = Annotated[float, Field(gt=1)]


class ScaleUp(StreamDetector):
    """Score by how consistent the prediction is under multiplied pixels."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    factors: Annotated[tuple[Factor, ...], Field(min_length=1)] = (3, 5, 7, 9, 11)
    """What the pixels are multiplied by; products are clipped to 0..255."""
    soft: bool = Field(True, json_schema_extra=searched(choices=[False, True]))
    """Take the mean probability of the predicted class, not the share of equal predictions."""
    by_class: bool = True
    """Count in deviations from the trusted images of the predicted class (the paper's data-limited
    setting); else the score is the consistency itself (its data-free setting)."""
    fewest: int = Field(20, ge=2)
    """A class with fewer trusted images than this has the statistics of all of them: the mean of
    20 is known to a quarter of a deviation."""
    threshold: float | None = None
    """Threshold of the score; unset: from trusted images, by `fpr`."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold, where it comes from trusted images."""

    @property
    def fewest_trusted(self) -> int:
        """One image for the statistics, and one for the threshold."""
        return 2

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Take statistics from half of the clean images, the threshold from the others.

        Ignores labels. Raises Infeasible without a head, UserError for too few clean images.
        """
        needs_classes(victim, "scale_up")
        learned, held = halves(clean, self.fewest_trusted, "scale_up", rng)

        def measured(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
            both_N2 = infer(victim, x_NCHW, lambda x_BCHW: self.consistency(victim, x_BCHW))
            return both_N2[:, 0], both_N2[:, 1].long()

        statistics_K2 = self.statistics(*measured(learned.x_NCHW))

        def score(x_NCHW: Tensor) -> Tensor:
            consistency_N, class_N = measured(x_NCHW)
            if not self.by_class:
                return consistency_N
            # A class that is predicted for none of the trusted images has the last row.
            row_N2 = statistics_K2[class_N.clamp_max(len(statistics_K2) - 1)]
            return (consistency_N - row_N2[:, 0]) / row_N2[:, 1]

        found = self.threshold
        if found is None:
            found = thresholds.conformal(score(held.x_NCHW), self.fpr)
        return lambda suspects: Suspicion(score(suspects.x_NCHW), torch.tensor(found))

    def consistency(self, victim: Victim, x_BCHW: Tensor) -> Tensor:
        """Return the consistency of each image under all factors, and its predicted class, B x 2.

        The image itself is not one of the scaled ones.
        """
        x_BCHW = x_BCHW.float()
        class_B1 = victim(x_BCHW).argmax(1, keepdim=True)
        total_B1 = torch.zeros(class_B1.shape, device=x_BCHW.device)

        for factor in self.factors:
            logits_BK = victim((factor * x_BCHW).clamp_(max=255)).float()
            if self.soft:
                total_B1 += logits_BK.softmax(1).gather(1, class_B1)
            else:
                total_B1 += logits_BK.argmax(1, keepdim=True) == class_B1
        return torch.cat([total_B1 / len(self.factors), class_B1], 1)

    def statistics(self, consistency_M: Tensor, class_M: Tensor) -> Tensor:
        """Return mean and deviation of each class, and of all images in the last row, K + 1 x 2."""
        classes = int(class_M.max()) + 1
        # The consistency of images that all tie has no deviation.
        least = 1 / len(self.factors)

        def of(rows_R: Tensor) -> Tensor:
            return torch.stack([rows_R.mean(), rows_R.std(correction=0).clamp_min(least)])

        every_2 = of(consistency_M)
        members = [consistency_M[class_M == one] for one in range(classes)]
        rows = [of(rows_R) if len(rows_R) >= self.fewest else every_2 for rows_R in members]
        return torch.stack([*rows, every_2])
