"""BTI-DBF: its losses against the formulas, its generator, and how a verdict follows."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybd.scanners.bti_dbf import BtiDbf
from raybd.scanners.bti_dbf.generator import Painter, UNet
from raybd.scanners.bti_dbf.goal import Goal, decoupling_loss, mean_deviation
from raybd.training.runtime import Runtime, running
from raybd.types.data import Split
from raybd.types.errors import Infeasible, UserError
from raybd.types.models import Victim
from raybd.types.verdicts import Suspicion
from tests.scanners.classifiers import CLASSES, SIDE, classifier, some_images
from tests.small_scene import images, stream

QUICK: dict[str, Any] = {
    "batch_size": 20,
    "mask_epochs": 5,
    "pretrain_epochs": 3,
    "trigger_epochs": 3,
    "width": 4,
    "depth": 1,
}


def scanned(victim: Victim, clean: Split | None = None, **fields: Any) -> Suspicion:
    return BtiDbf.model_validate({**QUICK, **fields}).scan(
        victim, clean or some_images(), stream(1)
    )


def test_the_mask_keeps_what_is_said_and_its_complement_loses_it() -> None:
    head = nn.Linear(4, 3)
    z_BD, y_B = 5 * torch.rand((6, 4), generator=stream()), torch.arange(6) % 3
    mask_D = torch.tensor([0.9, 0.8, 0.3, 0.1])
    apart = [
        F.cross_entropy(head((1 - mask_D) * z)[None], y[None])
        for z, y in zip(z_BD, y_B, strict=True)
    ]
    assert any(loss > 1.5 * math.log(3) for loss in apart), "the bound acts"
    capped = sum(min(loss.item(), 1.5 * math.log(3)) for loss in apart) / 6
    expected = F.cross_entropy(head(mask_D * z_BD), y_B).item() - capped
    assert decoupling_loss(head, mask_D, z_BD, y_B, cap=1.5).item() == pytest.approx(
        expected, rel=1e-5
    )


def goal(away: bool, shift: float = 0.0, **fields: Any) -> tuple[Goal, Victim]:
    """Return a goal whose generator adds a shift to each pixel, in deviations of its channel."""
    victim = classifier(20.0).requires_grad_(False)
    victim.mean_C[:], victim.std_C[:] = 0.5, 0.25
    painter = Painter(victim, 4, 1, stream())
    painter.network = _Shift(shift)
    # Not the mirror of its complement: the two kinds of features must not be exchangeable.
    mask_D = torch.linspace(0, 1, 13).square()
    made = Goal(BtiDbf.model_validate({**QUICK, **fields}), victim, painter, mask_D, 0.5)
    made.away = away
    return made, victim


class _Shift(UNet):
    """Adds a number; stands in for a trained generator."""

    def __init__(self, shift: float) -> None:
        super().__init__(3, 4, 1)
        self.shift = shift

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.shift


def gray() -> torch.Tensor:
    """Return images that stay within black and white when they are shifted by a deviation."""
    return 96 + images(5, side=SIDE) // 4


def test_changes_are_in_the_units_of_pixels_and_features() -> None:
    made, victim = goal(True, 0.4)
    x_BCHW = gray()
    changes = made.changes(x_BCHW)
    assert float(changes.pixels) == pytest.approx(0.4**2, rel=1e-3)
    moved_BD = (victim.embed(x_BCHW + 0.4 * 255 * 0.25) - victim.embed(x_BCHW)) / 0.5
    assert torch.allclose(changes.benign, (made.mask_D * moved_BD).square().mean(), rtol=1e-3)
    assert torch.allclose(changes.others, ((1 - made.mask_D) * moved_BD).square().mean(), rtol=1e-3)


def test_a_trigger_moves_the_other_features_within_its_bounds() -> None:
    x_BCHW = gray()
    made, _ = goal(True, 0.4, benign_weight=0.5)
    changes = made.changes(x_BCHW)
    assert float(made.loss(x_BCHW)) == pytest.approx(
        0.5 * float(changes.benign) - float(changes.others), rel=1e-4
    )
    # Beyond either bound, it is drawn back to the image.
    for bound in ({"pixel_bound": 0.15}, {"feature_bound": 1e-3}):
        too_far, _ = goal(True, 0.4, **bound)
        assert float(too_far.loss(x_BCHW)) == pytest.approx(0.16, rel=1e-3)


def test_reproducing_compares_predictions_features_and_far_pixels() -> None:
    x_BCHW = gray()
    for near, weight in ((0.1, 100.0), (0.2, 0.01)):
        made, victim = goal(False, 0.4, near=near)
        painted_BCHW = x_BCHW + 0.4 * 255 * 0.25
        predictions = F.cross_entropy(victim(painted_BCHW), victim(x_BCHW).softmax(1))
        moved_BD = (victim.embed(painted_BCHW) - victim.embed(x_BCHW)) / 0.5
        expected = predictions + moved_BD.square().mean() + weight * 0.16
        assert float(made.loss(x_BCHW)) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (20, 14), (7, 5)])
def test_the_generator_returns_images_of_the_size_that_it_was_given(shape: tuple[int, int]) -> None:
    x_BCHW = torch.rand((2, 3, *shape), generator=stream())
    network = UNet(3, 4, 3)
    out_BCHW = network(x_BCHW)
    assert out_BCHW.shape == x_BCHW.shape
    assert torch.allclose(network(x_BCHW[:1]), out_BCHW[:1], atol=1e-5), "no image sees others"


def test_a_painter_returns_pixels_and_adds_noise_before() -> None:
    victim = classifier(1.0)
    victim.mean_C[:], victim.std_C[:] = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    painter, x_BCHW = Painter(victim, 4, 1, stream()), gray()
    assert torch.allclose(painter.units(x_BCHW), victim.preprocess(x_BCHW), atol=1e-4)
    painter.network = _Shift(0.0)
    assert torch.allclose(painter(x_BCHW), x_BCHW.float(), atol=1e-3)
    noise = torch.full(x_BCHW.shape, 0.5)
    moved_C = (painter(x_BCHW, noise) - x_BCHW.float()).mean((0, 2, 3))
    assert moved_C.tolist() == pytest.approx([12.75, 25.5, 38.25], rel=1e-2)
    painter.network = _Shift(100.0)
    assert painter(x_BCHW).eq(255).all()


def test_the_unit_of_features_is_the_root_of_their_mean_variance() -> None:
    z_ND = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert mean_deviation(z_ND) == pytest.approx(math.sqrt(0.5))
    assert mean_deviation(torch.ones(3, 2)) > 0


def test_the_score_is_how_much_the_share_of_the_commonest_prediction_grows() -> None:
    victim, clean = classifier(20.0), some_images(40)
    found = scanned(victim, clean)
    index_K = found.tensors["index"]
    assert float(index_K.sum()) == pytest.approx(0, abs=1e-6), "shares are shares"
    before_K = torch.bincount(victim(clean.x_NCHW).argmax(1), minlength=CLASSES) / 40
    after_K = before_K + index_K
    commonest = int(found.facts["suspected_class"])
    assert commonest == int(after_K.argmax())
    assert float(found.score_N) == pytest.approx(float(index_K[commonest]))
    assert float(found.score_N) == pytest.approx(found.facts[f"index[{commonest}]"])
    assert float(found.threshold_N) == pytest.approx(2 / CLASSES)
    assert found.tensors["flagged"].sum() == int(float(found.score_N) > 2 / CLASSES)
    assert found.tensors["mask"].shape == (SIDE, SIDE)
    assert float(found.tensors["mask"].max()) == pytest.approx(1)
    assert found.tensors["feature_mask"].shape == (13,)


def test_a_mask_that_learns_long_enough_holds_what_the_classes_need() -> None:
    """The classes are told apart by six features; the head does not read six others."""
    victim = classifier(0.0)
    found = scanned(victim, some_images(60), mask_epochs=150, mask_lr=0.1)
    untouched = scanned(victim, some_images(60), mask_epochs=1, mask_lr=1e-6)
    kept, before = (one.tensors["feature_mask"] for one in (found, untouched))
    assert kept[:6].median() > 0.9
    assert torch.allclose(kept[6:12], before[6:12], atol=1e-3)


def test_it_warns_if_the_generator_reproduces_nothing() -> None:
    victim = classifier(20.0)
    poor = scanned(victim, lr=1e-6)
    assert poor.facts["reproduced"] < 0.5
    assert poor.warning is not None and "raise pretrain_epochs" in poor.warning
    good = scanned(victim, pretrain_epochs=150, width=8, lr=0.003, near=0.01)
    assert good.facts["reproduced"] >= 0.5
    assert good.warning is None


def test_a_resumed_scan_ends_where_the_whole_one_does() -> None:
    kept: dict[str, bytes] = {}

    def save(name: str, data: bytes) -> None:
        kept.setdefault(name, data)

    with running(Runtime(save=save, every_seconds=0)):
        whole = scanned(classifier(20.0))
    assert len(kept) == 3
    with running(Runtime(load=kept.get)):
        resumed = scanned(classifier(20.0))
    assert resumed.facts == whole.facts


def test_it_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(UserError, match="1 clean images"):
        scanned(classifier(0.0), some_images(1))
    with pytest.raises(Infeasible, match="bti_dbf compares classes"):
        scanned(classifier(0.0), least_classes=7)
    headless = classifier(0.0)
    headless.head = None
    with pytest.raises(Infeasible, match="needs a classifier"):
        scanned(headless)
    assert BtiDbf().cannot(headless.encoder, 4) is not None
