"""Crops and flips: each image by its own draw, within their bounds."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import rotate

from raybd.training import augmentation
from raybd.training.augmentation import DEGREE, Bounds
from raybd.types.errors import UserError


def test_images_are_flipped_and_cropped_each_by_its_own_draw() -> None:
    x = torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8) + 1
    flipped = augmentation.apply(x, torch.tensor([[0, 0], [0, 0], [0, 1]]))
    assert torch.equal(flipped[0], x[0])
    assert torch.equal(flipped[1], x[1].flip(-1))
    moved = augmentation.apply(x, torch.tensor([[1, 0], [-1, 0], [0, 0]]))
    assert torch.equal(moved[0, 0, :-1, 1:], x[0, 0, 1:, :-1])
    assert (moved[0, 0, -1] == 0).all()
    assert (moved[0, 0, :, 0] == 0).all()
    assert torch.equal(moved[1], x[1])


def test_flips_are_fair_and_crops_stay_within_an_eighth() -> None:
    draw = augmentation.draw("crop_flip", 4000, 32, 32, torch.Generator().manual_seed(0))
    assert draw is not None
    assert (draw[:2].min(), draw[:2].max()) == (-4, 4)
    assert 0.45 < float(draw[2].float().mean()) < 0.55
    only_flips = augmentation.draw("flip", 100, 32, 32, torch.Generator().manual_seed(0))
    assert only_flips is not None
    assert (only_flips[:2] == 0).all()


def test_a_crop_alone_never_mirrors() -> None:
    draw = augmentation.draw("crop", 200, 32, 32, torch.Generator().manual_seed(0))
    assert draw is not None
    assert int(draw[2].sum()) == 0
    assert draw[:2].min() == -4 and draw[:2].max() == 4


@pytest.mark.parametrize(("height", "width"), [(40, 24), (24, 40), (8, 8)])
def test_images_of_any_shape_are_moved_within_themselves(height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(1, 256, (6, 3, height, width), generator=rng, dtype=torch.uint8)
    drawn = augmentation.draw("crop_flip", 6, height, width, rng)
    assert drawn is not None
    moved = augmentation.apply(x, drawn)
    assert moved.shape == x.shape
    for image, (row, column, flip), result in zip(x, drawn.T.tolist(), moved, strict=True):
        padded = F.pad(image, (width // 8, width // 8, height // 8, height // 8))
        top, left = height // 8 + row, width // 8 + column
        cut = padded[:, top : top + height, left : left + width]
        assert torch.equal(result, cut.flip(-1) if flip else cut)


def test_offsets_are_at_most_an_eighth_of_their_own_side() -> None:
    draw = augmentation.draw("crop", 4000, 40, 24, torch.Generator().manual_seed(0))
    assert draw is not None
    assert (draw[0].min(), draw[0].max()) == (-5, 5)
    assert (draw[1].min(), draw[1].max()) == (-3, 3)


def test_draws_for_squares_stay_as_they_were() -> None:
    rng = torch.Generator().manual_seed(7)
    flip = torch.randint(2, (1, 300), generator=rng)
    before = torch.cat([torch.randint(-4, 5, (2, 300), generator=rng), flip])
    drawn = augmentation.draw("crop_flip", 300, 32, 32, torch.Generator().manual_seed(7))
    assert drawn is not None
    assert torch.equal(drawn, before)


def test_a_crop_moves_by_the_padding_that_was_asked_for() -> None:
    bounds = Bounds(padding=2)
    drawn = augmentation.draw("crop", 2000, 32, 32, torch.Generator().manual_seed(0), bounds)
    assert drawn is not None
    assert (drawn[:2].min(), drawn[:2].max()) == (-2, 2)
    x = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    moved = augmentation.apply(x, torch.tensor([[2], [-2], [0]]), bounds)
    assert torch.equal(moved[0, 0, :-2, 2:], x[0, 0, 2:, :-2])
    assert (moved[0, 0, -2:] == 0).all() and (moved[0, 0, :, :2] == 0).all()


@pytest.mark.parametrize("degrees", [0, 7, -20, 90, 180, -135])
@pytest.mark.parametrize("shape", [(9, 9), (8, 8), (12, 8)])
def test_images_are_turned_as_torchvision_turns_them(degrees: int, shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(1, 256, (2, 3, *shape), generator=rng, dtype=torch.uint8)
    drawn = torch.tensor([[0, 0], [0, 0], [0, 0], [degrees * DEGREE, 0]])
    turned = augmentation.apply(x, drawn, Bounds(padding=0, rotation=180))
    assert torch.equal(turned[1], x[1])
    # A pixel halfway between two is rounded differently there.
    assert float((turned[0] != rotate(x[0], degrees)).float().mean()) < 0.05


def test_a_quarter_turn_is_exact() -> None:
    x = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    drawn = torch.tensor([[0], [0], [0], [90 * DEGREE]])
    turned = augmentation.apply(x, drawn, Bounds(rotation=90))
    assert torch.equal(turned[0, 0], torch.rot90(x[0, 0]))


def test_an_image_is_cropped_and_flipped_before_it_is_turned() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(1, 256, (1, 3, 9, 9), generator=rng, dtype=torch.uint8)
    bounds = Bounds(padding=2, rotation=90)
    moved = augmentation.apply(x, torch.tensor([[1], [-2], [1]]), Bounds(padding=2))
    drawn = torch.tensor([[1], [-2], [1], [90 * DEGREE]])
    assert torch.equal(augmentation.apply(x, drawn, bounds)[0], torch.rot90(moved[0], 1, (1, 2)))


def test_angles_are_drawn_to_both_sides() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = augmentation.draw("crop", 4000, 8, 8, rng, Bounds(rotation=10))
    assert drawn is not None and len(drawn) == 4
    assert -10_000 <= drawn[3].min() < -9_900 and 9_900 < drawn[3].max() <= 10_000


def test_a_hole_is_black_and_cut_at_the_border() -> None:
    x = torch.full((2, 1, 6, 5), 9, dtype=torch.uint8)
    drawn = torch.tensor([[0, 0], [0, 0], [0, 0], [2, 0], [3, 0]])
    cut = augmentation.apply(x, drawn, Bounds(cutout=2))
    expected = x.clone()
    expected[0, 0, 1:3, 2:4] = 0
    expected[1, 0, :1, :1] = 0
    assert torch.equal(cut, expected)
    assert (x == 9).all()


def test_holes_are_drawn_all_over_the_image() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = augmentation.draw("flip", 2000, 6, 4, rng, Bounds(cutout=2))
    assert drawn is not None
    assert drawn[3].unique().tolist() == list(range(6))
    assert drawn[4].unique().tolist() == list(range(4))
    with pytest.raises(UserError, match="cutout 5 is larger than images of 4 x 6 pixels"):
        augmentation.draw("flip", 1, 6, 4, rng, Bounds(cutout=5))


def test_bounds_change_nothing_of_what_is_drawn_first() -> None:
    plain = augmentation.draw("crop_flip", 50, 32, 32, torch.Generator().manual_seed(7))
    rng = torch.Generator().manual_seed(7)
    further = augmentation.draw("crop_flip", 50, 32, 32, rng, Bounds(4, 30, 8))
    assert plain is not None and further is not None
    assert torch.equal(further[:3], plain)
    assert len(further) == 6
