"""RNP: the task is unlearned and no more, masks recover it, and which channels go."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybd.cells.victim_quality import measure
from raybd.networks.small_cnn import SmallCnn
from raybd.repairs.rnp import Rnp
from raybd.training.held_out import fit_and_held
from raybd.training.models import new_victim
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.models import Victim
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import small_scene, stream
from tests.some_images import same_weights

QUICK: dict[str, Any] = {"batch_size": 8, "unlearn_epochs": 6, "mask_epochs": 4, "threshold": 0.8}


def scene() -> tuple[Victim, Split]:
    _, suspects, _ = small_scene()
    victim = new_victim(suspects, 3, SmallCnn(width=4), stream()).eval()
    return victim, suspects.select(torch.arange(60))


def heard(rnp: Rnp, victim: Victim, clean: Split) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """What it reports, and its facts."""
    found: list[dict[str, Any]] = []
    with running(Runtime(report=lambda facts: found.append(dict(facts)))):
        facts = rnp.repair(victim, clean, clean, stream()).facts
    return found, dict(facts)


def test_a_copy_loses_the_task_and_keeps_the_backdoor(shared: SharedVictims) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    victim = copy.deepcopy(trained.victim)
    progress = Rnp(batch_size=32).unlearn(victim, trained.dataset.clean, 0.2, stream())
    assert progress.accuracy <= 0.2
    assert 1 <= progress.epochs < 20
    left = measure(victim, trained.dataset, trained.poisoned)
    assert left["clean_accuracy"] is not None and left["clean_accuracy"] < 0.5
    assert left["attack_success"] is not None and left["attack_success"] > 0.5


def test_unlearning_stops_where_the_task_is_lost_and_reports_each_epoch() -> None:
    victim, clean = scene()
    reports, facts = heard(Rnp(**QUICK, lost_at=0.99), victim, clean)
    lost = [one for one in reports if one["name"] == "rnp unlearning"]
    assert len(lost) == facts["unlearning_epochs"] == 1
    assert lost[0]["accuracy"] == facts["unlearned_accuracy"]
    assert [one["epoch"] for one in reports if one["name"] == "rnp masks"] == [1, 2, 3, 4]


def test_the_loss_rises_while_the_copy_unlearns() -> None:
    victim, clean = scene()
    reports: list[dict[str, Any]] = []
    with running(Runtime(report=lambda facts: reports.append(dict(facts)))):
        # Noise is lost at once; a bound below zero lets it go on.
        Rnp(**QUICK).unlearn(copy.deepcopy(victim), clean, -1.0, stream())
    losses = [one["loss"] for one in reports]
    assert len(losses) == 6
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 0.5


def test_few_classes_are_lost_at_one_and_a_half_times_chance() -> None:
    # Three classes: at an accuracy of .5, above the .2 of the field.
    victim, clean = scene()
    _, facts = heard(Rnp(**QUICK), victim, clean)
    assert facts["unlearning_epochs"] < 6
    assert 0.2 < facts["unlearned_accuracy"] <= 0.5


def test_a_task_that_is_not_lost_is_said() -> None:
    victim, clean = scene()
    rnp = Rnp(**{**QUICK, "threshold": 0.0}, lost_at=1e-9, unlearn_lr=1e-5)
    bright = Split(victim.preprocess(clean.x_NCHW).gt(9).byte(), torch.zeros(60).long())
    assert victim.head is not None
    with torch.no_grad():
        victim.head.bias[0] = 50  # type: ignore[index]
    warning = rnp.repair(victim, bright, bright, stream()).warning
    assert warning is not None
    assert warning.startswith("the copy kept an accuracy of 1.00 on clean images, above 0.50")
    assert "nothing was pruned" in warning, "the other warning is not lost"


def test_one_step_of_the_masks_is_that_of_the_papers_loss() -> None:
    """Masks go down alpha times the loss of the unlearned copy, on batch statistics."""
    victim, clean = scene()
    one = Rnp(batch_size=500, unlearn_epochs=1, mask_epochs=1, mask_lr=0.5, alpha=0.3)
    masks = one.masks(victim, clean, stream())
    changed = copy.deepcopy(victim).train()
    F.cross_entropy(changed(clean.x_NCHW), clean.y_N).backward()  # type: ignore[no-untyped-call]
    for name, mask_C in masks.items():
        norm = changed.encoder.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d) and norm.weight.grad is not None
        slope_C = 0.3 * norm.weight.grad * norm.weight.detach()
        assert torch.allclose(mask_C, (1 - 0.5 * 1.9 * slope_C).clamp(0, 1), atol=1e-5)
    assert any((mask_C < 1).any() for mask_C in masks.values())


def test_the_masks_are_those_of_the_unlearned_copy() -> None:
    victim, clean = scene()
    rnp = Rnp(**QUICK, mask_lr=2.0)
    rng = stream(7)
    fit, _ = fit_and_held(clean, rng)
    copied = copy.deepcopy(victim)
    rnp.unlearn(copied, fit, 0.5, rng)
    masks = rnp.masks(copied, fit, rng)
    facts = rnp.repair(victim, clean, clean, stream(7)).facts
    for name, mask_C in masks.items():
        assert facts[f"least_mask[{name}]"] == pytest.approx(float(mask_C.min()))
    assert min(float(mask_C.min()) for mask_C in masks.values()) < 1


def test_the_untouched_victim_is_pruned_not_the_unlearned_copy() -> None:
    victim, clean = scene()
    defended = Rnp(**{**QUICK, "mask_lr": 5.0}).repair(victim, clean, clean, stream())
    after = defended.victim.state_dict()
    pruned = 0
    for name, value in victim.state_dict().items():
        if name in [f"encoder.{at}.weight" for at in (1, 4, 7, 10)]:
            silent = after[name] == 0
            assert torch.equal(after[name][~silent], value[~silent])
            pruned += int(silent.sum())
        else:
            assert torch.equal(after[name], value), name
    assert pruned == defended.facts["pruned_channels"] > 0


def test_a_resumed_repair_ends_where_the_whole_one_does() -> None:
    victim, clean = scene()
    kept: dict[str, list[bytes]] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, []).append(data)

    rnp = Rnp(**QUICK, mask_lr=2.0, lost_at=0.3)
    with running(Runtime(save=save, every_seconds=0)):
        whole = rnp.repair(victim, clean, clean, stream())
    assert set(kept) == {"rnp unlearning", "rnp masks"}
    for place in (0, -1):
        # The last checkpoint of the unlearning is that of an epoch behind which it stopped.
        with running(Runtime(load=lambda name, place=place: kept[name][place])):  # type: ignore[misc]
            resumed = rnp.repair(victim, clean, clean, stream())
        assert same_weights(whole.victim, resumed.victim)
        assert whole.facts == resumed.facts


def test_an_ascent_that_goes_too_far_says_what_to_do() -> None:
    victim, clean = scene()
    with pytest.raises(UserError, match="Lower unlearn_lr"):
        Rnp(**QUICK, lost_at=1e-9, unlearn_lr=1e30).repair(victim, clean, clean, stream())
