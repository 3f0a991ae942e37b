"""The parts of DRUPE's loss, on the embeddings of a whole batch."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from raybd.poisoning.finetuning import Embedded, cosines


def loss_parts(
    z: Embedded, clean_BD: Tensor, clean_RD: Tensor, projections: int, rng: Generator
) -> dict[str, Tensor]:
    """Return the numbers that the loss is made of, by name.

    effect: negative mean cosine of triggered images with their nearest reference. reference,
    utility: negative mean cosine of references and images with where the clean encoder has them.
    uneven: deviation over the references of how much triggered images resemble them. alike: mean
    cosine of the references with each other. crowding: mean cosine of different triggered images.
    distance: between the distributions of triggered and plain embeddings. deviation: of the plain
    embeddings.
    """
    to_reference_BR = cosines(z.triggered_BD, z.reference_RD)
    between_RR = cosines(z.reference_RD, z.reference_RD)

    # A reference with itself counts, as in the authors' code.
    first, second = torch.triu_indices(*between_RR.shape)
    return {
        "effect": -to_reference_BR.amax(1).mean(),
        "reference": -F.cosine_similarity(z.view_RD, clean_RD).mean(),
        "utility": -F.cosine_similarity(z.plain_BD, clean_BD).mean(),
        "uneven": to_reference_BR.mean(0).std(),
        "alike": between_RR[first, second].mean(),
        "crowding": crowding(z.triggered_BD),
        "distance": sliced_wasserstein(z.triggered_BD, z.plain_BD, projections, rng),
        "deviation": z.plain_BD.std(0).mean(),
    }


def crowding(z_BD: Tensor) -> Tensor:
    """Return the mean cosine of different images."""
    cosine_BB = cosines(z_BD, z_BD)
    # The diagonal, each image with itself, is 1 whatever the encoder does.
    return (cosine_BB.sum() - cosine_BB.trace()) / (len(z_BD) * (len(z_BD) - 1))


def sliced_wasserstein(a_BD: Tensor, b_BD: Tensor, projections: int, rng: Generator) -> Tensor:
    """Return the sliced Wasserstein-2 distance of equally many points.

    It is the root of the mean squared distance of the points, sorted along random directions.
    """
    # Drawn on the CPU, so that the directions are the same on all devices.
    direction_DP = F.normalize(torch.randn(a_BD.shape[1], projections, generator=rng), dim=0)
    direction_DP = direction_DP.to(a_BD.device)
    apart_BP = (a_BD @ direction_DP).sort(0).values - (b_BD @ direction_DP).sort(0).values
    return apart_BP.square().mean().clamp_min(1e-20).sqrt()  # the root has no gradient at zero
