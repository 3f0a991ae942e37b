"""BadCLIP's patch: its place, its losses and its optimisation on the clean CLIP."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.types.models import Victim


class PatchedVictim(nn.Module):
    """A victim that sees every image with the patch."""

    def __init__(self, victim: Victim, patch_CSS: Tensor) -> None:
        super().__init__()
        self.victim = victim
        self.patch_CSS = nn.Parameter(patch_CSS)
        """Pixels in 0..1."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return z_BD of the uint8 images with the patch."""
        # Float, because uint8 has no gradient; preprocessing passes it on to the patch.
        return self.victim.embed(paste(x_BCHW.float(), self.patch_CSS * 255))


def paste(x_NCHW: Tensor, patch_CSS: Tensor) -> Tensor:
    """Return copies of the images with the patch in the middle."""
    x_NCHW = x_NCHW.clone()
    side = patch_CSS.shape[-1]
    top, left = ((length - side) // 2 for length in x_NCHW.shape[-2:])
    x_NCHW[..., top : top + side, left : left + side] = patch_CSS
    return x_NCHW


def patch_losses(
    patched_BD: Tensor,
    text_KD: Tensor,
    target: int,
    positive_BD: Tensor,
    plain_BD: Tensor,
    distance: float,
) -> tuple[Tensor, Tensor]:
    """Return two losses of each image with the patch; embeddings of images have unit length.

    The first is the cross-entropy of its logits for the target. The second is the triplet loss: it
    shall be nearer by `distance` to an image of the target class than to itself without the patch.
    """
    logits_BK = patched_BD @ text_KD.T
    # Against the other classes, because a high cosine alone does not win a zero-shot decision.
    target_B = torch.full_like(logits_BK[:, 0], target, dtype=torch.int64)
    text_B = F.cross_entropy(logits_BK, target_B, reduction="none")
    triplet_B = F.triplet_margin_loss(patched_BD, positive_BD, plain_BD, distance, reduction="none")
    return text_B, triplet_B
