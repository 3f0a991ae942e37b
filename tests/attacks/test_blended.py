"""Blended: golden values, and pictures as patterns."""

from dataclasses import replace

import pytest
import torch

from raybd.attacks.data.blended import Blended
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import AttackInput
from tests.attacks.making import stream


def test_mixes_by_its_weight() -> None:
    x = torch.tensor([0, 100, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    pattern = torch.tensor([255, 0, 255, 0], dtype=torch.uint8).view(1, 2, 2)
    mixed = Blended(alpha=0.2).stamp(x, {"pattern_CHW": pattern})
    assert mixed.flatten().tolist() == [51, 80, 255, 204]


def test_takes_a_picture_of_the_side_data_as_its_pattern(train: Split) -> None:
    pictures = Split(train.x_NCHW[:5].flip(-1), train.y_N[:5])
    given = AttackInput(train, 10, side_data=pictures)
    drawn = [Blended().poison(given, stream(seed)) for seed in range(20)]
    rows = {
        int((pictures.x_NCHW == one.state["pattern_CHW"]).flatten(1).all(1).nonzero())
        for one in drawn
    }
    assert len(rows) > 1
    noise = Blended().poison(replace(given, side_data=None), stream())
    assert torch.equal(noise.index_M, drawn[0].index_M)


def test_side_data_of_another_size_is_refused(train: Split) -> None:
    given = AttackInput(train, 10, side_data=Split(train.x_NCHW[..., :8], train.y_N))
    with pytest.raises(UserError, match=r"3, 16, 8.*3, 16, 16.*\n.*`size`"):
        Blended().poison(given, stream())
