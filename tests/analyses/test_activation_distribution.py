"""Activation distribution: classes of top images, counted by hand."""

import math

import pytest

from raybd.analyses.activation_distribution import ActivationDistribution
from tests.analyses.by_hand import dark_and_patched, victim
from tests.analyses.given import given
from tests.small_scene import stream


def test_the_unit_of_the_patch_has_triggered_images_alone() -> None:
    # Unit 0 is the patch; unit 1 likes images without it; unit 2 likes light ones of the corner.
    model = victim(
        lambda x: x[:, -1:, -1:],
        lambda x: -x[:, -1:, -1:],
        lambda x: x[:, :1, :1],
    )
    tool = ActivationDistribution(layer="0")
    shown = given(model, dark_and_patched(4))
    found = tool.analyse(shown, stream()).to_pandas()
    counts = found.pivot(index="unit", columns="class", values="count").to_numpy().tolist()
    # Classes 0 and 1, and the images with the trigger. Top are four of eight images each.
    assert counts == [[0, 0, 4], [2, 2, 0], [1, 1, 2]]
    entropies = found.groupby("unit")["entropy"].first().tolist()
    assert entropies == pytest.approx([0, math.log(2), 1.5 * math.log(2)], abs=1e-6)


def test_the_field_bounds_both_kinds_of_images() -> None:
    model = victim(lambda x: x[:, -1:, -1:])
    tool = ActivationDistribution(layer="0", images=2)
    found = tool.analyse(given(model, dark_and_patched(4)), stream()).to_pandas()
    assert found["count"].tolist() == [0, 0, 2]
