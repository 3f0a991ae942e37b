"""CTRL: its trigger in the spectral domain."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from raybd.attacks.data.ctrl import RGB_TO_YUV, Ctrl


def test_changes_two_coefficients_of_the_chroma_by_its_magnitude() -> None:
    gray = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    change_CHW = (Ctrl(magnitude=100).stamp(gray, {})[0].double() - 128).numpy()
    yuv = np.einsum("ij,jhw->ihw", RGB_TO_YUV.double().numpy(), change_CHW)
    spectrum = dctn(yuv, axes=(1, 2), norm="ortho")
    expected = np.zeros_like(spectrum)
    expected[1:, 15, 15] = expected[1:, 31, 31] = 100
    assert spectrum == pytest.approx(expected, abs=2.5)  # rounding to whole pixel values


def test_each_window_of_a_larger_image_is_a_small_image() -> None:
    gray = torch.full((1, 3, 64, 96), 128, dtype=torch.uint8)
    large = Ctrl().stamp(gray, {})
    small = Ctrl().stamp(gray[..., :32, :32], {})
    assert torch.equal(large, small.repeat(1, 1, 2, 3))
    # One window over the image, as it used to be: half of the strength at twice the side.
    whole = Ctrl(window=64).stamp(gray[..., :64], {}).int() - 128
    assert float(whole.abs().max()) < 0.6 * float((small.int() - 128).abs().max())


@pytest.mark.parametrize(("side", "window"), [(32, 32), (16, 32), (8, 99)])
def test_images_up_to_a_window_have_one_transform(side: int, window: int) -> None:
    down = torch.from_numpy(dctn(np.eye(side), axes=0, norm="ortho")).float()
    waves_HW = torch.outer(down[side // 2 - 1], down[side // 2 - 1]) + torch.outer(
        down[-1], down[-1]
    )
    chroma_C = torch.linalg.inv(RGB_TO_YUV)[:, 1:].sum(1)
    expected = (128 + chroma_C[:, None, None] * (100 * waves_HW)).clamp(0, 255).round()
    gray = torch.full((1, 3, side, side), 128, dtype=torch.uint8)
    assert torch.equal(Ctrl(window=window).stamp(gray, {})[0].float(), expected)


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 33), (224, 100)])
def test_images_that_windows_do_not_divide_are_refused(height: int, width: int) -> None:
    assert "`window`" in str(Ctrl().does_not_fit(height, width))
    assert Ctrl().does_not_fit(224, 64) is None
