"""Blind: its pattern, the balance of its losses, when it begins, and its resume."""

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.attacks.training.blind import Blind, mgda_weight, normalised
from raybd.networks.small_cnn import SmallCnn
from raybd.plan.file import parse
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from tests.attacks.making import RECIPE, make, poison_with, random_split, stream
from tests.groups import in_group
from tests.tiny_cells import TINY

PRECISE = RECIPE.model_copy(update={"precision": "fp32", "epochs": 2, "batch_size": 40})


def _weights(attack: Blind, train: Split) -> dict[str, Tensor]:
    victim = poison_with(attack, train, trainer=PRECISE).victim
    assert victim is not None
    return victim.state_dict()


def _blind(**fields: object) -> Blind:
    return cast(Blind, make("blind", **fields))


def test_the_pattern_of_the_authors_at_their_place() -> None:
    grey = torch.full((1, 3, 32, 32), 7, dtype=torch.uint8)
    worn = Blind().stamp(grey, {})[0]
    assert torch.equal(worn[0], worn[2])
    k = 7
    expected = [[255, 0, 255], [k, 255, k], [k, k, 0], [k, 255, k], [255, 0, 255]]
    assert worn[0, 3:8, 23:26].tolist() == expected
    assert int((worn[0] != 7).sum()) == 9
    assert torch.equal(grey, torch.full_like(grey, 7))


@pytest.mark.parametrize(("shape", "cell"), [((64, 64), 2), ((224, 224), 7), ((64, 96), 2)])
def test_the_pattern_grows_with_the_image(shape: tuple[int, int], cell: int) -> None:
    changed = (Blind().stamp(torch.full((1, 3, *shape), 7, dtype=torch.uint8), {}) != 7)[0, 0]
    assert int(changed.sum()) == 9 * cell**2
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    assert (int(rows.min()), int(rows.max())) == (3 * cell, 8 * cell - 1)
    right = shape[1] - 6 * cell
    assert (int(columns.min()), int(columns.max())) == (right - 3 * cell, right - 1)


def test_a_pattern_that_is_partly_outside_of_the_image_does_not_fit() -> None:
    assert Blind().does_not_fit(8, 9) is None
    assert "9 x 7" in str(Blind().does_not_fit(7, 9))
    assert "8 x 8" in str(Blind().does_not_fit(8, 8))


def test_mgda_by_hand() -> None:
    first, second = [torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 2.0])]
    weight = mgda_weight(first, second)
    assert weight == pytest.approx(0.8)
    mean = weight * first[0] + (1 - weight) * second[0]
    assert mean.tolist() == pytest.approx([0.8, 0.4])
    assert mgda_weight(first, [torch.tensor([3.0, 0.0])]) == 1.0
    assert mgda_weight([torch.tensor([3.0, 0.0])], first) == 0.0
    same = mgda_weight(first, first)
    assert (same * first[0] + (1 - same) * first[0]).tolist() == [1.0, 0.0]


def test_gradients_are_divided_by_loss_and_norm_but_by_no_more_than_ten() -> None:
    gradient = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert [float(part) for part in normalised(gradient, 0.5)] == pytest.approx([1.2, 1.6])
    assert [float(part) for part in normalised(gradient, 8.0)] == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize("never", [{"threshold": 1e-6}, {"history": 99}])
def test_while_it_is_off_the_training_is_the_plain_one(never: Any, train: Split) -> None:
    found = _weights(_blind(**never), train)
    plain = PRECISE.train(train, 10, SmallCnn(width=8), stream()).state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.items())


@pytest.mark.parametrize("balance", ["mgda", "fixed"])
def test_while_it_is_on_the_training_is_another_one(balance: str, train: Split) -> None:
    found = _weights(_blind(balance=balance), train)
    plain = PRECISE.train(train, 10, SmallCnn(width=8), stream()).state_dict()
    assert any(not torch.equal(found[name], value) for name, value in plain.items())


