"""DBD: the symmetric loss, what is credible, and MixMatch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.networks.small_cnn import SmallCnn
from raybd.training.epochs import Batch
from raybd.training_defenses.dbd import DBD, sharpened
from raybd.types.errors import UserError
from tests.training_defenses.making import NONE, digits, seeded


def test_the_symmetric_loss_is_its_formula() -> None:
    """At a probability of one half: .1 x ln 2 + 9.2103 / 2."""
    loss_B = DBD().symmetric(torch.zeros(1, 2), torch.tensor([0]))
    assert float(loss_B) == pytest.approx(0.0693 + 4.6052, abs=1e-4)

    logits_BK = torch.randn(20, 5, generator=seeded(0))
    y_B = torch.arange(20) % 5
    p_BK = logits_BK.softmax(1)
    one_hot_BK = F.one_hot(y_B, 5).float()
    cross = -(one_hot_BK * p_BK.log()).sum(1)
    reverse = -(p_BK * one_hot_BK.clamp_min(1e-4).log()).sum(1)
    expected = 0.3 * cross + 2 * reverse
    found = DBD(cross_entropy=0.3, reverse=2).symmetric(logits_BK, y_B)
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_lowest_losses_are_credible_in_all_or_in_each_class() -> None:
    loss_N = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    y_N = torch.tensor([0, 0, 0, 0, 1, 1])
    assert DBD().credible_rows(loss_N, y_N).tolist() == [True, True, True, False, False, False]
    each = DBD(per_class=True).credible_rows(loss_N, y_N)
    assert each.tolist() == [True, True, False, False, True, False]


def test_guesses_are_sharpened() -> None:
    found = sharpened(torch.tensor([[0.6, 0.4]]), 0.5)
    assert found.tolist() == [pytest.approx([0.36 / 0.52, 0.16 / 0.52])]


class _Linear(nn.Module):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW[:, :, 0, 0] / 100


def test_a_step_is_that_of_mixmatch() -> None:
    """Berthelot et al. 2019, algorithm 1, re-derived: 4 labelled images, 3 others twice."""
    dbd = DBD(unlabelled=15, precision="fp32", augment="none")
    x_BCHW = torch.randint(0, 256, (10, 3, 1, 1), generator=seeded(0), dtype=torch.uint8)
    y_B = torch.arange(10) % 3
    rows_B = torch.arange(10)
    batch = Batch(x_BCHW, y_B, rows_B, rows_B, None)
    found = dbd.loss(_Linear(), batch, 4, 3, 2.5, seeded(5))

    share, with_B = dbd.mixture(10, seeded(5))
    assert 0.5 <= share <= 1
    logits_BK = x_BCHW[:, :, 0, 0].float() / 100
    p_BK = logits_BK[4:].softmax(1)
    guess = ((p_BK[:3] + p_BK[3:]) / 2) ** 2
    guess = guess / guess.sum(1, keepdim=True)
    target = torch.cat([F.one_hot(y_B[:4], 3).float(), guess, guess])
    mixed = share * logits_BK + (1 - share) * logits_BK[with_B]
    target = share * target + (1 - share) * target[with_B]
    known = -(target * mixed.log_softmax(1)).sum(1)[:4].mean()
    guessed = (mixed.softmax(1) - target).square()[4:].mean()
    assert float(found) == pytest.approx(float(known + 2.5 * guessed), abs=1e-5)


def test_it_needs_an_encoder() -> None:
    with pytest.raises(UserError, match="dbd has nothing to start from"):
        DBD().defend(digits(), 10, SmallCnn(width=8), NONE, seeded(1))
