"""Hessian: a quadratic form, a linear softmax by autograd, and layer normalisation."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.analyses._curvature import Curvature
from raybd.analyses._spectrum import density, lanczos, largest, traces
from raybd.analyses.hessian import Hessian
from raybd.networks.small_cnn import SmallCnn
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.analyses.given import given
from tests.analyses.nets import linear_victim, some_pairs
from tests.groups import in_group
from tests.small_scene import images, small_scene, stream


class Matrix:
    """A symmetric matrix at hand: the Hessian of 0.5 w^T A w."""

    def __init__(self, a_PP: Tensor) -> None:
        self.size = len(a_PP)
        self._a_PP = a_PP

    def __matmul__(self, v_P: Tensor) -> Tensor:
        return self._a_PP @ v_P


def symmetric(size: int = 40) -> Tensor:
    half = torch.randn((size, size), generator=stream(4))
    return half + half.T


def test_eigenvalues_are_the_largest_of_the_quadratic_form() -> None:
    a_PP = symmetric()
    expected = torch.linalg.eigvalsh(a_PP).flip(0)[:5].tolist()
    assert largest(Matrix(a_PP), 5, stream()) == pytest.approx(expected, rel=2e-3)


def test_the_trace_is_right_on_average_and_exact_for_a_diagonal() -> None:
    a_PP = symmetric()
    found_S = traces(Matrix(a_PP), 2000, stream())
    se = float(found_S.std()) / 2000**0.5
    assert abs(float(found_S.mean() - a_PP.trace())) < 4 * se
    diagonal = Matrix(torch.diag(torch.arange(5.0)))
    assert traces(diagonal, 3, stream()).tolist() == pytest.approx([10, 10, 10])


def test_the_density_sums_to_one_and_has_the_moments_of_the_spectrum() -> None:
    a_PP = torch.diag(torch.tensor([1.0, 2.0, 5.0, -3.0, 0.5, 4.0]))
    value_S, weight_S = lanczos(Matrix(a_PP), 80, stream())
    assert value_S.tolist() == pytest.approx([-3, 0.5, 1, 2, 4, 5], abs=1e-3)
    assert float(weight_S.sum()) == pytest.approx(1)
    # The weights are the shares of the start in the eigenvectors, here the axes.
    start_P = torch.randn(6, generator=stream())
    share_P = (start_P / start_P.norm()) ** 2
    assert weight_S.tolist() == pytest.approx(share_P[[3, 4, 0, 1, 5, 2]].tolist(), abs=1e-3)
    at_X, density_X = density(value_S, weight_S, 0.01, 2000)
    assert float(torch.trapezoid(density_X, at_X)) == pytest.approx(1, abs=1e-3)
    mean = float(torch.trapezoid(at_X * density_X, at_X))
    assert mean == pytest.approx(float(weight_S @ value_S), abs=1e-2)


def test_a_start_whose_space_is_spent_ends_the_method_early() -> None:
    value_S, weight_S = lanczos(Matrix(3 * torch.eye(9)), 8, stream())
    assert value_S.tolist() == pytest.approx([3.0])
    at_X, density_X = density(value_S, weight_S, 0.01, 501)
    assert float(torch.trapezoid(density_X, at_X)) == pytest.approx(1, abs=1e-3)


def test_products_are_those_of_the_hessian_of_the_mean_loss() -> None:
    pairs = some_pairs(6, 2)
    weight = torch.randn((2, 12), generator=stream(1))

    def loss(flat_P: Tensor) -> Tensor:
        logits = (pairs.x_MCHW.float() / 255).flatten(1) @ flat_P.view(2, 12).T
        return F.cross_entropy(logits, pairs.y_M)

    whole_PP = torch.autograd.functional.hessian(loss, weight.flatten())
    curvature = Curvature(linear_victim(weight), pairs.x_MCHW, pairs.y_M)
    assert curvature.size == 24
    for n in range(3):
        v_P = torch.randn(24, generator=stream(n))
        assert torch.allclose(curvature @ v_P, whole_PP @ v_P, atol=1e-5)


def test_layer_normalisation_has_its_second_derivatives() -> None:
    """Differences of gradients; forward over backward in torch misses a term here."""
    pairs = some_pairs(6, 2)
    torch_stream = stream(3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.LayerNorm(8)).double()
    victim = Victim(encoder, nn.Linear(8, 2).double(), torch.zeros(3), torch.ones(3))
    with torch.no_grad():
        for part in victim.parameters():
            part.copy_(torch.randn(part.shape, generator=torch_stream))
    weights = list(victim.parameters())
    v_P = torch.randn(sum(part.numel() for part in weights), generator=torch_stream)

    def gradient(along: float) -> Tensor:
        moved = [
            part + along * step.view_as(part)
            for part, step in zip(
                weights, v_P.double().split([p.numel() for p in weights]), strict=True
            )
        ]
        names = [name for name, _ in victim.named_parameters()]
        states = dict(zip(names, moved, strict=True))
        z = (pairs.x_MCHW.double() / 255).flatten(1)
        z = F.linear(z, states["encoder.1.weight"], states["encoder.1.bias"])
        z = F.layer_norm(z, (8,), states["encoder.2.weight"], states["encoder.2.bias"])
        logits = F.linear(z, states["head.weight"], states["head.bias"])
        parts = torch.autograd.grad(F.cross_entropy(logits, pairs.y_M), weights)
        return torch.cat([part.flatten() for part in parts])

    expected = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    found = Curvature(victim.float(), pairs.x_MCHW, pairs.y_M) @ v_P
    assert torch.allclose(found.double(), expected, atol=1e-3 * float(expected.abs().max()))


def scene(poison: bool = True) -> Any:
    victim, suspects, _ = small_scene()
    pairs = some_pairs(6, 16, 3)
    role_N = torch.zeros(90, dtype=torch.int8)
    role_N[::9] = 1 if poison else 2
    return replace(given(victim, pairs), train=suspects, role_N=role_N)


SMALL: dict[str, Any] = {"images": 20, "top": 2, "probes": 3, "lanczos": 6, "points": 11}


def test_clean_and_poisoned_training_images_have_rows_of_their_own() -> None:
    table = Hessian(**SMALL).analyse(scene(), stream(1)).to_pandas()
    assert table["group"].drop_duplicates().tolist() == ["clean", "poison"]
    for _, own in table.groupby("group"):
        assert own["kind"].value_counts().to_dict() == {"density": 11, "eig": 2, "trace": 1}
        eig = own[own["kind"] == "eig"]
        assert eig["x"].tolist() == [0, 1]
        assert eig["value"].is_monotonic_decreasing
        assert own[own["kind"] == "trace"]["se"].iloc[0] > 0


def test_without_poison_in_training_the_stamped_test_images_stand_in() -> None:
    table = Hessian(**SMALL).analyse(scene(poison=False), stream(1)).to_pandas()
    assert table["group"].drop_duplicates().tolist() == ["clean", "stamped"]


def test_a_saturated_victim_has_a_flat_loss() -> None:
    x_NCHW = torch.full((20, 3, 2, 2), 255, dtype=torch.uint8)
    victim = linear_victim(torch.stack([torch.full((12,), 1e3), torch.full((12,), -1e3)]))
    train = Split(x_NCHW, torch.zeros(20).long())
    scene = replace(
        given(victim, some_pairs(0, 2), train), train=train, role_N=torch.zeros(20).char()
    )
    table = Hessian(**SMALL).analyse(scene, stream()).to_pandas()
    assert table["value"].tolist() == [0, 0, 0]


def test_an_encoder_has_no_loss() -> None:
    victim = linear_victim(torch.ones(2, 12))
    encoder = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="without a head"):
        Hessian().analyse(given(encoder, some_pairs(4, 2)), stream())


def _of_a_worker() -> list[Any]:
    victim = new_victim(Split(images(9), torch.zeros(9).long()), 3, SmallCnn(width=4), stream())
    train = Split(images(21), torch.arange(21) % 3)
    role_N = (torch.arange(21) % 7 == 0).char()
    given_here = replace(given(victim, some_pairs(4, 16, 3)), train=train, role_N=role_N)
    return Hessian(**SMALL).analyse(given_here, stream(1)).to_pandas()["value"].tolist()


def test_workers_share_the_images_and_tell_the_same() -> None:
    alone = _of_a_worker()
    first, second = in_group(_of_a_worker)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-2, abs=1e-3)
