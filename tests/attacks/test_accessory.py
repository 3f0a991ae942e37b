"""Accessory: its stickers, its poses, and where they lie."""

import math

import pytest
import torch

from raybd.attacks.data.accessory import Accessory
from raybd.attacks.data.accessory.drawing import COLOURS, Sticker, draw_sticker
from raybd.types.data import Split
from tests.attacks.making import poison_with, stream, triggered

STICKERS: tuple[Sticker, ...] = ("glasses", "tape", "dot")


@pytest.mark.parametrize("sticker", STICKERS)
def test_a_sticker_has_one_colour_and_reaches_both_sides(sticker: Sticker) -> None:
    drawn = draw_sticker(sticker, 16)
    assert drawn.dtype == torch.uint8 and drawn.shape == (4, 16, 16)
    assert drawn[:3, 3, 3].tolist() == list(COLOURS[sticker])
    opacity = drawn[3].int()
    assert (opacity - opacity.flip(1)).abs().max() == 0, "left is right"
    assert (opacity[:, 0] > 0).any() and (opacity[8, 4] == 255)
    assert opacity[0, 0] == 0, "corners are empty"


def test_the_share_of_a_sticker_that_is_opaque() -> None:
    """A disc covers pi / 4 of its square, a tape of half height 0.4 two fifths."""
    share = {name: float(draw_sticker(name, 16)[3].float().mean() / 255) for name in STICKERS}
    assert share["dot"] == pytest.approx(math.pi / 4, abs=0.005)
    assert share["tape"] == pytest.approx(0.4, abs=0.01)


def test_a_pose_that_changes_nothing_puts_the_sticker_into_the_middle() -> None:
    attack = Accessory(sticker="dot", alpha=0.5)
    sticker = torch.full((4, 4, 4), 255, dtype=torch.uint8)
    sticker[:3] = torch.tensor([200, 100, 0], dtype=torch.uint8).view(3, 1, 1)
    still = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0]])
    x = torch.full((1, 3, 12, 16), 60, dtype=torch.uint8)
    worn = attack.stamp(x, {"sticker_4SS": sticker, "pose_P5": still})[0]
    expected = torch.full((3, 12, 16), 60, dtype=torch.uint8)
    expected[:, 4:8, 6:10] = torch.tensor([130, 80, 30], dtype=torch.uint8).view(3, 1, 1)
    assert torch.equal(worn, expected)

    # Half as bright, two pixels (of 12) down and one to the left.
    moved = torch.tensor([[0.0, 1.0, 2 / 12, -1 / 12, 0.5]])
    worn = attack.stamp(x, {"sticker_4SS": sticker, "pose_P5": moved})[0]
    assert worn[:, 6:10, 5:9].float().std((1, 2)).max() == 0
    assert worn[:, 6, 5].tolist() == [80, 55, 30]
    assert (worn != 60).any(0).sum() == 16

    # A quarter turn moves what is on the right of the sticker to its lower side.
    sticker[3, :, :2] = 0
    turned = torch.tensor([[90.0, 1.0, 0.0, 0.0, 1.0]])
    worn = attack.stamp(x, {"sticker_4SS": sticker, "pose_P5": turned})[0]
    assert (worn[0, 7, 6:10] == 130).all() and (worn[0, 4, 6:10] == 60).all()


def test_the_poses_cover_their_ranges(train: Split) -> None:
    pose = poison_with(Accessory(), train).state["pose_P5"]
    assert pose.shape == (64, 5)
    for column, (low, high) in enumerate(
        ((-20, 20), (0.8, 1.25), (-0.125, 0.125), (-0.125, 0.125), (0.7, 1.2))
    ):
        span = high - low
        assert low <= pose[:, column].min() < low + 0.1 * span
        assert high - 0.1 * span < pose[:, column].max() <= high


def test_unseen_poses_leave_the_training_images_as_they_are(train: Split) -> None:
    same, unseen = (poison_with(Accessory(test_poses=name), train) for name in ("same", "unseen"))
    assert torch.equal(same.x_MCHW, unseen.x_MCHW)
    assert torch.equal(triggered(same, train.x_NCHW[same.index_M]), same.x_MCHW)
    assert not torch.isin(unseen.state["pose_P5"], same.state["pose_P5"]).any()


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (224, 224), (40, 24), (24, 40)])
def test_the_sticker_lies_inside_of_images_of_any_size(shape: tuple[int, int]) -> None:
    gray = torch.full((64, 3, *shape), 128, dtype=torch.uint8)
    # Each image has another sum of its pixels, and so another pose.
    gray[:, 0, 0, 0] = torch.arange(64, dtype=torch.uint8)
    attack = Accessory(sticker="dot", shift=0.5, side=0.4)
    state = poison_with(attack, Split(gray, torch.arange(64) % 10)).state
    worn = attack.stamp(gray, state)
    changed = (worn != gray).any(1)
    expected = math.pi / 4 * (0.4 * min(shape)) ** 2 * torch.tensor([0.8, 1.25]) ** 2
    # The border is soft, so that a little more than the disc changes.
    covered = changed.sum((1, 2))
    assert (covered > 0.9 * expected[0]).all(), "no part of it is cut off"
    assert (covered < 1.35 * expected[1] + 20).all()
    assert len(covered.unique()) > 8, "the scale differs"


def test_the_pose_depends_on_the_image_alone(train: Split) -> None:
    poisoned = poison_with(Accessory(), train)
    x = train.x_NCHW[:30]
    alone = torch.cat([triggered(poisoned, one[None]) for one in x])
    assert torch.equal(triggered(poisoned, x.flip(0)).flip(0), alone)


def test_a_sticker_of_less_than_two_pixels_does_not_fit() -> None:
    assert Accessory().does_not_fit(8, 8) is None
    assert "5 x 8" in str(Accessory().does_not_fit(8, 5))
    assert Accessory().choose(torch.arange(40) % 10, 10, stream()).shape == (4,)
