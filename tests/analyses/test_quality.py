"""Image quality: the formulas by hand, and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from raybd.analyses.quality import BANDS, Quality
from tests.analyses.by_hand import pairs_by_hand, victim
from tests.analyses.given import given
from tests.small_scene import images, stream


def measured(x: torch.Tensor, worn: torch.Tensor, **fields: int) -> dict[str, list[float]]:
    tool = Quality.model_validate(fields)
    table = tool.analyse(given(victim(lambda x: x), pairs_by_hand(x, worn)), stream())
    found: dict[str, list[float]] = table.to_pydict()
    return found


def bands(row: dict[str, list[float]]) -> list[float]:
    return [row[f"band_{band}"][0] for band in range(BANDS)]


def test_a_change_of_sixteen_levels_everywhere_is_as_by_hand() -> None:
    x = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    found = measured(x, x + 16)
    assert found["psnr"] == pytest.approx([24.05], abs=0.005)
    assert found["linf"] == [16]
    assert found["l1"] == [16 * 3 * 256]
    assert found["l2"] == pytest.approx([16 * math.sqrt(3 * 256)])
    assert found["l0"] == [1]
    # A constant has one frequency, zero: its energy is 16^2 x 256, among those of the lowest band.
    lowest = sum(
        math.hypot(*place) < 0.5**0.5 / BANDS
        for place in torch.cartesian_prod(*[torch.fft.fftfreq(16)] * 2).tolist()
    )
    assert bands(found) == pytest.approx([16**2 * 256 / lowest] + [0] * 7, abs=1e-3)


def test_a_darker_image_changes_as_much_as_a_lighter_one() -> None:
    x = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    found = measured(x, x - 16)
    assert found["linf"] == [16] and found["l0"] == [1]


def test_equal_images_are_perfect() -> None:
    found = measured(images(2), images(2))
    assert found["ssim"] == pytest.approx([1, 1]) and found["psnr"] == [math.inf] * 2
    assert found["l0"] == [0, 0] and found["index"] == [0, 1]


def test_a_checkerboard_is_of_the_highest_frequency_and_a_pixel_of_all() -> None:
    x = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    board = x.clone()
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 110
    board[..., ::2, 1::2] = board[..., 1::2, ::2] = 90
    found = bands(measured(x, board))
    assert found[-1] > 0 and found[:-1] == pytest.approx([0] * 7, abs=1e-6)
    pixel = x.clone()
    pixel[..., 3, 5] = 130
    # The transform of a pixel is flat, and keeps the energy: 30^2 over 256 frequencies.
    assert bands(measured(x, pixel)) == pytest.approx([30**2 / 256] * 8, rel=1e-5)
    assert measured(x, pixel)["l0"] == [1 / 256]


def test_measures_are_those_of_torchmetrics() -> None:
    x, worn = images(4, side=24), images(4, side=24, seed=1)
    worn = ((x.float() * 3 + worn.float()) / 4).to(torch.uint8)
    found = measured(x, worn)
    _, map_NCHW = structural_similarity_index_measure(
        worn.float(), x.float(), data_range=255.0, reduction="none", return_full_image=True
    )
    # torchmetrics mirrors the borders; the authors' mean is over windows that lie in the image.
    ssim = map_NCHW[..., 5:-5, 5:-5].mean((1, 2, 3))
    psnr = peak_signal_noise_ratio(
        worn.float(), x.float(), data_range=255.0, reduction="none", dim=(1, 2, 3)
    )
    assert found["ssim"] == pytest.approx(ssim.tolist(), abs=1e-5)
    assert found["psnr"] == pytest.approx(psnr.tolist(), abs=1e-3)


def test_a_small_image_has_no_number_where_it_has_no_frequency_and_the_first_images_count() -> None:
    found = measured(images(3, side=4), images(3, side=4, seed=1), images=2)
    assert len(found["index"]) == 2
    assert [found[f"band_{band}"][0] is None for band in range(BANDS)] == (
        [False, True, False, True, False, False, False, False]
    )
    assert all(-1 <= value <= 1 for value in found["ssim"])
