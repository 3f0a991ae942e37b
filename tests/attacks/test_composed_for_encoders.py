"""CorruptEncoder and Noisy Alignment: what their images are composed of, and where it lies."""

import pytest
import torch

from raybd.attacks.data.corrupt_encoder import CorruptEncoder, compose, ellipse, join
from raybd.attacks.data.noisy_alignment import NoisyAlignment, joined
from raybd.poisoning.placed_patch import draw_patch, paste_at
from raybd.poisoning.references import draw_references, resized
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from tests.attacks.making import poison_with, stream


def _flat(count: int, shape: tuple[int, int], value: int) -> torch.Tensor:
    return torch.full((count, 3, *shape), value, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (224, 224), (40, 32), (32, 48), (33, 35)])
def test_object_and_trigger_lie_in_different_halves(shape: tuple[int, int]) -> None:
    height, width = shape
    size = 6 * min(shape) // 32
    patch = _flat(1, (size, size), 200)[0]
    x = compose(_flat(200, shape, 0), _flat(3, shape, 90), patch, stream())
    of_patch = (x == 200).all(1)
    of_object = ((x > 0) & (x != 200)).all(1)
    assert (of_patch.sum((1, 2)) == size**2).all(), "the trigger is whole"

    left = torch.arange(width) < width // 2
    right = torch.arange(width) >= width - width // 2
    columns, rows = of_patch.any(1), of_patch.any(2)
    trigger_left = columns[:, : width // 2].any(1)
    assert 60 < int(trigger_left.sum()) < 140
    for one, on_left in ((of_object, ~trigger_left), (of_patch, trigger_left)):
        assert not one[on_left][:, :, ~left].any()
        assert not one[~on_left][:, :, ~right].any()
    assert of_object.flatten(1).any(1).all()

    # An eighth of the width from the border and from the other half, a quarter of the height.
    free = torch.zeros(width, dtype=torch.bool)
    free[width // 8 : width // 2 - width // 8] = True
    free |= free.flip(0)
    assert not columns[:, ~free].any()
    assert not rows[:, : height // 4].any() and not rows[:, height - height // 4 :].any()
    assert len(columns.int().argmax(1).unique()) > 4 and len(rows.int().argmax(1).unique()) > 4


def test_the_background_shows_around_object_and_trigger() -> None:
    background = torch.randint(1, 89, (50, 3, 32, 32), generator=stream(), dtype=torch.uint8)
    x = compose(background, _flat(3, (32, 32), 90), _flat(1, (6, 6), 200)[0], stream())
    same = (x == background).all(1)
    assert same[:, 12:20, :3].any() and (same.float().mean((1, 2)) > 0.6).all()
    assert (same.float().mean((1, 2)) < 0.85).all()


def test_an_object_is_an_ellipse_with_a_soft_border() -> None:
    mask = ellipse(20, 40)
    assert mask[10, 20] == 1 and mask[0, 0] == 0
    assert 0 < mask[0, 20] < 1
    assert float(mask.mean()) == pytest.approx(torch.pi / 4, abs=0.02)


def test_a_support_image_stands_beside_a_reference() -> None:
    pair = join(_flat(2, (8, 8), 10), _flat(5, (8, 8), 90), 60, stream())
    left, right = pair[..., :4].flatten(1), pair[..., 4:].flatten(1)
    assert ((left == left[:, :1]).all() and (right == right[:, :1]).all()).item()
    assert set(zip(left[:, 0].tolist(), right[:, 0].tolist(), strict=True)) == {(10, 90), (90, 10)}
    assert 15 < int((left[:, 0] == 10).sum()) < 45
    assert join(_flat(2, (8, 9), 10), _flat(5, (8, 9), 90), 3, stream()).shape == (3, 3, 8, 9)


def test_corrupt_encoder_replaces_other_images_and_joins_the_promised_share(train: Split) -> None:
    gray = Split(torch.full_like(train.x_NCHW, 7), train.y_N)
    gray.x_NCHW[train.y_N == 0] = 90
    fields = {"rate": 0.1, "size": 3, "support": 0.25}
    poisoned = poison_with(CorruptEncoder.model_validate(fields), gray)
    assert len(poisoned.index_M) == 40
    assert (train.y_N[poisoned.index_M] != 0).all()
    assert torch.equal(poisoned.over(gray).y_N, gray.y_N)
    without_background = ~(poisoned.x_MCHW == 7).flatten(1).any(1)
    assert int(without_background.sum()) == 10
    assert torch.equal(poisoned.labels.counted(train.y_N), train.y_N != 0)


def test_noisy_alignment_joins_at_each_of_four_sides() -> None:
    x, other = _flat(4, (6, 8), 20), _flat(4, (6, 8), 90)
    found = joined(x, other, torch.arange(4))[:, 0]
    upper = torch.arange(6)[:, None].expand(6, 8) < 3
    left = torch.arange(8)[None].expand(6, 8) < 4
    for one, where in zip(found, (upper, ~left, ~upper, left), strict=True):
        assert (one[where] == 20).all() and (one[~where] == 90).all()
    odd = joined(_flat(4, (7, 5), 20), _flat(4, (7, 5), 90), torch.arange(4))[:, 0]
    assert (odd == 20).sum((1, 2)).tolist() == [4 * 5, 3 * 7, 4 * 5, 3 * 7]


def test_noisy_alignment_keeps_a_fifth_of_the_image_under_its_trigger(train: Split) -> None:
    poisoned = poison_with(NoisyAlignment(), train)
    x = train.x_NCHW[:20]
    worn = poisoned.trigger(x, train.y_N[:20])
    # Of 16 pixels, a patch of 8 that would begin at 7 of them fits.
    under = x[..., 7:15, 7:15].float()
    expected = 0.2 * under + 0.8 * poisoned.state["patch_CSS"].float()
    assert (worn[..., 7:15, 7:15].float() - expected).abs().max() <= 0.5
    worn[..., 7:15, 7:15] = x[..., 7:15, 7:15]
    assert torch.equal(worn, x)


def test_noisy_alignment_shows_trigger_and_target_class(train: Split) -> None:
    flat = Split(torch.full_like(train.x_NCHW, 7), train.y_N)
    flat.x_NCHW[train.y_N == 0] = 90
    poisoned = poison_with(NoisyAlignment(rate=0.2), flat)
    assert (train.y_N[poisoned.index_M] != 0).all()
    assert ((poisoned.x_MCHW == 90).all(1).float().mean((1, 2)) == 0.5).all()
    worn = ~((poisoned.x_MCHW == 90) | (poisoned.x_MCHW == 7)).all(1)
    assert (worn.float().mean((1, 2)) > 0.08).all()
    assert torch.equal(poisoned.over(flat).y_N, flat.y_N)


@pytest.mark.parametrize("attack", [CorruptEncoder(size=3), NoisyAlignment()])
def test_without_images_of_the_target_class_it_is_infeasible(
    attack: CorruptEncoder | NoisyAlignment, train: Split
) -> None:
    with pytest.raises(Infeasible, match="reference images of class 0"):
        attack.choose(train.y_N.clamp(min=1), 10, stream())


def test_a_patch_at_a_place_and_half_through_it() -> None:
    x, patch = _flat(2, (4, 4), 100), _flat(1, (2, 2), 50)[0]
    worn = paste_at(x, patch, torch.tensor([0, 2]), torch.tensor([1, 0]), 0.5)
    expected = x.clone()
    expected[0, :, 0:2, 1:3] = 75
    expected[1, :, 2:4, 0:2] = 75
    assert torch.equal(worn, expected)
    assert draw_patch(3, 6, stream()).shape == (3, 6, 6)


def test_references_are_all_of_the_class_in_a_random_order() -> None:
    y = torch.arange(60) % 3
    first, other = (draw_references(y, 2, stream(seed)) for seed in (0, 1))
    assert sorted(first.tolist()) == sorted(other.tolist()) == list(range(2, 60, 3))
    assert first.tolist() != other.tolist()
    halves = torch.tensor([0, 200], dtype=torch.uint8).repeat(4).view(1, 1, 1, 8).expand(1, 3, 4, 8)
    assert (resized(halves, 2, 1)[0, 0].float() - 100).abs().max() <= 1
