"""The overlap of a recovered patch with the true one, by hand."""

import pytest
import torch

from raybd.metrics.overlap import patch_iou, touched


def patch(*places: tuple[int, int], value: float = 1.0) -> torch.Tensor:
    mask_HW = torch.zeros(4, 4)
    for row, column in places:
        mask_HW[row, column] = value
    return mask_HW


TRUE = patch((2, 2), (2, 3), (3, 2), (3, 3)) > 0


def test_overlap_is_the_intersection_over_the_union() -> None:
    assert patch_iou(TRUE.float(), TRUE) == 1
    # Two of four true positions, and one more: 2 of 5.
    assert patch_iou(patch((2, 2), (3, 3), (0, 0)), TRUE) == pytest.approx(0.4)
    assert patch_iou(patch((0, 0)), TRUE) == 0


def test_positions_count_from_half_of_the_largest_value_on() -> None:
    faint = patch((2, 2), (2, 3), value=0.2)
    assert patch_iou(faint, TRUE) == pytest.approx(0.5), "the scale of a mask plays no part"
    faint[0, 0], faint[3, 3] = 0.09, 0.1
    assert patch_iou(faint, TRUE) == pytest.approx(0.75)
    assert patch_iou(torch.zeros(4, 4), TRUE) == 0


def test_only_a_patch_has_a_place() -> None:
    assert patch_iou(TRUE.float(), torch.zeros(4, 4, dtype=torch.bool)) is None
    half = torch.zeros(4, 4, dtype=torch.bool)
    half[:2] = True
    assert patch_iou(TRUE.float(), half) == 0
    half[2, 0] = True
    assert patch_iou(TRUE.float(), half) is None


def test_a_position_is_touched_if_any_channel_of_any_image_changes() -> None:
    before = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    after = before.clone()
    after[0, 1, 2, 2] = 0
    after[1, :, 3, 3] = 7
    assert touched(before, after).nonzero().tolist() == [[2, 2], [3, 3]]
    assert not touched(before, before).any()
