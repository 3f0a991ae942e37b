"""Universal noise: its bound, its kinds, and what a victim learns of it."""

import pytest
import torch

from raybd.attacks.data.universal_noise import UniversalNoise, draw_noise
from raybd.types.data import Split
from tests.attacks.behaviour import learned
from tests.attacks.making import poison, stream, triggered
from tests.shared_victims import SharedVictims

SHAPE = (3, 32, 32)


def test_adds_its_noise_and_clips() -> None:
    x = torch.tensor([0, 100, 200, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    noise_CHW = torch.tensor([-16, 7, 100, 16], dtype=torch.int16).view(1, 2, 2)
    assert UniversalNoise().stamp(x, {"noise_CHW": noise_CHW}).flatten().tolist() == [
        0,
        107,
        255,
        255,
    ]


@pytest.mark.parametrize("kind", ["sign", "uniform", "gaussian"])
@pytest.mark.parametrize("smooth", [0, 2])
def test_changes_no_pixel_by_more_than_epsilon(kind: str, smooth: float, train: Split) -> None:
    poisoned = poison("universal_noise", train, epsilon=10, noise=kind, smooth=smooth)
    noise_CHW = poisoned.state["noise_CHW"]
    assert noise_CHW.dtype == torch.int16
    assert int(noise_CHW.abs().max()) == 10
    change = triggered(poisoned, train.x_NCHW).int() - train.x_NCHW.int()
    # No pixel clips that is far enough from both ends.
    inside = (train.x_NCHW >= 10) & (train.x_NCHW <= 245)
    assert torch.equal(change[inside], noise_CHW.int().expand_as(change)[inside])


def test_its_kinds_are_what_they_say() -> None:
    sign = draw_noise("sign", 16, 0, SHAPE, stream())
    assert sign.unique().tolist() == [-16, 16]
    assert abs(float((sign > 0).float().mean()) - 0.5) < 4 * 0.5 / 3072**0.5
    uniform = draw_noise("uniform", 100, 0, SHAPE, stream()).float()
    assert float(uniform.std()) == pytest.approx(100 / 3**0.5, rel=0.05)
    gaussian = draw_noise("gaussian", 100, 0, SHAPE, stream()).float()
    # A normal that is cut off at two standard deviations: .959 of its own.
    assert float(gaussian.std()) == pytest.approx(0.959 * 50, rel=0.05)


def test_smoothing_ties_neighbours_together() -> None:
    rough, smooth = (draw_noise("sign", 100, sd, SHAPE, stream()).float() for sd in (0, 2))
    step = [noise.diff(dim=2).abs().mean() / noise.abs().mean() for noise in (rough, smooth)]
    assert step[1] < step[0] / 2


@pytest.mark.slow
@pytest.mark.data
def test_a_victim_learns_it(shared: SharedVictims, small_cifar10: dict[str, object]) -> None:
    success, by_the_trigger_alone = learned(shared, small_cifar10, {"kind": "universal_noise"})
    assert success > 0.9
    assert by_the_trigger_alone < 0.3
