"""Random views of images, each image with its own draw, in batches on the device: what self-supervised training compares.

Chen, Kornblith, Norouzi and Hinton 2020, arXiv 2002.05709, appendix A: crop and resize, flip, colour jitter, grayscale, blur.
Differs: the jitter's four parts come in a fixed order; a crop is bilinear and its box may lie between pixels.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.types.config import Config

_ATTEMPTS = 10
"""Boxes that are drawn for each crop, of which the first that fits is taken, as torchvision does it."""
_DRAWS = 2 * _ATTEMPTS + 11
_GRAY = (0.299, 0.587, 0.114)


class Views(Config):
    """How a view is drawn. Defaults: 32 x 32 pixels, as the authors of CTRL and MoCo's demonstration have them."""

    smallest_crop: float = Field(0.2, gt=0, le=1)
    """Smallest area of a crop, as a share of the image; 0.08 in SimCLR."""
    flip: float = Field(0.5, ge=0, le=1)
    """Share of views that are mirrored."""
    jitter: float = Field(0.8, ge=0, le=1)
    """Share of views whose colours change."""
    brightness: float = Field(0.4, ge=0, le=1)
    """Brightness is multiplied by 1 plus or minus this."""
    contrast: float = Field(0.4, ge=0, le=1)
    """Likewise, the distance to the mean gray."""
    saturation: float = Field(0.4, ge=0, le=1)
    """Likewise, the distance to the pixel's own gray."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """Largest turn of the hue, in full circles."""
    gray: float = Field(0.2, ge=0, le=1)
    """Share of views without colours."""
    blur: float = Field(0.0, ge=0, le=1)
    """Share of blurred views, by up to 2 pixels' deviation; 0.5 in SimCLR at 224 pixels, none at 32."""

    def pair(self, x_BCHW: Tensor, batch: int, rng: Generator) -> Tensor:
        """Two views of this worker's share of a batch, uint8: first those of all its images, then the others."""
        return torch.cat([self.one(x_BCHW, batch, rng), self.one(x_BCHW, batch, rng)])

    @torch.no_grad()
    def one(self, x_BCHW: Tensor, batch: int, rng: Generator) -> Tensor:
        """A view of each image; drawn for the global batch, so that the number of workers does not change it."""
        draw_BP = torch.rand(batch, _DRAWS, generator=rng)[group.shard(torch.arange(batch))]
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return self.view(x_BCHW, draw_BP.to(x_BCHW.device, non_blocking=True))

    def view(self, x_BCHW: Tensor, draw_BP: Tensor) -> Tensor:
        """uint8 images by uniform numbers in [0, 1), `_DRAWS` for each."""
        layout = (
            torch.channels_last
            if x_BCHW.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        box_BP, (on_B, jitter_BP, gray_B, blur_BP) = (
            draw_BP[:, : 2 * _ATTEMPTS + 3],
            _split_colours(draw_BP),
        )
        x_BCHW = _crop(
            x_BCHW.contiguous().float().div_(255),
            *self._boxes(box_BP, x_BCHW.shape[-2], x_BCHW.shape[-1]),
        )
        if x_BCHW.shape[1] == 3 and self.jitter:
            strength_P = draw_BP.new_tensor(
                [self.brightness, self.contrast, self.saturation, self.hue]
            )
            turned_BP = (2 * jitter_BP - 1) * strength_P * (on_B < self.jitter)[:, None]
            x_BCHW = _jitter(x_BCHW, turned_BP)
        if x_BCHW.shape[1] == 3 and self.gray:
            x_BCHW = torch.where((gray_B < self.gray)[:, None, None, None], _grays(x_BCHW), x_BCHW)
        if self.blur:
            x_BCHW = _blur(x_BCHW, blur_BP[:, 0] < self.blur, 0.1 + 1.9 * blur_BP[:, 1])
        return x_BCHW.mul_(255).round_().clamp_(0, 255).to(torch.uint8, memory_format=layout)

    def _boxes(self, draw_BP: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Centre and half side of each crop in x and y, in -1..1; a mirrored view has a negative half width."""
        area_BA = self.smallest_crop + (1 - self.smallest_crop) * draw_BP[:, :_ATTEMPTS]
        ratio_BA = torch.exp((2 * draw_BP[:, _ATTEMPTS : 2 * _ATTEMPTS] - 1) * math.log(4 / 3))
        half_BA2 = torch.stack(
            [
                (area_BA * ratio_BA * height / width).sqrt(),
                (area_BA / ratio_BA * width / height).sqrt(),
            ],
            -1,
        )
        fits_BA = (half_BA2 <= 1).all(-1)
        first_B = fits_BA.int().argmax(1)
        half_B2 = half_BA2[torch.arange(len(half_BA2)), first_B].clamp(max=1)
        centre_B2 = (2 * draw_BP[:, -3:-1] - 1) * (1 - half_B2)
        mirrored_B = draw_BP[:, -1] < self.flip
        return centre_B2, half_B2 * torch.stack(
            [1 - 2.0 * mirrored_B, torch.ones_like(draw_BP[:, 0])], -1
        )


def _split_colours(draw_BP: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether the colours change, by how much, whether they go, and whether and how much it blurs."""
    on_B1, jitter_B4, gray_B1, blur_B2 = draw_BP[:, 2 * _ATTEMPTS + 3 :].split([1, 4, 1, 2], 1)
    return on_B1[:, 0], jitter_B4, gray_B1[:, 0], blur_B2


def _crop(x_BCHW: Tensor, centre_B2: Tensor, half_B2: Tensor) -> Tensor:
    """Each image's box, enlarged to the size of the image."""
    height, width = x_BCHW.shape[-2:]
    x_BW, y_BH = (
        centre_B2[:, axis, None]
        + half_B2[:, axis, None] * ((2 * torch.arange(n, device=x_BCHW.device) + 1) / n - 1)
        for axis, n in ((0, width), (1, height))
    )
    grid_BHW2 = torch.stack(
        [x_BW[:, None, :].expand(-1, height, -1), y_BH[:, :, None].expand(-1, -1, width)], -1
    )
    return F.grid_sample(x_BCHW, grid_BHW2, padding_mode="border", align_corners=False)


def _grays(x_BCHW: Tensor) -> Tensor:
    r_BHW, g_BHW, b_BHW = x_BCHW.unbind(1)
    return (_GRAY[0] * r_BHW + _GRAY[1] * g_BHW + _GRAY[2] * b_BHW)[:, None]


def _jitter(x_BCHW: Tensor, change_B4: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, as torchvision defines them."""
    brighter, contrast, saturation = (1 + change_B4[:, :3, None, None, None]).unbind(1)
    x_BCHW = (x_BCHW * brighter).clamp_(0, 1)
    x_BCHW = torch.lerp(_grays(x_BCHW).mean((2, 3), keepdim=True), x_BCHW, contrast).clamp_(0, 1)
    x_BCHW = torch.lerp(_grays(x_BCHW), x_BCHW, saturation).clamp_(0, 1)
    return _turn_hue(x_BCHW, change_B4[:, 3])


def _turn_hue(x_BCHW: Tensor, turn_B: Tensor) -> Tensor:
    """Turn the hue of the HSV colour; value and saturation stay."""
    r_BHW, g_BHW, b_BHW = x_BCHW.unbind(1)
    most_BHW = torch.maximum(torch.maximum(r_BHW, g_BHW), b_BHW)
    least_BHW = torch.minimum(torch.minimum(r_BHW, g_BHW), b_BHW)
    chroma_BHW = most_BHW - least_BHW
    side_BHW = torch.where(
        most_BHW == g_BHW, 2 * chroma_BHW + b_BHW - r_BHW, 4 * chroma_BHW + r_BHW - g_BHW
    )
    side_BHW = torch.where(most_BHW == r_BHW, g_BHW - b_BHW, side_BHW)
    sixth_BHW = (side_BHW / chroma_BHW.clamp_min(1e-8)).add_(6 * turn_B[:, None, None])
    sixth_BHW -= 6 * (sixth_BHW / 6).floor_()
    red_BHW, green_BHW, blue_BHW = (
        (sixth_BHW - 3).abs_() - 1,
        2 - (sixth_BHW - 2).abs_(),
        2 - (sixth_BHW - 4).abs_(),
    )
    return torch.stack(
        [
            least_BHW + chroma_BHW * part_BHW.clamp_(0, 1)
            for part_BHW in (red_BHW, green_BHW, blue_BHW)
        ],
        1,
    )


def _blur(x_BCHW: Tensor, on_B: Tensor, deviation_B: Tensor) -> Tensor:
    """Gaussian blur of some images, along columns and then along rows; the kernel is a tenth of the side, as in SimCLR."""
    rows_M = on_B.nonzero()[:, 0]
    x_MCHW, reach = x_BCHW[rows_M], max(1, x_BCHW.shape[-1] // 20)
    at_K = torch.arange(-reach, reach + 1, device=x_BCHW.device)
    kernel_MK = torch.softmax(-0.5 * (at_K / deviation_B[rows_M, None]) ** 2, 1)
    weight_GK = kernel_MK.repeat_interleave(x_BCHW.shape[1], 0)
    flat_1GHW = F.pad(x_MCHW, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    for weight_G1KK in (weight_GK[:, None, :, None], weight_GK[:, None, None, :]):
        flat_1GHW = F.conv2d(flat_1GHW, weight_G1KK, groups=flat_1GHW.shape[1])
    return x_BCHW.index_copy(0, rows_M, flat_1GHW[0].view_as(x_MCHW))
