"""LIRA: its bound, its turns, its losses, and its resume."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks.training._generated import Turns
from raybd.attacks.training.input_aware.generator import new_auto_encoder
from raybd.networks.small_cnn import SmallCnn
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import POISON, Split
from raybd.types.errors import Infeasible
from tests.attacks.making import RECIPE, make, poison, poison_with, stream, triggered


def test_a_trigger_changes_no_pixel_by_more_than_its_bound(train: Split) -> None:
    for eps in (3, 16):
        poisoned = poison("lira", train, eps=eps)
        change = triggered(poisoned, train.x_NCHW).int() - train.x_NCHW.int()
        assert 0 < int(change.abs().max()) <= eps


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (224, 224), (40, 30)])
def test_a_trigger_is_made_for_images_of_any_size(shape: tuple[int, int], train: Split) -> None:
    poisoned = poison("lira", train)
    x_NCHW = torch.randint(0, 256, (2, 3, *shape), generator=stream(), dtype=torch.uint8)
    worn = triggered(poisoned, x_NCHW)
    assert worn.shape == x_NCHW.shape and worn.dtype == torch.uint8
    assert torch.equal(worn, triggered(poisoned, x_NCHW))
    assert (worn != x_NCHW).flatten(1).any(1).all()


def test_without_a_bound_there_is_no_trigger(train: Split) -> None:
    with pytest.raises(Infeasible, match="eps 0"):
        make("lira", eps=0).choose(train.y_N, 10, stream())


def test_the_bound_of_the_first_stage_is_that_of_the_generators_training(train: Split) -> None:
    same, wider = (
        poison("lira", train, eps=4, stage_one_eps=first).state["generator.last.0.weight"]
        for first in (4, 64)
    )
    assert torch.equal(same, poison("lira", train, eps=4).state["generator.last.0.weight"])
    assert not torch.equal(same, wider)


def test_rows_are_shown_as_poison_but_there_is_no_rate(train: Split) -> None:
    attack = make("lira", rate=0.05)
    assert attack.poison_rate is None
    assert (poison("lira", train, rate=0.05).role_M == POISON).sum() == 20


def _turns(train: Split, made: Any, alpha: float = 0.5, **recipe: Any) -> Turns:
    follows = RECIPE.model_copy(update={"augment": "none", "precision": "fp32", **recipe})
    return Turns(train, follows, stream(), made, lambda batch, rng: 0 * batch.y_B, alpha)


def test_the_victim_sees_the_generator_as_it_was_before_the_epoch(train: Split) -> None:
    seen: list[float] = []

    def made(generator: nn.Module, x_BCHW: Tensor, wanted_B: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # the victim's step
            seen.append(float(next(generator.parameters()).detach().double().sum()))
        maps_BCHW: Tensor = generator(x_BCHW)
        return maps_BCHW

    generator = new_auto_encoder(4, 3, stream())
    before = float(next(generator.parameters()).detach().double().sum())
    victim = new_victim(train, 10, SmallCnn(width=4), stream())
    turns = _turns(train, made, batch_size=100)
    turns.jointly("turns", 2, 8, 0.01, victim, generator)
    after = float(next(generator.parameters()).detach().double().sum())
    assert len(seen) == 8
    assert seen[:4] == [before] * 4
    assert len(set(seen[4:])) == 1 and seen[4] not in (before, after)


def test_the_generator_learns_to_fool_the_victim_and_leaves_it_alone(train: Split) -> None:
    def made(generator: nn.Module, x_BCHW: Tensor, wanted_B: Tensor) -> Tensor:
        maps_BCHW: Tensor = generator(x_BCHW)
        return maps_BCHW

    few = train.select(torch.arange(100))
    victim = new_victim(few, 10, SmallCnn(width=4), stream())
    before = {name: value.clone() for name, value in victim.named_parameters()}
    generator = new_auto_encoder(4, 3, stream())

    def missed(made: nn.Module) -> float:
        x_BCHW = few.x_NCHW.float()
        with torch.no_grad():
            worn = x_BCHW + 64 * made.eval()(x_BCHW)
            return float(F.cross_entropy(victim.eval()(worn), 0 * few.y_N))

    # The victim does not move at such a rate, so that what is lost is the generator's doing.
    turns = _turns(few, made, batch_size=50, lr=1e-12)
    turns.jointly("turns", 20, 64, 0.01, victim, generator)
    moved = [(value - before[name]).abs().max() for name, value in victim.named_parameters()]
    assert max(moved) < 1e-6
    assert missed(generator) < 0.8 * missed(new_auto_encoder(4, 3, stream()))


@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_the_loss_weighs_clean_images_and_those_with_the_trigger(
    alpha: float, train: Split
) -> None:
    def nothing(generator: nn.Module, x_BCHW: Tensor, wanted_B: Tensor) -> Tensor:
        return torch.zeros_like(x_BCHW)

    told: list[float] = []
    victim = new_victim(train, 10, SmallCnn(width=4), stream())
    logits_NK = victim.train()(train.x_NCHW).detach()
    turns = _turns(train, nothing, alpha, batch_size=400)
    with running(Runtime(report=lambda facts: told.append(facts["loss"]))):
        turns.finish("turns", 8, victim, nn.Identity())
    clean = F.cross_entropy(logits_NK, train.y_N).item()
    worn = F.cross_entropy(logits_NK, 0 * train.y_N).item()
    assert told == [pytest.approx(alpha * clean + (1 - alpha) * worn, rel=1e-4)]


@pytest.mark.parametrize("kind", ["lira", "marksman"])
def test_resumes_to_the_same_victim_and_triggers(kind: str, train: Split) -> None:
    attack = make(kind, joint_epochs=2)
    trainer = RECIPE.model_copy(update={"epochs": 2, "batch_size": 40})

    def trained() -> dict[str, Tensor]:
        poisoned = poison_with(attack, train, trainer=trainer)
        assert poisoned.victim is not None
        return {**poisoned.victim.state_dict(), **poisoned.state, "x_MCHW": poisoned.x_MCHW}

    whole = trained()
    for name in (f"{kind} joint", kind):
        saved: dict[str, bytes] = {}

        def die(facts: Mapping[str, Any], name: str = name) -> None:
            if facts["name"] == name and facts["epoch"] == 2:
                raise RuntimeError("killed")

        with (
            running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
            pytest.raises(RuntimeError, match="killed"),
        ):
            trained()
        assert name in saved
        with running(Runtime(load=saved.get)):
            resumed = trained()
        assert all(torch.equal(resumed[part], tensor) for part, tensor in whole.items())
