"""STRIP for encoders: an input with a trigger keeps its embedding, whatever clean image is laid over it.

After Gao, Xu, Wang, Chen, Ranasinghe and Nepal 2019, arXiv 1902.06531, section on the detection system.
Differs: an encoder predicts nothing, so the mean cosine between the embeddings of the superimposed inputs takes the place of the
entropy of their predictions; every input is superimposed with the same overlays, drawn once from one half of the clean part; the
threshold comes from the other half; the training set can be scored too.
"""

from collections.abc import Callable

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
    """Score by how alike the embeddings are under superimposed clean images."""

    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    overlays: int = Field(100, ge=2)
    """Clean images that are laid over each input (as many as half of the clean part at most)."""
    strength: float = Field(1.0, gt=0, json_schema_extra=searched(low=0.25, high=2.0))
    """Weight of the overlay; the sum is clipped to 0..255."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs that the threshold lets be flagged."""

    def score(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Suspicion:
        """Suspicion of each input: a mean cosine; labels play no part."""
        return self.learn(victim, clean, rng)(suspects)

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Draw the overlays and find the threshold; what scores a stream by them.

        Raises UserError for fewer than four clean images.
        """
        if len(clean) < 4:
            raise UserError(
                f"strip_encoder: {len(clean)} clean images", "Give it at least four.", exit_code=1
            )
        order = torch.randperm(len(clean), generator=rng)
        half = min(self.overlays, len(clean) // 2)
        overlays_MCHW = clean.x_NCHW[order[:half]]

        def likeness(x_BCHW: Tensor) -> Tensor:
            return self._mean_cosine(victim, x_BCHW, overlays_MCHW)

        threshold = torch.tensor(
            thresholds.conformal(infer(victim, clean.x_NCHW[order[half:]], likeness), self.fpr)
        )
        return lambda suspects: Suspicion(infer(victim, suspects.x_NCHW, likeness), threshold)

    def _mean_cosine(self, victim: Victim, x_BCHW: Tensor, overlays_MCHW: Tensor) -> Tensor:
        """Of each two embeddings of an input; that of their sum's square without its diagonal."""
        x_BCHW, count = x_BCHW.float(), len(overlays_MCHW)
        sum_BD = torch.zeros((), device=x_BCHW.device)
        squares_B = torch.zeros(len(x_BCHW), device=x_BCHW.device)
        for overlay_CHW in overlays_MCHW.to(x_BCHW.device):
            z_BD = F.normalize(
                victim.embed((x_BCHW + self.strength * overlay_CHW).clamp_(0, 255)).float(), dim=1
            )
            sum_BD, squares_B = sum_BD + z_BD, squares_B + z_BD.square().sum(1)
        return (sum_BD.square().sum(1) - squares_B) / (count * (count - 1))
