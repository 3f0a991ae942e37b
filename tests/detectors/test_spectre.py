"""SPECTRE: the quantum entropy, the robust covariance, and the class that stands out."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from raybd.detectors.spectre import Spectre
from raybd.detectors.spectre.entropy import quantum_entropy
from raybd.detectors.spectre.robust import (
    best_dimensions,
    dimensions,
    filtered,
    fourth_moment,
    kept,
    tail_cut,
)
from raybd.types.data import Split
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene, stream


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def test_the_exponential_is_that_of_a_matrix() -> None:
    """Golden: S = diag(3, 1, 1) gives e^4 : 1 : 1; of entries, (0, 1, 1) would have .071."""
    weight_DD = quantum_entropy(torch.diag(torch.tensor([3.0, 1.0, 1.0])), 4.0)
    total = math.exp(4) + 2
    assert weight_DD.diagonal().tolist() == pytest.approx([math.exp(4) / total] + [1 / total] * 2)
    first, other = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 1])
    assert float(first @ weight_DD @ first) == pytest.approx(0.9647, abs=1e-4)
    assert float(other @ weight_DD @ other) == pytest.approx(0.0353, abs=1e-4)


def test_the_entropy_matrix_is_the_formula_in_any_basis() -> None:
    second_DD = torch.cov(normal(50, 4).T) * 2
    excess = torch.linalg.matrix_norm(second_DD, 2) - 1
    expected_DD = torch.linalg.matrix_exp(4 * (second_DD - torch.eye(4)) / excess)
    assert torch.allclose(quantum_entropy(second_DD, 4.0), expected_DD / expected_DD.trace())


def test_without_excess_all_directions_count_the_same() -> None:
    assert torch.allclose(quantum_entropy(torch.eye(3) * 0.5, 4.0), torch.eye(3) / 3)


def test_the_dimensions_are_squares_up_to_the_limit() -> None:
    assert dimensions(100) == [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]
    assert dimensions(2)[0] == 1 and dimensions(2)[-1] == 2
    assert dimensions(1) == [1]


def test_no_more_images_are_left_out_than_twice_the_assumed_poison() -> None:
    y_ND = normal(400, 2)
    # Each is so much farther away than the one before that every round would leave out another.
    for place in range(30):
        y_ND[place] += 100 ** (1 + place / 6) * (-1) ** place
    assert int((~kept(y_ND, 5)).sum()) == 10


def test_the_fourth_moment_is_the_largest_eigenvalue_of_the_operator() -> None:
    y_ND = normal(300, 4)
    flat_NF = torch.einsum("ni,nj->nij", y_ND, y_ND).flatten(1)
    identity_F = torch.eye(4).double().flatten()
    whole_FF = flat_NF.T @ flat_NF / 300 - torch.outer(identity_F, identity_F)
    value, v_DD = fourth_moment(y_ND)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(whole_FF)[-1]), rel=1e-4)
    assert float(v_DD.norm()) == pytest.approx(1)
    assert fourth_moment(normal(50000, 1))[0] == pytest.approx(2, abs=0.15)


def test_the_tail_is_cut_where_it_holds_too_much() -> None:
    # 10 ln 10 = 23: below, no tail is too heavy.
    assert tail_cut(torch.arange(20.0), 0.1) == math.inf
    distance_N = torch.tensor([0.0] * 80 + [60.0] * 20)
    # T = 57: 3 * .1 / (57 * 4.04)^2 is next to nothing.
    assert tail_cut(distance_N, 0.1) == 60


def test_images_far_away_are_left_out_first() -> None:
    y_ND = normal(100, 3)
    y_ND[7] = 100
    outlying_N = filtered(y_ND, 0.1)
    assert outlying_N.isfinite().nonzero().flatten().tolist() == [7]


def test_no_more_than_twice_the_assumed_poison_is_left_out_of_the_covariance() -> None:
    y_ND = normal(200, 3)
    y_ND[:60] += torch.tensor([200.0, 0, 0])
    assert int((~kept(y_ND, 10)).sum()) <= 20
    y_ND = normal(200, 3)
    y_ND[:5] *= 1000
    kept_N = kept(y_ND, 10)
    assert not kept_N[:5].any()
    assert int((~kept_N).sum()) <= 20


def test_little_poison_has_the_highest_entropy_of_its_class() -> None:
    z_ND = normal(400, 8)
    z_ND[:30, 0] += 12
    score_N, mean = best_dimensions(z_ND, 0.1, 100, 4.0)
    assert mean > best_dimensions(normal(400, 8), 0.1, 100, 4.0)[1] + 1
    assert float((score_N.argsort(descending=True)[:30] < 30).double().mean()) > 0.8


def test_equal_images_have_equal_scores() -> None:
    assert best_dimensions(torch.ones(10, 3).double(), 0.1, 100, 4.0)[0].tolist() == [1] * 10
    assert best_dimensions(torch.ones(1, 3).double(), 0.1, 100, 4.0)[0].tolist() == [1]


def classes(n: int, poison: int, seed: int) -> tuple[Split, Tensor]:
    """Return ten classes; the first images of class 0 are shifted."""
    y_N = torch.arange(n) % 10
    z_ND = normal(n, 6, seed)
    z_ND[:, 0] += 4 * y_N
    shifted_N = (y_N == 0) & (torch.arange(n) < 10 * poison)
    z_ND[shifted_N, 1] += 6
    x_NCHW = torch.zeros(n, 3, 2, 2, dtype=torch.uint8)
    return Split(x_NCHW, y_N, z_ND=z_ND.float()), shifted_N


@pytest.mark.parametrize("poison", [20, 50, 70])
def test_with_trusted_images_it_flags_the_poison_of_the_target_class(poison: int) -> None:
    """Whether it is less, as much, or more than the class's own images."""
    suspects, shifted_N = classes(1000, poison, 1)
    clean, _ = classes(400, 0, 2)
    verdict = Spectre(whiten="trusted").score(small_scene()[0], suspects, clean, stream())
    flagged_N = verdict.score_N > verdict.threshold_N
    assert (flagged_N == shifted_N).double().mean() > 0.99
    assert verdict.facts["index[0]"] > 7.389


@pytest.mark.parametrize("whiten", ["trusted", "robust"])
def test_without_poison_no_class_is_flagged(whiten: str) -> None:
    suspects, _ = classes(1000, 0, 1)
    clean, _ = classes(400, 0, 2)
    detector = Spectre.model_validate({"whiten": whiten})
    verdict = detector.score(small_scene()[0], suspects, clean, stream())
    assert not (verdict.score_N > verdict.threshold_N).any()


def test_as_published_it_flags_an_assumed_share_of_one_class() -> None:
    suspects, _ = classes(1000, 10, 1)
    detector = Spectre(threshold=1e-9)
    verdict = detector.score(small_scene()[0], suspects, suspects, stream())
    flagged_N = verdict.score_N > verdict.threshold_N
    assert int(flagged_N.sum()) == 15
    assert len(suspects.y_N[flagged_N].unique()) == 1


def test_it_finds_badnets(scene: Scene) -> None:
    found = scene.found_by(Spectre(whiten="trusted"))
    assert found["auroc"] > 0.95
    assert found["tpr"] > 0.9
    assert found["fpr"] < 0.02
