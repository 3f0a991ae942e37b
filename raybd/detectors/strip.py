"""STRIP: an input with a trigger keeps its prediction when clean images are laid over it.

Gao, Xu, Wang, Chen, Ranasinghe and Nepal 2019, arXiv 1902.06531, sections on the detection system
and its entropy.
Differs: every input is superimposed with the same overlays, drawn once from one half of the clean
part; the threshold comes from the other half; the training set can be scored too. The paper's code
adds pixels and clips the sum to 0..255 (`superimpose: pixels`), the field's toolboxes add
normalised images (`superimpose: normalised`). Both sums have more contrast than any image that the
network has learned, and lose a faint trigger. An average keeps it, but halves a small patch; the
lighter of each two values keeps a white patch, the darker a black one. So by default an input has
the smooth maximum of its suspicions under these three, with a third of the paper's overlays each.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from raybd.training.inference import infer
from raybd.types.data import Pool, Split
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

Way = Literal["pixels", "normalised", "average", "lighter", "darker"]
"""How one image is laid over another."""
ALL: tuple[Way, ...] = ("average", "lighter", "darker")
"""The ways that are taken together by default."""
LEAST_DEVIATION = 1e-6
"""In nats; scores of trusted images that differ by less count as equal."""


class Strip(StreamDetector):
    """Score by the (negative) mean entropy of the predictions under superimposed clean images."""

    version = 3

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    overlays: int = Field(33, ge=1)
    """Clean images laid over each input; at most half of the clean part. The paper has 100, about
    as many as three ways take together."""
    superimpose: Way | Literal["all"] = "all"
    """How they are laid over it. pixels: the sum, clipped to 0..255. normalised: the sum of the
    images as the network sees them, not clipped. average: the weighted mean of the pixels. lighter,
    darker: the lighter or the darker of each two values. all: average, lighter and darker, each
    score in deviations from its mean on the trusted images that give the threshold, and the
    logarithm of the sum of their exponentials; it takes three times as long."""
    strength: float = Field(1.0, gt=0)
    """Weight of the overlay; the image has 1."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold (the paper's false rejection rate)."""

    @property
    def fewest_trusted(self) -> int:
        """One overlay, and one image for the threshold."""
        return 2

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Draw the overlays, find the threshold, return what scores a stream; ignores labels."""
        order = torch.randperm(len(clean), generator=rng)
        half = max(1, min(self.overlays, len(clean) // 2))
        overlays_MCHW = clean.x_NCHW[order[:half]]

        ways = ALL if self.superimpose == "all" else (self.superimpose,)

        def confidence(x_BCHW: Tensor) -> Tensor:
            found = [self.negative_entropy(victim, x_BCHW, overlays_MCHW, way) for way in ways]
            return torch.stack(found, dim=1)

        # No calibration image is an overlay: laid over itself, it would keep its prediction, as
        # if it wore a trigger.
        held_MW = infer(victim, clean.x_NCHW[order[half:]], confidence, exact=False)
        mean_W = held_MW.mean(dim=0)
        deviation_W = held_MW.std(dim=0, correction=0).clamp_min(LEAST_DEVIATION)

        def combined(score_NW: Tensor) -> Tensor:
            if self.superimpose != "all":
                return score_NW[:, 0]
            # Entropies vary more in one of the ways, which would decide alone.
            return ((score_NW - mean_W) / deviation_W).logsumexp(dim=1)

        threshold = torch.quantile(combined(held_MW), 1 - self.fpr)
        return lambda suspects: Suspicion(
            combined(infer(victim, suspects.x_NCHW, confidence, exact=False)), threshold
        )

    def negative_entropy(
        self, victim: Victim, x_BCHW: Tensor, overlays_MCHW: Tensor, way: Way
    ) -> Tensor:
        """Return the mean over overlays of the predictions' negative entropy, in nats, B."""
        total_B = torch.zeros(len(x_BCHW), device=x_BCHW.device)
        x_BCHW = x_BCHW.float()
        for overlay_CHW in overlays_MCHW.to(x_BCHW.device).float():
            both_BCHW = self.laid_over(x_BCHW, overlay_CHW, way, victim)
            # bf16 would round away the small entropy of a confident prediction. The logarithm of a
            # probability that underflows to 0 would give NaN, which `log_softmax` avoids.
            logp_BK = victim(both_BCHW).float().log_softmax(dim=1)
            total_B += (logp_BK.exp() * logp_BK).sum(dim=1)

        # The sum of p log p is the negative entropy, which is high for suspicious inputs.
        return total_B / len(overlays_MCHW)

    def laid_over(self, x_BCHW: Tensor, overlay_CHW: Tensor, way: Way, victim: Victim) -> Tensor:
        """Return images with one laid over each, as float pixels."""
        if way == "pixels":
            return (x_BCHW + self.strength * overlay_CHW).clamp_(0, 255)
        if way == "average":
            return (x_BCHW + self.strength * overlay_CHW) / (1 + self.strength)
        if way == "lighter":
            return torch.maximum(x_BCHW, self.strength * overlay_CHW)
        if way == "darker":
            return torch.minimum(x_BCHW, 255 - self.strength * (255 - overlay_CHW))
        # In units of pixels, the sum of normalised images is that of the pixels less one mean.
        mean_C11 = 255 * victim.mean_C.view(-1, 1, 1)
        return x_BCHW + self.strength * (overlay_CHW - mean_C11)
