"""`fit`: the same numbers on one worker and on two, resume, schedules, frozen parts, hooks."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from raybd.networks.pixels import Pixels
from raybd.networks.small_cnn import SmallCnn
from raybd.training.epochs import Epochs
from raybd.training.inference import infer
from raybd.training.loop import cross_entropy, fit, one_pass
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training.runtime import Runtime, judged_by, running
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.groups import in_group
from tests.some_images import same_weights, some_images
from tests.threads import threads


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    with threads(2):
        yield


EXACT = Recipe(epochs=3, batch_size=33, lr=0.05, precision="fp32", augment="crop_flip", clip=1.0)


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
    """Tolerance: 1e-4 relative, from sums in another order; the batch of 33 does not divide."""
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
    """A step of SGD with rate 1 moves the weights by the gradient; tolerance 1e-5 absolute."""
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
    # What was reported before is reported again, so that a history is whole.
    assert seen == [1, 2, 3]
    assert same_weights(whole, resumed)


def test_checkpoints_wait_for_their_time() -> None:
    kept: list[str] = []
    train(EXACT, Runtime(save=lambda name, data: kept.append(name), every_seconds=1e6))
    assert kept == []


def test_the_same_seed_gives_the_same_victim() -> None:
    first, again = train(EXACT), train(EXACT)
    assert same_weights(first, again)


def test_global_randomness_plays_no_part() -> None:
    torch.manual_seed(1)
    first, state = train(EXACT), torch.random.get_rng_state()
    torch.manual_seed(2)
    other = train(EXACT)
    torch.manual_seed(1)
    assert same_weights(first, other)
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
    assert same_weights(plain, uncompiled)
    assert "Traceback" not in capfd.readouterr().err


def test_frozen_parts_keep_their_weights_and_their_statistics() -> None:
    split, rng = some_images(), torch.Generator().manual_seed(7)
    victim = new_victim(split, 4, SmallCnn(width=8), rng)
    before = {name: value.clone() for name, value in victim.encoder.state_dict().items()}
    head_before = {name: value.clone() for name, value in victim.named_parameters()}
    fit(victim, split, EXACT, rng, frozen=[victim.encoder])
    for name, value in victim.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    changed = {
        name for name, value in victim.named_parameters() if (value != head_before[name]).any()
    }
    assert changed == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in victim.parameters())


def test_after_step_is_called_once_for_each_step() -> None:
    steps: list[int] = []
    split, rng = some_images(), torch.Generator().manual_seed(7)
    victim = new_victim(split, 4, SmallCnn(width=8), rng)
    fit(victim, split, EXACT, rng, after_step=lambda: steps.append(1))
    assert len(steps) == 9  # 3 epochs of 3 batches of 33 images


def test_a_step_of_two_passes_reports_their_mean_and_moves_by_the_last() -> None:
    """Without a step the loss of a batch is the same each time, up to statistics."""
    split, recipe = some_images(), EXACT.model_copy(update={"epochs": 1, "batch_size": 100})
    told: list[Any] = []

    def twice(loop: Epochs, loss: Callable[[], torch.Tensor]) -> None:
        loop.backward(5 * loss())
        loop.step(loss())

    with running(Runtime(report=told.append)):
        for step in (one_pass, twice):
            rng = torch.Generator().manual_seed(7)
            victim = new_victim(split, 4, SmallCnn(width=8), rng)
            fitted = fit(victim, split, recipe, rng, step=step)
            told[-1]["weight"] = fitted.encoder.state_dict()["0.weight"]
    assert told[1]["loss"] == pytest.approx(told[0]["loss"])
    assert torch.allclose(told[1]["weight"], told[0]["weight"])


def test_without_moving_statistics_the_weights_learn_in_eval_mode() -> None:
    split, rng = some_images(), torch.Generator().manual_seed(7)
    victim = new_victim(split, 4, SmallCnn(width=8), rng)
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    modes: list[bool] = []

    def objective(model: Any, x: Any, y: Any, rows: Any) -> torch.Tensor:
        modes.append(model.training)
        return cross_entropy(model, x, y, rows)

    fit(victim, split, EXACT, rng, objective, moving_statistics=False)
    assert modes == [False] * 9
    for name, value in victim.state_dict().items():
        assert torch.equal(value, before[name]) == (
            "running" in name or "num_batches" in name or name in ("mean_C", "std_C")
        ), name


def test_a_training_may_end_before_an_epoch_and_ends_there_again_when_resumed() -> None:
    kept: dict[str, bytes] = {}
    looks: list[int] = []

    def ends_after_two() -> bool:
        looks.append(1)
        return len(looks) > 2

    def trained(runtime: Runtime) -> Victim:
        split, rng = some_images(), torch.Generator().manual_seed(7)
        victim = new_victim(split, 4, SmallCnn(width=8), rng)
        with running(runtime):
            return fit(victim, split, EXACT, rng, until=ends_after_two)

    whole = trained(Runtime(save=kept.__setitem__, every_seconds=0))
    assert len(looks) == 3
    assert not whole.training
    # The checkpoint is that after the second epoch, before which it ends at once.
    assert same_weights(trained(Runtime(load=kept.get)), whole)
    assert len(looks) == 4


def test_scores_computed_between_epochs_change_nothing() -> None:
    """They leave the network in eval mode, from which the next epoch has to wake it."""
    told: list[Any] = []
    split, rng = some_images(), torch.Generator().manual_seed(7)
    victim = new_victim(split, 4, SmallCnn(width=8), rng)

    def judge(score_N: torch.Tensor) -> dict[str, float]:
        return {"auroc": float(score_N.mean())}

    with running(Runtime(report=told.append, watched=True)), judged_by(judge):
        fit(
            victim,
            split,
            EXACT,
            rng,
            intermediate_scores=lambda: infer(victim, split.x_NCHW)[:, 0],
            intermediate_facts=lambda: {"own": 1.0},
        )
    assert same_weights(victim, train(EXACT))
    assert [facts["epoch"] for facts in told] == [1, 2, 3]
    assert all("auroc" in facts and facts["own"] == 1.0 for facts in told)
