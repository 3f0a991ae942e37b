"""TeCo: its score, its corruptions, and that each starts from the image itself."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from raybd.detectors.teco import Teco, deviation_of
from raybd.detectors.teco.corruptions import NAMES, Draw, corrupted
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from tests.small_scene import small_scene, stream


def _drawn(shape: tuple[int, int, int] = (3, 32, 32), seed: int = 0) -> Draw:
    return Draw.of(shape, stream(seed))


def _smooth(n: int = 6, height: int = 32, width: int = 32) -> Tensor:
    small = torch.rand(n, 3, 4, 4, generator=stream())
    return nn.functional.interpolate(small, (height, width), mode="bilinear")


def test_the_score_is_the_deviation_of_the_severities_over_all_corruptions() -> None:
    turned = torch.tensor([[1, 6, 6], [4, 4, 4]])
    assert deviation_of(turned).tolist() == pytest.approx([2.357, 0.0], abs=1e-3)


@pytest.mark.parametrize("constants", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_stays_in_range_and_grows_with_the_severity(name: str, constants: Any) -> None:
    x = _smooth()
    # From both sides: bright images hide a change of brightness.
    x = torch.cat([x, 0.5 * x])
    changes = []
    for severity in range(1, 6):
        worse = corrupted(x, name, severity, _drawn(), constants)
        assert worse.shape == x.shape
        assert float(worse.min()) >= 0 and float(worse.max()) <= 1
        assert torch.equal(worse, corrupted(x, name, severity, _drawn(), constants))
        changes.append(float((worse - x).abs().mean()))
    assert changes[0] > 0
    assert changes[4] > changes[0]


@pytest.mark.parametrize("name", NAMES)
def test_small_oblong_images_are_corrupted_too(name: str) -> None:
    x = _smooth(2, 9, 14)
    for severity in (1, 5):
        worse = corrupted(x, name, severity, _drawn((3, 9, 14)), "imagenet")
        assert worse.shape == x.shape
        assert torch.isfinite(worse).all()


def test_noise_has_the_deviation_of_its_severity() -> None:
    gray = torch.full((1, 3, 64, 64), 0.5)
    draw = _drawn((3, 64, 64))
    noise = corrupted(gray, "gaussian_noise", 3, draw, "cifar") - gray
    assert float(noise.std()) == pytest.approx(0.08, rel=0.05)
    shot = corrupted(gray, "shot_noise", 3, draw, "cifar") - gray
    assert float(shot.std()) == pytest.approx((0.5 / 100) ** 0.5, rel=0.05)
    salted = corrupted(gray, "impulse_noise", 5, draw, "imagenet")
    assert float((salted == 0).float().mean()) == pytest.approx(0.135, abs=0.015)
    assert float((salted == 1).float().mean()) == pytest.approx(0.135, abs=0.015)


def test_a_blur_spreads_a_point_and_keeps_its_sum() -> None:
    x = torch.zeros(1, 3, 65, 65)
    x[..., 32, 32] = 1
    for name in ("defocus_blur", "motion_blur"):
        blurred = corrupted(x, name, 1, _drawn((3, 65, 65)), "imagenet")
        assert float(blurred.sum()) == pytest.approx(3, rel=1e-3)
        assert float(blurred.max()) < 0.2
    disc = corrupted(x, "defocus_blur", 1, _drawn((3, 65, 65)), "imagenet")
    # Radius 3: 29 pixels.
    assert int((disc[0, 0] > 0.01).sum()) == 29


def test_contrast_brightness_and_pixels_by_hand() -> None:
    x = torch.tensor([0.2, 0.6]).repeat(2, 1).expand(1, 3, 2, 2).clone()
    draw = _drawn((3, 2, 2))
    contrast = corrupted(x, "contrast", 1, draw, "imagenet")
    assert contrast[0, 0, 0].tolist() == pytest.approx([0.32, 0.48])
    x[:, 1] /= 2
    bright = corrupted(x, "brightness", 1, draw, "imagenet")
    # The largest of the channels grows by .1, and the ratio of the channels stays.
    assert bright[0, 0, 0].tolist() == pytest.approx([0.3, 0.7])
    assert bright[0, 1, 0].tolist() == pytest.approx([0.15, 0.35])
    assert torch.allclose(
        corrupted(torch.zeros(1, 3, 2, 2), "brightness", 1, draw, "imagenet"),
        torch.tensor(0.1),
    )
    pixels = corrupted(x, "pixelate", 1, draw, "imagenet")
    assert torch.allclose(pixels[0, 0], torch.tensor(0.4))


class _Deviates(nn.Module):
    """Predicts 1 where pixels deviate by more than a bound, and notes what it was shown."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.shown: list[Tensor] = []

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.shown.append(x_BCHW)
        over_B = x_BCHW.flatten(1).std(1) - self.bound
        return torch.stack([-over_B, over_B], 1)


