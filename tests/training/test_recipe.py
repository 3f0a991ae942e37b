"""Recipes: how the learning rate falls, what decays, and what a defense takes over."""

import math
from typing import Any

import pytest
import torch

from raybd.networks.small_cnn import SmallCnn
from raybd.repairs.fine_tune import FineTune
from raybd.trainers.supervised import Supervised
from raybd.training import recipe as recipes
from raybd.training.augmentation import Bounds
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


def test_a_linear_schedule_ends_at_zero() -> None:
    linear = Recipe(schedule="linear", warmup=0.2)
    seen = [lr_factor(linear, at) for at in (0.1, 0.2, 0.6, 0.9, 1.0, 1.1)]
    assert seen == pytest.approx([0.5, 1.0, 0.5, 0.125, 0.0, 0.0])


def moved(**fields: Any) -> list[float]:
    """Where three steps with gradient 1 bring a weight of 1, by rate .1, without decay."""
    weight = torch.nn.Parameter(torch.ones(1))
    model = torch.nn.ParameterList([weight])
    optimizer = recipes.new_optimizer(model, Recipe(lr=0.1, weight_decay=0, **fields))
    seen = []
    for _ in range(3):
        weight.grad = torch.ones(1)
        optimizer.step()
        seen.append(float(weight.detach()))
    return seen


def test_plain_momentum_moves_by_the_sum_alone() -> None:
    # Sums of gradients at momentum .5: 1, 1.5, 1.75. Nesterov adds half of each to the gradient.
    assert moved(momentum=0.5, nesterov=False) == pytest.approx([0.9, 0.75, 0.575])
    assert moved(momentum=0.5) == pytest.approx([0.85, 0.675, 0.4875])


def test_betas_are_those_of_adam() -> None:
    optimizer = recipes.new_optimizer(
        torch.nn.Linear(1, 1), Recipe(optimizer="adam", betas=(0.5, 0.8))
    )
    assert optimizer.defaults["betas"] == (0.5, 0.8)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_scales_and_offsets_need_not_decay(optimizer: Any) -> None:
    encoder, head = SmallCnn(width=4).build(3, 8)
    model = torch.nn.Sequential(encoder, head)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    recipe = Recipe(optimizer=optimizer, lr=0.1, momentum=0, weight_decay=0.5, decay_norms=False)
    stepping = recipes.new_optimizer(model, recipe)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stepping.step()
    for name, value in model.named_parameters():
        factor = 0.95 if value.ndim > 1 else 1.0
        assert torch.allclose(value, before[name] * factor), name
    assert {value.ndim for value in model.parameters()} >= {1, 2, 4}


def test_a_model_of_scales_alone_has_an_optimizer() -> None:
    optimizer = recipes.new_optimizer(torch.nn.BatchNorm2d(3), Recipe(decay_norms=False))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]


@pytest.mark.parametrize("field", [{"rotation": 5}, {"cutout": 2}, {"padding": 0}])
def test_images_as_they_are_are_not_turned(field: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="change nothing with augment: none"):
        Recipe(augment="none", **field)  # type: ignore[arg-type]
    assert Recipe(augment="crop", **field).bounds != Bounds()  # type: ignore[arg-type]


def test_a_hole_larger_than_the_image_is_refused() -> None:
    assert Recipe(cutout=9).refused(8) == "cutout 9 is larger than the images, 8 pixels"
    assert Recipe(cutout=8).refused(8) is None


def test_a_defense_takes_over_how_far_images_are_moved() -> None:
    trainer = Supervised(augment="crop", padding=2, rotation=15, cutout=4)
    followed = FineTune().following(trainer)
    assert (followed.augment, followed.bounds) == ("crop", Bounds(2, 15, 4))
    own = FineTune(rotation=5).following(trainer)
    assert own.bounds == Bounds(2, 5, 4)
    assert FineTune(augment="flip").following(trainer).bounds == Bounds()
    # Keys of defenses of older stores: nothing is added where the trainer sets nothing.
    plain = FineTune().following(Supervised())
    assert not {"padding", "rotation", "cutout"} & set(plain.model_dump(mode="json"))
