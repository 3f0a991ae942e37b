"""ABL: what is isolated, and when the ascent ends."""

import math
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.training.isolation import Isolated
from raybd.training.models import new_victim
from raybd.training.shortcut import losses, low_mode
from raybd.training_defenses import abl
from raybd.training_defenses.abl import ABL, Ascent
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.training_defenses.making import NONE, digits, seeded

LIGHT = ABL(
    epochs=1,
    batch_size=33,
    lr=0.02,
    isolation_steps=30,
    share=0.05,
    largest_mode=0.9,
    ascent_epochs=3,
    ascent_lr=0.05,
    precision="fp32",
)


def isolate(defense: ABL) -> Isolated:
    rng = seeded(3)
    victim = new_victim(digits(), 10, SmallCnn(width=8), rng)
    return defense.isolate(victim, digits(), defense.resolved(), rng, "abl")


def test_the_lowest_losses_are_isolated_and_suspected() -> None:
    isolated = isolate(LIGHT)
    loss_N = losses(isolated.victim, digits())
    assert torch.equal(loss_N, isolated.loss_N)
    assert len(isolated.rows_M) == 5
    assert float(loss_N[isolated.rows_M].max()) <= float(loss_N.sort().values[4])
    assert torch.equal(isolated.verdict.score_N, -loss_N.float())
    assert isolated.verdict.facts["isolated"] == 5
    bound = low_mode(loss_N).bound
    flagged = isolated.verdict.score_N > isolated.verdict.threshold_N
    if isolated.problem is None:
        assert torch.equal(flagged, loss_N < math.exp(bound))
    else:
        assert not flagged.any()


def test_nothing_is_flagged_where_the_guard_doubts_the_losses() -> None:
    unfit = LIGHT.model_copy(update={"largest_mode": 0.001, "smallest_mode": 0.0})
    isolated = isolate(unfit)
    assert "what is isolated is clean" in str(isolated.problem)
    assert not (isolated.verdict.score_N > isolated.verdict.threshold_N).any()


def test_a_first_stage_with_a_high_bound_keeps_losses_high() -> None:
    low, high = (
        isolate(LIGHT.model_copy(update={"bound": bound, "isolation_steps": 90}))
        for bound in (0.0, 1.5)
    )
    assert float(high.loss_N.mean()) > float(low.loss_N.mean()) + 0.3


class _Constant(nn.Module):
    """Says the first class, as strongly as its one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, z_BD: Tensor) -> Tensor:
        return torch.stack([self.weight.expand(len(z_BD)), torch.zeros(len(z_BD))], 1)


def constant() -> Victim:
    return Victim(nn.Sequential(nn.Flatten()), _Constant(), torch.zeros(3), torch.ones(3))


def of_label(label: int, n: int = 50) -> Split:
    return Split(torch.zeros(n, 3, 2, 2, dtype=torch.uint8), torch.full((n,), label))


def _forgets(clean: Split) -> tuple[Victim, dict[str, float], str | None]:
    """Let a network that says class 0 unlearn images of class 0."""
    victim = constant()
    ascent = Ascent(victim, of_label(0), clean, 2)
    ABL(ascent_epochs=20, ascent_lr=1.0, weight_decay=0.0, precision="fp32").ascend(
        victim, ascent, seeded(0)
    )
    return (
        victim,
        {"known": ascent.known(), "epochs": ascent.epochs},
        ascent.problem(ascent.known()),
    )


def test_the_ascent_ends_once_isolated_images_are_unlearned() -> None:
    victim, facts, problem = _forgets(NONE)
    assert facts["known"] == 0
    assert 0 < facts["epochs"] < 20
    assert float(cast(_Constant, victim.head).weight.detach()) < 0
    assert problem is None


def test_an_epoch_that_costs_trusted_images_is_taken_back() -> None:
    """The trusted images are of class 0, too: to unlearn it costs all of them."""
    victim, facts, problem = _forgets(of_label(0))
    assert facts["known"] == 1
    assert float(cast(_Constant, victim.head).weight.detach()) > 0
    assert "more would cost too much accuracy" in str(problem)


def test_isolated_images_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(victim: Victim, split: Split, *_: object, **__: object) -> Victim:
        seen.append(len(split))
        return victim

    monkeypatch.setattr(abl, "fit", watch)
    LIGHT.defend(digits(), 10, SmallCnn(width=8), NONE, seeded(3))
    assert seen == [95, 5]