def _victim(bound: float) -> Victim:
    encoder = _Deviates(bound)
    return Victim(encoder, nn.Identity(), torch.zeros(3), torch.ones(3)).eval()


def test_the_first_severity_that_changes_the_prediction_counts() -> None:
    # Deviations of the noise are .04, .06, .08, .09 and .10.
    gray = torch.full((3, 3, 32, 32), 128, dtype=torch.uint8)
    detector = Teco(corruptions=("gaussian_noise", "contrast"), constants="cifar")
    found = detector.turning_points(_victim(0.07), gray, [_drawn()])
    # A gray image has no contrast to lose.
    assert found.tolist() == [[3, 6]] * 3


def test_each_corruption_starts_from_the_image_and_not_from_what_another_has_left() -> None:
    x = (255 * _smooth(2)).to(torch.uint8)
    victim, draw = _victim(1e9), _drawn()
    detector = Teco(corruptions=("contrast", "gaussian_noise"), draws=1)
    detector.turning_points(victim, x, [draw])
    shown = victim.encoder.shown
    assert isinstance(shown, list) and len(shown) == 1 + 2 * 5
    last = corrupted(x.float() / 255, "gaussian_noise", 5, draw, "imagenet")
    assert torch.allclose(shown[-1], (255 * last).round() / 255, atol=1e-5)


def test_an_image_that_has_turned_is_not_corrupted_again() -> None:
    x = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    x[1, :, ::2] = 28
    # The second image deviates without any noise: its prediction never changes.
    victim = _victim(0.07)
    detector = Teco(corruptions=("gaussian_noise", "contrast"), constants="cifar")
    found = detector.turning_points(victim, x, [_drawn()])
    assert found[:, 0].tolist() == [3, 6]
    shown = victim.encoder.shown
    assert isinstance(shown, list)
    assert [len(batch) for batch in shown[1:6]] == [2, 2, 2, 1, 1]


def test_the_pixels_of_an_image_choose_its_draw() -> None:
    x = small_scene()[1].x_NCHW[:9]
    victim = _victim(1e9)
    drawn = [_drawn((3, 16, 16), seed) for seed in range(3)]
    Teco(corruptions=("gaussian_noise", "fog")).turning_points(victim, x, drawn)
    shown = victim.encoder.shown
    assert isinstance(shown, list)
    which = (x.long().sum((1, 2, 3)) % 3).tolist()
    assert which != [0, 1, 2] * 3 and set(which) == {0, 1, 2}
    for row, number in enumerate(which):
        alone = corrupted(x[row : row + 1].float() / 255, "fog", 2, drawn[number], "imagenet")
        assert torch.allclose(shown[7][row], (255 * alone[0]).round() / 255, atol=1e-5)


def test_the_threshold_is_that_of_all_trusted_images_and_nothing_is_learned_from_them() -> None:
    # The more contrast an image has, the later it falls below the deviation.
    x = torch.full((12, 3, 32, 32), 100, dtype=torch.uint8)
    x[..., ::2] += torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1) * 10
    y = torch.zeros(12, dtype=torch.int64)
    victim = _victim(0.05)
    detector = Teco(corruptions=("contrast", "brightness"), draws=1, fpr=0.25)

    suspects, low, high = Split(x, y), Split(x[:3], y[:3]), Split(x[6:], y[6:])
    from_low = detector.learn(victim, low, stream())
    from_high = detector.learn(victim, high, stream())
    assert torch.equal(from_low(suspects).score_N, from_high(suspects).score_N)
    # The third of three, and the sixth of six: of one rank more, a quarter is above.
    for judge, trusted in ((from_low, low), (from_high, high)):
        verdict = judge(trusted)
        assert float(verdict.threshold_N) == float(verdict.score_N.max())
    assert from_low(suspects).threshold_N != from_high(suspects).threshold_N


def test_refuses_what_it_cannot_use() -> None:
    victim, _, clean = small_scene()
    encoder = Victim(victim.encoder, None, victim.mean_C, victim.std_C)
    with pytest.raises(Infeasible, match="classifier"):
        Teco().learn(encoder, clean, stream())
    with pytest.raises(UserError, match="no clean images"):
        Teco().learn(victim, Split(clean.x_NCHW[:0], clean.y_N[:0]), stream())
    with pytest.raises(ValidationError, match="no corruption 'snow'"):
        Teco(corruptions=("snow", "fog"))
