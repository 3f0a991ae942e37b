"""BPP: its levels, its negatives, and what a victim learns of them."""

import pytest
import torch

from raybd.attacks.data.bpp import Bpp
from raybd.types.data import CROSS, POISON, Split
from tests.attacks.behaviour import learned
from tests.attacks.making import poison
from tests.shared_victims import SharedVictims

ALL_VALUES = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def test_its_levels_are_spread_evenly() -> None:
    eight = Bpp(levels=8).stamp(ALL_VALUES, {})
    assert eight.unique().tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
    assert (eight[0, 0, 0, 0], eight[0, 0, 1, 2], eight[0, 0, 1, 3]) == (0, 0, 36)
    assert torch.equal(Bpp(levels=256).stamp(ALL_VALUES, {}), ALL_VALUES)


@pytest.mark.parametrize("levels", [2, 8, 32])
def test_twice_is_once(levels: int, train: Split) -> None:
    once = Bpp(levels=levels).stamp(train.x_NCHW, {})
    assert torch.equal(Bpp(levels=levels).stamp(once, {}), once)
    assert all(len(once[:, channel].unique()) <= levels for channel in range(3))


@pytest.mark.parametrize(("levels", "mean", "largest"), [(8, 9.1, 18), (32, 2.0, 4)])
def test_changes_uniform_pixels_as_measured(levels: int, mean: float, largest: int) -> None:
    change = Bpp(levels=levels).stamp(ALL_VALUES, {}).int() - ALL_VALUES.int()
    assert float(change.abs().float().mean()) == pytest.approx(mean, abs=0.1)
    assert int(change.abs().max()) == largest


def test_dithering_passes_errors_on() -> None:
    # 100 is nearest to 0: 7/16 of its error make 143.75 of its neighbour, and 3, 5 and 1 of 16 go
    # down. Then 143.75 becomes 255, and so on.
    x = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    right = 100 + 100 * 7 / 16
    error = right - 255
    below = 100 + 100 * 5 / 16 + error * 3 / 16
    assert below < 127.5
    last = 100 + 100 * 1 / 16 + error * 5 / 16 + below * 7 / 16
    expected = [0, 255, 0, 255 if last > 127.5 else 0]
    assert Bpp(levels=2, dithering=True).stamp(x, {}).flatten().tolist() == expected

    gray = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    dithered = Bpp(levels=2, dithering=True).stamp(gray, {})
    assert float(dithered.float().mean()) == pytest.approx(100, abs=8)
    assert (Bpp(levels=2).stamp(gray, {}) == 0).all()


def test_negatives_get_the_error_of_another_image_and_keep_their_label(train: Split) -> None:
    poisoned = poison("bpp", train, levels=4, negative_rate=0.2)
    cross_L = poisoned.index_M[poisoned.role_M == CROSS]
    assert len(cross_L) == 80
    assert int((poisoned.role_M == POISON).sum()) == 40
    assert torch.equal(poisoned.over(train).y_N[cross_L], train.y_N[cross_L])

    own = Bpp(levels=4).stamp(train.x_NCHW, {}).int() - train.x_NCHW.int()
    got = poisoned.x_MCHW[poisoned.role_M == CROSS].int()
    for row, image in zip(cross_L.tolist()[:20], got[:20], strict=True):
        made_NCHW = (train.x_NCHW[row].int() + own).clamp(0, 255)
        (source,) = torch.nonzero((made_NCHW == image).flatten(1).all(1)).flatten().tolist()
        assert source != row


@pytest.mark.slow
@pytest.mark.data
def test_a_victim_learns_it(shared: SharedVictims, small_cifar10: dict[str, object]) -> None:
    # Eight levels take more images: .18 on these.
    success, by_the_trigger_alone = learned(shared, small_cifar10, {"kind": "bpp", "levels": 4})
    assert success > 0.5
    assert by_the_trigger_alone < 0.3
