"""MCR: the curve, the gradient of its bend, the statistics at a point, and the choice of it."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.repairs.mcr import Mcr, shares
from raybd.training.held_out import fit_and_held
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.repairs.small import linear_victim, noise, sided, sided_victim
from tests.small_scene import small_scene, stream

EXACT: dict[str, Any] = {"precision": "fp32", "schedule": "constant", "momentum": 0}
QUICK = Mcr(epochs=2, end_epochs=2, batch_size=12, end_lr=0.05, **EXACT)


def head_of(victim: Victim) -> list[Tensor]:
    assert isinstance(victim.head, nn.Linear)
    return [each.detach() for each in victim.head.parameters()]


def test_the_shares_of_the_curve() -> None:
    assert shares(0.1) == pytest.approx((0.81, 0.18, 0.01))
    assert shares(0) == (1, 0, 0)
    assert shares(1) == (0, 0, 1)


def test_the_bend_descends_by_its_share_of_the_gradient_at_a_random_point() -> None:
    victim, clean = linear_victim(), noise(60)
    one = Mcr(
        epochs=1, end_epochs=1, batch_size=1000, lr=0.8, end_lr=0.5, t=0.5, weight_decay=0, **EXACT
    )
    repaired = one.repair(victim, clean, clean, stream(1)).victim

    rng = stream(1)
    learned, _ = fit_and_held(clean, rng)
    recipe = one.resolved().model_copy(update={"lr": 0.5})
    end = head_of(fit(copy.deepcopy(victim), learned, recipe, rng))
    torch.randperm(len(learned), generator=rng)  # the order of the epoch
    t = float(torch.rand((), generator=rng))

    start = head_of(victim)
    bend = [((a + b) / 2).requires_grad_() for a, b in zip(start, end, strict=True)]
    point = [
        (1 - t) ** 2 * a + 2 * t * (1 - t) * w + t**2 * b
        for a, w, b in zip(start, bend, end, strict=True)
    ]
    x_NP = victim.preprocess(learned.x_NCHW).flatten(1)
    loss = F.cross_entropy(x_NP @ point[0].T + point[1], learned.y_N)
    for a, w, b, g, found in zip(
        start, bend, end, torch.autograd.grad(loss, bend), head_of(repaired), strict=True
    ):
        expected = 0.25 * a + 0.5 * (w - 0.8 * g) + 0.25 * b
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_ends_of_the_curve_are_the_victim_and_its_fine_tuned_copy() -> None:
    victim, suspects, clean = small_scene()
    at_start = QUICK.model_copy(update={"t": 0.0}).repair(victim, suspects, clean, stream(1))
    for name, parameter in victim.named_parameters():
        assert torch.allclose(dict(at_start.victim.named_parameters())[name], parameter)

    at_end = QUICK.model_copy(update={"t": 1.0}).repair(victim, suspects, clean, stream(1))
    rng = stream(1)
    learned, _ = fit_and_held(clean, rng)
    recipe = QUICK.resolved().model_copy(update={"lr": 0.05})
    tuned = fit(copy.deepcopy(victim), learned, recipe, rng)
    for name, parameter in tuned.named_parameters():
        assert torch.allclose(dict(at_end.victim.named_parameters())[name], parameter, atol=1e-6)
    assert at_end.facts["steps"] == 2 * 2 * 2
    assert 0 <= at_end.facts["end_accuracy"] <= 1


def test_statistics_are_those_of_the_learned_images_at_the_point() -> None:
    victim, suspects, clean = small_scene()
    repaired = QUICK.model_copy(update={"batch_size": 1000}).repair(
        victim, suspects, clean, stream(1)
    )
    learned, _ = fit_and_held(clean, stream(1))
    with torch.no_grad():
        first = repaired.victim.encoder.get_submodule("0")
        out_NCHW = first(repaired.victim.preprocess(learned.x_NCHW))
    found = repaired.victim.state_dict()["encoder.1.running_mean"]
    assert torch.allclose(found, out_NCHW.mean((0, 2, 3)), atol=1e-5)


def test_the_place_that_held_images_choose_is_the_furthest_that_they_allow() -> None:
    victim, clean = sided_victim(), sided(300, 1)
    fields = {"t": "held", "batch_size": 60}
    easy = Mcr(epochs=2, end_epochs=2, **fields, **EXACT).repair(victim, clean, clean, stream(1))
    assert easy.facts["t"] == 0.5
    assert easy.warning is None


def test_where_no_place_is_allowed_the_victim_is_left_as_it_is() -> None:
    # Its own labels, which it all knows; steps of this size leave nothing of its weights.
    victim, clean = linear_victim(), noise(300)
    clean = Split(clean.x_NCHW, infer(victim, clean.x_NCHW).argmax(1))
    wild = Mcr(epochs=1, end_epochs=1, lr=1e5, end_lr=1e5, t="held", **EXACT)
    defended = wild.repair(victim, clean, clean, stream(1))
    assert defended.facts["t"] == 0
    assert "unchanged" in str(defended.warning)
    assert torch.equal(infer(defended.victim, clean.x_NCHW), infer(victim, clean.x_NCHW))
