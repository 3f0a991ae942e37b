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
