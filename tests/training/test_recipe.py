"""Recipes: how the learning rate falls."""

import math

import pytest
import torch

from raybd.training.recipe import Recipe, lr_factor, new_schedule


def test_the_learning_rate_follows_its_schedule() -> None:
    cosine = Recipe(warmup=0.2)
    assert [round(lr_factor(cosine, at), 3) for at in (0.1, 0.2, 0.6, 1.0)] == [
        0.5,
        1.0,
        0.5,
        0.0,
    ]
    step = Recipe(schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    assert [round(lr_factor(step, at), 3) for at in (0.4, 0.5, 0.8)] == [1.0, 0.1, 0.01]


@pytest.mark.parametrize("warmup", [1e-5, 1e-4, 9e-4, 1e-3, 0.1])
def test_a_warmup_never_exceeds_the_learning_rate(warmup: float) -> None:
    recipe = Recipe(warmup=warmup, schedule="constant")
    factors = [lr_factor(recipe, warmup * share) for share in (0.0, 0.3, 0.9, 1.0)]
    assert max(factors) <= 1.0
    assert factors == sorted(factors)
    assert factors[0] > 0


@pytest.mark.parametrize("warmup", [5e-4, 1e-3, 0.01, 0.2])
def test_every_step_of_a_warmup_is_that_of_the_formula(warmup: float) -> None:
    steps = 4000
    recipe = Recipe(warmup=warmup, lr=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], recipe.lr)
    schedule = new_schedule(optimizer, recipe, steps)
    for step in range(steps):
        done = step / steps
        expected = 0.05 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
        if done < warmup:
            # Linear from zero; the first steps take the rate of a thousandth of the training.
            expected = 0.1 * min(1.0, max(done, 1e-3) / warmup)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12), step
        assert optimizer.param_groups[0]["lr"] <= 0.1
        optimizer.step()
        schedule.step()
