"""Sleeper Agent: its gradients, its noise, its selection, and when it trains anew."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybd.attacks.surrogate.sleeper_agent import SleeperAgent
from raybd.attacks.surrogate.sleeper_agent.alignment import (
    aimed_gradient,
    by_noise,
    gradient,
    largest_gradients,
    misalignment,
    shifted_and_flipped,
)
from raybd.attacks.surrogate.sleeper_agent.noise import SignedNoise
from raybd.networks.small_cnn import SmallCnn
from raybd.training.models import new_victim
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.methods import AttackInput
from raybd.types.models import Victim
from tests.attacks.making import given_to, poison_with, stream, twin
from tests.shared_victims import SharedVictims

TINY = {"rate": 0.05, "steps": 6, "retrainings": 2, "size": 4}


def _two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 5, dtype=torch.float64), nn.Tanh(),
        nn.Linear(5, 3, dtype=torch.float64),
    )  # fmt: skip


def test_the_misalignment_is_one_minus_the_cosine_over_all_weights_together() -> None:
    one, other = ([torch.rand(3, 2), torch.rand(4)] for _ in range(2))
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (one, other)]
    expected = 1 - F.cosine_similarity(flat[0], flat[1], dim=0)
    assert misalignment(one, other) == pytest.approx(float(expected), abs=1e-6)
    assert misalignment(one, [-2 * part for part in one]) == pytest.approx(2, abs=1e-6)


def test_the_gradient_by_the_noise_is_that_of_finite_differences() -> None:
    model = _two_layers()
    x = 255 * torch.rand((3, 3, 2, 2), dtype=torch.float64, generator=stream()) * 0.8 + 10
    noise = torch.rand(x.shape, dtype=torch.float64, generator=stream(1))
    aim = gradient(model, 255 - x, 1)

    def loss(moved: torch.Tensor) -> float:
        return float(misalignment(gradient(model, x + moved, 0), aim))

    found = by_noise(model, x, noise, 0, aim, 0.0, stream(2))
    # The stream mirrors some images: those that stay show the plain gradient.
    kept = torch.equal(shifted_and_flipped(x, 0.0, stream(2)), x)
    x = shifted_and_flipped(x, 0.0, stream(2))
    noise = shifted_and_flipped(noise, 0.0, stream(2))
    found = shifted_and_flipped(found, 0.0, stream(2))
    assert not kept, "the case is more than the plain one"
    for place in ((0, 0, 0, 0), (1, 2, 1, 0), (2, 1, 0, 1)):
        small = torch.zeros_like(noise)
        small[place] = 1e-4
        by_difference = (loss(noise + small) - loss(noise - small)) / 2e-4
        assert float(found[place]) == pytest.approx(by_difference, rel=1e-3, abs=1e-9)


def test_the_aim_is_the_gradient_of_all_images_on_the_target(train: Split) -> None:
    aim = aimed_gradient(twin(), train.x_NCHW[:7], 2)
    parts = [gradient(twin(), train.x_NCHW[row : row + 1], 2) for row in range(7)]
    for number, each in enumerate(aim):
        assert torch.allclose(each, sum(part[number] for part in parts), atol=1e-3)  # type: ignore[arg-type]


def test_images_with_long_gradients_come_first(train: Split) -> None:
    x = train.x_NCHW[train.y_N == 0]
    order = largest_gradients(twin(), x, 0)
    assert order.sort().values.tolist() == list(range(40))
    model = twin()
    length = []
    for row in order.tolist():
        model.zero_grad()
        F.cross_entropy(model(x[row : row + 1]), torch.zeros(1, dtype=torch.int64)).backward()
        flat = [each.grad.flatten() for each in model.parameters() if each.grad is not None]
        length.append(float(torch.cat(flat).norm()))
    model.zero_grad()
    assert all(longer >= shorter * 0.999 for longer, shorter in pairwise(length))
    assert length[0] > 1.2 * length[-1]


def test_images_are_shifted_within_the_bound_and_some_are_mirrored() -> None:
    x = torch.zeros((200, 1, 8, 12))
    x[:, 0, 4, 5] = 1
    moved = shifted_and_flipped(x, 0.25, stream())
    places = moved[:, 0].flatten(1).argmax(1)
    rows, columns = places // 12, places % 12
    assert rows.min() == 2 and rows.max() == 6
    # Column 5, or 6 if mirrored, up to 3 to either side.
    assert columns.min() == 2 and columns.max() == 9
    assert shifted_and_flipped(x, 0.0, stream()).flatten(2).argmax(2).unique().tolist() == [53, 54]


def test_the_noise_stays_within_the_bound_and_falls_by_signed_steps() -> None:
    std = torch.tensor([0.2, 0.25, 0.3])
    noise = SignedNoise(torch.Size((50, 3, 4, 4)), 16, std, 0.1, 8, stream())
    start = noise.levels()
    assert start.abs().max() == pytest.approx(16, abs=1e-4)
    assert 0.25 < float((start.abs() > 15.99).float().mean()) < 0.4, "a normal one, cut off at 1 sd"
    sign = torch.ones_like(start)
    noise.descend(3 * sign)
    step = start - noise.levels()
    free = start > -8
    for channel, unit in enumerate((5.1, 6.375, 7.65)):
        assert step[:, channel][free[:, channel]] == pytest.approx(unit, abs=1e-3)
    for _ in range(7):
        noise.descend(sign)
    assert noise.levels().min() == pytest.approx(-16, abs=1e-4)


def test_the_alignment_rises_on_a_linear_model() -> None:
    x = torch.randint(60, 200, (6, 3, 4, 4), generator=stream(), dtype=torch.uint8).float()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    victim = Victim(linear[0], linear[1], torch.full((3,), 0.5), torch.full((3,), 0.25)).eval()
    aim = aimed_gradient(victim, 255 - x, 0)
    noise = SignedNoise(x.shape, 16, victim.std_C, 0.02, 1000, stream())
    # A stream that mirrors none of the images, so that nothing is random.
    seed = next(
        seed for seed in range(500) if torch.equal(shifted_and_flipped(x, 0.0, stream(seed)), x)
    )
    cosine = []
    for _ in range(12):
        levels = noise.levels()
        cosine.append(1 - float(misalignment(gradient(victim, x + levels, 0), aim)))
        noise.descend(by_noise(victim, x, levels, 0, aim, 0.0, stream(seed)))
    assert all(after > before for before, after in pairwise(cosine))


def test_it_trains_anew_on_its_poison_as_often_as_promised(train: Split) -> None:
    attack = SleeperAgent.model_validate(TINY)
    seen: list[Split] = []

    def retrain(split: Split, rng: torch.Generator) -> Victim:
        seen.append(split)
        return new_victim(split, 10, SmallCnn(width=4), rng).eval()

    poisoned = attack.poison(replace(given_to(attack, train), retrain=retrain), stream())
    assert len(seen) == 2
    assert torch.equal(seen[0].y_N, train.y_N)
    changed = (seen[1].x_NCHW != train.x_NCHW).flatten(1).any(1)
    assert torch.nonzero(changed).flatten().tolist() == poisoned.index_M.tolist()
    assert not torch.equal(seen[0].x_NCHW, seen[1].x_NCHW)
    change = (poisoned.x_MCHW.int() - train.x_NCHW[poisoned.index_M].int()).abs()
    assert change.max() == 16
    assert (poisoned.y_M == 0).all() and (train.y_N[poisoned.index_M] == 0).all()


def test_its_poison_has_the_longest_gradients_of_the_target_class(train: Split) -> None:
    poisoned = poison_with(SleeperAgent.model_validate(TINY), train)
    rows = torch.nonzero(train.y_N == 0).flatten()
    expected = rows[largest_gradients(twin(), train.x_NCHW[rows], 0)[:20]]
    assert poisoned.index_M.tolist() == sorted(expected.tolist())


def test_what_cannot_be_mounted_is_infeasible_before_anything_runs(train: Split) -> None:
    with pytest.raises(Infeasible, match="not even one"):
        SleeperAgent(rate=0.001).choose(train.y_N, 10, stream())
    with pytest.raises(Infeasible, match="source class 1 has no training image"):
        SleeperAgent().choose(train.y_N.masked_fill(train.y_N == 1, 2), 10, stream())


@pytest.mark.slow
@pytest.mark.data
def test_the_gradient_of_its_poison_aligns_with_the_aim_on_real_images(
    small_cifar10: dict[str, Any], shared: SharedVictims
) -> None:
    """The spec's bar is 0.3. Measured: cosine 0.65 without noise, 0.96 with it (seed 0).

    No bar on success, which differs by tens of points from seed to seed.
    """
    innocent = shared.classifier(small_cifar10, {"kind": "none"})
    train = innocent.dataset.train
    attack = SleeperAgent(rate=0.01, steps=40, retrainings=0)
    given = AttackInput(train, 10, twin=innocent.victim, retrain=lambda split, rng: innocent.victim)
    poisoned = attack.poison(given, stream())

    sources = poisoned.trigger(train.x_NCHW[train.y_N == 1], torch.zeros(400))
    aim = aimed_gradient(innocent.victim, sources, 0)
    before, after = (
        1 - float(misalignment(aimed_gradient(innocent.victim, x, 0), aim))
        for x in (train.x_NCHW[poisoned.index_M], poisoned.x_MCHW)
    )
    assert after > 0.3
    assert after > before + 0.2
