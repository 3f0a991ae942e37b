"""Structural similarity: its formula."""

import pytest
import torch

from raybd.ops.similarity import structural_similarity
from tests.small_scene import stream


def test_an_image_is_like_itself_and_less_like_others() -> None:
    x = torch.randint(0, 256, (4, 3, 20, 24), generator=stream())
    noise = torch.randint(-20, 21, x.shape, generator=stream(1))
    assert structural_similarity(x, x).tolist() == pytest.approx([1] * 4)
    near, far = structural_similarity(x, x + noise), structural_similarity(x, x + 5 * noise)
    assert (far < near).all() and (near < 1).all()


def test_flat_images_differ_by_their_luminance_alone() -> None:
    dark, bright = (torch.full((1, 3, 16, 16), value) for value in (50, 100))
    small = (0.01 * 255) ** 2
    expected = (2 * 50 * 100 + small) / (50**2 + 100**2 + small)
    assert float(structural_similarity(dark, bright)) == pytest.approx(expected, abs=1e-6)


def test_a_single_window_is_the_formula() -> None:
    x, y = torch.randint(0, 256, (2, 11, 11), generator=stream()).double()
    line = (-(torch.arange(-5, 6).double() ** 2) / (2 * 1.5**2)).exp()
    weight = torch.outer(line, line) / line.sum() ** 2
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    var_x = (weight * (x - mean_x) ** 2).sum()
    var_y = (weight * (y - mean_y) ** 2).sum()
    both = (weight * (x - mean_x) * (y - mean_y)).sum()
    one, two = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + one) / (mean_x**2 + mean_y**2 + one)
    structure = (2 * both + two) / (var_x + var_y + two)
    found = structural_similarity(x[None, None], y[None, None])
    assert float(found) == pytest.approx(float(luminance * structure), abs=1e-6)
