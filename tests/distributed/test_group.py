"""A group of workers: its collective operations undo its division of the batch."""

import pytest
import torch
from torch import Tensor

from raybd.distributed import group
from tests.groups import in_group

BATCH = 5


def gradient_of_a_loss_over_the_batch() -> tuple[Tensor, Tensor]:
    """Return the whole batch, and the averaged gradient of a weight that all rows share."""
    rng = torch.Generator().manual_seed(0)
    x_BD = torch.randn(BATCH, 3, generator=rng)
    weight_D = torch.ones(3, requires_grad=True)
    whole_BD = group.gather_batch(group.shard(x_BD) * weight_D, BATCH)
    loss = torch.cdist(whole_BD, whole_BD).square().mean()  # of pairs: no sum over the rows
    losses_B = group.spread_loss(loss, BATCH)
    (losses_B.sum() * (group.world() / BATCH)).backward()
    assert weight_D.grad is not None
    return whole_BD.detach(), group.sum_over(weight_D.grad) / group.world()


def test_a_loss_over_the_whole_batch_has_the_same_gradient_on_two_workers() -> None:
    whole_BD, gradient_D = gradient_of_a_loss_over_the_batch()
    for whole, gradient in in_group(gradient_of_a_loss_over_the_batch):
        assert torch.equal(whole, whole_BD)
        assert torch.allclose(gradient, gradient_D, rtol=1e-5)


def gathered() -> Tensor:
    return group.gather_rows(group.shard(torch.arange(7)), 7)


def test_gathering_undoes_sharding() -> None:
    assert all(torch.equal(rows, torch.arange(7)) for rows in in_group(gathered))


def made_by_the_first() -> int:
    made: int = group.broadcast(lambda: 10 + group.rank())
    return made


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_worker_makes_what_all_get(rank: int) -> None:
    assert in_group(made_by_the_first)[rank] == 10
