"""Plateaus: the learning rate falls where torch's own schedule lets it fall."""

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from raybd.training.plateau import Plateau
from raybd.training.recipe import Recipe, new_schedule

LOSSES = [2.0, 1.5, 1.6, 1.55, 1.52, 1.4, 1.5, 1.45, 1.45, 1.42, 1.3, 1.3, 1.3, 1.3, 1.3]


def descent() -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)


def rates(patience: int, gamma: float, steps_per_epoch: int = 3) -> list[float]:
    """The learning rate in the epoch after each loss."""
    optimizer = descent()
    recipe = Recipe(schedule="plateau", patience=patience, gamma=gamma, lr=0.1)
    schedule = new_schedule(optimizer, recipe, steps_per_epoch * len(LOSSES))
    assert isinstance(schedule, Plateau)
    found = []
    for loss in LOSSES:
        for _ in range(steps_per_epoch):
            optimizer.step()
            schedule.step()
        schedule.end_epoch(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_it_falls_where_torchs_own_does(patience: int) -> None:
    optimizer = descent()
    theirs = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, threshold=0.0)
    expected = []
    for loss in LOSSES:
        optimizer.step()
        theirs.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    assert min(expected) < 0.1
    assert rates(patience, 0.5) == pytest.approx(expected)


def test_what_has_fallen_stays_fallen_for_the_steps_that_follow() -> None:
    optimizer = descent()
    schedule = Plateau(optimizer, lambda step: 1.0, 0.1, 0)
    schedule.end_epoch(1.0)
    schedule.end_epoch(1.0)
    for _ in range(3):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
        optimizer.step()
        schedule.step()


def test_a_checkpoint_holds_all_of_it() -> None:
    first = Plateau(descent(), lambda step: 1.0, 0.1, 1)
    for loss in (1.0, 1.0, 1.0, 1.0):
        first.end_epoch(loss)
    again = Plateau(descent(), lambda step: 1.0, 0.5, 7)
    again.load_state_dict(first.state_dict())
    assert again.fallen == pytest.approx(0.1)
    assert (again.lowest, again.waited, again.gamma, again.patience) == (1.0, 1, 0.1, 1)


def test_it_warms_up() -> None:
    recipe = Recipe(schedule="plateau", warmup=0.5, lr=0.1)
    optimizer = descent()
    schedule = new_schedule(optimizer, recipe, 4)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([0.0002, 0.05, 0.1, 0.1])
