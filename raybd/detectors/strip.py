"""STRIP: an input with a trigger keeps its prediction when clean images are laid over it.

Gao, Xu, Wang, Chen, Ranasinghe and Nepal 2019, arXiv 1902.06531, sections on the detection system
and its entropy.
Differs: every input is superimposed with the same overlays, drawn once from one half of the clean
part; the threshold comes from the other half; the training set can be scored too.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.training.inference import infer
from raybd.types.data import Pool, Split
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion


class Strip(StreamDetector):
    """Score by the (negative) mean entropy of the predictions under superimposed clean images."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    overlays: int = Field(100, ge=1)
    """Clean images laid over each input; at most half of the clean part."""
    strength: float = Field(1.0, gt=0)
    """Weight of the overlay; the sum is clipped to 0..255, as in the paper's code."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold (the paper's false rejection rate)."""

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Draw the overlays, find the threshold, return what scores a stream; ignores labels."""
        order = torch.randperm(len(clean), generator=rng)
        half = max(1, min(self.overlays, len(clean) // 2))
        overlays_MCHW = clean.x_NCHW[order[:half]]

        def confidence(x_BCHW: Tensor) -> Tensor:
            return self.negative_entropy(victim, x_BCHW, overlays_MCHW)

        # No calibration image is an overlay: laid over itself, it would keep its prediction, as
        # if it wore a trigger.
        calibration_N = infer(victim, clean.x_NCHW[order[half:]], confidence, exact=False)
        threshold = torch.quantile(calibration_N, 1 - self.fpr)
        return lambda suspects: Suspicion(
            infer(victim, suspects.x_NCHW, confidence, exact=False), threshold
        )

    def negative_entropy(self, victim: Victim, x_BCHW: Tensor, overlays_MCHW: Tensor) -> Tensor:
        """Return the mean over overlays of the predictions' negative entropy, in nats, B."""
        total_B = torch.zeros(len(x_BCHW), device=x_BCHW.device)
        x_BCHW = x_BCHW.float()
        for overlay_CHW in overlays_MCHW.to(x_BCHW.device):
            both_BCHW = (x_BCHW + self.strength * overlay_CHW).clamp_(0, 255)
            # bf16 would round away the small entropy of a confident prediction. The logarithm of a
            # probability that underflows to 0 would give NaN, which `log_softmax` avoids.
            logp_BK = victim(both_BCHW).float().log_softmax(dim=1)
            total_B += (logp_BK.exp() * logp_BK).sum(dim=1)

        # The sum of p log p is the negative entropy, which is high for suspicious inputs.
        return total_B / len(overlays_MCHW)
