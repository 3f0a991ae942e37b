"""Images that are higher than wide, or wider than high: every role takes them."""

from typing import Any, cast

import pytest
import torch

from raybd.attacks.data.wanet import draw_grid
from raybd.canaries.triggers import FAMILIES
from raybd.networks.small_cnn import SmallCnn
from raybd.networks.vit_tiny import VitTiny
from raybd.registry import method_class, names
from raybd.training.models import new_victim
from raybd.types.data import POISON, Split
from raybd.types.errors import UserError
from raybd.types.methods import Detector, Repair, Scanner
from raybd.types.models import Victim
from tests.attacks.making import READ_FROM_FILES, make, poison_with, triggered
from tests.contracts.test_detectors import SMALL as SMALL_DETECTORS
from tests.contracts.test_repairs import SMALL as SMALL_REPAIRS
from tests.contracts.test_scanners import SMALL as SMALL_SCANNERS
from tests.small_scene import stream
from tests.trainers.making import trainer

SHAPES = [(20, 14), (14, 20)]


def _images(n: int, shape: tuple[int, int], classes: int = 10) -> Split:
    x_NCHW = torch.randint(0, 256, (n, 3, *shape), generator=stream(), dtype=torch.uint8)
    return Split(x_NCHW, torch.arange(n) % classes, tuple("abcdefghij"[:classes]))


def _victim(split: Split) -> Victim:
    return new_victim(split, 3, SmallCnn(width=8), stream()).eval()


@pytest.mark.parametrize("shape", SHAPES)
# `given` poisons nothing: its images came so.
@pytest.mark.parametrize(
    "kind", [kind for kind in names("attacks") if kind not in {*READ_FROM_FILES, "given"}]
)
def test_attacks_change_oblong_images_where_they_should(kind: str, shape: tuple[int, int]) -> None:
    train = _images(200, shape)
    attack = make(kind)
    poisoned = poison_with(attack, train)
    changed_N = (poisoned.over(train).x_NCHW != train.x_NCHW).flatten(1).any(1)
    worn = triggered(poisoned, train.x_NCHW[:8])
    assert worn.shape == (8, 3, *shape)
    # The generator of input_aware needs more images than these to learn a trigger.
    if attack.has_trigger and kind != "input_aware":
        assert changed_N[poisoned.index_M[poisoned.role_M == POISON]].all()
        assert (worn != train.x_NCHW[:8]).flatten(1).any(1).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_canaries_change_oblong_images(family: Any, shape: tuple[int, int]) -> None:
    x_NCHW = _images(4, shape).x_NCHW.float()
    for seed in range(8):
        worn_NCHW = family(x_NCHW.shape, stream(seed))(x_NCHW)
        assert worn_NCHW.shape == x_NCHW.shape
        assert (worn_NCHW != x_NCHW).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", names("detectors"))
def test_detectors_score_oblong_images(kind: str) -> None:
    suspects = _images(60, (20, 14), 3)
    fields = {**SMALL_DETECTORS.get(kind, {}), **({"patch": 2} if kind == "dede" else {})}
    detector = cast(Detector, method_class("detectors", kind).model_validate(fields))
    verdict = detector.score(_victim(suspects), suspects, _images(30, (20, 14), 3), stream())
    assert verdict.score_N.shape == (60,)
    assert torch.isfinite(verdict.score_N).all()


@pytest.mark.parametrize("kind", names("scanners"))
def test_scanners_take_oblong_images(kind: str) -> None:
    clean = _images(30, (20, 14), 3)
    fields = SMALL_SCANNERS.get(kind, {})
    scanner = cast(Scanner, method_class("scanners", kind).model_validate(fields))
    verdict = scanner.scan(_victim(clean), clean, stream())
    assert torch.isfinite(verdict.score_N).all()


@pytest.mark.parametrize("kind", names("repairs"))
def test_repairs_take_oblong_images(kind: str) -> None:
    clean = _images(30, (20, 14), 3)
    fields = SMALL_REPAIRS.get(kind, {})
    repair = cast(Repair, method_class("repairs", kind).model_validate(fields))
    defended = repair.repair(_victim(clean), clean, clean, stream())
    assert defended.victim(clean.x_NCHW).shape == (30, 3)


@pytest.mark.parametrize("kind", ["simclr", "supcon"])
def test_encoders_learn_from_oblong_images(kind: str) -> None:
    split = _images(50, (20, 14), 4)
    victim = trainer(kind, epochs=1, views={"blur": 1}).train(split, 4, SmallCnn(width=4), stream())
    assert victim(split.x_NCHW[:2]).shape == (2, 16)


def test_a_network_that_takes_squares_only_refuses_other_images() -> None:
    split = _images(50, (20, 16), 4)
    network = VitTiny(width=16, depth=2, heads=2)
    for kind in ("simclr", "mae"):
        with pytest.raises(UserError, match="16 x 20"):
            trainer(kind, epochs=1).train(split, 4, network, stream())


def test_a_warp_moves_by_the_same_number_of_pixels_along_both_sides() -> None:
    high = draw_grid(40, 24, 4, 0.5, stream())
    assert high.shape == (40, 24, 2)
    still = draw_grid(40, 24, 4, 0.0, stream())
    assert still[0, 0].tolist() == [-1, -1] and still[-1, -1].tolist() == [1, 1]
    assert float((high - still)[..., 0].abs().max()) <= 0.5 * 4 / 24
    assert float((high - still)[..., 1].abs().max()) <= 0.5 * 4 / 40
