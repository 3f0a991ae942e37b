"""Models in a process group: what wrapping changes is undone, and gradients are those of one."""

import torch
from torch import Tensor, nn

from raybd.distributed import group
from raybd.distributed.ddp import synchronise, unwrap, wrap
from tests.groups import in_group


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


def double_gradients() -> list[Tensor]:
    """Return the gradients of a gradient penalty over a batch that the workers share."""
    rng = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(5, 3, 4, 4, generator=rng, dtype=torch.float64)
    weighting_BCHW = torch.randn(5, 3, 4, 4, generator=rng, dtype=torch.float64)
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    model = wrap(norm)
    layer = unwrapped_module(model)

    mine_BCHW = group.shard(x_BCHW).requires_grad_()
    y_BCHW = layer(mine_BCHW)
    # Of a loss over the whole batch, which is the sum of the workers' parts.
    loss = (y_BCHW.pow(3) * group.shard(weighting_BCHW)).sum()
    wanted = (mine_BCHW, layer.weight)
    of_x_BCHW, of_weight_C = torch.autograd.grad(loss, wanted, create_graph=True)
    penalty = of_x_BCHW.square().sum()
    twice_x_BCHW, twice_weight_C = torch.autograd.grad(penalty, wanted)
    return [
        group.gather_rows(of_x_BCHW.detach(), 5),
        group.sum_over(of_weight_C.detach()),
        group.gather_rows(twice_x_BCHW, 5),
        group.sum_over(twice_weight_C),
    ]


def unwrapped_module(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def test_second_derivatives_of_the_shared_batch_norm_are_those_of_one_process() -> None:
    alone = double_gradients()  # torch's own batch normalisation
    for together in in_group(double_gradients):
        for expected, found in zip(alone, together, strict=True):
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)


def gradgradcheck_of_the_shared_batch_norm() -> bool:
    """Return whether first and second derivatives by formula are those by differences.

    Each worker has all images: every worker must move the same number in the same way, or each
    would see the other one's differences.
    """
    rng = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(2, 2, 2, 2, generator=rng, dtype=torch.float64).requires_grad_()
    weight_C = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    bias_C = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    layer = unwrapped_module(wrap(nn.BatchNorm2d(2).double()))

    def normalised(x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        weights = {"weight": weight_C, "bias": bias_C}
        return torch.func.functional_call(layer, weights, (x_BCHW,))

    # Given, for the same one on both workers.
    dy_BCHW = torch.randn(2, 2, 2, 2, generator=rng, dtype=torch.float64).requires_grad_()
    return torch.autograd.gradgradcheck(normalised, (x_BCHW, weight_C, bias_C), (dy_BCHW,))


def test_the_shared_batch_norm_passes_gradgradcheck() -> None:
    assert in_group(gradgradcheck_of_the_shared_batch_norm) == [True, True]
