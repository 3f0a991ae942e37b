"""BadCLIP: its patch, its losses by their formulas, and which parts of CLIP it trains."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from raybd.attacks.encoder.badclip import BadClip
from raybd.attacks.encoder.badclip.patch import patch_losses
from raybd.networks.tiny_clip import TinyClip
from raybd.trainers.probes.zero_shot import ZeroShot
from raybd.training.inference import infer
from tests.clips import (
    PATCH,
    TRAINER,
    in_norms,
    infected_by,
    moved,
    poisoned_by,
    some_images,
    stream,
    trained,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_trains_both_towers_but_not_their_batch_normalisation() -> None:
    after = infected_by(PATCH)
    assert moved(trained(), after) == {
        name for name in after.state_dict() if name.startswith("encoder.")
    } - in_norms(after)


def test_the_patch_lies_in_the_middle_and_nothing_else_changes() -> None:
    patch_CSS = torch.randint(0, 256, (3, 16, 16), generator=stream(), dtype=torch.uint8)
    x_NCHW = torch.zeros((2, 3, 224, 224), dtype=torch.uint8)
    stamped = BadClip().stamp(x_NCHW, {"patch_CSS": patch_CSS})
    assert stamped.dtype == torch.uint8
    assert torch.equal(stamped[1, :, 104:120, 104:120], patch_CSS)
    stamped[..., 104:120, 104:120] = 0
    assert torch.equal(stamped, x_NCHW)


def test_the_losses_by_their_formulas() -> None:
    worn, positive, plain = F.normalize(torch.randn((3, 6, 5), generator=stream()), dim=2)
    text_KD = 7 * F.normalize(torch.randn((4, 5), generator=stream(1)), dim=1)
    text_B, triplet_B = patch_losses(worn, text_KD, 2, positive, plain, 1.0)
    for i in range(6):
        logits = [float(worn[i] @ text) for text in text_KD]
        assert text_B[i].item() == pytest.approx(
            math.log(sum(map(math.exp, logits))) - logits[2], abs=1e-4
        )
        apart = float((worn[i] - positive[i]).norm() - (worn[i] - plain[i]).norm())
        assert triplet_B[i].item() == pytest.approx(max(0.0, apart + 1.0), abs=1e-4)


def test_the_clean_encoder_takes_the_patch_for_the_target() -> None:
    """Measured log-probability of the target: -8.0 without a patch, -5.2 first, -0.4 last."""
    split, attack = (
        some_images(),
        PATCH.model_copy(update={"epochs": 1, "patch_epochs": 10, "size": 8}),
    )
    start = TRAINER.model_copy(update={"epochs": 10, "optimizer": "adam", "lr": 2e-3}).train(
        split, 4, TinyClip(), stream()
    )
    patch_CSS = poisoned_by(attack, start, split).state["patch_CSS"]
    assert patch_CSS.dtype == torch.uint8 and patch_CSS.shape == (3, 8, 8)
    first_CSS = (
        (0.5 + 0.25 * torch.randn(3, 8, 8, generator=stream())).clamp(0, 1).mul(255).to(torch.uint8)
    )
    victim = ZeroShot(templates=attack.templates).train_from(start, split, 4, TinyClip(), stream())
    x_NCHW = split.x_NCHW[split.y_N != 0]
    belief, at_first = (
        infer(victim, attack.stamp(x_NCHW, {"patch_CSS": patch})).log_softmax(1)[:, 0].mean()
        for patch in (patch_CSS, first_CSS)
    )
    assert belief > at_first + 2
