"""Passes that leave weights and running statistics as they were, or find the statistics anew."""

import copy

import torch
from torch import Tensor, nn

from raybd.training.passes import relearn_statistics, still_statistics, with_weights
from tests.small_scene import stream


def normalised() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(3).train()


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=stream(seed)) * 2 + 5


def test_gradients_are_those_at_the_other_weights_and_the_own_ones_come_back() -> None:
    linear = nn.Linear(2, 1, bias=False)
    own = linear.weight.detach().clone()
    with with_weights([linear.weight], [torch.tensor([[3.0, 4.0]])]):
        linear.weight.square().sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.tolist() == [[6.0, 8.0]]
    assert torch.equal(linear.weight, own)


def test_weights_come_back_after_an_error() -> None:
    linear = nn.Linear(2, 1)
    own = linear.weight.detach().clone()
    try:
        with with_weights([linear.weight], [torch.zeros(1, 2)]):
            raise ValueError
    except ValueError:
        assert torch.equal(linear.weight, own)


def test_still_statistics_normalise_by_the_batch_and_stay() -> None:
    still = normalised()
    moving = copy.deepcopy(still)
    before = {name: value.clone() for name, value in still.state_dict().items()}
    with still_statistics(still):
        seen = still(noise(8))
    assert all(torch.equal(still.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(seen, moving(noise(8)))

    still(noise(8))
    assert torch.equal(still.running_mean, moving.running_mean), "they move again afterwards"


def test_statistics_are_the_means_over_full_batches_whatever_they_were() -> None:
    norm = normalised()
    norm(noise(8, seed=3))
    relearn_statistics(norm, noise(11), batch_size=4)
    first, second, _ = noise(11).split(4)
    assert norm.running_mean is not None and norm.running_var is not None
    mean_C = (first.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2
    variance_C = (first.var((0, 2, 3)) + second.var((0, 2, 3))) / 2
    assert torch.allclose(norm.running_mean, mean_C, rtol=1e-5)
    assert torch.allclose(norm.running_var, variance_C, rtol=1e-5)
    assert norm.momentum == 0.1
    assert not norm.training


def test_few_images_are_one_batch_and_only_normalisations_are_in_training_mode() -> None:
    class Half(nn.Module):
        """Forgets its input while it trains, as dropout does."""

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return x_BCHW * 0 if self.training else x_BCHW

    norm = normalised()
    model = nn.Sequential(Half(), norm).train()
    relearn_statistics(model, noise(5), batch_size=100)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, noise(5).mean((0, 2, 3)), rtol=1e-5)
