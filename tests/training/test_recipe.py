"""Recipes: how the learning rate falls."""

import pytest

from raybd.training.recipe import Recipe, lr_factor


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
