"""TED: an input with a trigger comes near to its predicted class only in the late layers.

Mo et al. 2024, arXiv 2312.02673, sections on topological evolution dynamics and on the outlier
detector. At each layer, an input has the rank of the nearest trusted image of its predicted class
among all trusted images; the ranks of all layers are the input's path through the network.
Differs: the outlier score is the Mahalanobis distance of ranks from those of trusted images, where
the authors take the PCA detector of pyod; maps with more than `width` values are summed in `width`
random groups with random signs, which keeps distances on average; a module that runs several times
counts as it was last; an input whose class no trusted image has gets the last rank instead of
being dropped; the threshold comes from trusted images outside of the statistics.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.detectors._inputs import halves, needs_classes
from raybd.detectors.ted.ranks import Known, Reader, Usual
from raybd.distributed import group
from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Ted(StreamDetector):
    """Score by how unusual the ranks of the predicted class are along the layers."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    images: int = Field(1000, ge=2)
    """Trusted images that an input is compared with, at most: those that are predicted right."""
    width: int = Field(256, ge=8)
    """Values of a layer that are kept."""
    ranks: Literal["share", "log"] = Field(
        "share", json_schema_extra=searched(choices=["share", "log"])
    )
    """Take ranks as shares of the trusted images, or the logarithm of one plus the rank."""
    variance: float = Field(0.95, gt=0, le=1, json_schema_extra=searched(low=0.5, high=1.0))
    """Share of the variance of the ranks that the directions of the distance hold."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold."""

    @property
    def fewest_trusted(self) -> int:
        """Two for each half of the statistics."""
        return 4

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Take the ranks of half of the clean images, the threshold from the others.

        The facts are the images that an input is compared with, and the layers. Raises Infeasible
        without a head, UserError for too few clean images.
        """
        needs_classes(victim, "ted")
        learned, held = halves(clean, self.fewest_trusted, "ted", rng)
        reader = Reader.of(victim, learned.x_NCHW[:2], self.width, rng)

        values_MF = infer(victim, learned.x_NCHW, reader)
        class_M = reader.classes(values_MF)
        right_M = class_M == learned.y_N
        warning = None
        if int(right_M.sum()) < 2:
            right_M[:] = True
            warning = "fewer than two of the trusted images are predicted right: all were taken"
        kept_R = right_M.nonzero().flatten()[: self.images]
        known = Known(
            values_MF[kept_R].to(group.device()), class_M[kept_R].to(group.device()), reader.widths
        )

        itself_ML = known.ranks(known.values_MF, known.class_M, itself=True)
        usual = Usual.of(self.scaled(itself_ML, len(kept_R)), self.variance)

        def unusual(x_BCHW: Tensor) -> Tensor:
            values_BF = reader(x_BCHW)
            rank_BL = known.ranks(values_BF, reader.classes(values_BF))
            return usual.distance(self.scaled(rank_BL, len(kept_R)))

        held_M = infer(victim, held.x_NCHW, unusual)
        threshold = torch.tensor(thresholds.conformal(held_M, self.fpr))
        facts = {"compared images": float(len(kept_R)), "layers": float(len(reader.widths))}
        return lambda suspects: Suspicion(
            infer(victim, suspects.x_NCHW, unusual), threshold, warning=warning, facts=facts
        )

    def scaled(self, rank_BL: Tensor, images: int) -> Tensor:
        """Return ranks in the unit that `ranks` says."""
        return rank_BL.log1p() if self.ranks == "log" else rank_BL / images
