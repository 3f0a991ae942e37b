"""SentiNet: regions, what is pasted, the curve, and the score."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.detectors.sentinet import Curve, Sentinet, grad_cam, highest
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from tests.detectors.conftest import Scene
from tests.small_scene import small_scene, stream


def test_a_region_has_its_share_of_the_positions_rounded() -> None:
    cam = torch.zeros(1, 4, 4)
    cam[0, 3, 3] = 1
    cam[0, 0, 1] = 0.5
    # 15 % of 16 are 2.4 positions.
    found = highest(cam, 0.15)
    assert found.sum() == 2
    assert found[0, 3, 3] and found[0, 0, 1]
    assert highest(cam, 0.01).sum() == 1


class _Corners(nn.Module):
    """A map of two channels, which are red and green, and logits from their means."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        means_BC: Tensor = self.map(x_BCHW[:, :2]).mean((2, 3))
        return means_BC


class _Logits(nn.Module):
    """Class 1 has the mean of red, less half of that of green; class 0 has the opposite."""

    def forward(self, z_BC: Tensor) -> Tensor:
        speaks_B = z_BC[:, 0] - z_BC[:, 1] / 2
        return torch.stack([-speaks_B, speaks_B], 1)


def _by_hand() -> Victim:
    return Victim(_Corners(), _Logits(), torch.zeros(3), torch.ones(3)).eval()


def _red_corner() -> Tensor:
    x = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    x[:, 0, 0, 0] = 255
    x[:, 1, 3, 3] = 51
    return x


def test_the_map_speaks_where_channels_of_the_predicted_class_are_high() -> None:
    cam = grad_cam(_by_hand(), "map", _red_corner())
    # The gradient of a mean of 16 positions.
    assert float(cam[0, 0, 0]) == pytest.approx(1 / 16)
    # What speaks against the class is no part of the region.
    assert float(cam.sum()) == pytest.approx(1 / 16)


def test_an_image_is_fooled_if_the_region_brings_its_class_along() -> None:
    green = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    green[:, 1, 2, 2] = 51
    # The other one has more green than the red corner outweighs.
    green[1, 1] = 255
    noise = torch.zeros(3, 4, 4, dtype=torch.uint8)
    detector = Sentinet(region=1 / 16)
    confidence, fooled = detector.measure(_by_hand(), "map", _red_corner(), green, noise)[0]
    assert float(fooled) == 0.5
    # Under noise, here black, the first image has z = .2 / 16 of green, the second 15 / 16.
    strength = torch.tensor([0.2 / 16, 15 / 16])
    assert float(confidence) == pytest.approx(float(torch.sigmoid(strength).mean()), abs=1e-5)


def test_the_curve_goes_through_the_largest_of_each_bin_and_is_raised() -> None:
    # Of the bin from .40 to .42, the lower point is below the curve.
    points = torch.tensor([[0.2, 0.1], [0.41, 0.2], [0.405, 0.05], [0.6, 0.3]])
    curve = Curve.of(points, 0.02)
    assert curve.raised == pytest.approx(0, abs=1e-6)
    assert curve.above(points).tolist() == pytest.approx([0, 0, curve_gap(curve), 0], abs=1e-5)
    # Two bins: a line. Three points of one bin lie under its top, and none above the line.
    flat = Curve.of(torch.tensor([[0.1, 0.0], [0.5, 0.4]]), 0.02)
    assert float(flat.above(torch.tensor([[0.3, 0.5]]))) == pytest.approx(0.3, abs=1e-6)


def curve_gap(curve: Curve) -> float:
    first, second, third = curve.coefficients
    return 0.05 - (first * 0.405**2 + second * 0.405 + third)


def test_the_curve_is_raised_by_the_mean_distance_of_what_lies_above() -> None:
    tops = torch.tensor([[0.1, 0.0], [0.3, 0.4], [0.5, 0.0], [0.7, 0.4]])
    curve = Curve.of(tops, 0.02)
    over = curve.above(tops) + curve.raised
    assert curve.raised > 0
    assert curve.raised == pytest.approx(float(over[over > 1e-6].mean()), abs=1e-5)


def test_outside_of_the_seen_confidences_the_nearest_counts() -> None:
    curve = Curve.of(torch.tensor([[0.2, 0.1], [0.4, 0.3], [0.6, 0.3]]), 0.02)
    found = curve.above(torch.tensor([[0.9, 0.5], [0.6, 0.5], [0.0, 0.5], [0.2, 0.5]]))
    assert float(found[0]) == pytest.approx(float(found[1]), abs=1e-6)
    assert float(found[2]) == pytest.approx(float(found[3]), abs=1e-6)


def test_one_confidence_gives_a_level_curve() -> None:
    curve = Curve.of(torch.tensor([[0.5, 0.2], [0.5, 0.1]]), 0.02)
    assert curve.above(torch.tensor([[0.9, 0.2], [0.5, 0.3]])).tolist() == pytest.approx([0, 0.1])


def test_the_threshold_is_that_of_images_which_were_not_learned_from(scene: Scene) -> None:
    drawn, kept = scene.rows_of_the_threshold(Sentinet(images=3), 12)
    assert drawn <= kept
    # All three that are pasted on matter; one of the curve need not lie at its top.
    assert len(kept) <= 9


def test_constant_images_have_a_region_and_a_finite_score() -> None:
    victim, suspects, clean = small_scene()
    blank = suspects.select(torch.arange(6))
    blank.x_NCHW[:3] = 0
    blank.x_NCHW[3:] = 255
    verdict = Sentinet(images=3).learn(victim, clean, stream())(blank)
    assert torch.isfinite(verdict.score_N).all()


def test_refuses_what_it_cannot_use() -> None:
    victim, _, clean = small_scene()
    encoder = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="classifier"):
        Sentinet().learn(encoder, clean, stream())
    with pytest.raises(UserError, match="3 clean images"):
        Sentinet().learn(victim, clean.select(torch.arange(3)), stream())
    flat: Any = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    mapless = Victim(flat, nn.Linear(4, 3), victim.mean_C, victim.std_C).eval()
    with pytest.raises(Infeasible, match="feature map"):
        Sentinet().learn(mapless, clean, stream())


def test_finds_a_patch(scene: Scene) -> None:
    found = scene.found_by(Sentinet(images=8))
    assert found["auroc"] > 0.9
    assert found["fpr"] < 0.1
