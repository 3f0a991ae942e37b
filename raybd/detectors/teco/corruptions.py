"""Eleven of the corruptions of ImageNet-C and CIFAR-10-C, for whole batches.

Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3 and the constants of their code. Those
of ImageNet-C are for 224 pixels, those of CIFAR-10-C for 32. Images are float, 0..1.
Differs: shot noise has the normal distribution of the same mean and variance, and so needs no draw
for each image; fog is a sum of noise of all scales, where they displace midpoints; motion blur
looks along a line to both sides. Their other four (glass, snow, frost, elastic) need files or run
pixel by pixel, and are left out. JPEG is Pillow's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import gaussian_blur

Constants = Literal["imagenet", "cifar"]
"""Whose constants: those for images of 224 pixels, or the milder ones for 32."""
SEVERITIES = 5


@dataclass(frozen=True)
class Draw:
    """What is random in the corruptions of an image."""

    normal_CHW: Tensor
    uniform_CHW: Tensor
    angle: float
    """Direction of motion, in radians."""
    octave_OHW: Tensor
    """Uniform noise in -1..1 of each scale, coarse first."""

    @classmethod
    def of(cls, shape: Sequence[int], rng: Generator) -> "Draw":
        """Draw for images of a shape, C x H x W."""
        height, width = shape[1:]
        octaves = max(1, math.ceil(math.log2(max(height, width))))
        noise = [torch.rand(1, 1, 2**one + 1, 2**one + 1, generator=rng) for one in range(octaves)]
        grown = [_resized(one, (height, width), "bilinear") for one in noise]
        return cls(
            torch.randn(*shape, generator=rng),
            torch.rand(*shape, generator=rng),
            float(torch.rand(1, generator=rng) - 0.5) * math.pi / 2,
            2 * torch.cat(grown).squeeze(1) - 1,
        )

    def to(self, device: torch.device) -> "Draw":
        """Return the same draw on a device."""
        return Draw(
            self.normal_CHW.to(device),
            self.uniform_CHW.to(device),
            self.angle,
            self.octave_OHW.to(device),
        )


def _gaussian_noise(x_BCHW: Tensor, deviation: float, draw: Draw) -> Tensor:
    return x_BCHW + deviation * draw.normal_CHW


def _shot_noise(x_BCHW: Tensor, photons: float, draw: Draw) -> Tensor:
    return x_BCHW + (x_BCHW / photons).sqrt() * draw.normal_CHW


def _impulse_noise(x_BCHW: Tensor, share: float, draw: Draw) -> Tensor:
    # Half of the changed values become black, half white.
    peppered = torch.where(draw.uniform_CHW < share / 2, 0.0, x_BCHW)
    return torch.where(draw.uniform_CHW > 1 - share / 2, 1.0, peppered)


def _defocus_blur(x_BCHW: Tensor, of: tuple[float, float], draw: Draw) -> Tensor:
    radius, softness = of
    # Their kernels: 8 pixels to each side for large discs, else the radius rounded down.
    reach = 8 if radius <= 8 else int(radius)
    line = torch.arange(-reach, reach + 1.0, device=x_BCHW.device)
    disc_KK = (line.square() + line[:, None].square() <= radius**2).float()
    size = 3 if radius <= 8 else 5
    soft_KK = gaussian_blur((disc_KK / disc_KK.sum())[None, None], [size] * 2, [softness] * 2)[0, 0]
    return _blurred(x_BCHW, soft_KK)


def _motion_blur(x_BCHW: Tensor, of: tuple[float, float], draw: Draw) -> Tensor:
    radius, deviation = of
    reach = int(radius)
    kernel_KK = torch.zeros(2 * reach + 1, 2 * reach + 1, device=x_BCHW.device)
    for step in range(-reach, reach + 1):
        row = reach + round(step * math.sin(draw.angle))
        column = reach + round(step * math.cos(draw.angle))
        kernel_KK[row, column] += math.exp(-(step**2) / (2 * deviation**2))
    return _blurred(x_BCHW, kernel_KK / kernel_KK.sum())


def _zoom_blur(x_BCHW: Tensor, of: tuple[float, float], draw: Draw) -> Tensor:
    largest, step = of
    height, width = x_BCHW.shape[2:]
    factors = [1 + step * one for one in range(round((largest - 1) / step))]
    total = x_BCHW.clone()
    for factor in factors:
        crop = math.ceil(height / factor), math.ceil(width / factor)
        top = (height - crop[0]) // 2
        left = (width - crop[1]) // 2
        part = x_BCHW[..., top : top + crop[0], left : left + crop[1]]
        total += _resized(part, (height, width), "bilinear")
    return total / (len(factors) + 1)


def _fog(x_BCHW: Tensor, of: tuple[float, float], draw: Draw) -> Tensor:
    thickness, decay = of
    scale_O = torch.arange(len(draw.octave_OHW), device=x_BCHW.device)
    weight_O = float(decay) ** -scale_O.float()
    fog_HW: Tensor = torch.einsum("o,ohw->hw", weight_O, draw.octave_OHW)
    fog_HW = (fog_HW - fog_HW.min()) / (fog_HW.max() - fog_HW.min()).clamp_min(1e-6)
    largest_B111 = x_BCHW.amax((1, 2, 3), keepdim=True)
    foggy_BCHW: Tensor = (x_BCHW + thickness * fog_HW) * largest_B111 / (largest_B111 + thickness)
    return foggy_BCHW


def _brightness(x_BCHW: Tensor, more: float, draw: Draw) -> Tensor:
    # The value of HSV grows, and hue and saturation stay; black has neither, and becomes gray.
    value_B1HW = x_BCHW.amax(1, keepdim=True)
    brighter_B1HW = (value_B1HW + more).clamp(max=1)
    scaled = x_BCHW * brighter_B1HW / value_B1HW.clamp_min(1e-6)
    return torch.where(value_B1HW > 0, scaled, brighter_B1HW)


def _contrast(x_BCHW: Tensor, kept: float, draw: Draw) -> Tensor:
    mean_BC11: Tensor = x_BCHW.mean((2, 3), keepdim=True)
    return mean_BC11 + kept * (x_BCHW - mean_BC11)


def _pixelate(x_BCHW: Tensor, share: float, draw: Draw) -> Tensor:
    height, width = x_BCHW.shape[2:]
    small = max(1, int(height * share)), max(1, int(width * share))
    return _resized(_resized(x_BCHW, small, "area"), (height, width), "area")


def _jpeg(x_BCHW: Tensor, quality: float, draw: Draw) -> Tensor:
    # Encoded on the CPU, so that every machine gets the same pixels.
    pixels = (255 * x_BCHW).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = np.stack([_packed(one, int(quality)) for one in pixels])
    return torch.from_numpy(found).view(*pixels.shape).permute(0, 3, 1, 2).to(x_BCHW) / 255


def _packed(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return an image, H x W x C, after JPEG."""
    file = BytesIO()
    # Of one channel, Pillow wants no axis.
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
        file, "JPEG", quality=quality
    )
    return np.asarray(Image.open(file))


