"""Recipes: how the learning rate falls."""

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
