"""The first network of CBD: its steps, its losses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.networks.small_cnn import SmallCnn
from raybd.training.loop import fit
from raybd.training.models import new_victim
from raybd.training.recipe import Recipe
from raybd.training.trusted import trusted_accuracy
from raybd.training_defenses.cbd.first_network import (
    Snapshots,
    shortcut_loss,
)
from tests.training_defenses.making import NONE, TINY, digits, seeded, unequal_digits


@pytest.mark.parametrize("steps", [4, 6, 10])
def test_the_first_network_is_what_exactly_so_many_steps_make(steps: int) -> None:
    """An epoch is 3 steps of 33 images, so that 6 steps end with an epoch, 4 and 10 within one."""
    cbd = TINY.model_copy(update={"first_steps": steps})
    first, _, _ = cbd.train_first(digits(), NONE, 10, SmallCnn(width=8), seeded(3))
    rng, seen = seeded(3), list[dict[str, Tensor]]()

    def look(model: torch.nn.Module, x_BCHW: Tensor, y_B: Tensor, rows_B: Tensor) -> Tensor:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return F.cross_entropy(model(x_BCHW), y_B, reduction="none")

    recipe = Recipe(
        epochs=5,
        batch_size=33,
        lr=0.05,
        weight_decay=1e-4,
        schedule="constant",
        augment="flip",
        precision="fp32",
    )
    fit(new_victim(digits(), 10, SmallCnn(width=8), rng), digits(), recipe, rng, look)
    assert all(torch.equal(value, seen[steps][name]) for name, value in first.state_dict().items())


def test_snapshots_are_spread_over_the_steps_and_combined() -> None:
    victim = new_victim(digits(), 10, SmallCnn(width=8), seeded(0))
    assert Snapshots(victim, digits(), NONE, "ce", 3910, 5).due == {782, 1564, 2346, 3128, 3910}
    assert Snapshots(victim, digits(), NONE, "ce", 80, 1).due == {80}
    snapshots = Snapshots(victim, digits(), NONE, "ce", 3, 3)
    snapshots.losses = {
        1: torch.tensor([0.0, 5.0]),
        2: torch.tensor([3.0, 1.0]),
        3: torch.tensor([9.0, 3.0]),
    }
    assert snapshots.combined("median").tolist() == [3, 3]
    assert snapshots.combined("mean").tolist() == [4, 3]
    assert snapshots.combined("min").tolist() == [0, 1]


def test_the_first_network_is_held_against_its_best_snapshot_on_trusted_images() -> None:
    train, clean, _ = unequal_digits()
    cbd = TINY.model_copy(update={"first_steps": 60, "snapshots": 3, "augment": "none"})
    victim, _, best = cbd.train_first(train, clean, 10, SmallCnn(width=8), seeded(3))
    last = trusted_accuracy(victim, clean)
    assert best is not None and last is not None
    assert best >= last > 0.2
    snapshots = Snapshots(victim, train, clean, "ce", 3, 3)
    snapshots.accuracies = {1: 0.5, 2: 0.7, 3: 0.6}
    assert snapshots.best_accuracy == 0.7
    assert Snapshots(victim, train, NONE, "ce", 3, 3).best_accuracy is None


def test_the_shortcut_losses_are_those_of_their_papers() -> None:
    logits_BK, y_B = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    p_B = logits_BK.softmax(1)[:, 0]
    assert torch.allclose(shortcut_loss("gce", logits_BK, y_B), (1 - p_B**0.7) / 0.7, atol=1e-6)
    assert torch.allclose(
        shortcut_loss("lga", logits_BK, y_B), torch.stack([p_B[0].log(), -p_B[1].log()]), atol=1e-6
    )
