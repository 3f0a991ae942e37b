"""The objective of CBD's second network: formula 9, its guard, the dependency."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

from raybd.training.loop import fit
from raybd.training_defenses.cbd import CBD
from raybd.training_defenses.cbd.first_network import (
    weights,
)
from raybd.types.errors import UserError
from tests.training_defenses.making import TINY, digits, independent, seeded


def test_the_weight_is_zero_where_the_first_loss_is_and_a_half_where_both_are_equal() -> None:
    first, second = torch.tensor([0.0, 0.7, 3.0, 0.0]), torch.tensor([2.0, 0.7, 1.0, 0.0])
    assert weights(first, second).tolist() == pytest.approx([0, 0.5, 0.75, 0], abs=1e-6)


def test_the_weight_carries_no_gradient() -> None:
    first, second = torch.rand(5, requires_grad=True), torch.rand(5, requires_grad=True)
    assert not weights(first, second).requires_grad


def test_the_weights_do_not_depend_on_how_much_the_first_network_knows_in_all() -> None:
    """Losses that are all a thousand times lower leave an image its place among the others."""
    first_loss_N = torch.linspace(0.1, 2, 100)
    rows = torch.arange(100)
    loss_B = torch.linspace(3, 0.2, 100)
    raw = []
    for scale in (1.0, 1e-3):
        objective, _ = independent(CBD(batch_size=100, dependency=0), first_loss_N * scale)
        objective.weigh(rows, loss_B)
        raw.append(objective.raw_weights(rows))
    assert torch.allclose(raw[0], raw[1], rtol=1e-4)
    expected = weights(first_loss_N, loss_B * (first_loss_N.median() / loss_B.median()))
    assert torch.allclose(raw[0], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [{}, {"power": 2.0}, {"floor": True}, {"weights_from": "ema"}, {"weights_from": "first_only"}],
    ids=lambda fields: "_".join(fields) or "default",
)
def test_the_weights_of_a_batch_have_the_mean_one(fields: dict[str, Any]) -> None:
    objective, _ = independent(CBD(batch_size=20, dependency=0, **fields))
    rows = torch.arange(20)
    weight_B = objective.weigh(rows, torch.rand(20, generator=seeded(0)))
    assert float(weight_B.mean()) == pytest.approx(1, abs=1e-5)
    assert float(weight_B.std()) > 0


def test_the_second_loss_is_the_weighted_mean_of_formula_9() -> None:
    objective, second = independent(
        CBD(batch_size=20, dependency=0, bottleneck=0.1, equal_scale=False)
    )
    rows, split = torch.arange(20), digits().select(torch.arange(20))
    logits_BK, z_BD = second.eval()(split.x_NCHW, with_embedding=True)
    loss_B = F.cross_entropy(logits_BK, split.y_N, reduction="none")
    w_B = (objective.first_loss_N[rows] / (objective.first_loss_N[rows] + loss_B + 1e-8)).detach()
    expected = (20 * w_B / w_B.sum() * loss_B).mean() + 0.05 * z_BD.square().sum(1).mean()
    found = objective(second, split.x_NCHW, split.y_N, rows).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (wanted,) = torch.autograd.grad(expected, [next(second.parameters())])
    (gradient,) = torch.autograd.grad(found, [next(second.parameters())])
    assert torch.allclose(gradient, wanted, atol=1e-5)  # so none flows through w


def test_what_the_second_loss_is_held_against() -> None:
    first_loss_N = torch.linspace(0, 2, 100)
    rows, loss_B = torch.arange(40, 60), torch.full((20,), 0.5)
    raw = {}
    for fields in (
        {},
        {"weights_from": "ema", "ema": 0.5},
        {"weights_from": "first_only"},
        {"floor": True},
    ):
        objective, _ = independent(
            CBD(batch_size=20, dependency=0, equal_scale=False, **cast(Any, fields)), first_loss_N
        )
        objective.weigh(rows, loss_B)
        name = str(fields.get("weights_from", "floor" if fields else "online"))
        raw[name] = objective.raw_weights(rows)
    unknown = float(torch.tensor(10.0).log())
    mine_B = first_loss_N[rows]
    assert torch.allclose(raw["online"], weights(mine_B, loss_B))
    assert torch.allclose(raw["ema"], weights(mine_B, 0.5 * loss_B + 0.5 * unknown))
    assert torch.allclose(raw["first_only"], weights(mine_B, first_loss_N.median()))
    assert torch.allclose(
        raw["floor"], weights(mine_B, torch.tensor(unknown))
    )  # until an epoch has shown the medians


def test_the_guard_of_the_second_stage_sees_weights_that_promote_the_backdoor() -> None:
    """The second network knows the rows with the lowest first losses at once."""
    first_loss_N = torch.full((100,), 0.5)
    first_loss_N[:10] = 0.4
    objective, _ = independent(CBD(batch_size=50, dependency=0, on_guard="stop"), first_loss_N)
    loss_N = torch.full((100,), 2.0)
    loss_N[:10] = 0.01
    objective.weigh(torch.arange(50), loss_N[:50])
    with pytest.raises(
        UserError,
        match=r"weighed \d\.\d times the mean: a backdoor would be promoted\n.*on_guard: warn",
    ):
        objective.weigh(torch.arange(50, 100), loss_N[50:])


def test_the_dependency_is_part_of_the_gradient_and_a_larger_factor_lowers_it() -> None:
    def dependence(factor: float) -> float:
        """What the critic of a run measures at its end between the embeddings of both networks."""
        objective, second = independent(
            TINY.model_copy(update={"dependency": factor, "epochs": 10, "critic_steps": 2})
        )
        fit(second, digits(), objective.cbd, seeded(0), objective)
        assert objective.dependency is not None
        with torch.no_grad():
            x_NCHW = digits().x_NCHW
            return float(
                objective.dependency.measure(objective.first.embed(x_NCHW), second.embed(x_NCHW))
            )

    few, much = dependence(1e-6), dependence(300.0)
    assert much < 0.5 * few
