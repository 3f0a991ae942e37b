"""Refool: its two kinds of reflections, its pictures, and what a victim learns of them."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from raybd.attacks.data.refool import Refool, candidates, misses
from raybd.attacks.data.refool.blending import DRAWS, Reflection, reflect, reflection_of
from raybd.attacks.data.refool.pictures import draw_picture
from raybd.poisoning.pixels import to_pixels
from raybd.types.data import Split
from raybd.types.errors import UserError
from raybd.types.methods import AttackInput
from tests.attacks.behaviour import learned
from tests.attacks.making import poison, stream, triggered
from tests.shared_victims import SharedVictims

GHOST = Reflection(0.0, True, 0.4, (1, 1), 0.3, 0.5, 1.1)
BLURRED = replace(GHOST, ghost=False)


@pytest.mark.parametrize("how", [GHOST, BLURRED])
def test_a_black_picture_darkens_the_image_by_its_weight(how: Reflection, train: Split) -> None:
    x = train.x_NCHW[:4]
    worn, layer = reflect(x, torch.zeros(3, 16, 16), how)
    expected = to_pixels(255 * 0.6 ** (1 / 2.2) * (x.float() / 255))
    assert torch.equal(to_pixels(worn), expected)
    assert (layer == 0).all()


def test_a_ghost_is_two_copies_of_the_picture() -> None:
    picture = torch.zeros((1, 8, 8))
    picture[0, 4, 4] = 255
    _, layer = reflect(torch.zeros((1, 1, 8, 8)), picture, replace(GHOST, shift=(2, 1)))
    light = (layer[0, 0] / 255) ** 2.2
    # Of 8 x 8 pixels, 6 x 7 overlap: the first copy has its spot at (2, 3), the second at (4, 4).
    # Stretched to 8 x 8 again, a spot has 8/6 * 8/7 of its light.
    assert float(light.sum()) == pytest.approx(0.4 * 8 / 6 * 8 / 7, rel=0.05)
    first, second = light[1:5, 2:5].sum(), light[5:8, 3:7].sum()
    assert float(first / (first + second)) == pytest.approx(0.3, abs=0.08)


def test_a_blurred_reflection_is_dark_at_the_border_and_where_it_would_exceed_white() -> None:
    white = torch.full((3, 33, 33), 255)
    _, layer = reflect(torch.zeros((1, 3, 33, 33)), white, BLURRED)
    light = (layer[0, 0] / 255) ** 2.2
    # Full in the middle; at the border three standard deviations away.
    assert float(light[16, 16]) == pytest.approx(1 - 0.6 / 2, abs=1e-4)
    assert float(light[0, 16] / light[16, 16]) == pytest.approx(2.718281828 ** (-4.5), abs=1e-4)

    # Over a white image the sum is 2 everywhere: 1.1 times the excess is more than the picture.
    _, layer = reflect(torch.full((1, 3, 33, 33), 255), white, BLURRED)
    assert (layer == 0).all()
    half = torch.full((1, 3, 33, 33), 255 * 0.5 ** (1 / 2.2))
    _, layer = reflect(half, white, BLURRED)
    light = (layer[0, 0] / 255) ** 2.2
    assert float(light[16, 16]) == pytest.approx((1 - 1.1 * 0.5) * 0.7, abs=1e-3)


def test_draws_as_many_ghosts_as_the_authors() -> None:
    draws = torch.rand((10_000, DRAWS), generator=stream())
    made = [reflection_of(draw, 0.05, 0.45, 560, 560) for draw in draws]
    ghosts = sum(how.ghost for how in made)
    assert abs(ghosts - 4900) < 4 * (10_000 * 0.49 * 0.51) ** 0.5
    assert [
        reflection_of(torch.full((DRAWS,), part), 0, 1, 560, 560).ghost for part in (0.48, 0.5)
    ] == [
        True,
        False,
    ]
    assert {how.shift[0] for how in made} == {3, 4, 5, 6, 7, 8}
    assert {how.shift[1] for how in made} == {3, 4, 5, 6, 7, 8}
    for values, low, high in (
        ([how.weight for how in made], 0.05, 0.45),
        ([min(how.mix, 1 - how.mix) for how in made], 0.15, 0.5),
        ([how.blur for how in made], 1, 5),
        ([how.attenuation for how in made], 1.08, 1.18),
    ):
        assert low <= min(values) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < max(values) <= high
    assert abs(sum(how.mix > 0.5 for how in made) - 5000) < 4 * 50


def test_shifts_and_blurs_shrink_with_the_image() -> None:
    most = torch.full((DRAWS,), 0.999)
    small, large = (reflection_of(most, 0.05, 0.45, side, side) for side in (32, 1120))
    assert small.shift == (1, 1) and small.blur == 0.5
    assert large.shift == (16, 16) and large.blur == pytest.approx(10, abs=0.1)


def test_the_pixels_of_an_image_choose_its_reflection(train: Split) -> None:
    poisoned = poison("refool", train)
    together = triggered(poisoned, train.x_NCHW[:20])
    turned = triggered(poisoned, train.x_NCHW[:20].flip(0)).flip(0)
    assert torch.equal(together, turned)
    assert torch.equal(triggered(poisoned, train.x_NCHW[:1]), together[:1])
    gray = torch.full((40, 3, 16, 16), 128, dtype=torch.uint8)
    gray[:, 0, 0, 0] = torch.arange(40, dtype=torch.uint8)
    assert len(triggered(poisoned, gray)[:, :, 1:].unique(dim=0)) > 20


def test_takes_pictures_that_miss_the_bounds_least(train: Split) -> None:
    # A black picture has no peak, so that it misses them on every image.
    black = torch.zeros((15, 3, 16, 16), dtype=torch.uint8)
    drawn = torch.stack([draw_picture(16, 16, stream(seed)) for seed in range(15)])
    given = AttackInput(train, 10, side_data=Split(torch.cat([black, drawn]), torch.zeros(30)))
    attack = Refool(pictures=5, candidates=30)
    chosen = attack.poison(given, stream()).state["picture_RCHW"]
    assert chosen.shape == (5, 3, 16, 16) and chosen.dtype == torch.uint8
    assert chosen.flatten(1).any(1).all()


def test_what_a_good_reflection_is() -> None:
    x = torch.stack([draw_picture(32, 32, stream(1))]).float()
    nothing = torch.zeros_like(x)
    noise = 45 * torch.randn(x.shape, generator=stream())
    similar = to_pixels(x + noise)
    layer = torch.full_like(x, 30)
    assert misses(x, x, layer) >= 0.15 - 1e-6
    assert misses(x, 255 - x, layer) > 0.15
    assert misses(x, similar, nothing) - misses(x, similar, layer) == pytest.approx(0.1, abs=1e-5)
    too_bright = misses(x, x + 200, torch.full_like(x, 200.0)) - misses(x, x + 200, layer)
    assert too_bright > 0


def test_pictures_of_the_side_data_are_taken_as_they_are(train: Split) -> None:
    side = Split(255 - train.x_NCHW[:30], train.y_N[:30])
    found = candidates(train, side, 20, stream())
    assert len(found.unique(dim=0)) == 20
    assert all((side.x_NCHW == one).flatten(1).all(1).any() for one in found)
    with pytest.raises(UserError, match=r"refool.*3, 16, 8.*3, 16, 16.*\n.*`size`"):
        candidates(train, Split(train.x_NCHW[..., :8], train.y_N), 20, stream())


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="least"):
        Refool(least=0.4, most=0.3)
    with pytest.raises(ValidationError, match="candidates"):
        Refool(pictures=20, candidates=10)


@pytest.mark.slow
@pytest.mark.data
def test_a_victim_learns_it(shared: SharedVictims, small_cifar10: dict[str, object]) -> None:
    attack = {"kind": "refool", "least": 0.4, "most": 0.4}
    success, by_the_trigger_alone = learned(shared, small_cifar10, attack)
    assert success > 0.5
    assert by_the_trigger_alone < success - 0.3
