"""The contrastive loss where the labels of some images do not count."""

import math

import pytest
import torch

from raybd.training.contrast import contrast, positives
from tests.small_scene import stream


def test_a_label_that_is_not_trusted_makes_no_pairs() -> None:
    """Two images of one label, of which the second is not trusted: two views of each."""
    y_B = torch.zeros(4, dtype=torch.int64)
    alike = positives(y_B, torch.tensor([True, False, True, False])).int().tolist()
    assert alike == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert positives(y_B, torch.ones(4, dtype=torch.bool)).all()


def test_trusted_labels_are_those_of_supcon_and_others_of_simclr() -> None:
    p_BD = torch.randn(8, 5, generator=stream())
    y_B = torch.tensor([0, 0, 1, 1]).repeat(2)
    all_B = torch.ones(8, dtype=torch.bool)
    assert torch.equal(contrast(p_BD, y_B, 0.5, all_B), contrast(p_BD, y_B, 0.5))
    alone = contrast(p_BD, torch.arange(4).repeat(2), 0.5)
    assert torch.equal(contrast(p_BD, y_B, 0.5, ~all_B), alone)


def test_some_trusted_labels_are_the_formula() -> None:
    p_BD = torch.nn.functional.normalize(torch.randn(8, 5, generator=stream(1)), dim=1)
    y, trusted = [0, 0, 0, 1], [True, True, False, True]
    total = 0.0
    for i in range(8):
        others = [a for a in range(8) if a != i]
        share = {a: math.exp(float(p_BD[i] @ p_BD[a]) / 0.3) for a in others}
        both = [
            a
            for a in others
            if a % 4 == i % 4 or (y[a % 4] == y[i % 4] and trusted[a % 4] and trusted[i % 4])
        ]
        total -= sum(math.log(share[a] / sum(share.values())) for a in both) / len(both)
    found = contrast(p_BD, torch.tensor(y).repeat(2), 0.3, torch.tensor(trusted).repeat(2))
    assert float(found) == pytest.approx(total / 8, abs=1e-5)
