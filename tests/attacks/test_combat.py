"""COMBAT: its frequencies, its blur, its losses, and its resume."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.attacks.surrogate.combat import Combat, blurred, generator_losses, lowpass, mixed
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from tests.attacks.making import given_to, make, poison, random_split, stream, triggered, twin
from tests.groups import in_group


def _images(*shape: int) -> Tensor:
    return torch.rand((2, 3, *shape), generator=stream()) * 255


@pytest.mark.parametrize("shape", [(32, 32), (20, 14)])
def test_low_frequencies_of_a_constant_are_that_constant(shape: tuple[int, int]) -> None:
    constant = torch.full((1, 3, *shape), 77.0)
    assert torch.allclose(lowpass(constant, 0.65), constant, atol=1e-3)
    low = lowpass(_images(*shape), 0.65)
    assert torch.allclose(lowpass(low, 0.65), low, atol=1e-3)
    assert torch.allclose(lowpass(_images(*shape), 1.0), _images(*shape), atol=1e-3)


def test_a_wave_is_kept_up_to_the_last_kept_frequency() -> None:
    place = torch.arange(32.0)
    for frequency, kept in ((19, 1), (20, 0)):  # int(.65 * 32) = 20 frequencies, from 0
        wave = torch.cos(torch.pi * frequency * (2 * place + 1) / 64).expand(1, 1, 32, 32)
        assert torch.allclose(lowpass(wave, 0.65), kept * wave, atol=1e-4)
        assert torch.allclose(lowpass(wave.mT, 0.65), kept * wave.mT, atol=1e-4)


def test_a_blur_by_hand() -> None:
    point = torch.zeros((1, 1, 5, 5))
    point[..., 2, 2] = 1
    side = torch.exp(torch.tensor(-0.5 / 0.5**2))
    tap = torch.stack([side, torch.tensor(1.0), side]) / (1 + 2 * side)
    assert torch.allclose(blurred(point, 0.5)[0, 0, 1:4, 1:4], tap[:, None] * tap, atol=1e-6)
    assert torch.allclose(
        blurred(torch.full((1, 3, 4, 6), 9.0), 1.0), torch.full((1, 3, 4, 6), 9.0)
    )
    assert torch.allclose(blurred(_images(8, 8), 0.1), _images(8, 8), atol=1e-3)


def test_only_chosen_images_wear_the_trigger() -> None:
    x = _images(4, 4)
    assert torch.equal(mixed(x, 255 - x, torch.tensor([False, False])), x)
    assert torch.equal(mixed(x, 255 - x, torch.tensor([False, True]))[1], 255 - x[1])


def test_only_images_of_the_class_are_poisoned_and_keep_their_label(train: Split) -> None:
    poisoned = poison("combat", train, target=4)
    assert len(poisoned.index_M) == 20
    assert set(poisoned.y_M.tolist()) == set(train.y_N[poisoned.index_M].tolist()) == {4}
    assert torch.equal(poisoned.labels.counted(train.y_N), train.y_N != 4)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (224, 224), (40, 30)])
def test_a_trigger_is_made_for_images_of_any_size(shape: tuple[int, int], train: Split) -> None:
    poisoned = poison("combat", train)
    x_NCHW = torch.randint(0, 256, (2, 3, *shape), generator=stream(), dtype=torch.uint8)
    worn = triggered(poisoned, x_NCHW)
    assert worn.shape == x_NCHW.shape and worn.dtype == torch.uint8
    assert torch.equal(worn, triggered(poisoned, x_NCHW))
    # The blur alone moves a white pixel among black ones; the noise comes on top.
    grey = torch.full((1, 3, *shape), 128, dtype=torch.uint8)
    assert 0 < int((triggered(poisoned, grey).int() - 128).abs().max()) <= 20


def _prepared(**fields: object) -> dict[str, Tensor]:
    attack = make("combat", **fields)
    return attack.prepare(given_to(attack, random_split()), stream())


def test_the_generator_is_told_to_fool_the_surrogate_alone_by_the_formula() -> None:
    fooled_BK, twin_BK = torch.randn((2, 4, 10), generator=stream())
    y_B = torch.tensor([3, 1, 2, 0])
    attack = Combat(target=2, clean_weight=0.8, distance_weight=0.02)
    found_B = generator_losses(fooled_BK, twin_BK, torch.full((4, 3, 2, 2), 51.0), y_B, attack)
    fooled_B = -fooled_BK.log_softmax(1)[:, 2]
    kept_B = -twin_BK.log_softmax(1)[torch.arange(4), y_B]
    assert torch.allclose(found_B, fooled_B + 0.02 * 0.4**2 + 0.8 * kept_B)


def test_the_clean_twin_is_left_alone() -> None:
    before = {name: value.clone() for name, value in twin().state_dict().items()}
    _prepared()
    assert all(torch.equal(value, before[name]) for name, value in twin().state_dict().items())
    assert all(parameter.requires_grad for parameter in twin().parameters())


def test_the_generator_depends_on_the_target_and_the_poisoned_share() -> None:
    first = _prepared()
    for fields in ({"target": 1}, {"share": 0.0}, {"distance_weight": 9.0}):
        other = _prepared(**fields)
        assert any(not torch.equal(other[name], value) for name, value in first.items()), fields


def test_the_surrogate_learns_from_the_poisoned_class_alone() -> None:
    rng = torch.Generator().manual_seed(1)
    x_NCHW = torch.randint(0, 256, (100, 3, 8, 8), generator=rng, dtype=torch.uint8)
    others = Split(x_NCHW, 1 + torch.arange(100) % 9)
    made = []
    for share in (0.0, 1.0):
        attack = make("combat", share=share)
        made.append(attack.prepare(given_to(attack, others), stream()))
    # Without an image of the class, no image is poisoned for the surrogate.
    assert all(torch.equal(made[1][name], value) for name, value in made[0].items())


def test_resumes_to_the_same_generator() -> None:
    saved: dict[str, bytes] = {}

    def die(facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == 2:
            raise RuntimeError("killed")

    with (
        running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
        pytest.raises(RuntimeError, match="killed"),
    ):
        _prepared(epochs=2)
    told: list[int] = []
    with running(Runtime(report=lambda facts: told.append(facts["epoch"]), load=saved.get)):
        resumed = _prepared(epochs=2)
    assert told == [1, 2]
    assert all(torch.equal(resumed[name], value) for name, value in _prepared(epochs=2).items())


def test_two_workers_train_the_generator_of_one() -> None:
    alone = _prepared()
    first, second = in_group(_prepared)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].float(), value.float(), atol=1e-2), name


def test_without_noise_there_is_no_trigger(train: Split) -> None:
    with pytest.raises(Infeasible, match="noise 0"):
        make("combat", noise=0).choose(train.y_N, 10, stream())
