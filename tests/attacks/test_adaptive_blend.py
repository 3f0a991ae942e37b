"""Adaptive-Blend: pieces in training, the whole pattern at test time."""

import torch

from raybd.attacks.data.adaptive_blend import AdaptiveBlend
from raybd.types.data import CROSS, Split
from tests.attacks.making import poison, poison_with, triggered


def test_trains_on_half_of_the_pieces_and_tests_with_all() -> None:
    gray = Split(torch.full((40, 3, 16, 16), 100, dtype=torch.uint8), torch.arange(40) % 10)
    poisoned = poison_with(AdaptiveBlend(rate=0.5, cover_rate=0.25), gray)
    pattern_CHW = poisoned.state["pattern_CHW"].float()
    change_CHW = (0.15 * (pattern_CHW - 100)).round()
    added_MCHW = poisoned.x_MCHW.float() - 100
    pieces_MP = (added_MCHW != 0).view(30, 3, 4, 4, 4, 4).any(5).any(3).any(1).flatten(1)
    assert (pieces_MP.sum(1) == 8).all()
    assert len(pieces_MP.unique(dim=0)) > 20
    inside = pieces_MP.view(30, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert ((added_MCHW - inside * change_CHW).abs() <= 1).all()
    whole = triggered(poisoned, gray.x_NCHW[:1]).float()
    assert torch.equal(whole[0], (0.8 * 100 + 0.2 * pattern_CHW).round())


def test_covers_keep_their_label(train: Split) -> None:
    poisoned = poison("adaptive_blend", train)
    covers = poisoned.index_M[poisoned.role_M == CROSS]
    assert len(covers) == 40
    assert torch.equal(poisoned.over(train).y_N[covers], train.y_N[covers])
