"""Unlearning: which images wear which trigger, and what a trigger does before and after."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.cells.victim_quality import measure
from raybd.repairs.neural_cleanse import NeuralCleanse, stamp, triggers_work
from raybd.types.data import Split
from tests.shared_victims import DIGITS, SharedVictims
from tests.small_scene import small_scene, stream


def found(flagged: list[int], classes: int = 3, side: int = 16) -> dict[str, Tensor]:
    """Triggers of some classes: a square of its own brightness in the corner; class 1 is small."""
    mask_KHW = torch.zeros(classes, side, side)
    for k in range(classes):
        mask_KHW[k, : 4 - (k == 1), :4] = 1
    shade_K = torch.linspace(0.2, 1, classes)
    return {
        "mask": mask_KHW,
        "pattern": shade_K.view(-1, 1, 1, 1).expand(-1, 3, side, side).contiguous(),
        "norm": mask_KHW.sum((1, 2)),
        "index": torch.tensor([3.0 if k in flagged else 0.5 for k in range(classes)]),
        "flagged": torch.tensor([k in flagged for k in range(classes)]),
    }


def worn_by(split: Split, scan: dict[str, Tensor], k: int) -> Tensor:
    """Which images wear the trigger of a class."""
    return (stamp(split.x_NCHW, scan["mask"][k], scan["pattern"][k]) == split.x_NCHW).all((1, 2, 3))


def test_a_fifth_of_the_images_wears_the_trigger_and_keeps_its_label() -> None:
    clean, scan = small_scene()[1], found([1])
    shown = NeuralCleanse().stamped(clean, scan, [1], stream())
    assert int(worn_by(shown, scan, 1).sum()) == 18 == round(0.2 * len(clean))
    assert torch.equal(shown.y_N, clean.y_N)
    assert not worn_by(clean, scan, 1).any(), "the images of the defender are left alone"
    plain_N = ~worn_by(shown, scan, 1)
    assert torch.equal(shown.x_NCHW[plain_N], clean.x_NCHW[plain_N])


def test_each_flagged_class_has_images_of_its_own() -> None:
    clean, scan = small_scene()[1], found([0, 2])
    shown = NeuralCleanse(share=0.2).stamped(clean, scan, [0, 2], stream())
    assert [int(worn_by(shown, scan, k).sum()) for k in range(3)] == [18, 0, 18]
    # Of three classes with half of the images each, every one gets a third.
    all_of_them = NeuralCleanse(share=0.5).stamped(clean, found([0, 1, 2]), [0, 1, 2], stream())
    squares = [int(worn_by(all_of_them, scan, k).sum()) for k in range(3)]
    assert sum(squares) == 90 and squares == [30, 30, 30]


def test_a_trigger_is_rounded_to_whole_pixels_of_the_image_alone() -> None:
    x = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    mask = torch.tensor([[0.25, 0.0], [1.0, 0.001]])
    worn = stamp(x, mask, torch.full((3, 2, 2), 0.5))
    # .75 * 100 + .25 * 127.5 = 106.9; 127.5 rounds to the even 128.
    assert worn[0, 0].tolist() == [[107, 100], [128, 100]]


def test_where_no_class_is_flagged_the_victim_stays_and_the_row_says_so() -> None:
    victim, suspects, clean = small_scene()
    for scan, says in ((found([]), "largest anomaly index 0.50"), ({}, "no scan")):
        defended = NeuralCleanse().repair_with(scan, victim, suspects, clean, stream())
        assert defended.warning is not None
        assert "not triggered" in defended.warning and says in defended.warning
        assert defended.facts == {"unlearned": 0.0}
        now = defended.victim.state_dict()
        assert all(torch.equal(now[name], part) for name, part in victim.state_dict().items())
        assert defended.victim is not victim


def test_the_smallest_mask_is_unlearned_where_that_is_asked_for() -> None:
    victim, suspects, clean = small_scene()
    quick: dict[str, Any] = {"epochs": 1, "batch_size": 10}
    forced = NeuralCleanse(**quick, force="smallest")
    # As if class 1 had been flagged; and where others are flagged, it is as it would be anyway.
    for scan, flagged in ((found([]), [1]), (found([0, 2]), [0, 2])):
        one = forced.repair_with(scan, victim, suspects, clean, stream())
        two = NeuralCleanse(**quick).repair_with(found(flagged), victim, suspects, clean, stream())
        assert one.facts == two.facts
        assert one.facts["unlearned"] == len(flagged)
        assert 0 <= one.facts["triggers_work_before"] <= 1
        weights = two.victim.state_dict()
        assert all(torch.equal(part, weights[n]) for n, part in one.victim.state_dict().items())
        assert not torch.equal(weights["head.weight"], victim.state_dict()["head.weight"])


def test_a_trigger_works_on_the_images_of_other_classes_alone() -> None:
    victim, _, clean = small_scene()
    scan = found([0])
    others = clean.select(clean.y_N != 0)
    with torch.no_grad():
        said = victim(stamp(others.x_NCHW, scan["mask"][0], scan["pattern"][0])).argmax(1)
    assert triggers_work(victim, clean, scan, [0]) == pytest.approx(
        float((said == 0).float().mean())
    )
    only = clean.select(clean.y_N == 0)
    assert triggers_work(victim, only, scan, [0]) == 0


def perfect_scan(side: int) -> dict[str, Tensor]:
    """What a perfect scan of badnets on digits would find: a white corner of three pixels."""
    scan = found([0], classes=10, side=side)
    scan["mask"][0] = 0
    scan["mask"][0, -3:, -3:] = 1
    scan["pattern"][0] = 1
    return scan


def test_it_unlearns_the_trigger_of_a_real_victim(shared: SharedVictims) -> None:
    trained = shared.classifier(DIGITS, {"kind": "badnets", "rate": 0.1})
    victim, dataset, poisoned = trained.victim, trained.dataset, trained.poisoned
    scan = perfect_scan(dataset.train.x_NCHW.shape[-1])
    repair = NeuralCleanse(epochs=30, lr=0.05, batch_size=32, augment="none")
    defended = repair.repair_with(scan, victim, dataset.train, dataset.clean, stream())
    assert defended.facts["triggers_work_before"] > 0.9
    assert defended.facts["triggers_work_after"] < 0.1
    assert defended.warning is None
    after = measure(defended.victim, dataset, poisoned)
    assert after["attack_success"] is not None and after["attack_success"] < 0.1
    assert after["clean_accuracy"] is not None and after["clean_accuracy"] > 0.9

    # A rate at which nothing is learned.
    still = repair.model_copy(update={"lr": 1e-6, "epochs": 1})
    idle = still.repair_with(scan, victim, dataset.train, dataset.clean, stream())
    assert idle.warning is not None and "still work" in idle.warning
