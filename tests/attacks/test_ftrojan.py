"""FTrojan: its trigger in the spectral domain, and what a victim learns of it."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from raybd.attacks.data.ftrojan import CHROMA_TO_RGB, FTrojan
from raybd.poisoning.waves import diagonal_waves
from tests.attacks.behaviour import learned
from tests.shared_victims import SharedVictims


def _change(magnitude: float, side: int = 32) -> torch.Tensor:
    """Return the change of a gray image, in float: the images are uint8, so that it is rounded."""
    gray = torch.full((1, 3, side, side), 128, dtype=torch.uint8)
    return FTrojan(magnitude=magnitude).stamp(gray, {})[0].float() - 128


@pytest.mark.parametrize("side", [32, 64, 224])
def test_each_window_has_the_given_coefficients_and_no_other(side: int) -> None:
    waves_HW = diagonal_waves(side, side, 32).double().numpy()
    for top in range(0, side, 32):
        for left in range(0, side, 32):
            spectrum = dctn(waves_HW[top : top + 32, left : left + 32], norm="ortho")
            expected = np.zeros((32, 32))
            expected[15, 15] = expected[31, 31] = 1
            assert spectrum == pytest.approx(expected, abs=1e-5)


def test_is_the_windowed_transform_of_the_chroma_before_rounding() -> None:
    # Chroma of a random image, changed in its own transform; then the colours of the difference.
    rng = np.random.default_rng(0)
    chroma_2HW = rng.uniform(-100, 100, (2, 32, 32))
    spectrum = dctn(chroma_2HW, axes=(1, 2), norm="ortho")
    spectrum[:, 15, 15] += 30
    spectrum[:, 31, 31] += 30
    red, blue = idctn(spectrum, axes=(1, 2), norm="ortho") - chroma_2HW
    expected = np.stack([1.403 * red, -0.714 * red - 0.344 * blue, 1.773 * blue])
    ours = CHROMA_TO_RGB[:, None, None] * 30 * diagonal_waves(32, 32, 32)
    assert ours.numpy() == pytest.approx(expected, abs=1e-4)
    assert _change(30).numpy() == pytest.approx(expected.round(), abs=1)
    assert (_change(30) - torch.from_numpy(expected)).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("magnitude", "largest", "mean", "changed"),
    [(30, (4.5, 3.4, 5.7), 1.5, 0.89), (20, (3.0, 2.3, 3.8), 1.0, 0.79)],
)
def test_is_as_strong_as_measured(
    magnitude: float, largest: tuple[float, ...], mean: float, changed: float
) -> None:
    bump_CHW = magnitude * CHROMA_TO_RGB[:, None, None] * diagonal_waves(32, 32, 32)
    assert bump_CHW.abs().amax((1, 2)).tolist() == pytest.approx(largest, abs=0.05)
    assert float(bump_CHW.abs().mean()) == pytest.approx(mean, abs=0.05)
    assert float((_change(magnitude) != 0).any(0).float().mean()) == pytest.approx(
        changed, abs=0.01
    )


def test_keeps_the_mean_colour() -> None:
    bump_HW = 30 * diagonal_waves(64, 64, 32)
    assert abs(float(bump_HW.mean())) < 1e-3


def test_a_mirror_turns_the_sign_of_both_waves() -> None:
    # Why a training that mirrors its images teaches a weaker trigger.
    waves_HW = diagonal_waves(32, 32, 32)
    assert torch.allclose(waves_HW.flip(-1), -waves_HW, atol=1e-6)


def test_windows_divide_larger_images_and_shrink_with_smaller_ones() -> None:
    assert FTrojan().does_not_fit(64, 224) is None
    assert FTrojan().does_not_fit(20, 14) is None
    assert FTrojan().does_not_fit(32, 14) is None
    assert "40 x 32" in str(FTrojan().does_not_fit(32, 40))
    assert FTrojan(window=8).does_not_fit(32, 40) is None
    assert "3 x 40" in str(FTrojan().does_not_fit(40, 3))
    assert torch.equal(_change(30, 64)[:, 32:, :32], _change(30))


@pytest.mark.slow
@pytest.mark.data
def test_a_victim_learns_it(shared: SharedVictims, small_cifar10: dict[str, object]) -> None:
    # Not mirrored: a mirror turns the sign of both waves, by which a few images teach little.
    attack = {"kind": "ftrojan", "magnitude": 100, "rate": 0.2}
    success, by_the_trigger_alone = learned(
        shared, small_cifar10, attack, augment="none", epochs=15
    )
    assert success > 0.8
    assert by_the_trigger_alone < 0.3
