"""Gradients of a head without a backward pass are those of autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.metrics.head_gradients import alignment, mean_gradient


def by_autograd(head: nn.Linear, z_ND: Tensor, y_N: Tensor) -> Tensor:
    """Gradient of each image's loss by all weights of a head, N x weights."""
    rows = []
    for z_D, y in zip(z_ND, y_N, strict=True):
        loss = F.cross_entropy(head(z_D[None]), y[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, head.parameters())]))
    return torch.stack(rows)


@pytest.mark.parametrize("bias", [True, False])
def test_norms_and_cosines_agree_with_autograd(bias: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    head = nn.Linear(7, 4, bias=bias)
    nn.init.normal_(head.weight, generator=rng)
    z_ND, y_N = torch.randn(20, 7, generator=rng), torch.randint(4, (20,), generator=rng)
    logits_NK = head(z_ND).detach()
    expected = by_autograd(head, z_ND, y_N)
    whole = mean_gradient(logits_NK, z_ND, y_N, bias)
    norm_N, cosine_N = alignment(logits_NK, z_ND, y_N, whole, bias)
    assert torch.allclose(norm_N, expected.norm(dim=1), atol=1e-5)
    mean = expected.mean(0)
    assert torch.allclose(cosine_N, F.cosine_similarity(expected, mean[None]), atol=1e-5)


def test_an_image_without_a_gradient_has_no_direction() -> None:
    logits_NK = torch.tensor([[200.0, 0.0], [0.0, 0.0]])
    z_ND, y_N = torch.ones(2, 3), torch.tensor([0, 1])
    whole = mean_gradient(logits_NK, z_ND, y_N)
    norm_N, cosine_N = alignment(logits_NK, z_ND, y_N, whole)
    assert norm_N[0] == cosine_N[0] == 0
    assert cosine_N[1] == pytest.approx(1)
