"""Label-consistent: its perturbation and its checker."""

import torch

from raybd.attacks.surrogate.label_consistent import LabelConsistent
from raybd.training import inference
from raybd.types.data import Split
from tests.attacks.making import poison, twin


def test_stays_within_eps_off_the_corners_and_lowers_the_twins_belief(train: Split) -> None:
    poisoned = poison("label_consistent", train, eps=8, steps=20)
    assert (poisoned.y_M == 0).all()
    assert (train.y_N[poisoned.index_M] == 0).all()
    before = train.x_NCHW[poisoned.index_M]
    gray = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    corners_HW = LabelConsistent().stamp(gray, {})[0, 0] != 128
    change = (poisoned.x_MCHW.int() - before.int())[..., ~corners_HW].abs()
    assert change.max() == 8

    def loss(x_NCHW: torch.Tensor) -> torch.Tensor:
        return -inference.infer(twin(), x_NCHW).log_softmax(1)[:, 0].mean()

    x_MCHW = torch.where(corners_HW, before, poisoned.x_MCHW)
    assert loss(x_MCHW) > loss(before) + 0.5


def test_puts_a_checker_in_all_corners() -> None:
    gray = torch.full((1, 1, 7, 7), 100, dtype=torch.uint8)
    stamped = LabelConsistent(amplitude=0.2).stamp(gray, {})[0, 0]
    checker = [[151, 49, 151], [49, 151, 49], [151, 49, 151]]
    for rows in (slice(0, 3), slice(4, 7)):
        for columns in (slice(0, 3), slice(4, 7)):
            assert stamped[rows, columns].tolist() == checker
    assert (stamped[3] == 100).all()
    assert (stamped[:, 3] == 100).all()
    assert LabelConsistent().stamp(gray, {})[0, 0, 0, :3].tolist() == [255, 0, 255]


def test_its_checkers_grow_with_the_image_if_asked() -> None:
    gray = torch.full((1, 1, 64, 80), 100, dtype=torch.uint8)
    stamped = LabelConsistent(amplitude=0.2, drawn_for=32).stamp(gray, {})[0, 0]
    checker = [[151, 151, 49, 49, 151, 151]] * 2 + [[49, 49, 151, 151, 49, 49]] * 2
    assert stamped[:6, :6].tolist() == [*checker, *checker[:2]]
    assert torch.equal(stamped[-6:, -6:], stamped[:6, :6])
    assert int((stamped != 100).sum()) == 4 * 36
    small = gray[..., :32, :32]
    for drawn_for in (None, 32):
        assert int((LabelConsistent(drawn_for=drawn_for).stamp(small, {}) != 100).sum()) == 4 * 9
    assert LabelConsistent(drawn_for=4).does_not_fit(7, 7) is not None
    assert LabelConsistent(drawn_for=8).does_not_fit(7, 7) is None
