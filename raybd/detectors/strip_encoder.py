"""STRIP for encoders: an input with a trigger keeps its embedding under superimposed images.

After Gao, Xu, Wang, Chen, Ranasinghe and Nepal 2019, arXiv 1902.06531, section on the detection
system.
Differs: an encoder predicts nothing, so the mean cosine between the embeddings of the superimposed
inputs replaces the entropy of their predictions; every input is superimposed with the same
overlays, drawn once from one half of the clean part; the threshold comes from the other half; the
training set can be scored too.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.metrics import thresholds
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import UserError
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class StripEncoder(StreamDetector):
    """Score by how similar the embeddings are under superimposed clean images."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    overlays: int = Field(100, ge=2)
    """Clean images laid over each input; at most half of the clean part."""
    strength: float = Field(1.0, gt=0, json_schema_extra=searched(low=0.25, high=2.0))
    """Weight of the overlay; the sum is clipped to 0..255."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold."""

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Draw the overlays, find the threshold, return what scores a stream; ignores labels.

        Raises UserError for fewer than four clean images.
        """
        # Both halves need images, and the mean cosine over pairs needs two overlays.
        if len(clean) < 4:
            raise UserError(
                f"strip_encoder: {len(clean)} clean images", "Give it at least four.", exit_code=1
            )
        order = torch.randperm(len(clean), generator=rng)
        half = min(self.overlays, len(clean) // 2)
        overlays_MCHW = clean.x_NCHW[order[:half]]

        def similarity(x_BCHW: Tensor) -> Tensor:
            return self.mean_cosine(victim, x_BCHW, overlays_MCHW)

        # No calibration image is an overlay: laid over itself, it would keep its embedding, as if
        # it wore a trigger.
        held_M = infer(victim, clean.x_NCHW[order[half:]], similarity)
        threshold = torch.tensor(thresholds.conformal(held_M, self.fpr))
        return lambda suspects: Suspicion(infer(victim, suspects.x_NCHW, similarity), threshold)

    def mean_cosine(self, victim: Victim, x_BCHW: Tensor, overlays_MCHW: Tensor) -> Tensor:
        """Return the mean cosine over pairs of overlays of an input's embeddings under them, B.

        The sum over all pairs is the squared length of the summed unit vectors without the pairs of
        a vector with itself, so that no pair has to be formed.
        """
        x_BCHW = x_BCHW.float()
        # A scalar, because the width of the embeddings shows only in the first pass.
        sum_BD = torch.zeros((), device=x_BCHW.device)
        squares_B = torch.zeros(len(x_BCHW), device=x_BCHW.device)
        for overlay_CHW in overlays_MCHW.to(x_BCHW.device):
            both_BCHW = (x_BCHW + self.strength * overlay_CHW).clamp_(0, 255)
            z_BD = F.normalize(victim.embed(both_BCHW).float(), dim=1)
            sum_BD = sum_BD + z_BD
            # Not 1 for each overlay: `normalize` leaves an embedding of zeros as it is.
            squares_B = squares_B + z_BD.square().sum(1)

        count = len(overlays_MCHW)
        return (sum_BD.square().sum(1) - squares_B) / (count * (count - 1))
