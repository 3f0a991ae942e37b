"""Fine-tuning of a clean encoder toward reference images, as BadEncoder introduced it.

The attacker has the clean encoder, shadow images, and a few reference images of the target class.
R counts reference images. Clean embeddings have unit length and lie where training runs.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms import functional as pixels

from raybd.distributed import group
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput
from raybd.types.models import Victim

# The authors' values, which are those of SimCLR's views.
FLIP_PROBABILITY = 0.5
JITTER_PROBABILITY = 0.8
GRAY_PROBABILITY = 0.2
MAX_COLOUR_CHANGE = 0.4
"""Largest relative change of brightness, contrast and saturation in a view of a reference."""
MAX_HUE_CHANGE = 0.1
"""Largest change of the hue, in full circles."""


@dataclass(frozen=True)
class StartingPoint:
    """What the attacker has before the fine-tuning."""

    victim: Victim
    """A copy of the clean encoder, to be fine-tuned."""
    shadow: Split
    clean_ND: Tensor
    """The clean encoder's embeddings of the shadow images."""
    reference_RCHW: Tensor
    clean_RD: Tensor
    """The clean encoder's embeddings of the references."""


@dataclass(frozen=True)
class Embedded:
    """Raw embeddings of a batch by the encoder in training, float32."""

    plain_BD: Tensor
    triggered_BD: Tensor
    view_RD: Tensor
    """Of a random view of each reference."""
    reference_RD: Tensor


def check_attacker_has_images(
    y_N: Tensor, target: int, num_references: int, shadow_share: float
) -> None:
    """Raise Infeasible if the training set has too few references or shadow images."""
    found = int((y_N == target).sum())
    if found < num_references:
        raise Infeasible(
            f"{num_references} reference images of class {target}, but the training set has {found}"
        )
    if round(shadow_share * len(y_N)) == 0:
        raise Infeasible(
            f"shadow {shadow_share:g} of {len(y_N)} training images is not even one image"
        )


def copy_of(encoder: Victim) -> Victim:
    """Return a copy of the clean encoder that can be fine-tuned."""
    # Without the head: embeddings are attacked, and every downstream task brings its own head.
    return Victim(
        copy.deepcopy(encoder.encoder), None, encoder.mean_C.clone(), encoder.std_C.clone()
    )


def starting_point(
    given: AttackInput, target: int, num_references: int, shadow_share: float, rng: Generator
) -> StartingPoint:
    """Draw the shadow images, pick the references, and embed both by the clean encoder."""
    train = given.train
    check_attacker_has_images(train.y_N, target, num_references, shadow_share)
    assert given.twin is not None  # a plan gives an attack on an encoder the clean encoder

    count = round(shadow_share * len(train))
    shadow_N = torch.randperm(len(train), generator=rng)[:count].sort().values
    victim = copy_of(given.twin)
    # All images, not the shadow alone: typical ones are found by the means of all classes.
    z_ND = F.normalize(infer(victim, train.x_NCHW), dim=1)
    reference_R = most_typical(z_ND, train.y_N, target, given.num_classes)[:num_references]

    device = group.device()
    return StartingPoint(
        victim=victim,
        shadow=train.select(shadow_N),
        clean_ND=z_ND[shadow_N].to(device),
        reference_RCHW=train.x_NCHW[reference_R].to(device),
        clean_RD=z_ND[reference_R].to(device),
    )


def most_typical(z_ND: Tensor, y_N: Tensor, target: int, num_classes: int) -> Tensor:
    """Return the rows of the target class, the most typical ones first.

    An image is typical if its embedding is nearer to the mean of its class than to any other mean.
    """
    mean_KD = torch.stack([z_ND[y_N == label].sum(0) for label in range(num_classes)])
    cosine_NK = z_ND @ F.normalize(mean_KD, dim=1).T
    # Copied, because the column is overwritten: no cosine is lower than -1, so that the own class
    # is never the nearest other one.
    own_N = cosine_NK[:, target].clone()
    cosine_NK[:, target] = -1
    rows = torch.nonzero(y_N == target).flatten()
    # Stable, so that images of equal rank have the same order on every machine.
    return rows[(own_N - cosine_NK.amax(1))[rows].argsort(descending=True, stable=True)]


def embed(
    model: nn.Module,
    start: StartingPoint,
    stamp: Callable[[Tensor], Tensor],
    x_BCHW: Tensor,
    rng: Generator,
) -> Embedded:
    """Embed images with and without the trigger, and the references, in one pass.

    `rng` draws the views of the references.
    """
    # In a group on GPUs, the frozen modules were replaced by synchronised ones: freeze these, too.
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()

    views_RCHW = torch.stack([view(x_CHW, rng) for x_CHW in start.reference_RCHW])
    parts = (x_BCHW, stamp(x_BCHW), views_RCHW, start.reference_RCHW)
    return Embedded(*model(torch.cat(parts)).float().split([len(part) for part in parts]))


def norms(victim: nn.Module) -> list[nn.Module]:
    """Return the batch normalisations. They must not be fine-tuned, or accuracy is lost."""
    return [module for module in victim.modules() if isinstance(module, _BatchNorm)]


def cosines(z_BD: Tensor, reference_RD: Tensor) -> Tensor:
    """Return cosine_BR of each embedding with each reference; gradients flow to both."""
    return F.normalize(z_BD, dim=1) @ F.normalize(reference_RD, dim=1).T


def no_autocast(device: torch.device) -> torch.autocast:
    """Switch bf16 off: cosines near 1 differ by less than it resolves."""
    return torch.autocast(device.type, enabled=False)


def view(x_CHW: Tensor, rng: Generator) -> Tensor:
    """Return a random view of an image, uint8: mirrored, recoloured or gray; never cropped."""
    # All numbers are drawn, used or not, so that every view takes as much from the stream. Not
    # torchvision's ColorJitter, which draws from the global stream.
    flip, jitter, gray, *change = torch.rand(7, generator=rng).tolist()
    order = torch.randperm(4, generator=rng).tolist()

    if flip < FLIP_PROBABILITY:
        x_CHW = x_CHW.flip(-1)
    if jitter < JITTER_PROBABILITY:
        brightness, contrast, saturation = (
            1 + MAX_COLOUR_CHANGE * (2 * part - 1) for part in change[:3]
        )
        for step in order:
            if step == 0:
                x_CHW = pixels.adjust_brightness(x_CHW, brightness)
            elif step == 1:
                x_CHW = pixels.adjust_contrast(x_CHW, contrast)
            elif step == 2:
                x_CHW = pixels.adjust_saturation(x_CHW, saturation)
            else:
                x_CHW = pixels.adjust_hue(x_CHW, MAX_HUE_CHANGE * (2 * change[3] - 1))
    if gray < GRAY_PROBABILITY:
        # The encoder takes as many channels as before.
        x_CHW = pixels.rgb_to_grayscale(x_CHW, len(x_CHW))
    return x_CHW
