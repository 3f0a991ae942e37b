"""The contrastive loss of views that share a label.

Khosla et al. 2020, arXiv 2004.11362, section 3.2, equation 2 (the sum outside of the logarithm).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrast(
    p_BD: Tensor, y_B: Tensor, temperature: float, trusted_B: Tensor | None = None
) -> Tensor:
    """Return the mean over all views of equation 2.

    For one view: the mean, over its positives, of -log of their share among all other views.
    Positives are the other views of its label, and the other view of its image; where `trusted_B`
    is given, labels of other views do not count. The second views of all images follow the first
    ones.
    """
    p_BD = F.normalize(p_BD, dim=1)
    # A view is no pair with itself. Its share is left out of the softmax by minus infinity, and
    # then set to 0, because minus infinity times 0 is not a number.
    itself_BB = torch.eye(len(p_BD), dtype=torch.bool, device=p_BD.device)
    logits_BB = (p_BD @ p_BD.T / temperature).masked_fill(itself_BB, -torch.inf)
    log_share_BB = F.log_softmax(logits_BB, 1).masked_fill(itself_BB, 0)
    # Never empty: there is the other view of the image.
    alike_BB = positives(y_B, trusted_B) & ~itself_BB
    return -((log_share_BB * alike_BB).sum(1) / alike_BB.sum(1)).mean()


def positives(y_B: Tensor, trusted_B: Tensor | None) -> Tensor:
    """Return which views (rows) have which others (columns) as positives, and themselves."""
    same_BB = y_B[:, None] == y_B
    if trusted_B is None:
        return same_BB
    image_B = torch.arange(len(y_B), device=y_B.device) % (len(y_B) // 2)
    return (same_BB & trusted_B[:, None] & trusted_B) | (image_B[:, None] == image_B)
