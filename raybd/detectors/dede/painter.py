"""Reconstructs images with a trained decoder, and measures the error in each patch.

Hou, Li and Yao 2025, arXiv 2411.16154, section on detection. The letters in shapes are those of
decoder.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.detectors.dede.decoder import MaskedDecoder, Normalisation, hidden, normalised
from raybd.distributed import group
from raybd.training.inference import infer
from raybd.types.errors import UserError
from raybd.types.models import Victim

Region = tuple[int, int, int, int]
"""Top, bottom, left, right in pixels, as in `x[top:bottom, left:right]`."""


@torch.no_grad()
def error_maps(model: MaskedDecoder, x_NCHW: Tensor, z_ND: Tensor, masks_MK: Tensor) -> Tensor:
    """Return the errors in each patch, the mean over masks that all images share.

    N x T, float32, on the CPU. Sharded over the workers; every worker gets all rows.
    """
    device = group.device()
    model.to(device).eval()
    parts = []

    # Fewer images where each has more patches: memory grows with the tokens.
    for rows_B in group.batches(len(x_NCHW), max(1, 2**15 // model.tokens)):
        x_BCHW = x_NCHW[rows_B].to(device, non_blocking=True)
        z_BD = z_ND[rows_B].to(device, non_blocking=True)
        each = [
            model.errors(x_BCHW, z_BD, seen_K.to(device).expand(len(rows_B), -1))
            for seen_K in masks_MK
        ]
        parts.append(torch.stack(each).mean(0))
    return group.gather_rows(torch.cat(parts), len(x_NCHW)).cpu()


@dataclass(frozen=True)
class Painter:
    """A victim and the decoder that was trained on its embeddings."""

    victim: Victim
    model: MaskedDecoder
    embedding: Normalisation
    deviation: float
    side: int
    masks_MK: Tensor
    """Patches that are seen in scoring; all images share them."""
    counted_T: Tensor
    """1 for patches that count."""
    strangers_JD: Tensor
    """Embeddings of other images whose errors are divisors; empty if errors are not divided."""

    def embed(self, x_NCHW: Tensor) -> Tensor:
        """Return embeddings of uint8 images as the decoder takes them."""
        return normalised(
            infer(self.victim, x_NCHW, self.victim.embed), self.embedding, self.deviation
        )

    def maps(self, x_NCHW: Tensor, z_ND: Tensor) -> Tensor:
        """Return the squared error of each patch, given these embeddings; N x T."""
        x_NCHW = resized(x_NCHW, self.side)
        return error_maps(self.model, x_NCHW, z_ND, self.masks_MK) * self.counted_T

    def mismatched(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the error of each image, its error with another embedding, and their divisor."""
        z_ND = self.embed(x_NCHW)
        own_N = self.maps(x_NCHW, z_ND).sum(1)
        # Rolled by one, each image has the embedding of another.
        other_N = self.maps(x_NCHW, z_ND.roll(1, 0)).sum(1)
        return own_N, other_N, self.unit(x_NCHW)

    def unit(self, x_NCHW: Tensor) -> Tensor:
        """Return the divisor of an image's error: 1, or the mean error with others' embeddings."""
        if not len(self.strangers_JD):
            return torch.ones(len(x_NCHW))
        each = [self.maps(x_NCHW, z_D.expand(len(x_NCHW), -1)).sum(1) for z_D in self.strangers_JD]
        # A uniform image may be reconstructed from any embedding almost without error.
        return torch.stack(each).mean(0).clamp_min(1e-6)

    def score(self, x_NCHW: Tensor) -> Tensor:
        """Score each image."""
        return self.maps(x_NCHW, self.embed(x_NCHW)).sum(1) / self.unit(x_NCHW)

    @property
    def pixels(self) -> float:
        """How many values are hidden and count, in the mean over the masks."""
        counted_MT = hidden(self.masks_MK, self.model.tokens) * self.counted_T
        return float(counted_MT.sum(1).mean()) * 3 * self.model.patch**2

    @torch.no_grad()
    def pictures(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """Return images, what the decoder sees of them, and its reconstruction; uint8, its size."""
        # From the images as they came: only the decoder works at another size.
        z_ND = self.embed(x_NCHW)
        x_NCHW = resized(x_NCHW, self.side)
        seen_NCHW, painted_NCHW = self.model.cpu().painted(
            x_NCHW, z_ND, self.masks_MK[:1].expand(len(x_NCHW), -1)
        )
        return {"input": x_NCHW, "masked": seen_NCHW, "reconstruction": painted_NCHW}


def resized(x_NCHW: Tensor, side: int) -> Tensor:
    """Return the images as squares of this side, uint8."""
    if x_NCHW.shape[-2:] == (side, side):
        return x_NCHW
    parts = [
        # Antialiased: without it, shrinking would drop the pixels of a small trigger.
        F.interpolate(part.float(), size=(side, side), mode="bilinear", antialias=True)
        for part in x_NCHW.split(1000)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def outside(skip: Region | None, image: tuple[int, int], side: int, patch: int) -> Tensor:
    """Return 1 for each patch, 0 for those that touch the region; T.

    The region is that of an image of this height and width. Raises UserError if no patch is left.
    """
    if skip is None:
        return torch.ones((side // patch) ** 2)
    top, bottom, left, right = skip
    touched_HW = torch.zeros(image)
    touched_HW[top:bottom, left:right] = 1
    # By area, so that even a region of one pixel leaves a trace in a smaller image.
    resized_HW = F.interpolate(touched_HW[None, None], size=(side, side), mode="area")
    outside_T = 1 - F.max_pool2d(resized_HW, patch).flatten().gt(0).float()
    if not outside_T.any():
        raise UserError(
            f"dede: every patch touches the region {skip}",
            "Choose a smaller skip or patch.",
            exit_code=1,
        )
    return outside_T
