"""The training loop: the same numbers on one worker and on two, resume, augmentation, and the stop on a loss that is not finite."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raybd.networks.pixels import Pixels
from raybd.networks.small_cnn import SmallCnn
from raybd.training import augmentation, models, recipe
from raybd.training.inference import infer
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.groups import in_group


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """With a single thread torch sums batch statistics in another order, which is no matter of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


EXACT = Recipe(epochs=3, batch_size=33, lr=0.05, precision="fp32", augment="crop_flip", clip=1.0)


def some_images(n: int = 100) -> Split:
    rng = torch.Generator().manual_seed(0)
    y_N = torch.arange(n) % 4
    x_NCHW = torch.randint(0, 128, (n, 3, 16, 16), generator=rng, dtype=torch.uint8)
    x_NCHW[:, 0] += (y_N * 40).to(torch.uint8)[:, None, None]
    return Split(x_NCHW, y_N)


def train(recipe: Recipe, runtime: Runtime | None = None) -> Victim:
    rng = torch.Generator().manual_seed(7)
    split = some_images()
    with running(runtime or Runtime()):
        return fit(new_victim(split, 4, SmallCnn(width=8), rng), split, recipe, rng)


def train_and_tell(recipe: Recipe) -> tuple[list[float], dict[str, Any], torch.Tensor]:
    """Losses by epoch, weights, and the outputs on all images."""
    losses: list[float] = []
    victim = train(recipe, Runtime(report=lambda facts: losses.append(facts["loss"])))
    return (
        losses,
        {k: v.numpy() for k, v in victim.state_dict().items()},
        infer(victim, some_images().x_NCHW),
    )


def test_two_workers_give_the_losses_and_weights_of_one() -> None:
    """Tolerance: 1e-4 relative, from sums in another order; the batch of 33 does not even divide."""
    losses, weights, outputs = train_and_tell(EXACT)
    (first, first_weights, first_outputs), (_, second_weights, second_outputs) = in_group(
        train_and_tell, EXACT
    )
    assert first == pytest.approx(losses, rel=1e-4)
    for name, value in weights.items():
        assert first_weights[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
        assert (first_weights[name] == second_weights[name]).all(), name
    assert torch.allclose(first_outputs, outputs, atol=1e-3)
    assert torch.equal(first_outputs, second_outputs)


def test_the_gradient_of_two_workers_is_that_of_one() -> None:
    """One plain step of SGD with rate 1 moves the weights by the gradient; tolerance 1e-5 absolute."""
    step = Recipe(
        epochs=1,
        batch_size=100,
        lr=1,
        momentum=0,
        weight_decay=0,
        schedule="constant",
        precision="fp32",
    )
    _, one, _ = train_and_tell(step)
    (_, two, _), _ = in_group(train_and_tell, step)
    rng = torch.Generator().manual_seed(7)
    before = new_victim(some_images(), 4, SmallCnn(width=8), rng).state_dict()
    for name in before:
        gradient = one[name] - before[name].numpy()
        assert two[name] - before[name].numpy() == pytest.approx(gradient, abs=1e-5), name
    assert max(abs(one[name] - before[name].numpy()).max() for name in before) > 1e-2


def test_a_resumed_training_ends_where_the_whole_one_does() -> None:
    kept: dict[str, bytes] = {}
    seen: list[int] = []

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)  # the first checkpoint only: the one after epoch 1

    whole = train(EXACT, Runtime(save=save, every_seconds=0))
    resumed = train(EXACT, Runtime(load=kept.get, report=lambda facts: seen.append(facts["epoch"])))
    assert seen == [
        1,
        2,
        3,
    ]  # what was reported before is reported again, so that a history is whole
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_checkpoints_wait_for_their_time() -> None:
    kept: list[str] = []
    train(EXACT, Runtime(save=lambda name, data: kept.append(name), every_seconds=1e6))
    assert kept == []


