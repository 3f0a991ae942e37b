"""SentiNet: the region that made a prediction makes it on other images, too, if it is a trigger.

Chou, Tramer and Pellegrino 2018, arXiv 1812.00292, sections on mask generation and on the decision
boundary; the region is that of Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, section 3).
Differs: one region for each input, that of the predicted class (no class proposals); the images
that the region is pasted on, those that give the curve and those that give the threshold are
different trusted images; a confidence outside of those that gave the curve counts as the nearest
one of them. It is blind to a trigger that covers the image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.detectors._inputs import halves, needs_classes
from raybd.metrics import thresholds
from raybd.training import layers
from raybd.training.inference import infer
from raybd.types.config import searched
from raybd.types.data import Pool, Split
from raybd.types.errors import Infeasible
from raybd.types.methods import StreamDetector
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion

DEGREE = 2
"""Of the curve."""


class Sentinet(StreamDetector):
    """Score by how far an input's region fools above what is usual at its confidence."""

    pools: ClassVar[tuple[Pool, ...]] = ("train", "test")
    pool: Pool = "test"
    """Scores a stream of test inputs, or the training set."""
    images: int = Field(100, ge=1)
    """Clean images that each region is pasted on; at most a quarter of the clean part. An input
    costs two forward passes for each."""
    region: float = Field(0.15, gt=0, lt=1, json_schema_extra=searched(low=0.05, high=0.3))
    """Share of the positions that belong to the region."""
    bin: float = Field(0.02, gt=0, le=1)
    """Width of the bins of confidence; the largest fooled share in each gives the curve."""
    fpr: float = Field(0.01, gt=0, lt=1)
    """Share of clean inputs above the threshold."""

    @property
    def fewest_trusted(self) -> int:
        """Two to paste on and for the curve, and two for the threshold."""
        return 4

    def learn(self, victim: Victim, clean: Split, rng: Generator) -> Callable[[Split], Suspicion]:
        """Draw the images to paste on and the noise, fit the curve, find the threshold.

        Ignores labels. The facts are the share that the images of the curve fool at most, and
        how far the curve was raised. Raises Infeasible without a head or a feature map, UserError
        for too few clean images.
        """
        needs_classes(victim, "sentinet")
        maps = layers.maps(victim, clean.x_NCHW[:2])
        if not maps:
            raise Infeasible("sentinet needs a feature map with more than one position")
        learned, held = halves(clean, self.fewest_trusted, "sentinet", rng)
        pasted_on = learned.x_NCHW[: min(self.images, len(learned) // 2)]
        shown_MCHW = learned.x_NCHW[len(pasted_on) :]
        noise_CHW = torch.randint(0, 256, clean.x_NCHW.shape[1:], generator=rng, dtype=torch.uint8)

        def measured(x_NCHW: Tensor) -> Tensor:
            return infer(
                victim,
                x_NCHW,
                lambda x_BCHW: self.measure(victim, maps[-1].name, x_BCHW, pasted_on, noise_CHW),
            )

        points_M2 = measured(shown_MCHW)
        curve = Curve.of(points_M2, self.bin)
        threshold = torch.tensor(thresholds.conformal(curve.above(measured(held.x_NCHW)), self.fpr))
        facts = {"largest fooled share": float(points_M2[:, 1].max()), "raised": curve.raised}
        return lambda suspects: Suspicion(
            curve.above(measured(suspects.x_NCHW)), threshold, facts=facts
        )

    def measure(
        self, victim: Victim, layer: str, x_BCHW: Tensor, pasted_on: Tensor, noise_CHW: Tensor
    ) -> Tensor:
        """Return the mean confidence under a noisy region, and the share that is fooled, B x 2.

        The region of each image is pasted on each of the images `pasted_on`: as it is, and full of
        noise. An image is fooled if it is predicted as what the region is from.
        """
        region_B1HW = self.regions(victim, layer, x_BCHW)[:, None]
        class_B = victim(x_BCHW).argmax(1)
        confidence_B = torch.zeros(len(x_BCHW), device=x_BCHW.device)
        fooled_B = torch.zeros(len(x_BCHW), device=x_BCHW.device)

        for other_CHW in pasted_on.to(x_BCHW.device):
            with_region = torch.where(region_B1HW, x_BCHW, other_CHW)
            fooled_B += victim(with_region).argmax(1) == class_B
            with_noise = torch.where(region_B1HW, noise_CHW.to(x_BCHW.device), other_CHW)
            confidence_B += victim(with_noise).float().softmax(1).amax(1)
        return torch.stack([confidence_B, fooled_B], 1) / len(pasted_on)

    def regions(self, victim: Victim, layer: str, x_BCHW: Tensor) -> Tensor:
        """Return masks of the positions that speak most for the predicted class, B x H x W."""
        cam_Bhw = grad_cam(victim, layer, x_BCHW)
        cam_BHW = F.interpolate(
            cam_Bhw[:, None], x_BCHW.shape[2:], mode="bilinear", align_corners=False
        )[:, 0]
        return highest(cam_BHW, self.region)


def grad_cam(victim: Victim, layer: str, x_BCHW: Tensor) -> Tensor:
    """Return how much each position of a layer's map speaks for the predicted class, B x h x w."""
    with layers.reading(victim, [layer]) as seen:
        victim(x_BCHW)
    # Inference runs without gradients, and only the layers after the map need them.
    with torch.enable_grad():
        map_Bchw = seen[layer].detach().requires_grad_()
        logits_BK = layers.tail(victim, layer, x_BCHW)(map_Bchw)
        (gradient_Bchw,) = torch.autograd.grad(logits_BK.amax(1).sum(), map_Bchw)
    weight_Bc11 = gradient_Bchw.mean((2, 3), keepdim=True)
    return (weight_Bc11 * map_Bchw.detach()).sum(1).relu().float()


def highest(value_BHW: Tensor, share: float) -> Tensor:
    """Return a mask of this share of the positions of each image, at least one."""
    flat_BP = value_BHW.flatten(1)
    count = max(1, round(share * flat_BP.shape[1]))
    # Stable, so that equal positions are taken in the same order on every machine.
    rows_BR = flat_BP.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(flat_BP, dtype=torch.bool).scatter_(1, rows_BR, True).view_as(value_BHW)


@dataclass(frozen=True)
class Curve:
    """The fooled share that is usual at each confidence."""

    coefficients: tuple[float, ...]
    """Of the polynomial, highest degree first."""
    lowest: float
    highest: float
    raised: float

    @classmethod
    def of(cls, points_M2: Tensor, bin_width: float) -> "Curve":
        """Fit the largest fooled share of each bin of confidence, and raise the curve.

        It is raised by the mean distance of the points that lie above it.
        """
        points = points_M2.double().numpy()
        bins = np.floor(points[:, 0] / bin_width)
        tops = np.stack(
            [points[bins == one][points[bins == one, 1].argmax()] for one in np.unique(bins)]
        )
        degree = min(DEGREE, len(tops) - 1)
        coefficients = np.polyfit(tops[:, 0], tops[:, 1], degree)
        over = points[:, 1] - np.polyval(coefficients, points[:, 0])
        raised = float(over[over > 0].mean()) if (over > 0).any() else 0.0
        coefficients[-1] += raised
        return cls(tuple(coefficients.tolist()), tops[:, 0].min(), tops[:, 0].max(), raised)

    def above(self, points_N2: Tensor) -> Tensor:
        """Return how far points (confidence, fooled share) lie above the curve, N."""
        confidence_N = points_N2[:, 0].clamp(self.lowest, self.highest)
        usual_N = torch.zeros_like(confidence_N)
        for coefficient in self.coefficients:
            usual_N = usual_N * confidence_N + coefficient
        return points_N2[:, 1] - usual_N
