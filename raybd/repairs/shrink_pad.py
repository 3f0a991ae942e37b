"""ShrinkPad: shrink each input and pad it at another place; triggers that depend on place fail.

Li, Zhai, Jiang, Li and Xia 2021, arXiv 2104.02361, section on transformation-based defense.
Differs: the place of the padding is drawn from a hash of the image, where the authors draw it anew
for each input, so that an image always has the same prediction; shrinking averages the pixels that
it leaves out (antialiasing).
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from raybd.repairs._clean_accuracy import accuracy_facts, lost
from raybd.types.config import searched
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import Repair
from raybd.types.models import Victim
from raybd.types.verdicts import Defended


class ShrinkPad(Repair):
    """Put shrinking and zero-padding before the encoder; needs neither data nor training."""

    size: int = Field(4, ge=1, json_schema_extra=searched(low=1, high=8))
    """Pixels by which each side is shrunk, and that are padded; less than the image's side."""

    def refused(self, side: int) -> str | None:
        """Return why nothing would be left of images whose shorter side is this, if so."""
        if self.size < side:
            return None
        return f"size {self.size} leaves nothing of images of {side} pixels"

    def reshape(self, victim: Victim, state: Mapping[str, Tensor]) -> None:
        """Put the transform into a victim that was just built; its state is loaded afterwards."""
        transform = ShrinkAndPad(self.size, victim.mean_C, victim.std_C)
        # In front: a transform that an earlier repair put there still acts.
        victim.entry = nn.Sequential(transform, victim.entry)

    def repair(self, victim: Victim, suspects: Split, clean: Split, rng: Generator) -> Defended:
        """Return a copy that transforms its inputs; nothing is trained.

        The facts are the share of the image that still shows pixels of the input, and the accuracy
        on the clean part. Raises Infeasible if nothing would be left.
        """
        height, width = suspects.x_NCHW.shape[-2:]
        if (reason := self.refused(min(height, width))) is not None:
            raise Infeasible(f"shrink_pad: {reason}")

        # The facts compare the copy with the victim as it was.
        repaired = copy.deepcopy(victim).cpu()
        self.reshape(repaired, {})
        repaired.eval()
        shown_share = (height - self.size) / height * ((width - self.size) / width)
        facts = {"shown_share": shown_share} | accuracy_facts(victim, repaired, clean)
        return Defended(repaired, warning=lost("shrink_pad", facts, clean), facts=facts)


class ShrinkAndPad(nn.Module):
    """Shrinks normalised images and pads them with black at a place that their pixels determine."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, size: int, mean_C: Tensor, std_C: Tensor) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean_C", mean_C.clone())
        self.register_buffer("std_C", std_C.clone())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return normalised images of the same size, with gradients."""
        height, width = x_BCHW.shape[2:]
        small_BCHW = F.interpolate(
            x_BCHW,
            (height - self.size, width - self.size),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        # Padding is done around black, which is zero here, on all sides; then a window is cut out.
        black_C11 = (-self.mean_C / self.std_C).view(-1, 1, 1)
        wide_BCHW = F.pad(small_BCHW - black_C11, (self.size,) * 4)
        top_B, left_B = self.places(x_BCHW)
        rows_BH = self.size - top_B[:, None] + torch.arange(height, device=x_BCHW.device)
        columns_BW = self.size - left_B[:, None] + torch.arange(width, device=x_BCHW.device)

        image_B = torch.arange(len(x_BCHW), device=x_BCHW.device)
        # Each image has a place of its own, so that no slice cuts out all windows.
        window_BHWC = wide_BCHW.permute(0, 2, 3, 1)[
            image_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]
        ]
        return window_BHWC.permute(0, 3, 1, 2) + black_C11

    def places(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows above and columns left of each shrunk image, 0..size, from its pixels.

        Pixels are rounded to 0..255 first, so that all devices agree.
        """
        pixels_BCHW = (x_BCHW.detach() * self.std_C.view(-1, 1, 1)) + self.mean_C.view(-1, 1, 1)
        pixels_BP = pixels_BCHW.mul(255).round().long().flatten(1)
        place_P = torch.arange(pixels_BP.shape[1], device=x_BCHW.device)

        # Weights of a linear congruential generator (Knuth's MMIX); sums wrap around in 64 bits.
        # An odd weight has an inverse there, so that a change of one pixel always changes the sum.
        weight_P = (place_P * 6364136223846793005 + 1442695040888963407) | 1
        choices = self.size + 1
        # Low bits of the sum depend on the low bits of the pixels alone, and are shifted out. The
        # remainder has the sign of the divisor, so that negative sums give valid places as well.
        hashed_B = ((pixels_BP * weight_P).sum(1) >> 24) % choices**2
        return hashed_B // choices, hashed_B % choices
