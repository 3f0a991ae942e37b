"""BadNets: golden values."""

import torch

from raybd.attacks.data.badnets import BadNets


def test_stamps_a_white_square_and_nothing_else() -> None:
    x = torch.zeros((1, 1, 4, 4), dtype=torch.uint8)
    white = BadNets(size=2).stamp(x, {})
    assert white[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 255, 255], [0, 0, 255, 255]]
    inside = BadNets(size=2, margin=1).stamp(x, {})
    assert inside[0, 0].tolist() == [[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]
