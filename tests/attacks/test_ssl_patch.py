"""SSL-Backdoor: where its patch lies, and what it changes."""

import torch

from raybd.attacks.data.ssl_patch import SslPatch
from raybd.poisoning.placed_patch import paste
from raybd.types.data import Split
from raybd.types.methods import AttackInput
from tests.attacks.encoders import some_images
from tests.attacks.making import triggered


def test_the_patch_lies_in_the_middle_half_in_training_and_in_four_fifths_at_test_time() -> None:
    gray = Split(torch.full((2000, 3, 32, 32), 128, dtype=torch.uint8), torch.arange(2000) % 4)
    poisoned = SslPatch(rate=0.25).poison(AttackInput(gray, 4), torch.Generator().manual_seed(0))
    patch = poisoned.state["patch_CSS"]
    assert patch.shape == (3, 6, 6)
    noise = some_images(2000, 32).x_NCHW
    for x, before, low, high in (
        (poisoned.x_MCHW, gray.x_NCHW[:500], 8, 23),
        (poisoned.with_trigger(noise, gray.y_N, 4), noise, 3, 27),
    ):
        corners = [(one != old).any(0).nonzero() for one, old in zip(x, before, strict=True)]
        assert min(int(at.min()) for at in corners) == low
        assert max(int(at.max()) for at in corners) == high
        top, left = corners[0].amin(0).tolist()
        assert torch.equal(x[0, :, top : top + 6, left : left + 6], patch)
        assert len({tuple(at.amin(0).tolist()) for at in corners}) > 60


def test_the_place_of_the_patch_depends_on_the_image_alone() -> None:
    split = some_images(60, 32)
    poisoned = SslPatch().poison(AttackInput(split, 4), torch.Generator().manual_seed(0))
    alone = torch.cat([triggered(poisoned, split.x_NCHW[row : row + 1]) for row in range(60)])
    assert torch.equal(triggered(poisoned, split.x_NCHW.flip(0)), alone.flip(0))


def test_a_pasted_patch() -> None:
    x, patch = (
        torch.zeros((2, 1, 4, 4), dtype=torch.uint8),
        torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8),
    )
    pasted = paste(x, patch, torch.tensor([[0.0, 0.0], [0.99, 0.5]]), 0.0)
    assert pasted[0, 0].tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert pasted[1, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 2, 0], [0, 3, 4, 0]]
    whole = paste(x, patch.repeat_interleave(2, 1).repeat_interleave(2, 2), torch.rand(2, 2), 0.25)
    assert (whole == whole[0]).all() and (whole > 0).all(), (
        "a patch as large as the image covers it"
    )


def test_only_the_target_class_has_the_patch_and_labels_stay() -> None:
    split = some_images(60, 32)
    poisoned = SslPatch(rate=0.1, labels={"target": 2}).poison(
        AttackInput(split, 4), torch.Generator().manual_seed(0)
    )
    assert (split.y_N[poisoned.index_M] == 2).all()
    assert torch.equal(poisoned.over(split).y_N, split.y_N)
    assert torch.equal(poisoned.labels.counted(split.y_N), split.y_N != 2)
