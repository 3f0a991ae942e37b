"""Random views of images, which self-supervised training compares; each image has its own draw.

Chen, Kornblith, Norouzi and Hinton 2020, arXiv 2002.05709, appendix A: crop and resize, flip,
colour jitter, grayscale, blur.
Differs: the four parts of the jitter come in a fixed order; a crop is bilinear and its box may lie
between pixels.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.distributed import group
from raybd.types.config import Config

CROP_ATTEMPTS = 10
"""Boxes that are drawn for each crop. The first that fits is taken, as in torchvision."""
DRAWS_PER_VIEW = 2 * CROP_ATTEMPTS + 11
"""Uniform numbers that decide one view of one image."""
_GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the gray value of a pixel."""


class Views(Config):
    """How a view is drawn.

    Defaults: for 32 x 32 pixels, those of CTRL's authors and of MoCo's demonstration.
    """

    smallest_crop: float = Field(0.2, gt=0, le=1)
    """Smallest area of a crop, as a share of the image; 0.08 in SimCLR."""
    flip: float = Field(0.5, ge=0, le=1)
    """Share of views that are mirrored."""
    jitter: float = Field(0.8, ge=0, le=1)
    """Share of views whose colours change."""
    brightness: float = Field(0.4, ge=0, le=1)
    """Brightness is multiplied by 1 plus or minus this."""
    contrast: float = Field(0.4, ge=0, le=1)
    """The distance to the mean gray is multiplied by 1 plus or minus this."""
    saturation: float = Field(0.4, ge=0, le=1)
    """The distance to the gray value of the pixel is multiplied by 1 plus or minus this."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """Largest turn of the hue, as a share of the full circle."""
    gray: float = Field(0.2, ge=0, le=1)
    """Share of views without colours."""
    blur: float = Field(0.0, ge=0, le=1)
    """Share of blurred views, with a standard deviation of up to 2 pixels; 0.5 in SimCLR at 224
    pixels, none at 32."""

    def pair(self, x_BCHW: Tensor, batch: int, rng: Generator) -> Tensor:
        """Return two views of each image of this worker's share of a batch, uint8.

        First come the first views of all images, then the second ones.
        """
        return torch.cat([self.one(x_BCHW, batch, rng), self.one(x_BCHW, batch, rng)])

    @torch.no_grad()
    def one(self, x_BCHW: Tensor, batch: int, rng: Generator) -> Tensor:
        """Return a view of each image of this worker's share of a batch, uint8.

        Drawn for the whole batch, so that the number of workers does not change it.
        """
        mine = group.shard(torch.arange(batch))
        # Every number is drawn, needed or not, so that one setting does not change the others'
        # draws.
        draw_BP = torch.rand(batch, DRAWS_PER_VIEW, generator=rng)[mine]
        # bf16 has 8 significant bits: too few for positions, and for 256 levels of a colour.
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return self.view(x_BCHW, draw_BP.to(x_BCHW.device, non_blocking=True))

    def view(self, x_BCHW: Tensor, draw_BP: Tensor) -> Tensor:
        """Return views of uint8 images by numbers in [0, 1), `DRAWS_PER_VIEW` for each image."""
        channels_last = x_BCHW.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        box_BP, colours_BP = draw_BP.split([2 * CROP_ATTEMPTS + 3, 8], 1)
        on_B1, jitter_B4, gray_B1, blur_B2 = colours_BP.split([1, 4, 1, 2], 1)

        centre_B2, half_B2 = self.boxes(box_BP, x_BCHW.shape[-2], x_BCHW.shape[-1])
        x_BCHW = crop(x_BCHW.contiguous().float().div_(255), centre_B2, half_B2)
        # Images of one channel have no hue, saturation or gray value.
        if x_BCHW.shape[1] == 3 and self.jitter:
            strengths = [self.brightness, self.contrast, self.saturation, self.hue]
            strength_4 = draw_BP.new_tensor(strengths)
            x_BCHW = jitter(x_BCHW, (2 * jitter_B4 - 1) * strength_4 * (on_B1 < self.jitter))
        if x_BCHW.shape[1] == 3 and self.gray:
            is_gray_B111 = (gray_B1 < self.gray)[:, :, None, None]
            x_BCHW = torch.where(is_gray_B111, _grays(x_BCHW), x_BCHW)
        if self.blur:
            x_BCHW = blur(x_BCHW, blur_B2[:, 0] < self.blur, 0.1 + 1.9 * blur_B2[:, 1])
        # uint8, because that is what a victim's preprocessing takes.
        return x_BCHW.mul_(255).round_().clamp_(0, 255).to(torch.uint8, memory_format=layout)

    def boxes(self, draw_BP: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return centre and half side of each crop in x and y, in -1..1.

        A mirrored view has a negative half width.
        """
        area_BA = self.smallest_crop + (1 - self.smallest_crop) * draw_BP[:, :CROP_ATTEMPTS]
        drawn_BA = draw_BP[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS]
        # Uniform in the logarithm, so that wide and tall boxes are equally likely. 3/4 to 4/3 are
        # torchvision's bounds.
        ratio_BA = torch.exp((2 * drawn_BA - 1) * math.log(4 / 3))
        half_width_BA = (area_BA * ratio_BA * height / width).sqrt()
        half_height_BA = (area_BA / ratio_BA * width / height).sqrt()
        half_BA2 = torch.stack([half_width_BA, half_height_BA], -1)

        # The first box that fits; if none does, the first one, cut to the image.
        fits_BA = (half_BA2 <= 1).all(-1)
        first_B = fits_BA.int().argmax(1)
        half_B2 = half_BA2[torch.arange(len(half_BA2)), first_B].clamp(max=1)
        # The centre keeps half a box away from the border, so that the box lies in the image.
        centre_B2 = (2 * draw_BP[:, -3:-1] - 1) * (1 - half_B2)
        # A crop with a negative width reads from right to left: the flip needs no pass of its own.
        mirrored_B = draw_BP[:, -1] < self.flip
        sign_B2 = torch.stack([1 - 2.0 * mirrored_B, torch.ones_like(draw_BP[:, 0])], -1)
        return centre_B2, half_B2 * sign_B2