def test_a_step_goes_down_the_shortest_mean_of_both_gradients(train: Split) -> None:
    # One batch, one epoch: the first batch is clean, so that there are two, of 40 images each.
    few = train.select(torch.arange(80))
    plain_sgd = {"momentum": 0.0, "weight_decay": 0.0, "augment": "none", "schedule": "constant"}
    recipe = PRECISE.model_copy(update={"epochs": 1, "lr": 0.05, **plain_sgd})
    attack = _blind(history=0, labels={"map": "all_to_one", "target": 3})
    victim = poison_with(attack, few, trainer=recipe).victim
    assert victim is not None

    # By the formula, on a copy: the first step is that of the task, the second that of both.
    rng = stream()
    copy = new_victim(few, 10, SmallCnn(width=8), rng).train()
    first, second = torch.randperm(80, generator=rng).split(40)

    def gradients(x_BCHW: Tensor, y_B: Tensor, worn: bool) -> tuple[float, list[Tensor]]:
        both = torch.cat([x_BCHW, attack.stamp(x_BCHW, {})])
        logits = copy(both)[40:] if worn else copy(both)[:40]
        loss = F.cross_entropy(logits, y_B)
        return loss.item(), list(torch.autograd.grad(loss, list(copy.parameters())))

    def descend(steps: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, gradient in zip(copy.parameters(), steps, strict=True):
                parameter.sub_(0.05 * gradient)

    loss = F.cross_entropy(copy(few.x_NCHW[first]), few.y_N[first])
    descend(list(torch.autograd.grad(loss, list(copy.parameters()))))
    x_BCHW, y_B = few.x_NCHW[second], few.y_N[second]
    task, of_task = gradients(x_BCHW, y_B, False)
    backdoor, of_backdoor = gradients(x_BCHW, torch.full_like(y_B, 3), True)

    def divisor(value: float, parts: list[Tensor]) -> float:
        return min(value * torch.cat([part.flatten() for part in parts]).norm().item(), 10.0)

    one = torch.cat([part.flatten() for part in of_task]) / divisor(task, of_task)
    two = torch.cat([part.flatten() for part in of_backdoor]) / divisor(backdoor, of_backdoor)
    share = float((((two - one) @ two) / (one - two).square().sum()).clamp(0, 1))
    assert 0.02 < share < 0.98
    descend([share * a + (1 - share) * b for a, b in zip(of_task, of_backdoor, strict=True)])
    for found, expected in zip(victim.parameters(), copy.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_it_begins_after_its_history(train: Split) -> None:
    # 10 batches an epoch and 20 in all: the 11th is the first that may be attacked.
    within = PRECISE.model_copy(update={"epochs": 1})
    attack = _blind(history=1)
    victim = poison_with(attack, train, trainer=within).victim
    plain = within.train(train, 10, SmallCnn(width=8), stream()).state_dict()
    assert victim is not None
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in plain.items())
    sooner = poison_with(_blind(history=0.9), train, trainer=within).victim
    assert sooner is not None
    assert any(not torch.equal(sooner.state_dict()[name], value) for name, value in plain.items())


def test_resumes_to_the_same_victim(train: Split) -> None:
    saved: dict[str, bytes] = {}
    attack = _blind(history=1)

    def die(facts: Mapping[str, Any]) -> None:
        if facts["epoch"] == 2:
            raise RuntimeError("killed")

    with (
        running(Runtime(report=die, save=saved.__setitem__, every_seconds=0)),
        pytest.raises(RuntimeError, match="killed"),
    ):
        _weights(attack, train)
    told: list[int] = []
    with running(Runtime(report=lambda facts: told.append(facts["epoch"]), load=saved.get)):
        resumed = _weights(attack, train)
    assert told == [1, 2]
    assert all(torch.equal(resumed[name], value) for name, value in _weights(attack, train).items())


def _both() -> dict[str, Tensor]:
    return {
        f"{balance} {name}": value
        for balance in ("mgda", "fixed")
        for name, value in _weights(_blind(balance=balance), random_split()).items()
    }


def test_two_workers_train_the_victim_of_one() -> None:
    alone = _both()
    first, second = in_group(_both)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].float(), value.float(), atol=2e-3), name


def test_a_target_that_does_not_exist_is_infeasible(train: Split) -> None:
    with pytest.raises(Infeasible, match="class 12"):
        make("blind", labels={"map": "all_to_one", "target": 12}).choose(train.y_N, 10, stream())


def test_what_looks_for_poison_in_the_training_set_is_infeasible() -> None:
    defenses = {
        "detectors": [{"kind": "spectral"}, {"kind": "strip"}],
        "repairs": [{"kind": "fine_tune"}],
        "training_defenses": [{"kind": "abl"}],
    }
    attacks = [{"kind": "blind"}, {"kind": "badnets"}]
    cells = parse({**TINY, "attacks": attacks, **defenses}).cells()
    found = {
        cell.defense_name: str(cell.infeasible) for cell in cells if cell.attack.kind == "blind"
    }
    assert "changes no training image" in found["spectral"]
    assert "changes no training image" in found["abl"]
    assert found["none"] == found["strip"] == found["fine_tune"] == "None"
    assert all(cell.infeasible is None for cell in cells if cell.attack.kind == "badnets")
