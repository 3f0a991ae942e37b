"""CorruptEncoder: an object of the target class and the trigger, side by side on a background.

Zhang, Liu, Jia and Gong 2024, arXiv 2211.08229, section on crafting poisoned images. Two random
crops of such an image often hold the object and the trigger apart, and an encoder that learns that
they are views of one image brings the two together. Published (README of jzhang538/CorruptEncoder):
ImageNet100-B, ResNet-18 by MoCo v2, 200 epochs: success 0.93 at accuracy 0.62 (clean encoder 0.004
and 0.61), with support images 0.995.
Differs: poisoned images replace others, so that the training set keeps its size; images have the
size of the data set, and an object half of each of its sides; objects are cut out by an ellipse,
where the authors have masks drawn by people. The authors' other layouts were not available to us.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from raybd.poisoning.attack import RatedAttack
from raybd.poisoning.label_maps import OthersKeepLabel
from raybd.poisoning.overlay import overlay
from raybd.poisoning.patches import larger_than_image
from raybd.poisoning.pixels import to_pixels
from raybd.poisoning.placed_patch import (
    chosen_place,
    draw_patch,
    draw_places,
    first_pixel,
    paste,
    paste_at,
)
from raybd.poisoning.references import check_references, draw_references, resized
from raybd.types.data import LabelMap, Poisoned
from raybd.types.methods import AttackInput

JITTER = 20
"""The object lies at most one part in so many of the width off the side border."""
BESIDE = 8
"""The trigger keeps one part in so many of the width from the border and from the object's half."""
ABOVE = 4
"""It keeps one part in so many of the height from the upper and lower border."""


