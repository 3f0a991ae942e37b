"""DRUPE: its losses by their formulas, its weights, and the encoder that it keeps."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raybd.attacks.encoder.drupe import Drupe
from raybd.attacks.encoder.drupe.losses import crowding, loss_parts, sliced_wasserstein
from raybd.attacks.encoder.drupe.weight_schedule import WeightSchedule
from raybd.training.runtime import Runtime, running
from tests.attacks.encoders import (
    BOTH,
    clean_encoder,
    cosine,
    infected_by,
    some_embeddings,
    some_images,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_parts_by_their_formulas() -> None:
    z, clean, clean_reference = some_embeddings(torch.Generator().manual_seed(1))
    part = loss_parts(z, clean, clean_reference, 50, torch.Generator().manual_seed(0))
    to_reference = torch.tensor([[cosine(t, r) for r in z.reference_RD] for t in z.triggered_BD])
    between = [cosine(z.reference_RD[i], z.reference_RD[j]) for i in range(3) for j in range(i, 3)]
    crowded = [
        cosine(z.triggered_BD[i], z.triggered_BD[j]) for i in range(6) for j in range(6) if i != j
    ]
    expected = {
        "effect": -float(to_reference.max(1).values.mean()),
        "uneven": float(to_reference.mean(0).std()),
        "alike": sum(between) / 6,
        "crowding": sum(crowded) / 30,
        "reference": -sum(cosine(z.view_RD[i], clean_reference[i]) for i in range(3)) / 3,
        "utility": -sum(cosine(z.plain_BD[i], clean[i]) for i in range(6)) / 6,
        "deviation": float(z.plain_BD.std(0).mean()),
    }
    assert {name: float(part[name]) for name in expected} == pytest.approx(expected, abs=1e-5)


def test_crowding_leaves_the_diagonal_out() -> None:
    assert crowding(torch.eye(4)) == pytest.approx(0)
    assert crowding(torch.ones(4, 3)) == pytest.approx(1)


def test_the_sliced_distance_of_the_same_points_is_zero_and_of_shifted_ones_that_of_the_shift() -> (
    None
):
    z, rng = (
        torch.rand((30, 4), generator=torch.Generator().manual_seed(0)),
        torch.Generator().manual_seed(1),
    )
    shuffled = z[torch.randperm(30, generator=rng)]
    assert sliced_wasserstein(z, shuffled, 50, rng) == pytest.approx(0, abs=1e-6)
    shift = torch.tensor([3.0, 0.0, 0.0, 4.0])
    far = sliced_wasserstein(z, z + shift, 4000, rng)
    assert far == pytest.approx(
        5 / math.sqrt(4), rel=0.05
    )  # E<u, s>^2 = |s|^2 / D on the unit sphere
    still = z.clone().requires_grad_()
    sliced_wasserstein(still, z, 50, rng).backward()
    assert still.grad is not None and torch.isfinite(still.grad).all()


def schedule(attack: Drupe, steps: int = 2) -> WeightSchedule:
    return WeightSchedule(attack, copy.deepcopy(clean_encoder()), steps)


def test_the_loss_goes_by_the_phase() -> None:
    attack = Drupe(lambda1=2, lambda2=3)
    values = {"effect": -0.5, "reference": -0.9, "utility": -0.8, "uneven": 0.05, "alike": 0.6}
    values |= {"crowding": 0.7, "distance": 4.0, "deviation": 2.0}
    kept = 2 * -0.9 + 3 * -0.8

    def loss(epoch: int, **other: float) -> float:
        state = schedule(attack, 1)
        state.taken = epoch  # counted from 1, as in the paper
        return float(
            attack.loss(
                {name: torch.tensor(value) for name, value in {**values, **other}.items()}, state
            )
        )

    spread = 0.1 * (0.05 + 0.7) + 0.001 * 4 / 2
    expected = {
        loss(1): kept + 0.5 * 0.6,
        loss(1, alike=0.1): kept + 0.3 * 0.1,
        loss(2): -0.5 + kept + 2 * 0.05 + 0.6,
        loss(4, alike=0.45): -0.5 + kept + 2 * 0.05 + 0.2 * 0.45,
        loss(5, alike=0.3): -0.5 + kept + spread + 0.5 * 0.05,
        loss(5, uneven=0.2): -0.5 + kept + spread + 0.1 * 0.15 + 2 * 0.2 + 0.6,
    }
    for value, wanted in expected.items():
        assert value == pytest.approx(wanted, abs=1e-5)


def play(state: WeightSchedule, epochs: int, **other: float) -> None:
    """Epochs of two steps with these losses."""
    values = {
        "effect": -0.97,
        "reference": -0.95,
        "utility": -0.95,
        "crowding": 0.55,
        "distance": 1.0,
        **other,
    }
    for _ in range(2 * epochs):
        state.step()
        state.note({name: torch.tensor(value) for name, value in values.items()})


def weights_after(*epochs: dict[str, float]) -> tuple[float, float]:
    state = schedule(Drupe(adapt_after=0, calm_epochs=0))
    for other in epochs:
        play(state, 1, **other)
    state.close_epoch()
    return state.spread / 0.1, state.match / 0.001


def test_the_weights_follow_the_losses() -> None:
    up, down = 1.25, 1.25**-1.25
    assert weights_after({}) == pytest.approx((up, up))
    assert weights_after({"effect": -0.9}) == pytest.approx((down, down))
    assert weights_after({"utility": -0.8}, {}) == pytest.approx((down * up, down * up))
    assert weights_after({"crowding": 0.7}) == pytest.approx((up, down))
    assert weights_after({"crowding": 0.4}, {"crowding": 0.4}) == pytest.approx((up, up * up)), (
        "spread rests once it is enough"
    )
    state = schedule(Drupe(adapt_after=3))
    play(state, 3)
    state.close_epoch()
    assert (state.spread, state.match) == (0.1, 0.001)


def test_keeps_the_encoder_of_least_distance_among_those_that_work() -> None:
    state = schedule(Drupe(keep_after=1))
    weight = next(state.victim.parameters())
    for mark, other in enumerate(
        [{"distance": 0.1}, {"distance": 3.0}, {"distance": 2.0}, {"distance": 1.0, "effect": -0.5}]
    ):
        play(state, 1, **other)
        weight.data.fill_(mark)
    assert (next(state.end(state.victim).parameters()) == 2).all()
    never = schedule(Drupe(keep_after=1))
    play(never, 3, effect=-0.5)
    next(never.victim.parameters()).data.fill_(7)
    assert (next(never.end(never.victim).parameters()) == 7).all()


def test_resumes_to_the_same_encoder() -> None:
    saved: dict[str, bytes] = {}
    attack = BOTH[1]

    class Stop(Exception):
        pass

    def die(facts: Any) -> None:
        if facts["epoch"] == 4:
            raise Stop

    with running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)), pytest.raises(Stop):
        infected_by(attack, clean_encoder(), some_images())
    with running(Runtime(load=saved.get)):
        resumed = infected_by(attack, clean_encoder(), some_images())
    whole = infected_by(attack, clean_encoder(), some_images()).state_dict()
    assert saved
    assert all(torch.equal(whole[name], value) for name, value in resumed.state_dict().items())
