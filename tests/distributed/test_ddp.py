"""Models in a process group: what wrapping changes is undone."""

import torch
from torch import nn

from raybd.distributed.ddp import synchronise, unwrap


def test_unwrap_gives_back_the_batch_norms_that_were_built() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(4))
    weight = model[1].weight
    synchronised = synchronise(model)
    assert type(synchronised[1]) is nn.SyncBatchNorm

    unwrapped = unwrap(synchronised)
    assert [type(part) for part in unwrapped] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Flatten,
        nn.BatchNorm1d,
    ]
    assert unwrapped[1].weight is weight
    assert unwrapped.eval()(torch.zeros(2, 3, 1, 1)).shape == (2, 4)
