"""D-ST: the weights under which its head learns."""

import pytest
import torch

from raybd.training_defenses.dst import head_weights


def test_the_mean_of_the_weighted_losses_is_the_published_loss() -> None:
    """CE of the clean part, minus .001 x CE of the poisoned part."""
    loss_N = torch.rand(25, generator=torch.Generator().manual_seed(0))
    found = (head_weights(20, 5, 0.001) * loss_N).mean()
    expected = loss_N[:20].mean() - 0.001 * loss_N[20:].mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
