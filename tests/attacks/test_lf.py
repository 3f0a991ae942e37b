"""LF: its steps, its Gaussian, its perturbation, and what a victim learns of it."""

from typing import Any

import pytest
import torch
from torch import nn

from raybd.attacks.surrogate.lf import LowFrequency, deep_fool, smoothed
from raybd.poisoning.label_maps import AllToOne
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.attacks.behaviour import learned
from tests.attacks.making import given_to, make, poison, poison_with, stream, twin
from tests.shared_victims import SharedVictims


def _linear(weight_KD: torch.Tensor) -> Victim:
    """Return a classifier whose logits are products with pixels in 0..255."""
    head = nn.Linear(weight_KD.shape[1], len(weight_KD), bias=False)
    head.weight.data.copy_(weight_KD)
    # This mean and deviation undo the division by 255.
    return Victim(nn.Flatten(), head, torch.zeros(1), torch.full((1,), 1 / 255)).eval()


def test_one_step_reaches_the_boundary_of_a_linear_model_and_a_little_more() -> None:
    weight_KD = torch.tensor([[1.0, 2.0, -1.0, 0.0], [2.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    x = torch.tensor([100.0, 50.0, 20.0, 80.0]).view(1, 1, 2, 2)
    # The logits are 180, 280 and 50: class 1 is predicted. The way to class 0 is along the
    # difference of the weights, as far as the gap of 100 over its square length.
    slope = weight_KD[0] - weight_KD[1]
    expected = 1.02 * 100 / slope.square().sum() * slope
    change = deep_fool(_linear(weight_KD), x, 0, 1, 0.02)
    assert change is not None
    assert change.flatten().tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert deep_fool(_linear(weight_KD), x, 1, 1, 0.02) is not None, "it is class 1 already"
    # With no overshoot it stays on the boundary at best, and the last step is one too few for 2.
    assert deep_fool(_linear(weight_KD), x, 2, 1, 0.0) is None


def test_a_target_that_cannot_be_reached_is_no_change() -> None:
    weight_KD = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    biased = _linear(weight_KD)
    assert isinstance(biased.head, nn.Linear)
    biased.head.bias = nn.Parameter(torch.tensor([0.0, 5.0]))
    assert deep_fool(biased, torch.full((1, 1, 2, 2), 9.0), 0, 20, 0.02) is None


@pytest.mark.parametrize(("cycles", "gain"), [(1, 0.52), (2, 0.05), (3, 0.01)])
@pytest.mark.parametrize("side", [32, 64])
def test_its_gaussian_keeps_low_frequencies_only(cycles: int, gain: float, side: int) -> None:
    # A cosine that is even at the border goes through reflection unchanged, but for its height.
    wave_W = torch.cos(2 * torch.pi * cycles * (torch.arange(side) + 0.5) / side)
    image_CHW = wave_W.expand(3, side, side)
    found = smoothed(image_CHW)
    measured = float((found * image_CHW).sum() / (image_CHW * image_CHW).sum())
    assert measured == pytest.approx(gain, abs=0.01)
    assert found == pytest.approx((measured * image_CHW).numpy(), abs=1e-3)


def test_its_gaussian_keeps_a_constant_at_every_size() -> None:
    for shape in ((3, 32, 32), (1, 8, 8), (3, 20, 14), (3, 224, 224)):
        assert torch.allclose(smoothed(torch.full(shape, 7.0)), torch.tensor(7.0))


def test_its_trigger_is_smooth_and_brightens_by_up_to_its_strength(train: Split) -> None:
    trigger_CHW = poison("lf", train).state["trigger_CHW"]
    assert float(trigger_CHW.min()) == 0
    assert float(trigger_CHW.max()) == pytest.approx(51, abs=1e-4)
    power = torch.fft.fft2(trigger_CHW - trigger_CHW.mean()).abs().square()
    cycles = (torch.fft.fftfreq(16) * 16).abs()
    low = (cycles[:, None] < 4) & (cycles < 4)
    assert power[:, low].sum() > 0.95 * power.sum()
    strong = make("lf", strength=20)
    found = strong.prepare(given_to(strong, train), stream())["trigger_CHW"]
    assert float(found.max()) == pytest.approx(20, abs=1e-4)


def test_adds_its_trigger_and_clips() -> None:
    x = torch.tensor([0, 100, 200, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    trigger = torch.tensor([0.4, 7.0, 100.0, 51.0]).view(1, 2, 2)
    assert LowFrequency().stamp(x, {"trigger_CHW": trigger}).flatten().tolist() == [
        0,
        107,
        255,
        255,
    ]


def test_its_trigger_fools_more_images_of_the_twin_than_before(train: Split) -> None:
    for toward in (2, 7):
        attack = make("lf", toward=toward, images=60, passes=6, success=0.9)
        trigger = attack.prepare(given_to(attack, train), stream())["trigger_CHW"]
        others = train.x_NCHW[train.y_N != toward]
        with torch.no_grad():
            share, before = (
                (twin()(x).argmax(1) == toward).float().mean() for x in (others + trigger, others)
            )
        assert share > before


def test_points_to_the_target_of_the_labels_unless_told_otherwise() -> None:
    labels: dict[str, Any] = {"map": "all_to_one", "target": 3}
    assert LowFrequency(labels=labels).toward == 3
    assert LowFrequency(labels=AllToOne(target=4)).toward == 4
    assert LowFrequency(labels=labels, toward=5).toward == 5
    assert LowFrequency(labels={"map": "all_to_all"}).toward == 0
    assert LowFrequency().toward == 0


def test_without_its_class_or_any_other_it_is_infeasible(train: Split) -> None:
    with pytest.raises(Infeasible, match="class 10 does not exist"):
        LowFrequency(toward=10).choose(train.y_N, 10, stream())
    only = train.select(train.y_N == 0)
    with pytest.raises(Infeasible, match="no training image outside of class 0"):
        poison_with(make("lf"), only)


@pytest.mark.slow
@pytest.mark.data
def test_a_victim_learns_it(shared: SharedVictims, small_cifar10: dict[str, object]) -> None:
    success, by_the_trigger_alone = learned(shared, small_cifar10, {"kind": "lf"})
    assert success > 0.75
    # The perturbation was made to fool the twin: .33 of these images.
    assert by_the_trigger_alone < success - 1 / 3
