"""Cognitive distillation: the masks by formula and by hand, and its thresholds."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.detectors.cognitive_distillation import CognitiveDistillation, as_mask, rough
from raybd.types.data import Split
from raybd.types.models import Victim
from tests.small_scene import images, small_scene, stream


def test_the_search_begins_with_most_of_the_image() -> None:
    """Golden: (tanh 1 + 1) / 2 = .8808, of 32 x 32 pixels 901.9."""
    victim, _, _ = small_scene()
    mask_BHW = CognitiveDistillation().masks(victim, images(2, 32), torch.zeros(0, 3))
    assert mask_BHW.flatten().tolist() == pytest.approx([0.8808] * 2048, abs=1e-4)
    assert mask_BHW[0].sum() == pytest.approx(901.9, abs=0.1)


def test_roughness_is_squared_differences_of_neighbours_for_each_pixel() -> None:
    assert rough(torch.full((1, 4, 4), 0.3)).tolist() == [0]
    mask_BHW = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 0.0, 2.0]]])
    # Down 0 + 1 + 1, right (1 + 0) + (0 + 4).
    assert rough(mask_BHW).tolist() == pytest.approx([7 / 6])


def test_masks_are_those_of_torchs_adam_on_the_formula() -> None:
    victim, suspects, _ = small_scene()
    detector = CognitiveDistillation(steps=3)
    x_BCHW = suspects.x_NCHW[:4].float()
    colors_SC = 255 * torch.rand((3, 3), generator=stream())
    found_BHW = detector.masks(victim, x_BCHW, colors_SC)

    free_BHW = torch.ones(4, 16, 16, requires_grad=True)
    adam = torch.optim.Adam([free_BHW], 0.1, (0.1, 0.1))
    wanted_BK = victim(x_BCHW).detach()
    for color_C in colors_SC:
        mask_B1HW = (free_BHW.tanh()[:, None] + 1) / 2
        shown_BCHW = x_BCHW * mask_B1HW + (1 - mask_B1HW) * color_C.view(1, 3, 1, 1)
        changed_B = F.l1_loss(victim(shown_BCHW), wanted_BK, reduction="none").mean(1)
        size_B = mask_B1HW.sum((1, 2, 3))
        down = (mask_B1HW[:, :, 1:] - mask_B1HW[:, :, :-1]).square().sum((1, 2, 3))
        right = (mask_B1HW[..., 1:] - mask_B1HW[..., :-1]).square().sum((1, 2, 3))
        loss = (changed_B + 0.01 * size_B + 10 * (down + right) / 256).sum()
        (free_BHW.grad,) = torch.autograd.grad(loss, free_BHW)
        adam.step()
    assert torch.allclose(found_BHW, as_mask(free_BHW.detach()), atol=1e-4)


class _Corner(nn.Module):
    """Sees the upper left quarter of the image alone."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return 20 * x_BCHW[:, :, :4, :4].flatten(1)


def test_the_mask_keeps_what_the_victim_looks_at() -> None:
    victim = Victim(_Corner(), nn.Identity(), torch.zeros(3), torch.ones(3))
    colors_SC = 255 * torch.rand((60, 3), generator=stream())
    detector = CognitiveDistillation(beta=0.0)
    mask_BHW = detector.masks(victim, images(3, 8), colors_SC)
    assert float(mask_BHW[:, :4, :4].min()) > 0.5
    assert float(mask_BHW[:, 5:, 5:].max()) < 0.1
    embedded = CognitiveDistillation(beta=0.0, compare="embedding")
    assert torch.equal(embedded.masks(victim, images(3, 8), colors_SC), mask_BHW)


def test_small_masks_are_suspicious_and_the_threshold_is_of_trusted_images() -> None:
    victim, suspects, clean = small_scene()
    detector = CognitiveDistillation(steps=4, precision="fp32")
    verdict = detector.score(victim, suspects, clean, stream())
    colors_SC = 255 * torch.rand((4, 3), generator=stream())
    share_N = detector.masks(victim, suspects.x_NCHW, colors_SC).detach().mean((1, 2))
    assert torch.allclose(verdict.score_N, -share_N, atol=1e-5)

    trusted_M = -detector.masks(victim, clean.x_NCHW, colors_SC).detach().mean((1, 2))
    # Of 30 trusted images, a share of .01 is none.
    assert float(verdict.threshold_N) == pytest.approx(float(trusted_M.max()), abs=1e-5)
    authors = detector.model_copy(update={"rule": "deviations", "deviations": 2.0})
    expected = float(trusted_M.mean() + 2 * trusted_M.std(correction=0))
    threshold_N = authors.score(victim, suspects, clean, stream()).threshold_N
    assert float(threshold_N) == pytest.approx(expected, abs=1e-5)
    assert verdict.facts["mask of trusted images"] == pytest.approx(-float(trusted_M.mean()))


def test_constant_images_have_finite_masks() -> None:
    victim, _, clean = small_scene()
    flat = Split(torch.full((3, 3, 16, 16), 128, dtype=torch.uint8), torch.zeros(3).long())
    verdict = CognitiveDistillation(steps=3).score(victim, flat, clean, stream())
    assert all(math.isfinite(score) for score in verdict.score_N.tolist())
