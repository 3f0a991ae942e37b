"""Crops and flips: each image by its own draw, within their bounds."""

import torch

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
    draw = augmentation.draw("crop_flip", 4000, 32, torch.Generator().manual_seed(0))
    assert draw is not None
    assert (draw[:2].min(), draw[:2].max()) == (-4, 4)
    assert 0.45 < float(draw[2].float().mean()) < 0.55
    only_flips = augmentation.draw("flip", 100, 32, torch.Generator().manual_seed(0))
    assert only_flips is not None
    assert (only_flips[:2] == 0).all()


def test_a_crop_alone_never_mirrors() -> None:
    draw = augmentation.draw("crop", 200, 32, torch.Generator().manual_seed(0))
    assert draw is not None
    assert int(draw[2].sum()) == 0
    assert draw[:2].min() == -4 and draw[:2].max() == 4
