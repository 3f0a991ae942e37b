"""Separability: statistics by hand and by chance, and whose images are compared."""

from dataclasses import replace

import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from raybd.analyses.separability import Separability, statistics
from raybd.types.data import POISON, Split
from raybd.types.errors import UserError
from raybd.types.methods import AnalysisInput
from tests.analyses.by_hand import dark_and_patched, victim
from tests.analyses.given import given
from tests.small_scene import stream


def test_identical_distributions_are_not_told_apart_in_many_dimensions() -> None:
    """In 200 dimensions, the difference of any two means separates the images that it is of."""
    points = torch.randn(400, 200, generator=stream())
    found = statistics(points[:200], points[200:])
    assert found["auroc"] == pytest.approx(0.5, abs=0.08)
    assert found["silhouette"] == pytest.approx(0, abs=0.02)
    assert found["fisher"] < 0.01 + 2 / 200


def test_two_far_blobs_are_told_apart_by_each_statistic() -> None:
    points = torch.randn(80, 3, generator=stream())
    points[40:, 0] += 50
    found = statistics(points[:40], points[40:])
    assert found["auroc"] == 1
    assert found["silhouette"] > 0.9 and found["distance_correlation"] > 0.95
    assert found["fisher"] == pytest.approx(2500 / 6, rel=0.3)


def test_statistics_of_four_points_are_as_by_hand() -> None:
    clean, poison = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [9.0]])
    found = statistics(clean, poison)
    # Means 1 and 7; variances 2 and 8.
    assert found["fisher"] == pytest.approx(36 / 10)
    assert found["effective_rank_clean"] == pytest.approx(1)
    # Silhouettes: 1 - 2/7, 1 - 2/5, 1 - 4/4 and 1 - 4/8.
    assert found["silhouette"] == pytest.approx((5 / 7 + 3 / 5 + 0 + 1 / 2) / 4)


def test_the_distance_correlation_is_that_of_centred_distances() -> None:
    points = torch.randn(30, 4, generator=stream(), dtype=torch.float64)
    far = torch.from_numpy(squareform(pdist(points.numpy())))
    label = (torch.arange(30) >= 12).double()
    apart = (label[:, None] - label[None]).abs()
    middle = torch.eye(30, dtype=torch.float64) - 1 / 30
    one, other = middle @ far @ middle, middle @ apart @ middle
    expected = ((one * other).sum() / (one.norm() * other.norm())).sqrt()
    found = statistics(points[:12], points[12:])["distance_correlation"]
    assert found == pytest.approx(float(expected))


def test_the_effective_rank_counts_directions_of_equal_strength() -> None:
    corners = torch.eye(4).repeat(2, 1)
    # Four corners around their mean lie in three dimensions.
    assert statistics(corners, corners)["effective_rank_poison"] == pytest.approx(3)


def scene(poisoned: bool) -> AnalysisInput:
    """Twelve clean images of class 1, black, and twelve poisoned ones with a white pixel.

    Class 0 is white. A model that reads the last pixel sees the poison, and one of the first does
    not.
    """
    pairs = dark_and_patched(12)
    black = torch.zeros_like(pairs.x_MCHW)
    clean = torch.cat([black, 255 - black])
    split = Split(clean, torch.tensor([1] * 12 + [0] * 12))
    model = victim(lambda x: x[:, -1:, -1:], lambda x: x[:, :1, :1])
    shown = replace(given(model, pairs, split), test=split)
    if not poisoned:
        return shown
    train = Split(
        torch.cat([clean, pairs.worn_MCHW]), torch.cat([split.y_N, torch.ones(12).long()])
    )
    role_N = torch.tensor([0] * 24 + [POISON] * 12, dtype=torch.int8)
    return replace(shown, train=train, role_N=role_N)


@pytest.mark.parametrize("poisoned", [True, False])
def test_clean_and_poisoned_images_of_the_target_class_are_compared(poisoned: bool) -> None:
    table = Separability(layer="features").analyse(scene(poisoned), stream())
    found = dict(zip(table["statistic"].to_pylist(), table["value"].to_pylist(), strict=True))
    assert found["auroc"] == 1
    # Black images are equal: had white ones of class 0 been among them, they would have a rank.
    assert found["effective_rank_clean"] is None and found["effective_rank_poison"] is not None
    assert set(table["pool"].to_pylist()) == {"train" if poisoned else "test"}


def test_too_few_images_are_one_clear_error() -> None:
    shown = scene(True)
    few = replace(shown, role_N=shown.role_N.where(torch.arange(36) < 27, 0))
    with pytest.raises(UserError, match="3 poisoned images, it needs 4"):
        Separability(layer="features").analyse(few, stream())
