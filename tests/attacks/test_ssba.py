"""SSBA: its secret, its plan of a training, and its resume."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from raybd.attacks.data.ssba import Hiding
from raybd.attacks.data.ssba.networks import Decoder, Encoder
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from tests.attacks.making import given_to, make, poison, stream, triggered


def test_the_weight_of_the_image_rises_some_steps_after_the_bits_can_be_read() -> None:
    hiding = Hiding(steps=1000, wait=10, ramp=20)
    for _ in range(50):
        hiding.step(0.5)
    assert hiding.share == 0
    # A running mean of nine tenths takes 16 steps from .5 to more than .9 of 1.
    for _ in range(16):
        hiding.step(1.0)
    assert hiding.share == 0
    shares = []
    for _ in range(40):
        hiding.step(1.0)
        shares.append(hiding.share)
    assert shares[:10] == [0] * 10
    assert shares[10:30] == pytest.approx([part / 20 for part in range(1, 21)])
    assert shares[30:] == [1] * 10


def test_bits_that_are_never_read_are_hidden_from_half_of_the_training_on() -> None:
    hiding = Hiding(steps=100, wait=1000, ramp=1000)
    shares = []
    for _ in range(100):
        hiding.step(0.5)
        shares.append(hiding.share)
    assert not any(shares[:50])
    assert shares[50] == pytest.approx(1 / 25)
    assert shares[-1] == 1


def test_a_resumed_plan_goes_on() -> None:
    hiding, resumed = (Hiding(steps=1000, wait=5, ramp=50) for _ in range(2))
    for _ in range(40):
        hiding.step(1.0)
    resumed.load_state_dict(hiding.state_dict())
    assert resumed.share == hiding.share > 0
    hiding.step(0.0)
    resumed.step(0.0)
    assert resumed.share == hiding.share


def test_the_encoder_changes_an_image_by_16_levels_at_most_and_depends_on_the_bits() -> None:
    torch.manual_seed(0)
    x = 255 * torch.rand((4, 3, 20, 14), generator=stream())
    encoder = Encoder(8, 4)
    for parameter in encoder.parameters():
        parameter.data.mul_(4)
    with torch.no_grad():
        worn, other = encoder(x, torch.ones(4, 8)), encoder(x, torch.zeros(4, 8))
    assert 10 < float((worn - x).abs().max()) <= 16 + 1e-3
    assert not torch.equal(worn, other)
    assert float(worn.min()) >= 0 and float(worn.max()) <= 255
    assert Decoder(8, 4)(worn).shape == (4, 8)


def test_the_same_secret_is_written_into_each_image_by_another_change(train: Split) -> None:
    poisoned = poison("ssba", train)
    change = triggered(poisoned, train.x_NCHW[:8]).int() - train.x_NCHW[:8].int()
    assert len(change.unique(dim=0)) == 8
    assert int(change.abs().max()) <= 16
    other = {**poisoned.state, "bit_S": 1 - poisoned.state["bit_S"]}
    assert not torch.equal(
        make("ssba").stamp(train.x_NCHW, other), triggered(poisoned, train.x_NCHW)
    )
    assert poisoned.state["bit_S"].dtype == torch.uint8
    bits = [
        make("ssba", bits=64, epochs=1).prepare(given_to(make("ssba"), train), stream(seed))[
            "bit_S"
        ]
        for seed in (0, 1)
    ]
    assert not torch.equal(bits[0], bits[1])


def test_resumes_to_the_same_encoder(train: Split) -> None:
    saved: dict[str, bytes] = {}
    attack = make("ssba", epochs=3)
    few = given_to(attack, train.select(torch.arange(64)))

    def die(facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == 2:
            raise RuntimeError("killed")

    with (
        running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
        pytest.raises(RuntimeError, match="killed"),
    ):
        attack.prepare(few, stream())
    told: list[int] = []
    with running(Runtime(report=lambda facts: told.append(facts["epoch"]), load=saved.get)):
        resumed = attack.prepare(few, stream())
    assert told == [1, 2, 3]
    whole = attack.prepare(few, stream())
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