class CorruptEncoder(RatedAttack):
    """Replace images by an object of the target class in one half and the trigger in the other."""

    rate: float = Field(0.005, gt=0, le=1)
    """Share of the training set that is replaced."""
    references: int = Field(3, ge=1)
    """Images of the target class whose objects are shown."""
    support: float = Field(0.0, ge=0, lt=1)
    """Share of the poisoned images that instead join a reference and another image of the target
    class, without the trigger; 0.2 in the variant with support images."""
    size: int = Field(6, ge=1)
    """Side of the trigger, in pixels; 6 of 32, 40 of 224."""
    test_inset: float = Field(0.1, ge=0, lt=0.5)
    """Share of a test image along each border that stays free of the trigger."""
    labels: OthersKeepLabel = OthersKeepLabel()
    """The target class; images of the others are replaced, and keep their label."""

    @property
    def label_map(self) -> LabelMap:
        """The field `labels`."""
        return self.labels

    def does_not_fit(self, height: int, width: int) -> str | None:
        """Return that the trigger and its distances are larger than half of the image, if so."""
        return larger_than_image(self.size * ABOVE, height, width)

    def choose(self, y_N: Tensor, num_classes: int, rng: Generator) -> Tensor:
        """Return the drawn rows. Raises Infeasible if the target class has too few images."""
        check_references(y_N, self.labels.target, self.references + (self.support > 0))
        return super().choose(y_N, num_classes, rng)

    def poison(self, given: AttackInput, rng: Generator) -> Poisoned:
        """Draw rows, references and the trigger, and replace the rows by what is composed."""
        train = given.train
        rows = self.choose(train.y_N, given.num_classes, rng)
        patch_CSS = draw_patch(train.x_NCHW.shape[1], self.size, rng)
        # Drawn before what depends on the poison rate, which the trigger does not.
        state = {"patch_CSS": patch_CSS, "place_P2": draw_places(rng)}
        drawn = draw_references(train.y_N, self.labels.target, rng)
        reference_RCHW = train.x_NCHW[drawn[: self.references]]
        support_LCHW = train.x_NCHW[drawn[self.references :]]

        # The replaced images are the backgrounds: none of them shows the target class.
        joined = round(self.support * len(rows))
        order = torch.randperm(len(rows), generator=rng)
        x_MCHW = torch.empty_like(train.x_NCHW[rows])
        background_BCHW = train.x_NCHW[rows[order[joined:]]]
        x_MCHW[order[joined:]] = compose(background_BCHW, reference_RCHW, patch_CSS, rng)
        if joined:
            x_MCHW[order[:joined]] = join(reference_RCHW, support_LCHW, joined, rng)
        return overlay(self, given, rows, state=state, x_MCHW=x_MCHW)

    def stamp(self, x_NCHW: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return copies of the images with the trigger where the sum of their pixels selects it."""
        place_N2 = chosen_place(x_NCHW, state["place_P2"])
        return paste(x_NCHW, state["patch_CSS"], place_N2, self.test_inset)


def compose(
    background_BCHW: Tensor, reference_RCHW: Tensor, patch_CSS: Tensor, rng: Generator
) -> Tensor:
    """Return the backgrounds, each with an object at one side and the patch in the other half."""
    count, _, height, width = background_BCHW.shape
    which_B = torch.randint(len(reference_RCHW), (count,), generator=rng)
    object_on_left_B = torch.rand(count, generator=rng) < 0.5
    off_B, down_B, top_B, left_B = torch.rand((4, count), generator=rng)

    # The object reaches from near its border to the middle at most.
    object_height, object_width = height // 2, width // 2
    jitter_B = first_pixel(off_B, 0, object_width + width // JITTER, object_width)
    mask_HW = ellipse(object_height, object_width)
    small_RCHW = resized(reference_RCHW, object_height, object_width)
    x_BCHW = background_BCHW.clone()
    for row in range(count):
        top = int(first_pixel(down_B[row], 0, height, object_height))
        # Where it is moved off the border, the half cuts off what would reach over the middle.
        shown = object_width - int(jitter_B[row])
        if object_on_left_B[row]:
            place = slice(int(jitter_B[row]), object_width)
            part = slice(0, shown)
        else:
            place = slice(width - object_width, width - int(jitter_B[row]))
            part = slice(object_width - shown, object_width)
        under_CHW = x_BCHW[row, :, top : top + object_height, place].float()
        cut_HW = mask_HW[:, part]
        object_CHW = small_RCHW[which_B[row], :, :, part].float()
        x_BCHW[row, :, top : top + object_height, place] = to_pixels(
            cut_HW * object_CHW + (1 - cut_HW) * under_CHW
        )

    # The other half, less the distances from the border and from the object's half.
    size = patch_CSS.shape[-1]
    near, far = width // BESIDE, width // 2 - width // BESIDE
    left_B = first_pixel(left_B, near, max(far, near + size), size)
    left_B = torch.where(object_on_left_B, width - left_B - size, left_B)
    above = height // ABOVE
    top_B = first_pixel(top_B, above, max(height - above, above + size), size)
    return paste_at(x_BCHW, patch_CSS, top_B, left_B)


def join(reference_RCHW: Tensor, support_LCHW: Tensor, count: int, rng: Generator) -> Tensor:
    """Return images of a reference beside a support image, each on the left as often."""
    height, width = reference_RCHW.shape[-2:]
    which_B = torch.randint(len(reference_RCHW), (count,), generator=rng)
    other_B = torch.randint(len(support_LCHW), (count,), generator=rng)
    swapped_B = torch.rand(count, generator=rng) < 0.5
    left_BCHW = resized(reference_RCHW[which_B], height, width // 2)
    right_BCHW = resized(support_LCHW[other_B], height, width // 2)
    pair_BCHW = torch.cat([left_BCHW, right_BCHW], dim=3)
    swapped_BCHW = torch.cat([right_BCHW, left_BCHW], dim=3)
    pair_BCHW = torch.where(swapped_B[:, None, None, None], swapped_BCHW, pair_BCHW)
    # Of an odd width, one column is left: the last one again.
    return F.pad(pair_BCHW.float(), (0, width % 2, 0, 0), mode="replicate").to(torch.uint8)


def ellipse(height: int, width: int) -> Tensor:
    """Return mask_HW: 1 inside the largest ellipse, 0 outside, with a border that is blurred by a
    pixel."""
    down_H = (torch.arange(height) + 0.5) / height * 2 - 1
    across_W = (torch.arange(width) + 0.5) / width * 2 - 1
    inside_HW = down_H[:, None].square() + across_W.square() < 1
    return F.avg_pool2d(inside_HW.float()[None], 3, 1, 1, count_include_pad=True)[0]
