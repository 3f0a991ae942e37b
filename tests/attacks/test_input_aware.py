"""Input-aware: its formulas, its triggers, its resume."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from raybd.attacks.training.input_aware.generator import (
    diversity_losses,
    new_auto_encoder,
    soft_threshold,
    stored_auto_encoder,
    wear,
)
from raybd.training.runtime import Runtime, running
from raybd.types.data import CROSS, POISON, Split
from tests.attacks.making import RECIPE, make, poison, poison_with, random_split, triggered


def test_cross_images_keep_their_label(train: Split) -> None:
    poisoned = poison("input_aware", train)
    cross = poisoned.index_M[poisoned.role_M == CROSS]
    assert len(cross) == 40
    assert torch.equal(poisoned.over(train).y_N[cross], train.y_N[cross])


def test_poisons_half_of_an_odd_batch() -> None:
    few = random_split().select(torch.arange(7))
    trainer = RECIPE.model_copy(update={"batch_size": 7})
    poisoned = poison_with(make("input_aware", rate=0.4), few, trainer=trainer)
    assert poisoned.role_M.tolist() == [POISON] * 3 + [CROSS] * 3


def test_makes_another_trigger_for_each_image_and_hands_out_a_victim_at_rest(
    train: Split,
) -> None:
    poisoned = poison_with(make("input_aware"), train)
    victim = poisoned.victim
    assert victim is not None
    assert not any(module.training for module in victim.modules())
    change = triggered(poisoned, train.x_NCHW[:8]).int() - train.x_NCHW[:8].int()
    assert len(change.unique(dim=0)) == 8
    alone = torch.cat([triggered(poisoned, train.x_NCHW[row : row + 1]) for row in range(8)])
    assert (alone.int() - triggered(poisoned, train.x_NCHW[:8]).int()).abs().max() <= 1
    cross = poisoned.index_M[poisoned.role_M == CROSS]
    assert not torch.equal(
        poisoned.x_MCHW[poisoned.role_M == CROSS], triggered(poisoned, train.x_NCHW[cross])
    )


def test_resumes_to_the_same_victim_and_triggers(train: Split) -> None:
    saved: dict[str, bytes] = {}
    attack = make("input_aware", mask_epochs=2)
    trainer = RECIPE.model_copy(update={"epochs": 4})

    def die(facts: Mapping[str, Any]) -> None:
        if facts["name"] == "input_aware" and facts["epoch"] == 3:
            raise RuntimeError("killed")

    def trained() -> dict[str, torch.Tensor]:
        poisoned = poison_with(attack, train, trainer=trainer)
        assert poisoned.victim is not None
        return {**poisoned.victim.state_dict(), **poisoned.state, "x_MCHW": poisoned.x_MCHW}

    with (
        running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
        pytest.raises(RuntimeError, match="killed"),
    ):
        trained()
    told: list[int] = []
    with running(Runtime(report=lambda facts: told.append(facts["epoch"]), load=saved.get)):
        resumed = trained()
    assert saved.keys() == {"input_aware masks", "input_aware"}
    assert told == [1, 2, 1, 2, 3, 4]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in trained().items())


def test_by_its_formulas() -> None:
    rng = torch.Generator().manual_seed(0)
    x, pattern = (
        torch.rand((2, 3, 4, 4), generator=rng) * 255,
        torch.rand((2, 3, 4, 4), generator=rng) * 2 - 1,
    )
    maps = torch.rand((2, 1, 4, 4), generator=rng)
    mask = (torch.tanh(maps * 20 - 10) / 2 + 0.5).expand_as(x)
    assert torch.allclose(soft_threshold(maps).expand_as(x), mask)
    assert torch.allclose(
        wear(x, pattern, soft_threshold(maps)),
        (1 - mask) * x + mask * (pattern + 1) / 2 * 255,
        atol=1e-3,
    )
    ratio = diversity_losses(x[:1], x[1:], pattern[:1], pattern[1:])
    assert ratio.item() == pytest.approx(
        (x[0] - x[1]).norm().item() / 127.5 / (pattern[0] - pattern[1]).norm().item(), rel=1e-4
    )


def test_an_auto_encoder_takes_any_size_and_comes_back_from_its_state() -> None:
    network = new_auto_encoder(4, 1, torch.Generator().manual_seed(0)).eval()
    state = {f"masker.{name}": tensor for name, tensor in network.state_dict().items()}
    for side in (8, 19, 32):
        x = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(1)) * 255
        maps = network(x)
        assert maps.shape == (2, 1, side, side)
        assert torch.equal(stored_auto_encoder(4, 1, "masker.", state)(x), maps)
