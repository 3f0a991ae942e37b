"""ShrinkPad: where an image goes, what is around it, and that it stays where it is."""

import pytest
import torch
from torch import Tensor, nn

from raybd.repairs.shrink_pad import ShrinkAndPad, ShrinkPad
from raybd.training.inference import infer
from raybd.types.data import Split
from raybd.types.errors import Infeasible
from raybd.types.models import Victim
from tests.small_scene import images, small_scene, stream

MEAN = torch.tensor([0.5, 0.4, 0.3])
STD = torch.tensor([0.2, 0.25, 0.3])


def shown(size: int, x_NCHW: Tensor) -> Tensor:
    """What an encoder behind the transform is given, in pixels of 0..255."""
    victim = Victim(nn.Identity(), None, MEAN, STD, nn.Sequential(ShrinkAndPad(size, MEAN, STD)))
    normalised = victim.eval().embed(x_NCHW)
    return (normalised * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1)) * 255


def test_an_image_is_shrunk_and_what_is_around_it_is_black() -> None:
    flat = torch.full((40, 3, 12, 12), 100, dtype=torch.uint8)
    flat[torch.arange(40), 0, 0, 0] = torch.arange(40, dtype=torch.uint8)  # 40 different images
    out = shown(4, flat)
    gray = (out[:, 2] - 100).abs() < 1e-2
    black = out.abs().amax(1) < 1e-2
    assert (gray ^ black).all(), "each position is one or the other"
    for one in gray:
        rows = one.any(1).nonzero().flatten()
        columns = one.any(0).nonzero().flatten()
        assert len(rows) == len(columns) == 8
        assert int(one.sum()) == 64, "a square"


def test_the_shrunk_image_is_the_bilinear_one_at_the_place_of_its_hash() -> None:
    x = images(6)
    transform = ShrinkAndPad(3, MEAN, STD)
    victim = Victim(nn.Identity(), None, MEAN, STD)
    top, left = transform.places(victim.preprocess(x))
    small = nn.functional.interpolate(x.float(), (13, 13), mode="bilinear", antialias=True)
    for row, out in enumerate(shown(3, x)):
        t, b = int(top[row]), int(left[row])
        assert torch.allclose(out[:, t : t + 13, b : b + 13], small[row], atol=0.01)


def test_an_image_has_one_place_whatever_stands_beside_it_and_images_have_many() -> None:
    x = images(200)
    whole = shown(4, x)
    assert torch.allclose(shown(4, x[7:8])[0], whole[7], atol=1e-4)
    order = torch.randperm(200, generator=stream(1))
    assert torch.allclose(shown(4, x[order]), whole[order], atol=1e-4)

    victim = Victim(nn.Identity(), None, MEAN, STD)
    top, left = ShrinkAndPad(4, MEAN, STD).places(victim.preprocess(x))
    seen = {(int(t), int(b)) for t, b in zip(top, left, strict=True)}
    assert seen <= {(t, b) for t in range(5) for b in range(5)}
    assert len(seen) > 20, "200 images take nearly all of 25 places"


def test_gradients_reach_the_image() -> None:
    x = images(3).float().requires_grad_()
    shown(2, x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().flatten(1).sum(1) > 0).all()


def test_the_repaired_victim_sees_the_transformed_images_and_can_be_loaded() -> None:
    victim, suspects, clean = small_scene()
    repair = ShrinkPad(size=5)
    defended = repair.repair(victim, suspects, clean, stream())
    assert defended.facts["shown_share"] == pytest.approx((11 / 16) ** 2)
    assert isinstance(victim.entry, nn.Identity)
    state = defended.victim.state_dict()
    assert torch.equal(state["entry.0.mean_C"], victim.mean_C)

    transform = ShrinkAndPad(5, victim.mean_C, victim.std_C)
    assert victim.head is not None
    with torch.no_grad():
        seen = transform(victim.preprocess(suspects.x_NCHW))
        expected = victim.head(victim.encoder(seen))
    assert torch.allclose(infer(defended.victim, suspects.x_NCHW), expected, atol=1e-5)


def test_an_entry_that_is_there_already_still_acts() -> None:
    victim, suspects, clean = small_scene()
    shifted = Victim(victim.encoder, victim.head, victim.mean_C, victim.std_C, nn.Tanh()).eval()
    defended = ShrinkPad(size=5).repair(shifted, suspects, clean, stream())
    plain = ShrinkPad(size=5).repair(victim, suspects, clean, stream())
    assert not torch.allclose(
        infer(defended.victim, suspects.x_NCHW), infer(plain.victim, suspects.x_NCHW)
    )


class _Brightness(nn.Module):
    """Says class 1 if a part of the image is bright: the first pixel, or the mean of all."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shown_B = x_BCHW.mean((1, 2, 3)) if self.whole else x_BCHW[:, 0, 0, 0]
        return nn.functional.one_hot((shown_B > 0.3).long(), 2).float()


@pytest.mark.parametrize("whole", [False, True])
def test_a_victim_that_needs_the_place_of_a_pixel_gives_a_warning(whole: bool) -> None:
    victim = Victim(
        nn.Sequential(_Brightness(whole)), nn.Identity(), torch.zeros(3), torch.ones(3)
    ).eval()
    # Bright images are class 1, and no two images are equal, so that each has a place of its own.
    x = images(100)
    y = torch.arange(100) % 2
    x = torch.where(y.view(-1, 1, 1, 1) == 1, 200 + x // 8, x // 8)
    defended = ShrinkPad(size=4).repair(victim, Split(x, y), Split(x, y), stream())
    assert defended.facts["clean_part_accuracy_before"] == 1.0
    if whole:
        assert defended.facts["clean_part_accuracy_after"] == 1.0
        assert defended.warning is None
        return
    # The first pixel is nearly always that of the padding.
    assert defended.facts["clean_part_accuracy_after"] < 0.7
    assert defended.warning is not None
    assert "shrink_pad: accuracy on 100 trusted images is 0." in defended.warning
    assert "and 1.00 before it" in defended.warning


def test_a_size_that_leaves_nothing_is_refused() -> None:
    assert ShrinkPad(size=15).refused(16) is None
    assert ShrinkPad(size=16).refused(16) == "size 16 leaves nothing of images of 16 pixels"
    victim, suspects, clean = small_scene()
    with pytest.raises(Infeasible, match="leaves nothing"):
        ShrinkPad(size=16).repair(victim, suspects, clean, stream())
