"""ABL's isolation as a detector: what a fresh network learns first is suspected.

Li, Lyu, Koren, Lyu, Li and Ma 2021, arXiv 2110.11571, section 3.3 (local gradient ascent). The
victim itself plays no part but for its architecture.
Differs: see training/isolation.py, which the defense `abl` shares; the threshold is where the low
mode of the losses ends, and nothing is flagged where they have none, instead of a share that is the
true rate in public code (`flags: share` assumes one). It fails by design for triggers that are
learned slowly.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.detectors.asset.inner_loop import by_content
from raybd.metrics import thresholds
from raybd.training.isolation import Isolating
from raybd.training.models import fresh_copy
from raybd.training.recipe import Recipe
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Detector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class AblIsolation(Isolating, Detector):
    """Score by the negative loss of a short training that favours what is learned first."""

    pools: ClassVar[tuple[Pool, ...]] = ("train",)
    pool: Literal["train"] = "train"
    """Scores the training set."""
    flags: Literal["low_mode", "share"] = "low_mode"
    """What is flagged: the low mode of the losses, if there is one (label-free), or `share`."""
    share: float = Field(0.01, gt=0, lt=1, json_schema_extra=searched(low=0.005, high=0.1))
    """Share of the images with the lowest losses; `flags: share`: the share that is flagged, an
    assumption about the poison rate."""
    batch_size: int = Field(128, ge=1)
    """Images per step over all workers."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware has it."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Score each training image; trusted images are not used.

        The facts describe the low mode. Raises Infeasible for an encoder without a head.
        """
        if victim.head is None:
            raise Infeasible("abl_isolation trains a classifier, and the victim is an encoder")
        # Batches follow the content, so that the order of the suspects plays no part.
        canonical_N = by_content(suspects.x_NCHW)
        recipe = Recipe(
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            precision=self.precision,
        )
        first = fresh_copy(victim, rng)
        found = self.isolate(first, suspects.select(canonical_N), recipe, rng, "abl_isolation")

        score_N = found.verdict.score_N[canonical_N.argsort()]
        threshold: Tensor = found.verdict.threshold_N
        if self.flags == "share":
            threshold = torch.tensor(thresholds.top_share(score_N, self.share))
        return Suspicion(score_N, threshold, warning=found.problem, facts=found.verdict.facts)
