"""The critic of CBD: what it measures, and what it leaves alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.training_defenses.cbd import CBD
from raybd.training_defenses.cbd.dependency import Dependency, largest_singular_value
from tests.training_defenses.making import digits, independent, seeded


def trained_critic(dependent: bool) -> float:
    """What a critic measures on pairs that it has not seen."""
    rng, dependency = seeded(0), Dependency(width=8, lr=1e-2, steps=1, dropout=0.2, seed=1)

    def pairs() -> tuple[Tensor, Tensor]:
        r_BD = torch.randn(128, 8, generator=rng)
        return r_BD, r_BD.clone() if dependent else torch.randn(128, 8, generator=rng)

    for _ in range(150):
        dependency.learn(*pairs())
    with torch.no_grad():
        return sum(float(dependency.measure(*pairs())) for _ in range(20)) / 20


def test_the_critic_tells_equal_embeddings_from_independent_ones() -> None:
    assert abs(trained_critic(dependent=False)) < 0.05
    assert trained_critic(dependent=True) > 0.3


def test_power_iteration_finds_the_largest_singular_value() -> None:
    weight_DD = 3 * torch.randn(12, 20, generator=seeded(0))
    found, _ = largest_singular_value(weight_DD, F.normalize(torch.ones(12), dim=0), 200)
    assert float(found) == pytest.approx(float(torch.linalg.svdvals(weight_DD)[0]), rel=1e-4)


def test_the_critic_stays_1_lipschitz_and_its_biases_are_left_alone() -> None:
    dependency = Dependency(width=8, lr=1e-2, steps=1, dropout=0.2, seed=1)
    for step in range(200):
        r_BD = torch.randn(64, 8, generator=seeded(step))
        dependency.learn(r_BD, r_BD)
    for layer in dependency.layers():
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(
            1, abs=0.01
        )  # it was pushed against the bound
        with torch.no_grad():
            layer.weight *= 0.1
            layer.bias.fill_(7)
    before = [layer.weight.clone() for layer in dependency.layers()]
    dependency.project()
    for layer, weight in zip(dependency.layers(), before, strict=True):
        assert torch.equal(layer.weight, weight)  # below one, nothing is inflated
        assert (layer.bias == 7).all()


def test_no_embedding_is_paired_with_that_of_its_own_image() -> None:
    """A critic that measures the distance of two rows; neighbours differ by 1, the last by 4."""
    dependency = Dependency(width=2, lr=1e-3, steps=1, dropout=0, seed=1)
    hidden, out = dependency.layers()
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[1.0, 0, -1, 0], [-1, 0, 1, 0]]))
        out.weight.fill_(1)
        hidden.bias.zero_()
        out.bias.zero_()
    row_B2 = torch.arange(5.0)[:, None].expand(5, 2)
    leak = 0.01  # of the ReLU, so that a distance counts 0.99
    expected = -(1 - leak) * (1 + 1 + 1 + 1 + 4) / 5
    assert float(dependency.measure(row_B2, row_B2)) == pytest.approx(expected)


def test_learning_changes_the_critic_alone_and_measuring_the_network_alone() -> None:
    _, second = independent(CBD(dependency=0))
    before = {name: value.clone() for name, value in second.train().state_dict().items()}
    z_BD = second.embed(digits().x_NCHW[:20])
    statistics = {name: value.clone() for name, value in second.state_dict().items()}
    dependency = Dependency(z_BD.shape[1], lr=1e-3, steps=3, dropout=0.2, seed=1)
    dependency.learn(torch.randn(z_BD.shape, generator=seeded(0)), z_BD)
    assert all(parameter.grad is None for parameter in second.parameters())
    assert all(torch.equal(value, statistics[name]) for name, value in second.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in second.named_parameters())
    dependency.optimizer.zero_grad(set_to_none=True)
    dependency.measure(torch.randn(z_BD.shape, generator=seeded(0)), z_BD).backward()
    assert all(parameter.grad is None for parameter in dependency.critic.parameters())
    assert next(second.parameters()).grad is not None
