"""The recipe of a classifier: softened labels, mixed images, averaged weights, and what refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.plan.file import parse
from raybd.training.classifier_recipe import ClassifierRecipe
from raybd.training.epochs import Batch
from raybd.training.loop import cross_entropy, fit
from raybd.training.models import new_victim
from raybd.training.moving_average import MovingAverage
from raybd.training.runtime import Runtime, running
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.groups import in_group
from tests.some_images import same_weights, some_images
from tests.threads import threads
from tests.tiny_cells import TINY

EXACT: dict[str, Any] = {"epochs": 3, "batch_size": 33, "lr": 0.05, "precision": "fp32"}
ALL: dict[str, Any] = {
    **EXACT,
    "label_smoothing": 0.1,
    "mixup": 1.0,
    "ema": 0.9,
    "schedule": "plateau",
    "patience": 0,
    "rotation": 10,
    "cutout": 4,
    "padding": 3,
    "nesterov": False,
    "decay_norms": False,
}


def train(runtime: Runtime | None = None, **fields: Any) -> Victim:
    rng = torch.Generator().manual_seed(7)
    split = some_images()
    with threads(1), running(runtime or Runtime()):
        victim = new_victim(split, 4, SmallCnn(width=8), rng)
        return fit(victim, split, ClassifierRecipe(**fields), rng)


def weights_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in train(**fields).state_dict().items()}


def own_loss(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
    return cross_entropy(model, x_BCHW, y_B, rows_B)


def a_batch(x: Tensor, y: Tensor, *further: Batch) -> Batch:
    rows = torch.arange(len(y))
    return Batch(x, y, rows, rows, None, further=further)


def losses(recipe: ClassifierRecipe, batch: Batch, share: float) -> Tensor:
    return recipe.losses(nn.Flatten(), batch.x_B, batch, share)


def test_softened_labels_are_those_of_the_formula() -> None:
    x = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    batch = a_batch(x, torch.tensor([2]))
    log_p = x.flatten().log_softmax(0)
    # .8 of the label, and .2 spread over three classes.
    expected = -(0.8 * log_p[2] + 0.2 * log_p.mean())
    assert losses(ClassifierRecipe(label_smoothing=0.2), batch, 1.0)[0] == pytest.approx(
        float(expected)
    )


def test_mixed_images_have_the_loss_of_both_labels() -> None:
    first = a_batch(torch.full((2, 1, 1, 3), 10, dtype=torch.uint8), torch.tensor([0, 1]))
    first.x_B[:, 0, 0, 0] = 14
    other = a_batch(torch.full((2, 1, 1, 3), 10, dtype=torch.uint8), torch.tensor([2, 2]))
    other.x_B[:, 0, 0, 2] = 18
    batch = a_batch(first.x_B, first.y_B, other)
    mixed = torch.tensor([[11.0, 10.0, 16.0]] * 2)
    expected = 0.25 * F.cross_entropy(mixed, first.y_B, reduction="none")
    expected += 0.75 * F.cross_entropy(mixed, other.y_B, reduction="none")
    assert torch.allclose(losses(ClassifierRecipe(mixup=1.0), batch, 0.25), expected)


def test_shares_come_from_the_distribution_and_from_the_stream() -> None:
    recipe = ClassifierRecipe(mixup=0.5)
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([recipe.mixing_share(rng) for _ in range(2000)])
    # Beta(a, a): mean 1/2, variance 1 / (8 a + 4).
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / 8, abs=0.01)
    again = recipe.mixing_share(torch.Generator().manual_seed(0))
    assert again == pytest.approx(float(shares[0]))


def test_nothing_is_drawn_where_nothing_is_mixed() -> None:
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    assert ClassifierRecipe().mixing_share(rng) == 1.0
    assert torch.equal(rng.get_state(), before)


def test_the_average_is_that_of_the_formula() -> None:
    model = nn.BatchNorm1d(1)
    average = MovingAverage(model, 0.5)
    expected = 1.0
    for step, weight in enumerate([3.0, 5.0, 9.0, 9.0, 9.0, 2.0, 2.0, 2.0, 2.0, 7.0], start=1):
        with torch.no_grad():
            model.weight.fill_(weight)
            model.num_batches_tracked.fill_(step)
        average.update()
        # Its memory is short at first: 2/11, 3/12, ... until it reaches .5.
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    average.hand_out()
    assert float(model.weight.detach()) == pytest.approx(expected)
    assert int(model.num_batches_tracked) == 10


def test_an_average_goes_on_from_its_checkpoint() -> None:
    model = nn.Linear(1, 1)
    first = MovingAverage(model, 0.9)
    for value in (1.0, 2.0):
        nn.init.constant_(model.weight, value)
        first.update()
    again = MovingAverage(model, 0.9)
    again.load_state_dict(first.state_dict())
    nn.init.constant_(model.weight, 5.0)
    first.update()
    again.update()
    assert torch.equal(first.average["weight"], again.average["weight"])


@pytest.mark.parametrize(
    "fields",
    [
        {"label_smoothing": 0.1},
        {"mixup": 0.5},
        {"ema": 0.9},
        {"rotation": 20},
        {"cutout": 4},
        {"padding": 0},
        {"nesterov": False},
        {"decay_norms": False},
        {"schedule": "linear"},
        {"optimizer": "adam", "betas": (0.5, 0.9), "lr": 1e-3},
    ],
    ids=lambda fields: next(reversed(fields)),
)
def test_each_field_changes_the_victim(fields: dict[str, Any]) -> None:
    plain = {**EXACT, "epochs": 1}
    other = {name: value for name, value in fields.items() if name in ("optimizer", "lr")}
    assert not same_weights(train(**{**plain, **other}), train(**{**plain, **fields}))


def test_a_recipe_at_its_defaults_trains_as_the_shorter_one() -> None:
    rng = torch.Generator().manual_seed(7)
    split = some_images()
    with threads(1):
        victim = new_victim(split, 4, SmallCnn(width=8), rng)
        own = ClassifierRecipe(**EXACT)
        # The same loss as a function of its own: then fit knows nothing of the recipe's.
        fit(victim, split, own, rng, own_loss)
    assert same_weights(victim, train(**EXACT))


def test_a_resumed_training_ends_where_the_whole_one_does() -> None:
    kept: dict[str, bytes] = {}
    runtime = Runtime(save=lambda name, data: kept.setdefault(name, data) and None, every_seconds=0)
    whole = train(runtime, **ALL)
    assert same_weights(whole, train(Runtime(load=kept.get), **ALL))


def test_two_workers_give_the_weights_of_one() -> None:
    """Tolerance: 1e-3 relative, from sums in another order."""
    alone = weights_of(ALL)
    first, second = in_group(weights_of, ALL)
    for name, value in alone.items():
        assert first[name] == pytest.approx(value, rel=1e-3, abs=2e-4), name
        assert (first[name] == second[name]).all(), name


@pytest.mark.parametrize("field", ["label_smoothing", "mixup"])
def test_a_loss_of_its_own_refuses_what_it_would_leave_out(field: str) -> None:
    split = some_images()
    rng = torch.Generator().manual_seed(0)
    victim = new_victim(split, 4, SmallCnn(width=4), rng)

    with pytest.raises(UserError, match="mine: its loss has no label_smoothing"):
        fit(victim, split, ClassifierRecipe(epochs=1, **{field: 0.5}), rng, own_loss, "mine")


@pytest.mark.parametrize("field", ["label_smoothing", "mixup", "ema"])
def test_a_plan_refuses_it_under_an_attack_that_controls_training(field: str) -> None:
    trainer = {**TINY["trainers"][0], field: 0.5}
    attacks = [{"kind": "badnets"}, {"kind": "input_aware"}]
    asked = {**TINY, "attacks": attacks, "trainers": [trainer], "detectors": []}
    reasons = {cell.attack.kind: cell.infeasible for cell in parse(asked).cells()}
    assert reasons["badnets"] is None
    assert reasons["input_aware"] is not None
    assert f"a loss of its own, without {field}" in reasons["input_aware"]


def test_fields_at_their_defaults_are_not_in_a_description() -> None:
    described = ClassifierRecipe().model_dump(mode="json")
    later = {
        *("nesterov", "betas", "decay_norms", "patience", "padding", "rotation", "cutout"),
        *("label_smoothing", "mixup", "ema"),
    }
    assert later <= set(ClassifierRecipe.model_fields)
    assert not later & set(described)
    everything = ClassifierRecipe(
        nesterov=False,
        betas=(0.8, 0.9),
        decay_norms=False,
        patience=3,
        padding=0,
        rotation=5,
        cutout=2,
        label_smoothing=0.1,
        mixup=0.2,
        ema=0.9,
    )
    assert later <= set(everything.model_dump(mode="json"))
    assert ClassifierRecipe(**everything.model_dump(mode="json")) == everything
