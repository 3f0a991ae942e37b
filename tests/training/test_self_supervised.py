"""What self-supervised trainings share: the slow copy of a network."""

import copy

import pytest
import torch
from torch import nn

from raybd.training import self_supervised


def test_the_copy_follows_by_its_momentum() -> None:
    encoder, head = nn.Linear(3, 3), nn.Linear(3, 2)
    target, moved = self_supervised.Momentum(encoder, head, 0.9, None), copy.deepcopy(encoder)
    with torch.no_grad():
        moved.weight += 1
    target.follow(moved, head)
    assert torch.allclose(next(target.encoder.parameters()), encoder.weight + 0.1, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in target.parameters())
    still = self_supervised.Momentum(encoder, head, 1.0, None)
    still.follow(moved, head)
    assert torch.equal(next(still.encoder.parameters()), encoder.weight)
    assert [self_supervised.momentum_at(0.99, step, 100) for step in (0, 50, 100)] == pytest.approx(
        [0.99, 0.995, 1.0]
    )
