"""Crops and flips: each image by its own draw, within their bounds."""

import pytest
import torch
import torch.nn.functional as F

from raybd.training import augmentation


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