def test_the_same_seed_gives_the_same_victim() -> None:
    first, again = train(EXACT), train(EXACT)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_global_randomness_plays_no_part() -> None:
    torch.manual_seed(1)
    first, state = train(EXACT), torch.random.get_rng_state()
    torch.manual_seed(2)
    other = train(EXACT)
    torch.manual_seed(1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_every_optimizer_and_schedule_learns(optimizer: Any, schedule: Any) -> None:
    losses, _, _ = train_and_tell(
        Recipe(
            epochs=12,
            lr=0.02,
            optimizer=optimizer,
            schedule=schedule,
            augment="none",
            batch_size=25,
        )
    )
    assert losses[-1] < 0.7 * losses[0]


def test_a_loss_that_is_not_finite_stops_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) after epoch \d of 3\nLower lr"):
        train(Recipe(epochs=3, lr=1e18, batch_size=25, precision="fp32"))


def test_a_compiled_training_differs_by_rounding() -> None:
    """Tolerance: 1e-5 relative; only a linear layer, because compiling takes long."""
    import torch._dynamo.utils as dynamo

    rng = [torch.Generator().manual_seed(7) for _ in range(2)]
    before, split = dynamo.counters["stats"]["unique_graphs"], some_images()
    plain = fit(new_victim(split, 4, Pixels(side=16), rng[0]), split, EXACT, rng[0])
    with running(Runtime(compile=True)):
        compiled = fit(new_victim(split, 4, Pixels(side=16), rng[1]), split, EXACT, rng[1])
    assert dynamo.counters["stats"]["unique_graphs"] > before
    for name, value in plain.state_dict().items():
        assert torch.allclose(compiled.state_dict()[name], value, rtol=1e-5, atol=1e-6), name


def test_where_nothing_can_be_compiled_training_goes_on_silently(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    plain, uncompiled = train(EXACT), train(EXACT, Runtime(compile=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.state_dict().values(), uncompiled.state_dict().values(), strict=True)
    )
    assert "Traceback" not in capfd.readouterr().err


def test_the_learning_rate_follows_its_schedule() -> None:
    cosine = Recipe(warmup=0.2)
    assert [round(recipe.lr_factor(cosine, at), 3) for at in (0.1, 0.2, 0.6, 1.0)] == [
        0.5,
        1.0,
        0.5,
        0.0,
    ]
    step = Recipe(schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    assert [round(recipe.lr_factor(step, at), 3) for at in (0.4, 0.5, 0.8)] == [1.0, 0.1, 0.01]


def test_images_are_flipped_and_cropped_each_by_its_own_draw() -> None:
    x = torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8) + 1
    flipped = augmentation.apply(x, torch.tensor([[0, 0], [0, 0], [0, 1]]))
    assert torch.equal(flipped[0], x[0])
    assert torch.equal(flipped[1], x[1].flip(-1))
    moved = augmentation.apply(x, torch.tensor([[1, 0], [-1, 0], [0, 0]]))
    assert torch.equal(moved[0, 0, :-1, 1:], x[0, 0, 1:, :-1])
    assert (moved[0, 0, -1] == 0).all()
    assert (moved[0, 0, :, 0] == 0).all()
    assert torch.equal(moved[1], x[1])


def test_flips_are_fair_and_crops_stay_within_an_eighth() -> None:
    draw = augmentation.draw("crop_flip", 4000, 32, torch.Generator().manual_seed(0))
    assert draw is not None
    assert (draw[:2].min(), draw[:2].max()) == (-4, 4)
    assert 0.45 < float(draw[2].float().mean()) < 0.55
    only_flips = augmentation.draw("flip", 100, 32, torch.Generator().manual_seed(0))
    assert only_flips is not None
    assert (only_flips[:2] == 0).all()


def test_channel_moments_are_those_of_the_pixels() -> None:
    x = some_images().x_NCHW
    mean, deviation = models.channel_moments(x)
    pixels = x.double() / 255
    assert torch.allclose(mean.double(), pixels.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(deviation.double(), pixels.std((0, 2, 3), correction=0), atol=1e-5)


def test_a_crop_alone_never_mirrors() -> None:
    draw = augmentation.draw("crop", 200, 32, torch.Generator().manual_seed(0))
    assert draw is not None
    assert int(draw[2].sum()) == 0
    assert draw[:2].min() == -4 and draw[:2].max() == 4
