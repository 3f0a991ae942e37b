"""SCAn: the two-component decomposition, and the classes that fall into two groups."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from raybd.detectors.scan_em import Identities, ScanEm, identities, untangled
from raybd.types.data import Split
from raybd.types.errors import UserError
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene, stream


def one_dimension(identity: float, variation: float) -> Identities:
    """Return S_u and S_e of one dimension."""
    root = math.sqrt(variation)
    axes_DD = torch.tensor([[1 / root]], dtype=torch.float64)
    ratio_D = torch.tensor([identity / variation], dtype=torch.float64)
    return Identities(torch.zeros(1, dtype=torch.float64), axes_DD, ratio_D)


def test_the_posterior_mean_of_two_images_by_hand() -> None:
    """S_u = 4, S_e = 1, two images with the sum 9: 4 / (8 + 1) * 9 = 4."""
    found = one_dimension(4.0, 1.0)
    y_ND = found.coordinates(torch.tensor([[4.0], [5.0]], dtype=torch.float64))
    assert float(found.posterior(y_ND)) == pytest.approx(4.0)
    # In coordinates, a variation of 4 halves all lengths: u = 4 / (8 + 4) * 9 = 3.
    found = one_dimension(4.0, 4.0)
    y_ND = found.coordinates(torch.tensor([[4.0], [5.0]], dtype=torch.float64))
    assert float(found.posterior(y_ND)) * 2 == pytest.approx(3.0)


def trusted(m: int = 600, d: int = 4) -> tuple[Tensor, Tensor]:
    """Return embeddings of 20 classes whose identities vary along the first axis alone."""
    rng = np.random.default_rng(0)
    y = np.arange(m) % 20
    z = rng.normal(size=(m, d)) @ np.diag([1.0, 2.0, 1.0, 0.5])
    z[:, 0] += 5 * rng.normal(size=20)[y]
    return torch.from_numpy(z), torch.from_numpy(y)


def test_the_diagonal_form_is_that_of_the_inverses() -> None:
    """u_k = S_u (n S_u + S_e)^-1 sum x, and distances are those of S_e^-1."""
    z_MD, y_M = trusted()
    found, _ = identities(z_MD, y_M, 100, 1e-5)
    back_DD = torch.linalg.inv(found.axes_DD)
    variation_DD = back_DD.T @ back_DD
    identity_DD = back_DD.T @ torch.diag(found.identity_D) @ back_DD

    x_ND = z_MD[y_M == 3] - z_MD.mean(0)
    n = len(x_ND)
    expected_D = identity_DD @ torch.linalg.inv(n * identity_DD + variation_DD) @ x_ND.sum(0)
    posterior_D = found.posterior(found.coordinates(z_MD[y_M == 3])) @ back_DD
    assert torch.allclose(posterior_D, expected_D)
    length_N = found.coordinates(z_MD[y_M == 3]).square().sum(1)
    assert torch.allclose(
        length_N, torch.einsum("nd,de,ne->n", x_ND, torch.linalg.inv(variation_DD), x_ND)
    )


def test_the_estimate_finds_both_covariances() -> None:
    z_MD, y_M = trusted(4000)
    found, rounds = identities(z_MD, y_M, 100, 1e-5)
    assert 1 <= rounds < 100
    back_DD = torch.linalg.inv(found.axes_DD)
    variation_D = (back_DD.T @ back_DD).diagonal()
    identity_D = (back_DD.T @ torch.diag(found.identity_D) @ back_DD).diagonal()
    assert variation_D.tolist() == pytest.approx([1, 4, 1, 0.25], rel=0.1)
    # 20 identities of variance 25.
    assert 10 < float(identity_D[0]) < 45
    assert float(identity_D[1:].max()) < 0.3


def test_no_round_is_the_covariances_of_means_and_residuals() -> None:
    z_MD, y_M = trusted()
    found, rounds = identities(z_MD, y_M, 0, 1e-5)
    assert rounds == 0
    mean_KD = torch.stack([z_MD[y_M == k].mean(0) for k in range(20)])
    back_DD = torch.linalg.inv(found.axes_DD)
    identity_DD = back_DD.T @ torch.diag(found.identity_D) @ back_DD
    assert torch.allclose(identity_DD, torch.cov(mean_KD.T), atol=1e-6)


def test_two_groups_are_told_apart_and_the_one_without_trusted_images_is_poison() -> None:
    found = one_dimension(25.0, 1.0)
    y_ND = torch.tensor([[0.0], [0.2], [-0.2], [10.0], [10.2]], dtype=torch.float64)
    for trusted_at, poison in ((0.0, [3, 4]), (10.0, [0, 1, 2])):
        groups = untangled(found, y_ND, torch.full((2, 1), trusted_at).double())
        assert (groups.towards_N > 0.5).nonzero().flatten().tolist() == poison
        # By hand: one center for all seven against one for each group.
        y_A = torch.cat([y_ND, torch.full((2, 1), trusted_at).double()])
        parts = (y_A.flatten(), y_A[y_A < 5], y_A[y_A > 5])
        cost = [
            float((group - 25 / (25 * len(group) + 1) * group.sum()).square().sum())
            for group in parts
        ]
        assert groups.statistic == pytest.approx((cost[0] - cost[1] - cost[2]) / 7)
        # Two trusted images, none of them among the suspected ones.
        assert groups.chance == pytest.approx((1 - len(poison) / 5) ** 2)


def test_equal_images_are_one_group() -> None:
    found = one_dimension(1.0, 1.0)
    groups = untangled(found, torch.ones(4, 1).double(), torch.ones(2, 1).double())
    assert groups.towards_N.tolist() == [0, 0, 0, 0]
    assert (groups.statistic, groups.chance) == (0, 1)


def of_embeddings(z_ND: Tensor, y_N: Tensor) -> Split:
    return Split(torch.zeros(len(y_N), 3, 2, 2, dtype=torch.uint8), y_N, z_ND=z_ND.float())


def gaussian(n: int, poison: float, seed: int) -> tuple[Split, Tensor]:
    """Return ten classes, and which images of class 0 have another identity."""
    rng = stream(seed)
    y_N = torch.arange(n) % 10
    z_ND = torch.randn((n, 6), generator=rng)
    z_ND += 4 * torch.randn((10, 6), generator=stream(9))[y_N]
    shifted_N = (y_N == 0) & (torch.arange(n) < poison * n)
    z_ND[shifted_N] += 3
    return of_embeddings(z_ND, y_N), shifted_N


def test_it_flags_the_group_that_trusted_images_avoid_and_no_class_without_one() -> None:
    clean, _ = gaussian(300, 0, 1)
    victim, _, _ = small_scene()
    # Half, and more than half, of the class: the larger group is then the poison.
    for poison in (0.5, 0.7):
        suspects, shifted_N = gaussian(1000, poison, 2)
        verdict = ScanEm().score(victim, suspects, clean, stream())
        flagged_N = verdict.score_N > verdict.threshold_N
        assert (flagged_N == shifted_N).double().mean() > 0.99
        assert verdict.facts["index[0]"] > 7.389
    suspects, _ = gaussian(1000, 0, 2)
    verdict = ScanEm().score(victim, suspects, clean, stream())
    assert not (verdict.score_N > verdict.threshold_N).any()


def test_a_class_without_trusted_images_is_still_scored() -> None:
    clean, _ = gaussian(300, 0, 1)
    suspects, _ = gaussian(1000, 0.2, 2)
    victim, _, _ = small_scene()
    few = clean.select(clean.y_N != 0)
    verdict = ScanEm().score(victim, suspects, few, stream())
    assert torch.isfinite(verdict.score_N).all()
    # Nothing tells which group is poison.
    assert not (verdict.score_N > verdict.threshold_N)[suspects.y_N == 0].any()


def test_it_warns_where_classes_are_too_few() -> None:
    victim, suspects, clean = small_scene()
    assert "3 classes" in str(ScanEm().score(victim, suspects, clean, stream()).warning)


def test_a_named_layer_is_read_as_the_sum_over_positions() -> None:
    """Distances are those of S_e^-1: sum and mean give the same verdict as the embedding."""
    victim, suspects, clean = small_scene()
    plain = ScanEm().score(victim, suspects, clean, stream())
    # The encoder ends with the mean of its last map, module 11.
    named = ScanEm(layer="11").score(victim, suspects, clean, stream())
    assert torch.allclose(plain.score_N, named.score_N, rtol=1e-2, atol=1e-3)
    with pytest.raises(UserError, match="no module 'nowhere'"):
        ScanEm(layer="nowhere").score(victim, suspects, clean, stream())


def test_it_finds_badnets(scene: Scene) -> None:
    found = scene.found_by(ScanEm())
    assert found["auroc"] > 0.95
    assert found["tpr"] > 0.8
    assert found["fpr"] < 0.03