Corruption = Callable[[Tensor, Any, Draw], Tensor]
_BY_NAME: Mapping[str, tuple[Corruption, Mapping[Constants, Sequence[Any]]]] = {
    "gaussian_noise": (
        _gaussian_noise,
        {"imagenet": (0.08, 0.12, 0.18, 0.26, 0.38), "cifar": (0.04, 0.06, 0.08, 0.09, 0.10)},
    ),
    "shot_noise": (
        _shot_noise,
        {"imagenet": (60, 25, 12, 5, 3), "cifar": (500, 250, 100, 75, 50)},
    ),
    "impulse_noise": (
        _impulse_noise,
        {"imagenet": (0.03, 0.06, 0.09, 0.17, 0.27), "cifar": (0.01, 0.02, 0.03, 0.05, 0.07)},
    ),
    "defocus_blur": (
        _defocus_blur,
        {
            "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        },
    ),
    "motion_blur": (
        _motion_blur,
        {
            "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        },
    ),
    "zoom_blur": (
        _zoom_blur,
        {
            "imagenet": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
            "cifar": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        },
    ),
    "fog": (
        _fog,
        {
            "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
            "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        },
    ),
    "brightness": (
        _brightness,
        {"imagenet": (0.1, 0.2, 0.3, 0.4, 0.5), "cifar": (0.05, 0.1, 0.15, 0.2, 0.3)},
    ),
    "contrast": (
        _contrast,
        {"imagenet": (0.4, 0.3, 0.2, 0.1, 0.05), "cifar": (0.75, 0.5, 0.4, 0.3, 0.15)},
    ),
    "pixelate": (
        _pixelate,
        {"imagenet": (0.6, 0.5, 0.4, 0.3, 0.25), "cifar": (0.95, 0.9, 0.85, 0.75, 0.65)},
    ),
    "jpeg": (_jpeg, {"imagenet": (25, 18, 15, 10, 7), "cifar": (80, 65, 58, 50, 40)}),
}
NAMES = tuple(_BY_NAME)


def corrupted(x_BCHW: Tensor, name: str, severity: int, draw: Draw, constants: Constants) -> Tensor:
    """Return corrupted copies of float images in 0..1; the severity is 1 to SEVERITIES."""
    corrupt, by_constants = _BY_NAME[name]
    return corrupt(x_BCHW, by_constants[constants][severity - 1], draw).clamp(0, 1)


def _blurred(x_BCHW: Tensor, kernel_KK: Tensor) -> Tensor:
    reach = len(kernel_KK) // 2
    channels = x_BCHW.shape[1]
    # Replicated, because a kernel may be larger than the image, which cannot be mirrored so far.
    padded = F.pad(x_BCHW, (reach,) * 4, mode="replicate")
    return F.conv2d(padded, kernel_KK.expand(channels, 1, -1, -1), groups=channels)


def _resized(x_BCHW: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    # "area" averages what falls into a pixel; only interpolation has corners to align.
    return F.interpolate(x_BCHW, size, mode=mode, align_corners=None if mode == "area" else True)
