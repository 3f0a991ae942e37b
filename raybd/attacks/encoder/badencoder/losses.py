"""The losses of BadEncoder: Jia, Liu and Gong 2022, arXiv 2108.00352, section on the design."""

import torch.nn.functional as F
from torch import Tensor

from raybd.poisoning.finetuning import Embedded, cosines


def badencoder_losses(
    z: Embedded, clean_BD: Tensor, clean_RD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return L0 of each image, L1 (one number, of the references) and L2 of each image.

    They are negative cosines, in -1..1: effectiveness, utility on the references, and utility on
    the images. The clean embeddings are those of the clean encoder.
    """
    # Pairwise for L0, because each triggered image is pulled to all references; row by row for the
    # utility losses, which compare an image with itself.
    effect_B = -cosines(z.triggered_BD, z.reference_RD).mean(1)
    reference = -F.cosine_similarity(z.view_RD, clean_RD).mean()
    utility_B = -F.cosine_similarity(z.plain_BD, clean_BD)
    return effect_B, reference, utility_B
