"""How a picture is reflected in a window: as a ghost, or out of focus.

Light adds up, pixel values do not: all is computed on the 0..1 scale raised to the power 2.2.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

GAMMA = 2.2
DESIGNED_FOR = 560
"""Side of the images in pixels that the authors' shifts and blurs are given for."""
GHOSTS = 0.49
"""Share of the reflections that are ghosts."""
SHIFTS = (3, 8)
"""Smallest and largest shift between the two copies of a ghost, at the authors' size."""
GHOST_MIX = (0.15, 0.5)
BLURS = (1.0, 5.0)
"""Standard deviation of the blur, at the authors' size."""
SMALLEST_BLUR = 0.5
ATTENUATION = (1.08, 1.18)
"""By how many times the excess over white a blurred reflection is darkened."""
VIGNETTE = 3.0
"""Standard deviations of the light that fades toward the border, from the middle to the border."""
DRAWS = 9
"""Numbers in 0..1 that decide one reflection."""


@dataclass(frozen=True)
class Reflection:
    """What the drawn numbers mean for images of one size."""

    picture: float
    """Which picture, as a share of all."""
    ghost: bool
    weight: float
    """Of the reflection; the image keeps the rest."""
    shift: tuple[int, int]
    mix: float
    """Of the first copy of a ghost; the second one gets the rest."""
    blur: float
    attenuation: float


def reflection_of(draw_9: Tensor, least: float, most: float, height: int, width: int) -> Reflection:
    """Return the reflection that nine numbers in 0..1 decide, with weights in least..most."""
    picture, branch, weight, down, across, coin, mix, blur, attenuation = draw_9.tolist()
    # As a share of the image, where the authors' code shifts 32 pixels as far as 560.
    share = min(height, width) / DESIGNED_FOR
    shifts = [
        max(1, round((SHIFTS[0] + math.floor(drawn * (SHIFTS[1] - SHIFTS[0] + 1))) * share))
        for drawn in (down, across)
    ]
    return Reflection(
        picture=picture,
        ghost=branch < GHOSTS,
        weight=_between((least, most), weight),
        shift=(shifts[0], shifts[1]),
        mix=abs(round(coin) - _between(GHOST_MIX, mix)),
        blur=max(SMALLEST_BLUR, _between(BLURS, blur) * share),
        attenuation=_between(ATTENUATION, attenuation),
    )


def reflect(x_NCHW: Tensor, picture_CHW: Tensor, how: Reflection) -> tuple[Tensor, Tensor]:
    """Return float images in 0..255 with the reflection of a picture, and the reflection alone."""
    light_NCHW = (x_NCHW.float() / 255) ** GAMMA
    picture_CHW = (picture_CHW.float() / 255) ** GAMMA
    if how.ghost:
        layer_NCHW = how.weight * _ghost(picture_CHW, how).expand_as(light_NCHW)
    else:
        layer_NCHW = _out_of_focus(light_NCHW, picture_CHW, how)
    both_NCHW = layer_NCHW + (1 - how.weight) * light_NCHW
    return _pixels(both_NCHW), _pixels(layer_NCHW)


def _ghost(picture_CHW: Tensor, how: Reflection) -> Tensor:
    """Return two copies of a picture, shifted against each other, where they overlap."""
    down, across = how.shift
    height, width = picture_CHW.shape[-2:]
    first_CHW = picture_CHW[:, down:, across:]
    second_CHW = picture_CHW[:, : height - down, : width - across]
    both_CHW = how.mix * first_CHW + (1 - how.mix) * second_CHW
    return F.interpolate(both_CHW[None], (height, width), mode="bilinear", align_corners=False)[0]


def _out_of_focus(light_NCHW: Tensor, picture_CHW: Tensor, how: Reflection) -> Tensor:
    """Return a blurred picture for each image: darkened where both exceed white, and vignetted."""
    radius = math.ceil(2 * how.blur)
    blurred_CHW = torch.from_numpy(
        gaussian_filter(
            picture_CHW.numpy(), (0, how.blur, how.blur), mode="mirror", radius=(0, radius, radius)
        )
    )
    sum_NCHW = blurred_CHW + light_NCHW
    over_NCHW = sum_NCHW > 1
    excess_NC = (sum_NCHW * over_NCHW).sum((2, 3)) / over_NCHW.sum((2, 3)).clamp_min(1)
    # 0 where nothing exceeds white, so that nothing is darkened there.
    excess_NC = (excess_NC - 1).clamp_min(0)
    darker_NCHW = (blurred_CHW - how.attenuation * excess_NC[..., None, None]).clamp(0, 1)

    fade_H, fade_W = (
        (-0.5 * torch.linspace(-VIGNETTE, VIGNETTE, side) ** 2).exp()
        for side in picture_CHW.shape[-2:]
    )
    kept = 1 - how.weight
    return darker_NCHW * (fade_H[:, None] * fade_W) * (1 - kept / 2)


def _pixels(light: Tensor) -> Tensor:
    return 255 * light.clamp(0, 1) ** (1 / GAMMA)


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])
