"""Losses that are held at a bound, and the low mode of losses."""

import math

import pytest
import torch
from torch import Tensor

from raybd.distributed import group
from raybd.training.shortcut import Bounding, bounded, low_mode
from tests.groups import in_group


def test_what_lies_below_the_bound_ascends_by_image_or_by_batch() -> None:
    """Li et al. 2021: the sign of (l - g) times l; here g = .5, and the batch has a mean of .5."""
    loss_B = torch.tensor([0.2, 0.8])
    assert bounded("lga", "image", loss_B, 0.5, 2).mean() == pytest.approx(0.3)
    assert bounded("lga", "batch", loss_B, 0.5, 2).tolist() == [0, 0]
    # Ishida et al. 2020: |l - b| + b.
    assert bounded("flooding", "image", loss_B, 0.5, 2).tolist() == pytest.approx([0.8, 0.8])
    low_B = torch.tensor([0.1, 0.5])
    assert bounded("flooding", "batch", low_B, 0.5, 2).mean() == pytest.approx(0.2 + 0.5)


@pytest.mark.parametrize("kind", ["lga", "flooding"])
def test_both_kinds_have_the_gradients_of_the_signed_loss(kind: Bounding) -> None:
    loss_B = torch.tensor([0.1, 0.9, 0.3, 0.2], requires_grad=True)
    bounded(kind, "image", loss_B, 0.5, 4).sum().backward()
    assert loss_B.grad is not None
    assert loss_B.grad.tolist() == [-1, 1, -1, -1]
    loss_B.grad = None
    bounded(kind, "batch", loss_B, 0.5, 4).sum().backward()
    assert loss_B.grad.tolist() == [-1, -1, -1, -1]


def _signs_of_a_worker() -> list[float]:
    loss_B = torch.tensor([0.1, 5.0, 0.1])
    return bounded("lga", "batch", group.shard(loss_B), 0.5, 3).sign().tolist()


def test_the_mean_is_that_of_the_whole_batch_on_every_worker() -> None:
    # The first worker has the first and the last image, which alone lie below the bound.
    assert in_group(_signs_of_a_worker) == [[1, 1], [1]]


def values() -> tuple[Tensor, torch.Generator]:
    """Return a hundred values around e^-6 and nine hundred around 1."""
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(100, generator=rng) - 6, torch.randn(900, generator=rng)]
    return torch.cat(parts).exp(), rng


def test_a_small_low_mode_is_parted_from_the_rest() -> None:
    value_N, rng = values()
    mode = low_mode(value_N)
    assert mode.two
    assert mode.share == pytest.approx(0.1, abs=0.01)
    assert -4.5 < mode.bound < -2.5
    assert mode.mean == pytest.approx(math.exp(-6), rel=0.4)
    assert not low_mode(torch.randn(1000, generator=rng).exp()).two