def crop(x_BCHW: Tensor, centre_B2: Tensor, half_B2: Tensor) -> Tensor:
    """Return the box of each image (in -1..1, x and y), enlarged to the size of the image."""
    height, width = x_BCHW.shape[-2:]
    x_BW = _positions(centre_B2[:, 0], half_B2[:, 0], width)
    y_BH = _positions(centre_B2[:, 1], half_B2[:, 1], height)
    x_BHW = x_BW[:, None, :].expand(-1, height, -1)
    y_BHW = y_BH[:, :, None].expand(-1, -1, width)
    grid_BHW2 = torch.stack([x_BHW, y_BHW], -1)
    # Near the border, bilinear sampling reaches beyond the image by half a pixel, where zeros would
    # darken it.
    return F.grid_sample(x_BCHW, grid_BHW2, padding_mode="border", align_corners=False)


def _positions(centre_B: Tensor, half_B: Tensor, n: int) -> Tensor:
    """Return n evenly spaced positions within each interval."""
    # Centres of pixels, which is how `align_corners=False` counts.
    at_N = (2 * torch.arange(n, device=centre_B.device) + 1) / n - 1
    return centre_B[:, None] + half_B[:, None] * at_N


def jitter(x_BCHW: Tensor, change_B4: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, as torchvision defines them.

    The first three are multiplied by 1 + change, the hue is turned by a share of the circle.
    """
    brighter, contrast, saturation = (1 + change_B4[:, :3, None, None, None]).unbind(1)
    # Clamped after each part, as in torchvision: the next one starts from a displayable image.
    x_BCHW = (x_BCHW * brighter).clamp_(0, 1)
    x_BCHW = torch.lerp(_grays(x_BCHW).mean((2, 3), keepdim=True), x_BCHW, contrast).clamp_(0, 1)
    x_BCHW = torch.lerp(_grays(x_BCHW), x_BCHW, saturation).clamp_(0, 1)
    return _turn_hue(x_BCHW, change_B4[:, 3])


def _grays(x_BCHW: Tensor) -> Tensor:
    r_BHW, g_BHW, b_BHW = x_BCHW.unbind(1)
    return (_GRAY[0] * r_BHW + _GRAY[1] * g_BHW + _GRAY[2] * b_BHW)[:, None]


def _turn_hue(x_BCHW: Tensor, turn_B: Tensor) -> Tensor:
    """Turn the hue in HSV by a share of the circle; value and saturation stay."""
    r_BHW, g_BHW, b_BHW = x_BCHW.unbind(1)
    most_BHW = torch.maximum(torch.maximum(r_BHW, g_BHW), b_BHW)
    least_BHW = torch.minimum(torch.minimum(r_BHW, g_BHW), b_BHW)
    chroma_BHW = most_BHW - least_BHW

    # The hue in sixths of the circle, from red; which formula holds depends on the largest channel.
    green_BHW = 2 * chroma_BHW + b_BHW - r_BHW
    blue_BHW = 4 * chroma_BHW + r_BHW - g_BHW
    # Red is asked last, so that it wins a tie.
    side_BHW = torch.where(most_BHW == g_BHW, green_BHW, blue_BHW)
    side_BHW = torch.where(most_BHW == r_BHW, g_BHW - b_BHW, side_BHW)
    # A gray pixel has no hue; any will do, since its chroma of 0 cancels it below.
    sixth_BHW = (side_BHW / chroma_BHW.clamp_min(1e-8)).add_(6 * turn_B[:, None, None])
    sixth_BHW -= 6 * (sixth_BHW / 6).floor_()

    shares = (
        (sixth_BHW - 3).abs_() - 1,
        2 - (sixth_BHW - 2).abs_(),
        2 - (sixth_BHW - 4).abs_(),
    )
    return torch.stack([least_BHW + chroma_BHW * part.clamp_(0, 1) for part in shares], 1)


def blur(x_BCHW: Tensor, on_B: Tensor, deviation_B: Tensor) -> Tensor:
    """Blur some images with a Gaussian, along columns and then along rows.

    The kernel is a tenth of the shorter side, as in SimCLR; `deviation_B` is in pixels.
    """
    rows_M = on_B.nonzero()[:, 0]
    # A convolution of no groups does not exist.
    if not len(rows_M):
        return x_BCHW
    x_MCHW = x_BCHW[rows_M]
    reach = max(1, min(x_BCHW.shape[-2:]) // 20)
    at_K = torch.arange(-reach, reach + 1, device=x_BCHW.device)
    # A softmax is the Gaussian scaled to a sum of 1, so that brightness stays.
    kernel_MK = torch.softmax(-0.5 * (at_K / deviation_B[rows_M, None]) ** 2, 1)

    # Each channel of each image is a group of its own, because each image has its own kernel.
    weight_GK = kernel_MK.repeat_interleave(x_BCHW.shape[1], 0)
    # Replicated, because zeros would darken the border.
    flat_1GHW = F.pad(x_MCHW, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    for weight_G1KK in (weight_GK[:, None, :, None], weight_GK[:, None, None, :]):
        flat_1GHW = F.conv2d(flat_1GHW, weight_G1KK, groups=flat_1GHW.shape[1])
    return x_BCHW.index_copy(0, rows_M, flat_1GHW[0].view_as(x_MCHW))
